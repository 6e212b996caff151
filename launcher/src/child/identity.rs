//! Who the process is: descriptors 0 to 2, directory, user, groups, capabilities.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Gid, OFlags, Uid};
use rustix::io::Errno;

use super::hide::is_null;
use super::target::open_inside;
use super::{Child, Done, During, Failure};
use crate::plan::{CapabilitySets, FdIndex};
use crate::report::Op;
use crate::sys;

impl Child<'_> {
    /// Takes descriptors 0 to 2, and lets no other one through execve(2). Not at the exec itself: a seccomp filter may be
    /// in force by then that forbids close_range(2). What is opened from here on is close-on-exec from its birth.
    ///
    /// In the place of the host's /dev/null comes the container's, as with runc: CRIU can name no file that is in none of
    /// the container's mounts.
    pub(super) fn stdio(&self, fds: [FdIndex; 3], uid: u32) -> Done {
        for (index, number) in fds.into_iter().zip(0..) {
            let fd = self.fd(index)?;
            let stat = rustix::fs::fstat(fd).during(Op::Own)?;
            // A container that has none, or something else of that name, keeps the host's.
            let null = if is_null(&stat) { self.open_null().ok() } else { None };
            sys::dup_to(null.as_ref().map_or(fd, AsFd::as_fd), number).during(Op::Duplicate)?;
            // `echo x > /dev/stderr` re-opens by path and needs the owner's right; a terminal or /dev/null of the host
            // keeps its owner. Refusals (user namespace, read-only file system) leave things as they are.
            if uid != 0 {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::Fifo || (kind == FileType::RegularFile && number != 0) {
                    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>) {
                        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
                        Err(errno) => return Err(Failure { op: Op::Own, errno }),
                    }
                }
            }
        }
        self.close_the_rest_on_exec()
    }

    /// Not by chdir(2): `/proc/self/fd/7` as a working directory is a way out of the container for whatever directory
    /// that descriptor is (CVE-2024-21626), so such links are not followed, and the result is looked at on top.
    pub(super) fn working_directory(&self, path: &CStr) -> Done {
        let directory = open_inside(self.root()?, path, OFlags::DIRECTORY, false).during(Op::ChangeDirectory)?;
        rustix::process::fchdir(&directory).during(Op::ChangeDirectory)?;
        match sys::working_directory_is_inside().during(Op::ChangeDirectory)? {
            true => Ok(()),
            false => Err(Failure { op: Op::OutsideRoot, errno: Errno::ACCESS }),
        }
    }

    pub(super) fn oom_score_adj(&self, value: i32) -> Done {
        self.write_own_proc_file(c"self/oom_score_adj", sys::Decimal::of(i64::from(value)).as_bytes())
    }
}

pub(super) fn bounding_set(keep: u64) -> Done {
    for capability in 0..64 {
        if keep & (1 << capability) == 0 {
            match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                Ok(_) => {}
                Err(Errno::INVAL) => break, // beyond the kernel's last capability
                Err(errno) => return Err(Failure { op: Op::Call, errno }),
            }
        }
    }
    Ok(())
}

pub(super) fn become_user(uid: u32, gid: u32, groups: &[u32], set_groups: bool) -> Done {
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).during(Op::CapSet)?;
    if set_groups {
        sys::set_groups(groups).during(Op::SetGroups)?;
    }
    sys::set_gid(gid).during(Op::SetGid)?;
    sys::set_uid(uid).during(Op::SetUid)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).map(drop).during(Op::CapSet)
}

pub(super) fn capabilities(sets: &CapabilitySets) -> Done {
    sys::capset(sets).during(Op::CapSet)?;
    // An ordinary user's launcher has kept its own that way (`crate::rootless`).
    sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).during(Op::Ambient)?;
    for capability in 0..64u64 {
        if sets.ambient & (1 << capability) != 0 {
            sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability).during(Op::Ambient)?;
        }
    }
    Ok(())
}
