//! User namespaces that nobody lives in: holders of identity maps for mounts (`MOUNT_ATTR_IDMAP`).

#![expect(unsafe_code, reason = "clone3: a short-lived child that makes the namespace")]

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::plan::IdMaps;
use crate::sys::{self, CloneArgs, Cloned};

/// Makes a user namespace with these maps. It lives as long as the descriptor, or a mount that has its maps.
///
/// A namespace takes a process to be made by and to be written through. Ours does nothing but wait for the end of a pipe,
/// so it ends even if we are killed meanwhile; its exit signal is 0, so that nobody's search for ended children sees it.
///
/// # Errors
/// Of clone3(2), or EINVAL and EPERM for maps that the kernel refuses (user_namespaces(7)).
pub fn with_maps(maps: &IdMaps) -> Result<OwnedFd, Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let args = CloneArgs { flags: libc::CLONE_NEWUSER as u64, exit_signal: 0, cgroup: None };
    // SAFETY: other threads may run, but the child makes two system calls and ends: no lock, no memory of theirs.
    let (pid, pidfd) = match unsafe { sys::clone3(args) }? {
        Cloned::Child => {
            sys::close_forgotten(std::os::fd::AsRawFd::as_raw_fd(&write));
            let _ = rustix::io::read(&read, &mut [0u8; 1]);
            sys::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    let namespace = map(pid, maps);
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    // With an exit signal of 0 it is a "clone child", which waitid(2) leaves out unless it is told.
    let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    while let Err(Errno::INTR) = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {}
    namespace
}

fn map(pid: i32, maps: &IdMaps) -> Result<OwnedFd, Errno> {
    let done = || {
        fs::write(format!("/proc/{pid}/uid_map"), &maps.uid_map)?;
        fs::write(format!("/proc/{pid}/gid_map"), &maps.gid_map)?;
        File::open(format!("/proc/{pid}/ns/user"))
    };
    done().map(OwnedFd::from).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
