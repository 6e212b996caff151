//! Resolution of a container's paths inside its root, by descriptor: nothing a rootfs holds, and nobody who swaps a
//! directory for a link meanwhile, can lead us out (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{During, Failure};
use crate::plan::{Target, TargetKind};
use crate::report::Op;

/// Opens a path inside the root without following anything out of it (`O_PATH`).
pub(super) fn open_inside(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    no_symlinks: bool,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if no_symlinks {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let mut tries = 0;
    loop {
        // EAGAIN: a rename elsewhere raced with a `..` of ours; the kernel asks to try again (openat2(2)).
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < 64 => tries += 1,
            result => return result,
        }
    }
}

/// Opens a mount target, making what is missing.
pub(super) fn open_or_make(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd, Failure> {
    match open_inside(root, &target.path, OFlags::empty(), target.no_symlinks) {
        Err(Errno::NOENT) => {}
        result => return result.during(Op::Resolve),
    }
    let mut path = PathBuffer::new(&target.path)?;
    let parent = make_parents(root, &mut path, target.no_symlinks)?;
    let name = path.name().ok_or(Failure { op: Op::Resolve, errno: Errno::INVAL })?;
    match target.kind {
        TargetKind::Directory => mkdir(parent.as_fd(), name)?,
        TargetKind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Failure { op: Op::MakeTarget, errno }),
            }
        }
    }
    open_inside(root, &target.path, OFlags::empty(), target.no_symlinks).during(Op::Resolve)
}

/// Opens the directory that holds (or will hold) the last component, making missing directories on the way.
pub(super) fn make_parents(root: BorrowedFd<'_>, path: &mut PathBuffer, no_symlinks: bool) -> Result<OwnedFd, Failure> {
    let mut parent = open_inside(root, c"/", OFlags::DIRECTORY, true).during(Op::Resolve)?;
    while let Some((prefix, name)) = path.next_directory() {
        parent = match open_inside(root, prefix, OFlags::DIRECTORY, no_symlinks) {
            Err(Errno::NOENT) => {
                mkdir(parent.as_fd(), name)?;
                open_inside(root, prefix, OFlags::DIRECTORY, no_symlinks).during(Op::Resolve)?
            }
            result => result.during(Op::Resolve)?,
        };
    }
    Ok(parent)
}

fn mkdir(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Failure> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Failure { op: Op::MakeTarget, errno }),
    }
}

/// A copy of a path on the stack that can be cut at its slashes: prefixes without allocation.
pub(super) struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
    len: usize,
    /// End of the prefix handed out last.
    cut: usize,
}

impl PathBuffer {
    pub(super) fn new(path: &CStr) -> Result<PathBuffer, Failure> {
        let mut bytes = [0; libc::PATH_MAX as usize];
        let mut source = path.to_bytes();
        while let [rest @ .., b'/'] = source {
            source = rest;
        }
        let too_long = Failure { op: Op::Resolve, errno: Errno::NAMETOOLONG };
        // One byte more stays zero: the terminator.
        let room = bytes.get_mut(..source.len()).filter(|room| room.len() < libc::PATH_MAX as usize).ok_or(too_long)?;
        room.copy_from_slice(source);
        Ok(PathBuffer { bytes, len: source.len(), cut: 0 })
    }

    /// The next longer prefix that names a directory (never the whole path), and its last component.
    fn next_directory(&mut self) -> Option<(&CStr, &CStr)> {
        if let Some(terminator) = self.bytes.get_mut(self.cut).filter(|_| self.cut > 0) {
            *terminator = b'/';
        }
        let mut start = self.cut;
        while self.bytes.get(start) == Some(&b'/') {
            start += 1;
        }
        let length = self.bytes.get(start..self.len)?.iter().position(|&byte| byte == b'/')?;
        self.cut = start + length;
        *self.bytes.get_mut(self.cut)? = 0;
        let prefix = CStr::from_bytes_until_nul(&self.bytes).ok()?;
        let name = CStr::from_bytes_until_nul(self.bytes.get(start..)?).ok()?;
        Some((prefix, name))
    }

    /// The last component.
    pub(super) fn name(&self) -> Option<&CStr> {
        let start = self.bytes.get(..self.len)?.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        CStr::from_bytes_until_nul(self.bytes.get(start..)?).ok().filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_at_each_slash() {
        let mut path = PathBuffer::new(c"//a/bc//d/").ok().expect("short enough");
        let mut seen = Vec::new();
        while let Some((prefix, name)) = path.next_directory() {
            seen.push((prefix.to_owned(), name.to_owned()));
        }
        assert_eq!(seen, [(c"//a".to_owned(), c"a".to_owned()), (c"//a/bc".to_owned(), c"bc".to_owned())]);
        assert_eq!(path.name(), Some(c"d"));
        assert_eq!(PathBuffer::new(c"/").ok().expect("short").name(), None);
        let long = std::ffi::CString::new(vec![b'a'; libc::PATH_MAX as usize]).expect("no NUL");
        assert!(PathBuffer::new(&long).is_err());
    }
}
