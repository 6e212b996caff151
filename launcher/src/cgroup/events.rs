//! `cgroup.events`: what cgroup v2 tells of a cgroup, with a notice at every change.

use std::io::{ErrorKind, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{CgroupError, failed};

/// The open file.
pub(super) struct Events<'a> {
    path: &'a Path,
    file: std::fs::File,
}

impl<'a> Events<'a> {
    /// `None` when the cgroup is gone.
    pub(super) fn open(path: &'a Path) -> Result<Option<Self>, CgroupError> {
        match std::fs::File::open(path.join("cgroup.events")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(|file| Some(Self { path, file })).map_err(failed(path, "open cgroup.events")),
        }
    }

    /// Whether this line is there now. Reading arms the next notice (cgroup-v2.rst, "[Un]populated Notification").
    pub(super) fn say(&self, line: &str) -> Result<bool, CgroupError> {
        let (mut text, mut reader) = (String::new(), &self.file);
        reader
            .rewind()
            .and_then(|()| reader.read_to_string(&mut text).map(drop))
            .map_err(failed(self.path, "read cgroup.events"))?;
        Ok(text.lines().any(|known| known == line))
    }

    /// Waits for a change. False when the deadline has passed.
    pub(super) fn wait(&self, deadline: Instant) -> Result<bool, CgroupError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut poll = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::PRI)];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => Ok(true),
            waited => waited.map(|_| true).map_err(|errno| failed(self.path, "wait")(errno.into())),
        }
    }
}
