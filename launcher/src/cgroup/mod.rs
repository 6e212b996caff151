//! A container's cgroups: a directory of its own in each hierarchy that is needed, to be born in, limited, frozen, counted
//! and killed by.
//!
//! | host | the container's directories |
//! | --- | --- |
//! | v2 | one; it is born there (`CLONE_INTO_CGROUP`) |
//! | v1 | one for each of devices, memory, pids, cpuacct and freezer, and for any other controller that a limit needs |
//! | hybrid | v2's to be born, frozen and killed by, with the processor's time; v1's of memory, pids and what a limit needs |
//!
//! A directory is `brood-<root>-<id>` in our own cgroup, on v2 beside it (of `brood-oci`'s, which may have no state directory
//! of its own, `<id>`); or what `linux.cgroupsPath` says, absolute from the hierarchy's root. Where the host has no writable hierarchy, a container goes
//! without. On v1 the child itself enters, by writing `0` to `tasks` before anything else: a single thread that moves itself
//! does not wait for the RCU grace period that writing its pid to `cgroup.procs` may cost.
//!
//! With systemd as the host's manager of cgroups, the directories may be those of a unit that it makes: `systemd/`.
//!
//! Reading order: `host` (which hierarchies there are), `directory` (one directory's life), `members` (listed, frozen, killed),
//! `settings` (what `linux.resources` means in files), `limits` (writing them), `change`
//! (while it runs), `stats` (what the container uses). Beside them `membership` (where a process is).

mod change;
mod directory;
mod events;
mod host;
mod limits;
mod members;
pub(crate) mod membership;
mod settings;
pub mod stats;
mod systemd;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use change::ChangeError;
pub(crate) use host::ID_BYTES_MAX;
pub use host::{Hierarchy, Host};
pub use limits::{LimitError, Limits};
pub use settings::{Setting, io_weight, settings, weight_of_shares};
pub use stats::{OomWatch, OutOfMemory, Stats};
use systemd::Scope;
pub(crate) use systemd::ScopeOrder;
pub use systemd::{Anchor, SUPPORTED as SYSTEMD_SUPPORTED, ScopeError, reach as reach_systemd};

/// A failed operation on a cgroup.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {}: {operation}: {source}", path.display())]
pub struct CgroupError {
    path: PathBuf,
    operation: String,
    source: std::io::Error,
}

/// A scope was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// systemd did not do it.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A directory beside those of systemd.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn failed<'a>(path: &'a Path, operation: &'a str) -> impl FnOnce(std::io::Error) -> CgroupError + 'a {
    move |source| CgroupError { path: path.to_owned(), operation: operation.to_owned(), source }
}

/// Of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// cgroup v1: a hierarchy for each controller, or for a few.
    V1,
    /// cgroup v2: one hierarchy for all.
    V2,
}

/// The cgroups of one container, as its state file keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Cgroups {
    /// Cgroup v2's first.
    directories: Vec<Directory>,
    /// The unit of systemd's whose directories these are.
    scope: Option<Scope>,
}

/// A list alone, or with the unit that it belongs to.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Ours(Vec<Directory>),
    Systemds { scope: Scope, directories: Vec<Directory> },
}

impl From<Written> for Cgroups {
    fn from(written: Written) -> Cgroups {
        match written {
            Written::Ours(directories) => Cgroups { directories, scope: None },
            Written::Systemds { scope, directories } => Cgroups { directories, scope: Some(scope) },
        }
    }
}

impl From<Cgroups> for Written {
    fn from(Cgroups { directories, scope }: Cgroups) -> Written {
        match scope {
            None => Written::Ours(directories),
            Some(scope) => Written::Systemds { scope, directories },
        }
    }
}

/// A container's cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Absolute.
    pub path: Arc<Path>,
    /// Of its hierarchy.
    pub version: Version,
    /// Where its hierarchy is mounted.
    pub mount_point: Arc<Path>,
    /// What can be limited and counted here.
    pub controllers: Arc<[String]>,
    /// The topmost directory of the path that was made for the container, and so may be removed; `None` when the path was
    /// there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Arc<Path>>,
    /// Its inode, which the kernel gives to no other directory of the hierarchy, where another one may come to have this
    /// path after its end: that of a unit which has the name by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

/// On cgroup v1 every container has a directory of each of these: to be confined to its devices, counted, frozen and killed.
const WITHOUT_V2: [&str; 5] = ["devices", "memory", "pids", "cpuacct", "freezer"];

