//! A container's cgroups: a directory of its own in each hierarchy that is needed, to be born in, limited, frozen, counted
//! and killed by.
//!
//! | host | the container's directories |
//! | --- | --- |
//! | v2 | one; it is born there (`CLONE_INTO_CGROUP`) |
//! | v1 | one for each of devices, memory, pids, cpu and freezer, and for any other controller that a limit needs |
//! | hybrid | both: v2's to be born, frozen and killed by, v1's for the limits |
//!
//! A directory is `brood-<root>-<id>` in our own cgroup, so a delegated subtree (systemd's `Delegate=`) is enough; or what
//! `linux.cgroupsPath` says, absolute from the hierarchy's root. Where the host has no writable hierarchy, a container goes
//! without. On v1 the child itself enters, by writing `0` to `tasks` before anything else: a single thread that moves itself
//! does not wait for the RCU grace period that writing its pid to `cgroup.procs` may cost.

mod directory;
mod host;
mod settings;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use directory::*;
pub use host::{Hierarchy, Host};
pub use settings::{Setting, SettingError, settings};

/// A failed operation on a cgroup.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {}: {operation}: {source}", path.display())]
pub struct CgroupError {
    path: PathBuf,
    operation: String,
    source: std::io::Error,
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
#[serde(transparent)]
pub struct Cgroups {
    /// Cgroup v2's first.
    directories: Vec<Directory>,
}

/// A container's cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Absolute.
    pub path: PathBuf,
    /// Of its hierarchy.
    pub version: Version,
    /// What can be limited and counted here.
    pub controllers: Vec<String>,
    /// The topmost directory of the path that was made for the container, and so may be removed; `None` when the path was
    /// there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made: Option<PathBuf>,
}

/// On cgroup v1 every container has a directory of each of these: to be confined to its devices, and counted.
const ALWAYS: [&str; 4] = ["devices", "memory", "pids", "cpu"];

impl Cgroups {
    /// Where a container's directories go; nothing is made yet. `needed` names controllers beside those that every
    /// container has.
    #[must_use]
    pub fn plan(host: &Host, needed: &[&str], place: impl Fn(&Hierarchy) -> PathBuf) -> Cgroups {
        // The freezer is what freezes and kills where v2 cannot.
        let freezer = host.unified().is_none().then_some("freezer");
        let wanted: Vec<&str> = ALWAYS.into_iter().chain(freezer).chain(needed.iter().copied()).collect();
        let is_wanted = |hierarchy: &&Hierarchy| {
            hierarchy.version == Version::V1 && hierarchy.controllers.iter().any(|own| wanted.contains(&own.as_str()))
        };
        let v1 = host.hierarchies().filter(is_wanted);
        let directory = |hierarchy: &Hierarchy| Directory {
            path: place(hierarchy),
            version: hierarchy.version,
            controllers: hierarchy.controllers.clone(),
            made: None,
        };
        Cgroups { directories: host.unified().into_iter().chain(v1).map(directory).collect() }
    }

    /// Makes the directories. What had been made when one of them fails is removed again.
    ///
    /// # Errors
    /// One cannot be made, or is in use.
    pub fn make(&mut self) -> Result<(), CgroupError> {
        for index in 0..self.directories.len() {
            match make_directory(&mut self.directories[index]) {
                Ok(()) => {}
                Err(error) => {
                    for made in &self.directories[..index] {
                        let _ = directory::remove(made, Instant::now());
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
