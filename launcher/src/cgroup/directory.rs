//! One directory of one hierarchy: made, asked, and removed again.
//!
//! Cgroup v2 tells of every change in `cgroup.events`; cgroup v1 does not, and is looked at again after a while.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::events::Events;
use super::{CgroupError, Directory, Version, failed};

/// What a new v1 cpuset must have before a process can enter (cpusets(7)).
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

impl Directory {
    /// Makes the directory, parents too. One that is there already must have neither processes nor children of its own:
    /// whatever lives below it would be killed together with the container.
    ///
    /// # Errors
    /// It cannot be made, or is in use.
    pub(super) fn make(&mut self) -> Result<(), CgroupError> {
        let path = &self.path;
        let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        for directory in missing.iter().rev() {
            match fs::create_dir(directory) {
                Ok(()) => {
                    self.made.get_or_insert_with(|| directory.to_path_buf());
                    if self.version == Version::V1 && self.has("cpuset") {
                        inherit_cpuset(directory)?;
                    }
                }
                // Somebody else's container has the same parent.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && *directory != path => {}
                Err(error) => return Err(failed(path, "make directory")(error)),
            }
        }
        if missing.is_empty() && self.in_use()? {
            return Err(failed(path, "use")(std::io::Error::other(
                "container's cgroup is not empty: processes or other cgroups live in it",
            )));
        }
        Ok(())
    }

    /// Whether this is where a controller's files are.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    fn in_use(&self) -> Result<bool, CgroupError> {
        let path = &self.path;
        let has_children = children(path)?.next().is_some();
        Ok(has_children || !own_processes(path)?.is_empty())
    }

    /// Removes what was made, the parents too as far as nobody else uses them. False: processes still live there.
    ///
    /// # Errors
    /// Any reason but that.
    pub(super) fn try_remove(&self) -> Result<bool, CgroupError> {
        let Some(top) = &self.made else { return Ok(true) };
        if !remove_tree(&self.path)? {
            return Ok(false);
        }
        let parents = self.path.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(top));
        for parent in parents {
            // One that others use by now stays.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(true)
    }

    /// Removes it once its processes are gone, which somebody else sees to.
    ///
    /// # Errors
    /// The deadline passed, or the kernel refuses.
    pub(super) fn remove(&self, deadline: Instant) -> Result<(), CgroupError> {
        let events = match self.version {
            Version::V2 if !self.try_remove()? => Events::open(&self.path)?,
            Version::V2 => return Ok(()),
            Version::V1 => None,
        };
        let mut pause = Duration::from_micros(250);
        while !self.try_remove()? {
            let late = || failed(&self.path, "remove")(ErrorKind::ResourceBusy.into());
            match &events {
                // `populated 0` may come a moment before the directory can go, and is told only once.
                Some(events) if !events.say("populated 0")? => {
                    if !events.wait(deadline)? {
                        return Err(late());
                    }
                }
                _ if Instant::now() >= deadline => return Err(late()),
                _ => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
            }
        }
        Ok(())
    }
}

/// A v1 cpuset begins without processors and nodes, and with its parent's it asks for nothing.
fn inherit_cpuset(path: &Path) -> Result<(), CgroupError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    for file in CPUSET {
        let copied = fs::read(parent.join(file)).and_then(|value| fs::write(path.join(file), value));
        copied.map_err(failed(path, &format!("inherit {file}")))?;
    }
    Ok(())
}

/// The directories right below.
pub(super) fn children(path: &Path) -> Result<impl Iterator<Item = PathBuf> + use<>, CgroupError> {
    let entries = fs::read_dir(path).map_err(failed(path, "list"))?.flatten();
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()))
}

fn own_processes(path: &Path) -> Result<Vec<i32>, CgroupError> {
    let text = fs::read_to_string(path.join("cgroup.procs")).map_err(failed(path, "read cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The processes in a cgroup and below, in our pid namespace.
pub(super) fn processes(path: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut pids = own_processes(path)?;
    for child in children(path)? {
        // One that is removed meanwhile has none.
        pids.extend(processes(&child).unwrap_or_default());
    }
    Ok(pids)
}

/// Removes a directory and what the container made below it. False: processes still live there.
fn remove_tree(path: &Path) -> Result<bool, CgroupError> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => {}
        Err(error) => return Err(failed(path, "remove")(error)),
    }
    for child in children(path)? {
        if !remove_tree(&child)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(false),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, "remove")(error)),
        _ => Ok(true),
    }
}