/// The same beside cgroup v2, which has the rest without any controller. Every directory costs a launch some 80 µs.
const BESIDE_V2: [&str; 2] = ["memory", "pids"];

/// How a process gets into the cgroups of a container.
#[derive(Debug, Default)]
pub struct Entrance {
    /// The cgroup v2 directory to be born in (`CLONE_INTO_CGROUP`).
    pub birth: Option<OwnedFd>,
    /// The `tasks` files of cgroup v1, to which the process writes `0`.
    pub tasks: Vec<OwnedFd>,
}

impl Cgroups {
    /// Where a container's directories go; nothing is made yet. `needed` names controllers beside those that every
    /// container has; and where somebody made the directory, or one above it, for the container's sake (a pod's), it has
    /// one of that hierarchy too. One that may write to its cgroups has its own in `every` hierarchy.
    #[must_use]
    pub fn plan(host: &Host, needed: &[&str], every: bool, place: impl Fn(&Hierarchy) -> PathBuf) -> Cgroups {
        let always = if host.unified().is_some() { &BESIDE_V2[..] } else { &WITHOUT_V2 };
        let wanted: Vec<&str> = always.iter().chain(needed).copied().collect();
        let v1 = host.hierarchies().filter(|hierarchy| {
            hierarchy.version == Version::V1
                && (every
                    || wanted.iter().any(|controller| hierarchy.has(controller))
                    || hierarchy.is_prepared(&place(hierarchy)))
        });
        let directories =
            host.unified().into_iter().chain(v1).map(|hierarchy| Directory::plan(hierarchy, place(hierarchy)));
        Cgroups { directories: directories.collect(), scope: None }
    }

    /// The directories that are at a container's place, which must be no one else's: where it is not known any more which
    /// were made for it.
    #[must_use]
    pub fn found(host: &Host, place: impl Fn(&Hierarchy) -> PathBuf) -> Cgroups {
        let directories = host.hierarchies().filter_map(|hierarchy| {
            let directory = Directory::plan(hierarchy, place(hierarchy));
            directory.path.is_dir().then(|| Directory { made: Some(directory.path.clone()), ..directory })
        });
        let mut directories: Vec<Directory> = directories.collect();
        directories.sort_by_key(|directory| directory.version == Version::V1);
        Cgroups { directories, scope: None }
    }

    /// Texts that all containers have in common are in memory once: those of a state file are exchanged for the host's.
    pub fn share_with(&mut self, host: &Host) {
        for directory in &mut self.directories {
            let own = |hierarchy: &&Hierarchy| {
                (&hierarchy.mount_point, &hierarchy.controllers) == (&directory.mount_point, &directory.controllers)
            };
            if let Some(hierarchy) = host.hierarchies().find(own) {
                directory.mount_point = hierarchy.mount_point.clone();
                directory.controllers = hierarchy.controllers.clone();
            }
            if directory.made.as_ref() == Some(&directory.path) {
                directory.made = Some(directory.path.clone());
            }
        }
    }

