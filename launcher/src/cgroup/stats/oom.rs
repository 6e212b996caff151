//! How the kernel tells that a container is out of memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags};

use super::super::{CgroupError, Cgroups, Version, failed};

/// What to wait for. Either way a notice says only that it is time to look at [`Cgroups::out_of_memory`] again: v2's come for
/// other counters of the file as well, v1's come before the kill, and once more when the cgroup is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OomWatch {
    /// cgroup v2: `memory.events`, for inotify(7) with `IN_MODIFY`, or poll(2) with `POLLPRI`.
    Modified(PathBuf),
    /// cgroup v1: the directory, for [`OomWatch::eventfd`].
    Eventfd(PathBuf),
}

impl Cgroups {
    /// `None` when nobody counts the container's memory.
    #[must_use]
    pub fn oom_watch(&self) -> Option<OomWatch> {
        let directory = self.with("memory")?;
        Some(match directory.version {
            Version::V2 => OomWatch::Modified(directory.path.join("memory.events")),
            Version::V1 => OomWatch::Eventfd(directory.path.to_path_buf()),
        })
    }

    /// The file whose change tells (v2), or whose events can be subscribed (v1); see [`Cgroups::oom_watch`].
    #[must_use]
    pub fn oom_watch_path(&self) -> Option<PathBuf> {
        self.oom_watch().map(|watch| match watch {
            OomWatch::Modified(path) => path,
            OomWatch::Eventfd(directory) => directory.join("memory.oom_control"),
        })
    }
}

impl OomWatch {
    /// On cgroup v1 a descriptor that becomes readable at every notice; `None` on v2. Read its 8 bytes to arm it again.
    ///
    /// # Errors
    /// The cgroup is gone, or there are no descriptors left.
    pub fn eventfd(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let OomWatch::Eventfd(path) = self else { return Ok(None) };
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = event.map_err(|errno| failed(path, "make an eventfd")(errno.into()))?;
        self.signal(event.as_fd())?;
        Ok(Some(event))
    }

    /// On cgroup v1 lets the kernel add 1 to an eventfd at every notice (memory.rst, "10. OOM Control"), which may be that
    /// of other cgroups too. On v2 nothing happens.
    ///
    /// # Errors
    /// The cgroup is gone, or there are no descriptors left.
    pub fn signal(&self, event: BorrowedFd<'_>) -> Result<(), CgroupError> {
        let OomWatch::Eventfd(path) = self else { return Ok(()) };
        let subscribe = || -> std::io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            // Only to name the file: the kernel keeps the cgroup, not this descriptor.
            let control = rustix::fs::open(path.join("memory.oom_control"), flags, Mode::empty())?;
            let order = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            std::fs::write(path.join("cgroup.event_control"), order)
        };
        subscribe().map_err(failed(path, "subscribe to memory.oom_control"))
    }
}
