//! Reading a cgroup's files: each with one openat(2) and one read(2), into a buffer that is used again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::parse;

/// More than any of the files that are read here usually holds, so that one read(2) tells all of it.
const BUFFER_BYTES: usize = 16 << 10;

/// A file that is longer than this is none of these.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// The files of one directory.
pub(super) struct Files {
    directory: OwnedFd,
    buffer: Vec<u8>,
}

impl Files {
    /// `None` when the directory is gone.
    pub(super) fn open(path: &Path) -> Option<Files> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(Files { directory, buffer: vec![0; BUFFER_BYTES] })
    }

    /// A file's text; `None` when the kernel has no such file, or nothing to tell in it.
    pub(super) fn read(&mut self, name: &str) -> Option<&str> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.directory.as_fd(), name, flags, Mode::empty()).ok()?;
        let mut length = 0;
        loop {
            let read = match rustix::io::read(&file, &mut self.buffer[length..]) {
                Err(Errno::INTR) => continue,
                read => read.ok()?,
            };
            length += read;
            // The kernel makes the whole text at once, and gives as much as fits.
            if read == 0 || length < self.buffer.len() {
                break;
            }
            if length >= BUFFER_BYTES_MAX {
                return None;
            }
            self.buffer.resize(length * 2, 0);
        }
        std::str::from_utf8(&self.buffer[..length]).ok().map(str::trim_end)
    }

    /// A file that holds one number, or `max`: [`u64::MAX`].
    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        parse::number(self.read(name)?)
    }
}
