//! The cgroup hierarchies of the host, as this process sees them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::membership::{self, Membership};
use super::{Directory, Version};
use crate::{mountinfo, rootless};

/// The host's hierarchies, those that we may not write to left out.
#[derive(Clone, Debug, Default)]
pub struct Host {
    hierarchies: Vec<Hierarchy>,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub(super) version: Version,
    pub(super) mount_point: Arc<Path>,
    /// Where relative paths begin.
    base: PathBuf,
    /// On v1 the controllers that were mounted together (`cpu`, `cpuacct`; empty for one with a name only); on v2 what
    /// can be handed down to a container.
    pub(super) controllers: Arc<[String]>,
}

/// Longer IDs are cut and get a checksum: a directory entry holds 255 bytes.
pub(crate) const ID_BYTES_MAX: usize = 200;

impl Host {
    /// Looks, once per process.
    #[must_use]
    pub fn find() -> &'static Host {
        static FOUND: OnceLock<Host> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut host = Host::read();
            for hierarchy in host.hierarchies.iter_mut().filter(|hierarchy| hierarchy.version == Version::V2) {
                hierarchy.settle();
            }
            let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
            host.hierarchies.retain(|hierarchy| writable(&hierarchy.base));
            host
        })
    }

    /// The same from the roots of the hierarchies, where somebody else (systemd) acts for us: whether we may write there
    /// does not matter. An ordinary user's systemd has no say in cgroup v1, so that is left out for them. Once per process.
    #[must_use]
    pub fn whole() -> &'static Host {
        static FOUND: OnceLock<Host> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut host = Host::read();
            if rootless::is_ordinary() {
                host.hierarchies.retain(|hierarchy| hierarchy.version == Version::V2);
            }
            for hierarchy in &mut host.hierarchies {
                hierarchy.base = hierarchy.mount_point.to_path_buf();
                if hierarchy.version == Version::V2 {
                    let controllers = std::fs::read_to_string(hierarchy.mount_point.join("cgroup.controllers"));
                    hierarchy.controllers = words(&controllers.unwrap_or_default());
                }
            }
            host
        })
    }

    fn read() -> Host {
        Host::parse(&mountinfo::own(), &membership::of("self"))
    }

    /// From `/proc/self/mountinfo` and `/proc/self/cgroup` (proc_pid_mountinfo(5), cgroups(7)).
    pub(super) fn parse(table: &str, own: &str) -> Host {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in mountinfo::mounts(table) {
            let version = match mount.fs_type {
                "cgroup2" => Version::V2,
                "cgroup" => Version::V1,
                _ => continue,
            };
            let is_its = |own: &Membership<'_>| own.is_of_mount(version, mount.fs_options);
            let Some(own) = membership::memberships(own).find(is_its) else { continue };
            let controllers = own.controllers().map(str::to_owned).collect();
            let mount_point: Arc<Path> = Path::new(&*mount.place).into();
            // Only a part of the hierarchy may be mounted (in a container).
            let path = own.path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or_default();
            let base = mount_point.join(path.trim_start_matches('/'));
            let hierarchy = Hierarchy { version, mount_point, base, controllers };
            // A hierarchy may be mounted twice; the first is as good as any.
            let known = |known: &Hierarchy| known.version == version && known.controllers == hierarchy.controllers;
            if !hierarchies.iter().any(known) {
                hierarchies.push(hierarchy);
            }
        }
        Host { hierarchies }
    }

    /// The hierarchy that has this controller (`memory`).
    #[must_use]
    pub fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
    }

    /// The cgroup v2 hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Whether there is nothing but cgroup v2.
    pub(super) fn is_v2_only(&self) -> bool {
        self.hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Where a container's cgroup goes that is `known` in another hierarchy: the same path from our own cgroup, or else from
    /// the hierarchy's root.
    pub(super) fn beside(&self, known: &Directory, hierarchy: &Hierarchy) -> Option<PathBuf> {
        let own = self.hierarchies.iter().find(|own| own.mount_point == known.mount_point);
        let relative = own.and_then(|own| known.path.strip_prefix(&own.base).ok());
        match relative {
            Some(relative) => Some(hierarchy.base.join(relative)),
            None => Some(hierarchy.mount_point.join(known.path.strip_prefix(&known.mount_point).ok()?)),
        }
    }

    /// All of them, in the order of their mounts.
    pub fn hierarchies(&self) -> impl Iterator<Item = &Hierarchy> {
        self.hierarchies.iter()
    }
}

