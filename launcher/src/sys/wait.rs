//! How children, and processes of others, have ended. Nothing is reaped here.

#![expect(unsafe_code, reason = "waitid(2) with its fifth argument, and an ioctl of pidfds")]

use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::{Result, check};
use crate::state::Rusage;

/// A child that has ended, seen without being reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedChild {
    /// Its pid; not free before it is reaped.
    pub pid: i32,
    /// Exit code, or `None` for death by a signal.
    pub code: Option<u8>,
    /// The signal, for death by one.
    pub signal: Option<u8>,
    /// What it and those of its children that it waited for took.
    pub usage: Rusage,
}

/// Looks for any child that has ended (`P_ALL`, `WNOWAIT`): rustix's waitid(2) does not tell the pid, and nix's does not
/// know deaths by real-time signals.
///
/// # Errors
/// ECHILD without children; others as waitid(2).
pub fn peek_ended_child() -> Result<Option<EndedChild>> {
    peek(libc::P_ALL, 0)
}

/// The same of one child; `None` also while somebody traces its zombie. Unlike the wrappers of waitid(2), the system call tells what it took, too (wait4(2), "C
/// library/kernel differences").
///
/// # Errors
/// ECHILD when it is none of ours; others as waitid(2).
pub fn peek_child(pidfd: BorrowedFd<'_>) -> Result<Option<EndedChild>> {
    loop {
        match peek(libc::P_PIDFD, pidfd.as_raw_fd()) {
            Err(Errno::INTR) => {}
            peeked => return peeked,
        }
    }
}

fn peek(kind: libc::idtype_t, id: c_int) -> Result<Option<EndedChild>> {
    // SAFETY: siginfo_t is plain data; all zeroes is what waitid leaves when nothing has ended.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: rusage is plain data; all zeroes is valid.
    let mut rusage: libc::rusage = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
    // SAFETY: `info` and `rusage` outlive the call.
    check(unsafe { libc::syscall(libc::SYS_waitid, kind, id, &raw mut info, options, &raw mut rusage) })?;
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves zeroes.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() } as u8;
    let exited = info.si_code == libc::CLD_EXITED;
    let usage = usage(&rusage);
    Ok(Some(EndedChild { pid, code: exited.then_some(status), signal: (!exited).then_some(status), usage }))
}

fn usage(from: &libc::rusage) -> Rusage {
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    // getrusage(2): in KiB.
    Rusage { user_ns: ns(from.ru_utime), system_ns: ns(from.ru_stime), max_rss_bytes: from.ru_maxrss as u64 * 1024 }
}

/// The wait status that the kernel keeps for holders of a pidfd after the process was reaped (`PIDFD_GET_INFO` with
/// `PIDFD_INFO_EXIT`, Linux 6.15); `None` before that, and on older kernels.
#[must_use]
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: pidfd_info is plain data; all zeroes is valid.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the request reads and writes one pidfd_info, which outlives the call.
    check(c_long::from(unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) })).ok()?;
    (info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code)
}
