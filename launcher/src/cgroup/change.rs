//! Limits changed while the container lives. What is not given stays as it is, and after a refusal everything is as it was.
//!
//! On cgroup v1 a container has directories only where something was limited or is counted; the first limit on another
//! controller makes one, and its processes move there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::directory::processes;
use super::membership;
use super::{CgroupError, Cgroups, Directory, Host, LimitError, Limits, ScopeError, Version, failed};

/// How often processes are listed anew and moved: whoever forks meanwhile leaves its child behind.
const ROUNDS: usize = 100;

/// For the removal of a directory from which the processes have been moved.
const PATIENCE: Duration = Duration::from_secs(1);

/// Limits could not be changed. All of them are as they were, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A limit makes no sense, or the host or the kernel refuses it.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A directory that the container had not, or moving its processes there.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// systemd, of whose units the container is one.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

impl Cgroups {
    /// Changes limits of a live container. True when it has got directories that its state file must know.
    ///
    /// # Errors
    /// The first limit that is refused.
    pub fn change(&mut self, resources: &LinuxResources) -> Result<bool, ChangeError> {
        let host = self.host();
        let mut resources = resources.clone();
        self.complete(&mut resources, host);
        let mut limits = Limits::of(&resources, host)?;
        if let Some(lacking) = limits.take_lacking(host).into_iter().next() {
            return Err(lacking.into());
        }
        limits.leave_out_what_is_so(self);
        let mut larger = self.with_directories(&limits, host);
        let had = self.directories.len();
        for at in had..larger.directories.len() {
            if let Err(error) = larger.directories[at].make() {
                remove(&larger.directories[had..=at]);
                return Err(error.into());
            }
            if self.scope.is_some() {
                larger.directories[at].note_inode();
            }
        }
        let former = limits.change(&larger).inspect_err(|_| remove(&larger.directories[had..]))?;
        let grown = larger.directories.len() > had;
        if grown && let Err(error) = self.move_to(&larger.directories[had..]) {
            former.restore(&larger)?;
            remove(&larger.directories[had..]);
            return Err(error.into());
        }
        if let Some(scope) = &self.scope
            && let Err(error) = scope
                .set(&limits)
                .map_err(ChangeError::from)
                .and_then(|()| limits.apply(&larger).map_err(ChangeError::from))
        {
            former.restore(&larger)?;
            return Err(error);
        }
        *self = larger;
        Ok(grown)
    }

    /// On cgroup v2 one file holds quota and period, and swap is limited as the difference to memory: the half that is not
    /// given is what is in force.
    fn complete(&self, resources: &mut LinuxResources, host: &Host) {
        let v2 = |controller: &str| host.with(controller).filter(|hierarchy| hierarchy.version == Version::V2);
        let read = |controller: &str, file: &str| -> Option<String> {
            fs::read_to_string(self.with(v2(controller).map(|_| controller)?)?.path.join(file)).ok()
        };
        if let Some(cpu) = resources.cpu_mut().as_mut()
            && cpu.period().is_some_and(|period| period != 0)
            && cpu.quota().is_none_or(|quota| quota == 0)
            && let Some(text) = read("cpu", "cpu.max")
        {
            let quota = text.split(' ').next().and_then(|quota| quota.parse().ok());
            cpu.set_quota(Some(quota.unwrap_or(-1)));
        }
        if let Some(memory) = resources.memory_mut().as_mut()
            && memory.swap().is_some_and(|swap| swap > 0)
            && memory.limit().is_none_or(|limit| limit == 0)
            && let Some(text) = read("memory", "memory.max")
        {
            memory.set_limit(text.trim().parse().ok());
        }
    }

    /// With directories for the limits that the container has none for, which are not made yet.
    fn with_directories(&self, limits: &Limits, host: &Host) -> Cgroups {
        let mut larger = self.clone();
        for controller in limits.controllers() {
            if larger.with(controller).is_some() {
                continue;
            }
            let Some(hierarchy) = host.with(controller) else { continue };
            let Some(path) = self.directories.iter().find_map(|known| host.beside(known, hierarchy)) else { continue };
            // One that is there without the controller does not get it by being made again.
            if !larger.directories.iter().any(|known| *known.path == *path) {
                larger.directories.push(Directory::plan(hierarchy, path));
            }
        }
        larger
    }

    /// Moves the container's processes, or none of them.
    fn move_to(&self, new: &[Directory]) -> Result<(), CgroupError> {
        let pids = self.processes()?;
        let place = |directory: &Directory, pid: &i32| {
            directory.place_in(&membership::of(pid)).map(|place| directory.mount_point.join(place))
        };
        let from: Vec<Option<PathBuf>> =
            new.iter().map(|directory| pids.iter().find_map(|pid| place(directory, pid))).collect();
        let moved = new.iter().try_for_each(|directory| self.move_all(&directory.path));
        if moved.is_err() {
            for (directory, from) in new.iter().zip(&from) {
                for pid in processes(&directory.path).unwrap_or_default() {
                    // Best effort: it was there before.
                    let _ = from.as_ref().map(|from| enter(from, pid));
                }
            }
        }
        moved
    }

    fn move_all(&self, path: &Path) -> Result<(), CgroupError> {
        for _ in 0..ROUNDS {
            let there = processes(path)?;
            let mut left = self.processes()?;
            left.retain(|pid| !there.contains(pid) && !is_zombie(*pid));
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                enter(path, pid)?;
            }
        }
        Err(failed(path, "move the container's processes")(ErrorKind::TimedOut.into()))
    }
}

/// One that has ended meanwhile is no error.
fn enter(path: &Path, pid: i32) -> Result<(), CgroupError> {
    match fs::write(path.join("cgroup.procs"), pid.to_string()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Err(failed(path, "move the container's processes")(error))
        }
        _ => Ok(()),
    }
}

/// A zombie is listed on v1, and cannot move.
fn is_zombie(pid: i32) -> bool {
    crate::state::ProcStat::read(pid).is_none_or(|stat| matches!(stat.state, 'Z' | 'X'))
}

fn remove(new: &[Directory]) {
    for directory in new {
        let _ = directory.clear(std::time::Instant::now() + PATIENCE);
    }
}