    /// Whether the container goes without.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// The directories, cgroup v2's first.
    #[must_use]
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// The directory that has a controller's files (`memory`).
    #[must_use]
    pub fn with(&self, controller: &str) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.has(controller))
    }

    /// The cgroup v2 directory.
    #[must_use]
    pub fn unified(&self) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.version == Version::V2)
    }

    /// Makes the directories. What had been made when one of them fails is removed again.
    ///
    /// # Errors
    /// One cannot be made, or is in use.
    pub fn make(&mut self) -> Result<(), CgroupError> {
        for index in 0..self.directories.len() {
            if let Err(error) = self.directories[index].make() {
                for made in &self.directories[..=index] {
                    let _ = made.try_clear();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Starts a scope, with its limits. It is nobody's before: a unit of that name may be another container's. On cgroup v1
    /// systemd does not have a directory in every hierarchy that a container needs; there we make one of the same name. The
    /// anchor has to live until the container's process is in there.
    ///
    /// # Errors
    /// systemd refuses, or a directory cannot be made; [`Cgroups::kill_and_remove`] undoes the rest.
    pub(crate) fn start_scope(
        &mut self,
        order: ScopeOrder,
        host: &Host,
        limits: &Limits,
    ) -> Result<Anchor, StartError> {
        let (scope, path, anchor) = order.start(limits, !host.is_v2_only())?;
        self.scope = Some(scope);
        let path = path.strip_prefix("/").unwrap_or(&path);
        let mut planned =
            Cgroups::plan(host, &limits.controllers(), false, |hierarchy| hierarchy.mount_point.join(path));
        let named =
            host.hierarchies().filter(|hierarchy| hierarchy.version == Version::V1 && hierarchy.controllers.is_empty());
        let named = named.map(|hierarchy| Directory::plan(hierarchy, hierarchy.mount_point.join(path)));
        planned.directories.extend(named.filter(|directory| directory.made.is_none()));
        self.directories = planned.directories;
        for directory in &mut self.directories {
            // In systemd's is the anchor. What can be removed was ours, of an earlier unit of this name.
            if directory.made.is_none() && std::fs::remove_dir(&directory.path).is_ok() {
                directory.made = Some(directory.path.clone());
            }
            if directory.made.is_none() {
                directory.adopt()?
            } else {
                directory.make()?
            }
            directory.note_inode();
        }
        Ok(anchor)
    }

    /// The hierarchies in which limits of a container are looked for.
    fn host(&self) -> &'static Host {
        if self.scope.is_some() { Host::whole() } else { Host::find() }
    }

    /// Opens them for a process to enter.
    ///
    /// # Errors
    /// One of them is gone, or there are no descriptors left.
    pub fn entrance(&self) -> Result<Entrance, CgroupError> {
        let mut entrance = Entrance::default();
        for Directory { path, version, .. } in &self.directories {
            let (name, flags) = match version {
                Version::V2 => (path.to_path_buf(), OFlags::PATH | OFlags::DIRECTORY),
                Version::V1 => (path.join("tasks"), OFlags::WRONLY),
            };
            let fd = rustix::fs::open(&name, flags | OFlags::CLOEXEC, Mode::empty());
            let fd = fd.map_err(|errno| failed(path, "open")(errno.into()))?;
            match version {
                Version::V2 => entrance.birth = Some(fd),
                Version::V1 => entrance.tasks.push(fd),
            }
        }
        Ok(entrance)
    }

    /// Cgroups that the container made below its own, for an exec: `PATH` for all hierarchies, or
    /// `CONTROLLER[,CONTROLLER]:PATH` for some. They are compared by components, never as text: `/a` is not above `/ab`
    /// (CVE-2021-30465's kind).
    ///
    /// # Errors
    /// The text that is wrong, and why.
    pub fn below(&self, paths: &[String]) -> Result<Cgroups, String> {
        let mut below = self.clone();
        for text in paths {
            let (controllers, path) = match text.split_once(':') {
                Some((controllers, path)) => (Some(controllers.split(',').collect::<Vec<_>>()), path),
                None => (None, text.as_str()),
            };
            let parts =
                Path::new(path).components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
            let parts: Vec<Component<'_>> = parts.collect();
            if parts.iter().any(|part| !matches!(part, Component::Normal(_))) {
                return Err(format!("bad sub cgroup path {text:?}: is not below the container's own"));
            }
            let unknown = controllers.iter().flatten().find(|controller| self.with(controller).is_none());
            if let Some(unknown) = unknown {
                return Err(format!(
                    "cgroup {text:?}: unknown controller {unknown:?}: the container has no cgroup of it"
                ));
            }
            for directory in &mut below.directories {
                if controllers.as_ref().is_none_or(|some| some.iter().any(|controller| directory.has(controller))) {
                    directory.path = directory.path.join(parts.iter().collect::<PathBuf>()).into();
                    directory.inode = None;
                    if !directory.path.is_dir() {
                        let path = directory.path.display();
                        return Err(format!("cgroup {text:?}: error adding pid to {path}: no such file or directory"));
                    }
                }
            }
        }
        Ok(below)
    }

    /// Kills what is left, waits until it is gone, and removes what was made: the directories, what the container made below
    /// them, and their parents as far as nobody else uses them.
    ///
    /// # Errors
    /// `patience` is over, or the kernel refuses.
    pub fn kill_and_remove(&self, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        let mut left = Vec::new();
        for directory in self.directories.iter().filter(|directory| directory.is_the_same()) {
            if !directory.try_clear()? {
                left.push(directory);
            }
        }
        if !left.is_empty() {
            self.kill()?;
        }
        left.into_iter().try_for_each(|directory| directory.clear(deadline))?;
        match &self.scope {
            Some(scope) => scope
                .stop()
                .map_err(|error| failed(Path::new(&scope.unit), "stop the unit")(std::io::Error::other(error))),
            None => Ok(()),
        }
    }
}
