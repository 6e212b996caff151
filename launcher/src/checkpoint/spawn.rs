//! Starting `criu swrk` with the descriptors that it is to have.

#![expect(unsafe_code, reason = "what the child does before it becomes criu")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::sys;

/// The number at which CRIU finds the socket; what else it gets follows.
pub(super) const SOCKET: i32 = 3;

/// Copies are made from here on, out of the way of the numbers that CRIU gets.
const OUT_OF_THE_WAY: i32 = 64;

/// Starts the command with `fds` as its descriptors from [`SOCKET`] on, and no others but 0, 1 and 2.
///
/// # Errors
/// As `Command::spawn`, or a step of the child's failed.
pub(super) fn spawn(command: &mut Command, fds: &[BorrowedFd<'_>]) -> Result<Child, std::io::Error> {
    let copy = |fd: &BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, OUT_OF_THE_WAY);
    let copies: Vec<OwnedFd> = fds.iter().map(copy).collect::<Result<_, _>>()?;
    // The pipe by which std learns of a failed start must not have one of the numbers.
    let placeholders = fill_below(SOCKET + fds.len() as i32)?;
    let set_up = move || {
        let mut next = SOCKET;
        for fd in &copies {
            sys::dup_to(fd.as_fd(), next)?;
            next += 1;
        }
        Ok(sys::close_range_cloexec(next)?)
    };
    // SAFETY: between fork and exec system calls are made, on descriptors from before; nothing is allocated
    // and no lock is taken.
    unsafe { command.pre_exec(set_up) };
    let child = command.spawn();
    drop(placeholders);
    child
}

fn fill_below(number: i32) -> Result<Vec<OwnedFd>, std::io::Error> {
    let mut all = Vec::new();
    while all.last().is_none_or(|fd: &OwnedFd| fd.as_raw_fd() < number) {
        all.push(std::fs::File::open("/dev/null")?.into());
    }
    Ok(all)
}
