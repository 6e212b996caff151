//! Identity maps: of the container's user namespace and of single mounts, and those that a child asks its launcher for.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use rustix::io::Errno;
use rustix::process::PidfdGetfdFlags;

use super::build::PlanError;
use super::mount_options::{IdMapOption, Options};
use super::{IdMap, IdMaps, Launch};
use crate::config::has_namespace;
use crate::report::errno_text;
use crate::{sys, userns};

/// The maps of the container's own user namespace.
pub(super) fn of_container(spec: &Spec) -> IdMaps {
    let linux = spec.linux().as_ref();
    IdMaps {
        uid_map: text(linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default()),
        gid_map: text(linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default()),
    }
}

fn text(mappings: &[LinuxIdMapping]) -> Vec<u8> {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect::<String>().into_bytes()
}

/// The user namespaces whose maps a configuration's mounts get: one for each distinct pair of maps.
pub(super) struct Namespaces<'a> {
    spec: &'a Spec,
    /// The one that the container joins: it has its maps already.
    joined: Option<OwnedFd>,
    made: Vec<(IdMaps, OwnedFd)>,
}

impl<'a> Namespaces<'a> {
    pub(super) fn new(spec: &'a Spec, joined: Option<OwnedFd>) -> Namespaces<'a> {
        Namespaces { spec, joined, made: Vec::new() }
    }

    /// The user namespace for a mount and whether its submounts are mapped too; `None` for a mount without maps.
    pub(super) fn of_mount(
        &mut self,
        field: &str,
        mount: &Mount,
        option: Option<&IdMapOption>,
    ) -> Result<Option<(&OwnedFd, bool)>, PlanError> {
        let recursive = option.is_some_and(|option| option.recursive);
        let own = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|list| !list.is_empty());
        let has_maps = own(mount.uid_mappings()) || own(mount.gid_mappings());
        if option.is_some_and(|option| option.maps.is_none()) && !has_maps && self.joined.is_some() {
            return Ok(self.joined.as_ref().map(|namespace| (namespace, recursive)));
        }
        let Some((field, maps)) = self.maps(field, mount, option)? else { return Ok(None) };
        let known = self.made.iter().position(|(made, _)| *made == maps);
        let at = match known {
            Some(at) => at,
            None => {
                let made = userns::with_maps(&maps)
                    .map_err(|errno| PlanError::new(field, format!("user namespace: {}", errno_text(errno))))?;
                self.made.push((maps, made));
                self.made.len() - 1
            }
        };
        Ok(self.made.get(at).map(|(_, namespace)| (namespace, recursive)))
    }

    /// For a mount that the child makes. Where it is in a user namespace it has no privilege over the host's file systems, and
    /// asks.
    pub(super) fn for_child(
        &mut self,
        field: &str,
        mount: &Mount,
        option: Option<&IdMapOption>,
        own_users: bool,
        launch: &mut Launch,
    ) -> Result<IdMap, PlanError> {
        let Some((namespace, recursive)) = self.of_mount(field, mount, option)? else { return Ok(IdMap::None) };
        let namespace = namespace.try_clone().map_err(|error| PlanError::new(field, error.to_string()))?;
        Ok(match own_users {
            true => launch.asked_maps.add(namespace, recursive),
            false => IdMap::Own { namespace: launch.add_fd(namespace), recursive },
        })
    }

    /// The maps and the field that gave them: the option's own, else the mount's, else the container's.
    fn maps(
        &self,
        field: &str,
        mount: &Mount,
        option: Option<&IdMapOption>,
    ) -> Result<Option<(String, IdMaps)>, PlanError> {
        if let Some(IdMapOption { maps: Some(own), .. }) = option {
            let field = format!("{field}.options");
            return Ok(Some((field.clone(), self.parse(&field, own)?)));
        }
        let (uids, gids) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
        let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
        if !uids.is_empty() || !gids.is_empty() {
            return Ok(Some((format!("{field}.uidMappings"), IdMaps { uid_map: text(uids), gid_map: text(gids) })));
        }
        if option.is_none() {
            return Ok(None);
        }
        let maps = of_container(self.spec);
        if maps.uid_map.is_empty() || maps.gid_map.is_empty() {
            let problem = "idmap needs uidMappings and gidMappings, of the mount or of a user namespace in linux";
            return Err(PlanError::new(format!("{field}.options"), problem));
        }
        Ok(Some((format!("{field}.options"), maps)))
    }

