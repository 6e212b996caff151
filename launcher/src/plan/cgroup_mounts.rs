//! A mount of type `cgroup` or `cgroup2`: one line of config.json, one to twelve mounts, depending on the host.
//!
//! | host | container | becomes |
//! | --- | --- | --- |
//! | v2 only | any cgroup namespace | one cgroup2; with the host's namespace all of it, as with runc |
//! | v1 or hybrid | own cgroup namespace | tmpfs, and each hierarchy mounted anew below it |
//! | v1 or hybrid | the host's cgroup namespace | tmpfs, and the container's cgroup of each hierarchy bound below it |
//!
//! A hierarchy in which the container has no cgroup of its own shows ours, and is read-only whatever is asked for.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{Mount, Spec};

use super::bind::open_tree;
use super::build::{PlanError, c_string};
use super::mount_options::Options;
use super::mounts::{Entry, target, target_at};
use super::{FsParameter, Launch, MountAttrs, Step, TargetKind, TreeSource};
use crate::cgroup::membership::{self, Membership};
use crate::cgroup::{Cgroups, Version};
use crate::mountinfo;

/// Whether a container gets to write to its cgroups, and so is to have its own in every hierarchy.
#[must_use]
pub(crate) fn writes_to_cgroups(spec: &Spec) -> bool {
    let writable = |mount: &Mount| {
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && !mount.options().iter().flatten().any(|option| option == "ro")
    };
    spec.mounts().iter().flatten().any(writable)
}

/// What a container is to see of the host's hierarchies.
pub(super) struct Layout<'a> {
    own_namespace: bool,
    /// The container's.
    cgroups: &'a Cgroups,
    mounted: &'a Mounted,
}

/// The host's hierarchies.
#[derive(Debug, Default)]
struct Mounted {
    /// cgroup2 is mounted at /sys/fs/cgroup itself.
    v2_only: bool,
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    /// Directory name below /sys/fs/cgroup.
    name: String,
    /// Where the host has it.
    mount_point: PathBuf,
    fstype: &'static str,
    /// Our own cgroup in it.
    own: String,
    parameters: Vec<(String, Option<String>)>,
}

impl Mounted {
    /// Looks, once per process. One without any cgroup file system is fine until somebody asks for one.
    fn find() -> &'static Mounted {
        static FOUND: OnceLock<Mounted> = OnceLock::new();
        FOUND.get_or_init(|| Mounted::parse(&mountinfo::own(), &membership::of("self")))
    }

    fn parse(table: &str, own: &str) -> Mounted {
        let mut mounted = Mounted::default();
        for mount in mountinfo::mounts(table) {
            let mount_point = &*mount.place;
            let name = mount_point.strip_prefix("/sys/fs/cgroup").map(|name| name.trim_start_matches('/'));
            let (version, fstype, parameters) = match (mount.fs_type, name) {
                ("cgroup2", Some("")) => {
                    mounted.v2_only = true;
                    continue;
                }
                ("cgroup2", Some(_)) => (Version::V2, "cgroup2", Vec::new()),
                ("cgroup", Some(name)) if !name.is_empty() => (Version::V1, "cgroup", parameters(mount.fs_options)),
                _ => continue,
            };
            let is_its = |own: &Membership<'_>| own.is_of_mount(version, mount.fs_options);
            let own = membership::memberships(own).find(is_its).map_or("/", |own| own.path).to_owned();
            let (name, mount_point) = (name.unwrap_or_default().to_owned(), PathBuf::from(mount_point));
            mounted.hierarchies.push(Hierarchy { name, mount_point, fstype, own, parameters });
        }
        mounted
    }
}

/// What a hierarchy of cgroup v1 is mounted with, from the options of the mounted one.
fn parameters(options: &str) -> Vec<(String, Option<String>)> {
    let general = |word: &&str| matches!(*word, "rw" | "ro" | "xattr" | "clone_children" | "seclabel");
    let words = options.split(',').filter(|word| !general(word) && !word.starts_with("release_agent="));
    let named = options.split(',').any(|word| word.starts_with("name="));
    let none = named.then(|| ("none".to_owned(), None));
    none.into_iter()
        .chain(words.map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        }))
        .collect()
}

