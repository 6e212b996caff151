//! Shares of a cache and of memory bandwidth (`linux.intelRdt`), by the kernel's file system resctrl
//! (Documentation/filesystems/resctrl.rst). A container is in one group of it:
//!
//! | `closID` | with schemata | the group |
//! | --- | --- | --- |
//! | none | or without | `<ID>`, made for the container and removed with it |
//! | NAME that is not there | yes | made, and left: others may be in it by then |
//! | NAME that is not there | no | refused |
//! | NAME that is there | yes | must have these schemata already |
//! | NAME that is there, or `/` for the one of all | no | as it is |
//!
//! With monitoring, `mon_groups/<ID>` below that is made and removed with the container. As with runc, and as config-linux.md,
//! "IntelRdt", says.

mod schemata;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::config::{one_line, quote};
use crate::mountinfo;
use crate::state::io_text;
use schemata::Schemata;

/// Directories that the kernel makes itself: no group can have these names.
pub const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// The group of all that are in no other.
pub const ROOT: &str = "/";

const SCHEMATA: &str = "schemata";

/// A group could not be had, changed or removed.
#[derive(Debug, thiserror::Error)]
#[error("linux.intelRdt{field}: {problem}")]
pub struct ResctrlError {
    /// With a dot in front, or empty.
    field: &'static str,
    problem: String,
}

fn refused(field: &'static str, problem: impl Display) -> ResctrlError {
    ResctrlError { field, problem: problem.to_string() }
}

/// The mounted file system.
#[derive(Clone, Debug)]
pub struct Resctrl {
    mount_point: PathBuf,
}

/// A container's group, as its state file keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Where resctrl is mounted.
    mount_point: PathBuf,
    /// Its directory.
    path: PathBuf,
    /// It is the container's own, and goes with it.
    own: bool,
    /// The container's monitoring group below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitoring: Option<PathBuf>,
}

/// What a new group is to be like.
#[derive(Debug)]
pub struct Wanted {
    group: Group,
    is_there: bool,
    schemata: Schemata,
}

impl Resctrl {
    /// Looks where it is mounted, if it is.
    #[must_use]
    pub fn find() -> Option<Resctrl> {
        Resctrl::in_table(&mountinfo::own())
    }

    fn in_table(table: &str) -> Option<Resctrl> {
        let mount = mountinfo::mounts(table).find(|mount| mount.fs_type == "resctrl")?;
        Some(Resctrl { mount_point: mount.place.into_owned().into() })
    }

    /// What a container asks for; nothing is made yet.
    ///
    /// # Errors
    /// The kernel lacks it, or the group is not there, or there and otherwise.
    pub fn plan(&self, rdt: &LinuxIntelRdt, id: &str) -> Result<Wanted, ResctrlError> {
        let schemata = Schemata::of(rdt);
        let named = rdt.clos_id().as_deref().filter(|name| !name.is_empty());
        let name = named.unwrap_or(id);
        if RESERVED.contains(&name) {
            return Err(refused(".closID", format!("{} is the kernel's own", quote(name))));
        }
        let given = |schema: &Option<String>| schema.as_ref().is_some_and(|schema| !schema.is_empty());
        self.insist(given(rdt.l3_cache_schema()), ".l3CacheSchema", &["L3", "L3CODE"])?;
        self.insist(given(rdt.mem_bw_schema()), ".memBwSchema", &["MB"])?;
        let path = if name == ROOT { self.mount_point.clone() } else { self.mount_point.join(name) };
        let monitored = rdt.enable_monitoring().unwrap_or(false);
        let monitoring = monitored.then(|| path.join("mon_groups").join(id));
        self.insist(monitored, ".enableMonitoring", &["L3_MON"])?;
        let is_there = path.is_dir();
        if !is_there && named.is_some() && schemata.is_empty() {
            let problem = format!("{}: no such group, and no schemata to make it with", path.display());
            return Err(refused(".closID", problem));
        }
        if is_there && !schemata.is_empty() {
            let found = read(&path.join(SCHEMATA)).map_err(|error| refused(".closID", error))?;
            if let Some(other) = schemata.differs_from(&found, self.bandwidth_step()) {
                let problem = format!("{}: the group is there, with another schema: {other}", path.display());
                return Err(refused(".closID", problem));
            }
        }
        let own = !is_there && named.is_none();
        let group = Group { mount_point: self.mount_point.clone(), path, own, monitoring };
        Ok(Wanted { group, is_there, schemata })
    }

    /// Refuses what the kernel cannot share out: it has no directory in `info`.
    fn insist(&self, asked: bool, field: &'static str, resources: &[&str]) -> Result<(), ResctrlError> {
        if !asked || resources.iter().any(|resource| self.has(resource)) {
            return Ok(());
        }
        let place = self.mount_point.join("info").join(resources[0]);
        Err(refused(field, format!("this machine cannot do that: {} is missing", place.display())))
    }