    /// crun's own form, `uids=0-1000-10#10-2000-5;gids=0-1000-10`: ids in the file system, ids outside, count. With an `@`
    /// before it the second number is one of the container's user namespace.
    fn parse(&self, field: &str, text: &str) -> Result<IdMaps, PlanError> {
        let wrong =
            || PlanError::new(field, format!("idmap={text}: must be uids=ID-ID-COUNT#...;gids=ID-ID-COUNT#..."));
        let linux = self.spec.linux().as_ref();
        let mut maps = IdMaps::default();
        for part in text.split(';') {
            let (kind, triplets) = part.split_once('=').ok_or_else(wrong)?;
            let (map, of_container) = match kind {
                "uids" => (&mut maps.uid_map, linux.and_then(|linux| linux.uid_mappings().as_deref())),
                "gids" => (&mut maps.gid_map, linux.and_then(|linux| linux.gid_mappings().as_deref())),
                _ => return Err(wrong()),
            };
            let mut lines = String::new();
            for triplet in triplets.split('#') {
                let numbers = triplet.strip_prefix('@').unwrap_or(triplet).split('-').map(str::parse);
                let numbers = numbers.collect::<Result<Vec<u32>, _>>().map_err(|_| wrong())?;
                let [inside, mut outside, count] = numbers[..] else { return Err(wrong()) };
                if triplet.starts_with('@') {
                    let found = of_container.unwrap_or_default().iter().find_map(|mapping| {
                        let offset = outside.checked_sub(mapping.container_id())?;
                        (offset < mapping.size()).then(|| mapping.host_id() + offset)
                    });
                    let problem = || format!("idmap={text}: {triplet} is outside of the container's user namespace");
                    outside = found.ok_or_else(|| PlanError::new(field, problem()))?;
                }
                let _ = writeln!(lines, "{inside} {outside} {count}");
            }
            map.extend_from_slice(lines.as_bytes());
        }
        if maps.uid_map.is_empty() || maps.gid_map.is_empty() {
            return Err(wrong());
        }
        Ok(maps)
    }
}

/// The identity maps that a child asks its launcher for ([`IdMap::Asked`]).
#[derive(Debug, Default)]
pub struct AskedMaps(Vec<AskedMap>);

#[derive(Debug)]
struct AskedMap {
    namespace: OwnedFd,
    recursive: bool,
}

impl AskedMaps {
    fn add(&mut self, namespace: OwnedFd, recursive: bool) -> IdMap {
        self.0.push(AskedMap { namespace, recursive });
        IdMap::Asked(u16::try_from(self.0.len() - 1).expect("mounts have 16-bit positions"))
    }

    /// Gives the detached tree behind a descriptor of the child's its maps.
    ///
    /// # Errors
    /// `EINVAL`: nobody would ask for this number, or the tree's file system cannot have its ids mapped. Else as pidfd_getfd(2)
    /// and mount_setattr(2).
    pub fn set(&self, number: u16, child: BorrowedFd<'_>, tree: RawFd) -> Result<(), Errno> {
        let AskedMap { namespace, recursive } = self.0.get(usize::from(number)).ok_or(Errno::INVAL)?;
        let tree = rustix::process::pidfd_getfd(child, tree, PidfdGetfdFlags::empty())?;
        sys::mount_set_id_map(tree.as_fd(), *recursive, namespace.as_fd())
    }
}

/// Whether a child may have to ask for identity maps.
pub(super) fn may_be_asked(spec: &Spec) -> bool {
    has_namespace(spec, LinuxNamespaceType::User) && spec.mounts().iter().flatten().any(is_mapped)
}

fn is_mapped(mount: &Mount) -> bool {
    let own = mount.uid_mappings().as_ref().is_some_and(|maps| !maps.is_empty());
    let options = mount.options().as_deref().unwrap_or_default();
    own || Options::parse("", options).is_ok_and(|options| options.id_map.is_some())
}

/// Maps a detached tree. Here and not in the child: a child in a user namespace has no privilege over the host's file
/// systems, and what is attached cannot be mapped any more (mount_setattr(2)).
pub(super) fn apply(field: &str, tree: &OwnedFd, namespace: &OwnedFd, recursive: bool) -> Result<(), PlanError> {
    sys::mount_set_id_map(tree.as_fd(), recursive, namespace.as_fd()).map_err(|errno| {
        let problem = match errno {
            Errno::INVAL => "the source's file system cannot have its ids mapped".to_owned(),
            errno => format!("map ids: {}", errno_text(errno)),
        };
        PlanError::new(field, problem)
    })
}