impl<'a> Layout<'a> {
    pub(super) fn of(own_namespace: bool, cgroups: &'a Cgroups) -> Layout<'a> {
        Layout { own_namespace, cgroups, mounted: Mounted::find() }
    }

    /// Adds the steps for one mount of config.json.
    pub(super) fn mount(
        &self,
        entry: &Entry<'_>,
        options: &Options,
        launch: &mut Launch,
        steps: &mut Vec<Step>,
    ) -> Result<(), PlanError> {
        let Entry { field, index, destination, .. } = *entry;
        let readonly = options.attrs.set & libc::MOUNT_ATTR_RDONLY != 0;
        if self.mounted.v2_only {
            steps.push(filesystem(field, index, destination, "cgroup2", &[], options.attrs)?);
            return Ok(());
        }
        if self.mounted.hierarchies.is_empty() {
            return Err(PlanError::new(field, "the host has no cgroup file system below /sys/fs/cgroup"));
        }
        let writable = MountAttrs { set: options.attrs.set & !libc::MOUNT_ATTR_RDONLY, ..options.attrs };
        let mode = [("mode".to_owned(), Some("755".to_owned()))];
        steps.push(filesystem(field, index, destination, "tmpfs", &mode, writable)?);
        for hierarchy in &self.mounted.hierarchies {
            let place = destination.join(&hierarchy.name);
            let (mut source, mut attrs) = (hierarchy.ours(), options.attrs);
            match self.cgroups.directories().iter().find(|directory| *directory.mount_point == *hierarchy.mount_point) {
                Some(containers) => source = containers.path.to_path_buf(),
                // What it shows is not the container's to change.
                None => {
                    attrs.set |= libc::MOUNT_ATTR_RDONLY;
                    attrs.clear &= !libc::MOUNT_ATTR_RDONLY;
                }
            }
            steps.push(if self.own_namespace {
                filesystem(field, index, &place, hierarchy.fstype, &hierarchy.parameters, attrs)?
            } else {
                bind(field, index, &source, &place, attrs, launch)?
            });
        }
        if readonly {
            let target = target(entry, TargetKind::Directory, false)?;
            let attrs = MountAttrs { set: libc::MOUNT_ATTR_RDONLY, ..MountAttrs::default() };
            steps.push(Step::Remount { index, target, attrs });
        }
        Ok(())
    }
}

impl Hierarchy {
    /// Our own cgroup.
    fn ours(&self) -> PathBuf {
        self.mount_point.join(self.own.trim_start_matches('/'))
    }
}

fn bind(
    field: &str,
    index: u16,
    source: &Path,
    place: &Path,
    attrs: MountAttrs,
    launch: &mut Launch,
) -> Result<Step, PlanError> {
    let tree = open_tree(source, false, libc::MS_SLAVE).map_err(|errno| PlanError::path(field, source, errno))?;
    let target = target_at(field, place, TargetKind::Directory, false)?;
    Ok(Step::MountTree { index, target, source: TreeSource::Opened(launch.add_fd(tree)), attrs, slot: None })
}

fn filesystem(
    field: &str,
    index: u16,
    destination: &Path,
    fstype: &str,
    parameters: &[(String, Option<String>)],
    attrs: MountAttrs,
) -> Result<Step, PlanError> {
    let parameter = |(key, value): &(String, Option<String>)| -> Result<FsParameter, PlanError> {
        let value = value.as_ref().map(|value| c_string(field, value.as_str())).transpose()?;
        Ok(FsParameter { key: c_string(field, key.as_str())?, value })
    };
    Ok(Step::MountFilesystem {
        index,
        target: target_at(field, destination, TargetKind::Directory, false)?,
        fstype: c_string(field, fstype)?,
        source: CString::from(c"cgroup"),
        parameters: parameters.iter().map(parameter).collect::<Result<_, _>>()?,
        attrs,
        copy_up: false,
        slot: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct,favordynmods
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "9:name=systemd:/a\n1:cpu,cpuacct:/b\n0::/c\n";

    #[test]
    fn hybrid_hierarchies_keep_their_names_and_parameters() {
        let mounted = Mounted::parse(HYBRID, OWN);
        let seen: Vec<_> =
            mounted.hierarchies.iter().map(|h| (h.name.as_str(), h.own.as_str(), h.parameters.len())).collect();
        assert_eq!(seen, [("cpu", "/b", 3), ("systemd", "/a", 2), ("unified", "/c", 0)]);
        assert!(!mounted.v2_only);
    }

    /// The attributes of each hierarchy's mount, asked for with `rw`.
    fn mounted(cgroups: &Cgroups) -> Vec<u64> {
        let layout = Layout { own_namespace: true, cgroups, mounted: &Mounted::parse(HYBRID, OWN) };
        let (mut launch, mut steps) = (Launch::default(), Vec::new());
        let options = Options::parse("o", &["rw".to_owned()]).unwrap();
        let mount = oci_spec::runtime::Mount::default();
        let entry = Entry { field: "mounts[6]", index: 6, destination: Path::new("/sys/fs/cgroup"), mount: &mount };
        layout.mount(&entry, &options, &mut launch, &mut steps).unwrap();
        let attrs = |step: &Step| match step {
            Step::MountFilesystem { attrs, .. } => attrs.set & libc::MOUNT_ATTR_RDONLY,
            step => panic!("{step:?}"),
        };
        steps.iter().skip(1).map(attrs).collect()
    }

    #[test]
    fn a_view_of_the_hosts_cgroups_is_read_only() {
        let readonly = libc::MOUNT_ATTR_RDONLY;
        assert_eq!(mounted(&Cgroups::default()), [readonly; 3]);
        let own = r#"[{"path":"/sys/fs/cgroup/cpu/b/box","version":"v1","mount_point":"/sys/fs/cgroup/cpu","controllers":["cpu"]}]"#;
        assert_eq!(mounted(&serde_json::from_str(own).unwrap()), [0, readonly, readonly]);
    }
}
