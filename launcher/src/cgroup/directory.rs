//! One directory of one hierarchy: made, asked, and removed again.
//!
//! Cgroup v2 tells of every change in `cgroup.events`; cgroup v1 does not, and is looked at again after a while.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::Events;
use super::host::words;
use super::{CgroupError, Directory, Hierarchy, Version, failed};

/// What a new v1 cpuset must have before a process can enter (cpusets(7)).
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

impl Directory {
    /// One that is not made yet, if it is not there.
    pub(super) fn plan(hierarchy: &Hierarchy, path: PathBuf) -> Directory {
        let path: Arc<Path> = path.into();
        let top = path.ancestors().take_while(|ancestor| !ancestor.exists()).last();
        let made = top.map(|top| if *top == *path { path.clone() } else { top.into() });
        let (mount_point, controllers) = (hierarchy.mount_point.clone(), hierarchy.controllers.clone());
        Directory { path, version: hierarchy.version, mount_point, controllers, made, inode: None }
    }

    /// Makes the directory, parents too, and hands the controllers down to it. One that is there already must have neither
    /// processes nor children of its own: whatever lives below it would be killed together with the container.
    ///
    /// # Errors
    /// It cannot be made, or is in use.
    pub(super) fn make(&mut self) -> Result<(), CgroupError> {
        let Some(top) = self.made.clone() else {
            self.hand_down()?;
            return self.insist_unused();
        };
        let missing: Vec<PathBuf> =
            self.path.ancestors().take_while(|ancestor| ancestor.starts_with(&top)).map(Path::to_owned).collect();
        for directory in missing.iter().rev() {
            match fs::create_dir(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists && **directory == *self.path => {
                    let reason = "container's cgroup is not empty: somebody else has just made it";
                    return Err(failed(&self.path, "use")(std::io::Error::other(reason)));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    // Somebody else has made it meanwhile: theirs to remove.
                    self.made = missing
                        .iter()
                        .rev()
                        .skip_while(|made| *made != directory)
                        .nth(1)
                        .map(|made| made.as_path().into());
                }
                Err(error) => return Err(failed(&self.path, "make directory")(error)),
            }
        }
        self.hand_down()?;
        if self.made.is_none() { self.insist_unused() } else { Ok(()) }
    }

    /// Takes over one that systemd has made for the container.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn adopt(&mut self) -> Result<(), CgroupError> {
        self.made = Some(self.path.clone());
        self.hand_down()?;
        if self.version == Version::V1 {
            return Ok(());
        }
        // Those that systemd does not know (hugetlb) have been handed down as far as we may.
        let text = fs::read_to_string(self.path.join("cgroup.controllers"));
        let text = text.map_err(failed(&self.path, "read cgroup.controllers"))?;
        self.controllers = words(&text);
        Ok(())
    }

    /// From here on another one of its path is told from it.
    pub(super) fn note_inode(&mut self) {
        self.inode = inode(&self.path);
    }

    /// Whether what is at its path is the one that the container got, as far as that was noted. One that is gone is.
    pub(super) fn is_the_same(&self) -> bool {
        self.inode.is_none_or(|noted| inode(&self.path).is_none_or(|found| found == noted))
    }

    /// Whether this is where a controller's files are.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    fn insist_unused(&self) -> Result<(), CgroupError> {
        if (self.version == Version::V2 || self.has("freezer")) && self.is_frozen() {
            // Nothing could be set up in there.
            return Err(failed(&self.path, "use")(std::io::Error::other("container's cgroup unexpectedly frozen")));
        }
        if children(&self.path)?.next().is_none() && own_processes(&self.path)?.is_empty() {
            return Ok(());
        }
        Err(failed(&self.path, "use")(std::io::Error::other(
            "container's cgroup is not empty: processes or other cgroups live in it",
        )))
    }

    /// Cgroup v1: see [`inherit_cpuset`]. Cgroup v2: a directory has the files of those controllers that every directory above hands down (cgroup-v2.rst,
    /// "Enabling and Disabling"). What cannot be handed down is missed when a limit is to be written.
    fn hand_down(&self) -> Result<(), CgroupError> {
        if self.version == Version::V1 && self.has("cpuset") {
            return inherit_cpuset(&self.path, &self.mount_point);
        }
        if self.version == Version::V1 || self.controllers.is_empty() {
            return Ok(());
        }
        let handed = |path: &Path| fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        let is_handed = |text: &str, name: &String| text.split_whitespace().any(|handed| handed == name);
        let Some(parent) = self.path.parent().filter(|parent| parent.starts_with(&self.mount_point)) else {
            return Ok(());
        };
        let text = handed(parent);
        if self.controllers.iter().all(|name| is_handed(&text, name)) {
            return Ok(());
        }
        let mut path: Vec<&Path> =
            parent.ancestors().take_while(|above| above.starts_with(&self.mount_point)).collect();
        path.reverse();
        for above in path {
            let text = handed(above);
            for name in self.controllers.iter().filter(|name| !is_handed(&text, name)) {
                let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{name}"));
            }
        }
        Ok(())
    }

    /// Removes what was made, the parents too as far as nobody else uses them. False: processes still live there.
    ///
    /// # Errors
    /// Any reason but that.
    pub(super) fn try_clear(&self) -> Result<bool, CgroupError> {
        let Some(top) = &self.made else {
            return match processes(&self.path) {
                Ok(pids) => Ok(pids.is_empty()),
                Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(true),
                Err(error) => Err(error),
            };
        };
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

    /// [`Directory::try_clear`] once its processes are gone, which somebody else sees to.
    ///
    /// # Errors
    /// The deadline passed, or the kernel refuses.
    pub(super) fn clear(&self, deadline: Instant) -> Result<(), CgroupError> {
        let events = if self.version == Version::V2 { Events::open(&self.path)? } else { None };
        let mut pause = Duration::from_micros(250);
        loop {
            // Read before the attempt, so that a change during it is told. Of one that somebody else removed nothing can be
            // read, and the attempt finds out.
            let populated = match &events {
                Some(events) => !events.say("populated 0").unwrap_or(true),
                None => false,
            };
            if self.try_clear()? {
                return Ok(());
            }
            let late = match &events {
                Some(events) if populated => !events.wait(deadline)?,
                // v1 has no events, and v2's `populated 0` may come a moment before the directory can go.
                _ => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                    Instant::now() >= deadline
                }
            };
            if late {
                return Err(failed(&self.path, "remove")(ErrorKind::ResourceBusy.into()));
            }
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))
}

/// A v1 cpuset begins without processors and nodes, and with its parent's it asks for nothing. The same goes for one above
/// that somebody made and left so: nothing could live below it.
fn inherit_cpuset(path: &Path, mount_point: &Path) -> Result<(), CgroupError> {
    let mut below: Vec<&Path> = path.ancestors().take_while(|above| *above != mount_point).collect();
    below.reverse();
    for path in below {
        let Some(parent) = path.parent() else { continue };
        for file in CPUSET {
            let inherited = fs::read_to_string(path.join(file)).and_then(|value| match value.trim() {
                "" => fs::write(path.join(file), fs::read(parent.join(file))?),
                _ => Ok(()),
            });
            inherited.map_err(failed(path, &format!("inherit {file}")))?;
        }
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
