//! Resolution of a container's paths inside its root, by descriptor: nothing a rootfs holds, and nobody who swaps a
//! directory for a link meanwhile, can lead us out (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{During, Failure};
use crate::plan::{Target, TargetKind};
use crate::report::Op;
use crate::sys;

/// Opens a path inside the root without following anything out of it (`O_PATH`).
pub(super) fn open_inside(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    no_symlinks: bool,
) -> Result<OwnedFd, Errno> {
    let links = if no_symlinks { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    open_path(root, path, flags, ResolveFlags::IN_ROOT | links)
}

/// The same below a mount; what leads out of it is EXDEV.
pub(super) fn open_beneath(mount: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    open_path(mount, path, OFlags::empty(), ResolveFlags::BENEATH)
}

fn open_path(from: BorrowedFd<'_>, path: &CStr, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let (flags, resolve) = (OFlags::PATH | OFlags::CLOEXEC | flags, resolve | ResolveFlags::NO_MAGICLINKS);
    let mut tries = 0;
    loop {
        // EAGAIN: a rename elsewhere raced with a `..` of ours; the kernel asks to try again (openat2(2)).
        match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < 64 => tries += 1,
            result => return result,
        }
    }
}

/// Links that are followed while a missing target is made: as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Opens a mount target, making what is missing. Where a link leads to something missing, that is made, inside the root.
pub(super) fn open_or_make(root: BorrowedFd<'_>, target: &Target, kind: TargetKind) -> Result<OwnedFd, Failure> {
    let flags = if target.no_follow { OFlags::NOFOLLOW } else { OFlags::empty() };
    open_or_make_path(root, &target.path, kind, flags, target.no_symlinks)
}

/// The same, for a target of our own.
pub(crate) fn open_or_make_path(
    root: BorrowedFd<'_>,
    path: &CStr,
    kind: TargetKind,
    flags: OFlags,
    no_symlinks: bool,
) -> Result<OwnedFd, Failure> {
    match open_inside(root, path, flags, no_symlinks) {
        Err(Errno::NOENT) => {}
        result => return result.during(Op::Resolve),
    }
    let mut path = PathBuffer::new(path)?;
    for _ in 0..LINKS_MAX {
        let parent = make_parents(root, &mut path, no_symlinks)?;
        let made = match kind {
            TargetKind::Directory => mkdir(parent.as_fd(), path.name()?)?,
            TargetKind::File => create(parent.as_fd(), path.name()?)?,
        };
        match open_inside(root, path.whole()?, flags, no_symlinks) {
            // There is something of that name, and it leads nowhere: a link.
            Err(Errno::NOENT) if !made => path.follow(parent.as_fd())?,
            result => return result.during(Op::Resolve),
        }
    }
    Err(Failure { op: Op::Resolve, errno: Errno::LOOP })
}

/// Opens the directory that holds (or will hold) the last component, making missing directories on the way.
pub(super) fn make_parents(root: BorrowedFd<'_>, path: &mut PathBuffer, no_symlinks: bool) -> Result<OwnedFd, Failure> {
    let top = || open_inside(root, c"/", OFlags::DIRECTORY, true).during(Op::Resolve);
    let mut parent = top()?;
    let mut links = 0;
    path.cut = 0;
    while let Some((prefix, name)) = path.next_directory() {
        let found = match open_inside(root, prefix, OFlags::DIRECTORY, no_symlinks) {
            Err(Errno::NOENT) => {
                let made = mkdir(parent.as_fd(), name)?;
                match open_inside(root, prefix, OFlags::DIRECTORY, no_symlinks) {
                    Err(Errno::NOENT) if !made && links < LINKS_MAX => None,
                    result => Some(result.during(Op::Resolve)?),
                }
            }
            result => Some(result.during(Op::Resolve)?),
        };
        parent = match found {
            Some(directory) => directory,
            None => {
                links += 1;
                path.follow(parent.as_fd())?;
                top()?
            }
        };
    }
    Ok(parent)
}

fn create(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Failure> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(Failure { op: Op::MakeTarget, errno }),
    }
}

/// True when it was made, false when something of that name is there.
fn mkdir(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Failure> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
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
        let mut source = path.to_bytes();
        while let [rest @ .., b'/'] = source {
            source = rest;
        }
        let mut buffer = PathBuffer { bytes: [0; libc::PATH_MAX as usize], len: 0, cut: 0 };
        buffer.append(source)?;
        Ok(buffer)
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
    pub(super) fn name(&self) -> Result<&CStr, Failure> {
        let name = || {
            let start = self.bytes.get(..self.len)?.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            CStr::from_bytes_until_nul(self.bytes.get(start..)?).ok().filter(|name| !name.is_empty())
        };
        name().ok_or(Failure { op: Op::Resolve, errno: Errno::INVAL })
    }

    /// The path as it stands, links followed so far.
    pub(super) fn whole(&self) -> Result<&CStr, Failure> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Failure { op: Op::Resolve, errno: Errno::INVAL })
    }

    /// Puts what the link at the cut (or at the end) says in its place; begins anew. The kernel resolves the result,
    /// inside the root, so a link's `..` leads nowhere else than there.
    fn follow(&mut self, parent: BorrowedFd<'_>) -> Result<(), Failure> {
        let fail = |errno| Failure { op: Op::Resolve, errno };
        // After `next_directory` the text ends at the cut; without a further directory it ends at the end.
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(self.len);
        let before = self.bytes.get(..end).ok_or(fail(Errno::INVAL))?;
        let start = before.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let name = CStr::from_bytes_until_nul(self.bytes.get(start..).unwrap_or_default());
        let mut said = [0u8; libc::PATH_MAX as usize];
        let length = sys::read_link(parent, name.map_err(|_| fail(Errno::INVAL))?, &mut said).map_err(fail)?;
        let said = said.get(..length).unwrap_or_default();
        let rest = if end < self.len { self.bytes.get(end + 1..self.len).unwrap_or_default() } else { &[] };
        let head = if said.first() == Some(&b'/') { &[] } else { self.bytes.get(..start).unwrap_or_default() };
        let mut joined = PathBuffer { bytes: [0; libc::PATH_MAX as usize], len: 0, cut: 0 };
        for part in [head, said] {
            joined.append(part)?;
        }
        if !rest.is_empty() {
            joined.append(b"/")?;
            joined.append(rest)?;
        }
        *self = joined;
        Ok(())
    }

    pub(super) fn append(&mut self, part: &[u8]) -> Result<(), Failure> {
        let end = self.len + part.len();
        let too_long = Failure { op: Op::Resolve, errno: Errno::NAMETOOLONG };
        // The last byte stays zero: the terminator.
        let room = self.bytes.get_mut(self.len..end).filter(|_| end < libc::PATH_MAX as usize).ok_or(too_long)?;
        room.copy_from_slice(part);
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_at_each_slash() {
        let Ok(mut path) = PathBuffer::new(c"//a/bc//d/") else { panic!("short enough") };
        let mut seen = Vec::new();
        while let Some((prefix, name)) = path.next_directory() {
            seen.push((prefix.to_owned(), name.to_owned()));
        }
        assert_eq!(seen, [(c"//a".to_owned(), c"a".to_owned()), (c"//a/bc".to_owned(), c"bc".to_owned())]);
        assert_eq!(path.name().ok(), Some(c"d"));
        assert!(PathBuffer::new(c"/").is_ok_and(|root| root.name().is_err()));
        let long = std::ffi::CString::new(vec![b'a'; libc::PATH_MAX as usize]).expect("no NUL");
        assert!(PathBuffer::new(&long).is_err());
    }
}