    /// Whether the kernel shares this out (`L3`, `MB`).
    #[must_use]
    pub fn has(&self, resource: &str) -> bool {
        self.mount_point.join("info").join(resource).is_dir()
    }

    /// What the kernel rounds bandwidth up to.
    fn bandwidth_step(&self) -> u64 {
        let step = read(&self.mount_point.join("info/MB/bandwidth_gran")).ok();
        step.and_then(|step| step.trim().parse().ok()).unwrap_or(1)
    }
}

impl Wanted {
    /// For the state file, before anything is made.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Makes the directories and writes the schemata, or leaves nothing.
    ///
    /// # Errors
    /// The kernel refuses, in its own words.
    pub fn make(&self) -> Result<(), ResctrlError> {
        let Wanted { group, is_there, schemata } = self;
        if !is_there {
            fs::create_dir(&group.path)
                .map_err(|error| group.kernel(".closID", "make directory", &group.path, error))?;
        }
        let written =
            if *is_there || schemata.is_empty() { Ok(()) } else { group.write(".schemata", &schemata.text()) };
        let made = written.and_then(|()| {
            group.monitoring.iter().try_for_each(|monitoring| {
                // One that is there is of a container of this name in another state directory.
                fs::create_dir(monitoring)
                    .map_err(|error| group.kernel(".enableMonitoring", "make directory", monitoring, error))
            })
        });
        if made.is_err() && !is_there {
            let _ = fs::remove_dir(&group.path);
        }
        made
    }
}

impl Group {
    /// The files to which a process writes `0` to be in there: that of the group first.
    ///
    /// # Errors
    /// The group is gone.
    pub fn entrance(&self) -> Result<Vec<OwnedFd>, ResctrlError> {
        let open = |path: PathBuf| {
            let opened = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            opened
                .map_err(|errno| refused("", format!("open {}: {}", path.display(), crate::report::errno_text(errno))))
        };
        self.tasks().map(open).collect()
    }

    /// Moves a process there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self, pid: i32) -> Result<(), ResctrlError> {
        self.tasks().try_for_each(|tasks| {
            fs::write(&tasks, pid.to_string()).map_err(|error| self.kernel("", "enter", &tasks, error))
        })
    }

    fn tasks(&self) -> impl Iterator<Item = PathBuf> {
        [Some(&self.path), self.monitoring.as_ref()].into_iter().flatten().map(|group| group.join("tasks"))
    }

    /// Changes what is given. Returns what was in force before, for [`Group::restore`].
    ///
    /// # Errors
    /// The kernel refuses, or does not share that out; nothing is changed.
    pub fn change(&self, l3: Option<&str>, bandwidth: Option<&str>) -> Result<String, ResctrlError> {
        let former = read(&self.path.join(SCHEMATA)).map_err(|error| refused("", error))?;
        let lines = l3.into_iter().chain(bandwidth);
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        self.write(".schemata", &text).inspect_err(|_| {
            // The kernel takes line by line, and those before the one that it refuses are in force.
            let _ = self.restore(&former);
        })?;
        Ok(former)
    }

    /// Writes back what [`Group::change`] has returned.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restore(&self, former: &str) -> Result<(), ResctrlError> {
        let lines = former.lines().map(str::trim_start).filter(|line| !line.is_empty());
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        self.write(".schemata", &text)
    }

    /// Removes what was made for the container. Its processes are gone, or the kernel moves them to the group above.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self) -> Result<(), ResctrlError> {
        // Its monitoring goes with a group.
        let doomed = if self.own { Some(&self.path) } else { self.monitoring.as_ref() };
        match doomed.map(fs::remove_dir) {
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => {
                Err(self.kernel("", "remove", doomed.unwrap_or(&self.path), error))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, field: &'static str, text: &str) -> Result<(), ResctrlError> {
        let path = self.path.join(SCHEMATA);
        let operation = format!("write {} to", quote(text.trim_end()));
        fs::write(&path, text).map_err(|error| self.kernel(field, &operation, &path, error))
    }

    /// A refusal, with what the kernel has to say beside the number.
    fn kernel(&self, field: &'static str, operation: &str, path: &Path, error: Error) -> ResctrlError {
        let said = read(&self.mount_point.join("info/last_cmd_status")).unwrap_or_default();
        let said = match one_line(said.trim()) {
            said if said.is_empty() || said == "ok" => String::new(),
            said => format!(" ({said})"),
        };
        refused(field, format!("{operation} {}: {}{said}", path.display(), io_text(&error)))
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("read {}: {}", path.display(), io_text(&error)))
}
