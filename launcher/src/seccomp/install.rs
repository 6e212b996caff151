//! seccomp(2). Runs after the clone: no allocation, no lock, no panic.

#![expect(unsafe_code, reason = "seccomp(2) has no safe wrapper in rustix or nix")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::Instruction;
use crate::sys::Result;

/// Puts the calling thread under a filter, for good. Returns the listener (close-on-exec) when the flags ask for one.
///
/// # Errors
/// EACCES without `CAP_SYS_ADMIN` or no_new_privs; EINVAL for a program or a flag that the kernel does not take; others as
/// seccomp(2).
pub fn install(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    // `Instruction` has the layout of `sock_filter`; the kernel does not write to it.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` describes the slice, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if done < 0 {
        return Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw()));
    }
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 == 0 {
        return Ok(None);
    }
    // SAFETY: a new descriptor that nobody else knows of.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(done as RawFd) }))
}