impl Hierarchy {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// Cgroup v2: what can be handed down, and from where. A cgroup with processes in it cannot hand down controllers
    /// (cgroup-v2.rst, "No Internal Process Constraint"), so containers go beside our own cgroup, as with runc, where there
    /// are controllers and we may.
    fn settle(&mut self) {
        let read = |path: &Path| std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let parent = self.base.parent().filter(|parent| parent.starts_with(&self.mount_point));
        let beside = parent.filter(|parent| {
            !read(parent).trim().is_empty() && rustix::fs::access(*parent, rustix::fs::Access::WRITE_OK).is_ok()
        });
        if let Some(beside) = beside {
            self.base = beside.to_owned();
        }
        self.controllers = words(&read(&self.base));
    }

    /// Where a container's cgroup goes: what `linux.cgroupsPath` says, absolute from the hierarchy's root or relative to
    /// our own; else a name of its own. State roots are told apart by a checksum of their path, and so are names that a
    /// directory entry could not hold.
    #[must_use]
    pub fn place(&self, state_root: &Path, id: &str, cgroups_path: Option<&Path>) -> PathBuf {
        if let Some(path) = cgroups_path.filter(|path| !path.as_os_str().is_empty()) {
            return match path.strip_prefix("/") {
                Ok(absolute) => self.mount_point.join(absolute),
                Err(_) => self.base.join(path),
            };
        }
        let root = crc32fast::hash(state_root.as_os_str().as_encoded_bytes());
        let name = match id.get(..ID_BYTES_MAX) {
            Some(start) => format!("brood-{root:08x}-{start}-{:08x}", crc32fast::hash(id.as_bytes())),
            None => format!("brood-{root:08x}-{id}"),
        };
        self.base.join(name)
    }

    /// Whether there is something at a container's place, or right above it but for what is everybody's: limits of others
    /// that are to hold for the container as well.
    pub(super) fn is_prepared(&self, place: &Path) -> bool {
        let pod = place.parent().filter(|parent| *parent != self.base && **parent != *self.mount_point);
        !self.controllers.is_empty() && (place.exists() || pod.is_some_and(Path::exists))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }
}

/// The names in a file such as `cgroup.controllers`.
pub(super) fn words(text: &str) -> Arc<[String]> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:30 / /mnt/memory rw,relatime - cgroup cgroup rw,memory
";
    const OWN: &str = "3:name=systemd:/s\n2:memory:/a\n1:cpu,cpuacct:/\n0::/u\n";

    fn host() -> Host {
        Host::parse(HYBRID, OWN)
    }

    #[test]
    fn every_hierarchy_is_found_once_with_our_place_in_it() {
        let host = host();
        let memory = host.with("memory").unwrap();
        assert_eq!((memory.version, memory.base.to_str()), (Version::V1, Some("/sys/fs/cgroup/memory/a")));
        assert_eq!(*host.with("cpuacct").unwrap().controllers, ["cpu", "cpuacct"]);
        assert_eq!(host.unified().unwrap().base, Path::new("/sys/fs/cgroup/unified/u"));
        assert_eq!(host.hierarchies().count(), 4);
        assert_eq!(host.with("pids"), None);
    }

    #[test]
    fn places_are_told_apart_and_fit_a_directory_entry() {
        let host = host();
        let hierarchy = host.unified().unwrap();
        let place = |root: &str, id: &str| hierarchy.place(Path::new(root), id, None);
        assert_ne!(place("/a", "x"), place("/b", "x"));
        let long = "i".repeat(255);
        assert!(place("/a", &long).file_name().unwrap().len() <= 255);
        assert_ne!(place("/a", &long), place("/a", &long[1..]));
        let given = |path: &str| hierarchy.place(Path::new("/a"), "x", Some(Path::new(path)));
        assert_eq!(given("/p/q"), Path::new("/sys/fs/cgroup/unified/p/q"));
        assert_eq!(given("p/q"), Path::new("/sys/fs/cgroup/unified/u/p/q"));
    }
}
