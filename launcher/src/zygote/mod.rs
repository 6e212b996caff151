//! The zygote: a small single-threaded process that turns plans into children.
//!
//! It lives in a mount namespace of its own that holds next to nothing, because clone3 with `CLONE_NEWNS` copies the
//! caller's whole mount table: from the host's, a launch costs milliseconds more with every thousand mounts. It asks
//! clone3 for `CLONE_PARENT`, so the children are its supervisor's, and it never waits for anything but requests.
//!
//! ```text
//! supervisor --- request: plan bytes + descriptors ---> zygote
//!            <-- reply: pid + pidfd, or what failed ---
//! ```
//!
//! Requests are answered in order; several may be queued in the socket. The socket's end of file ends the zygote.

pub mod frame;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};

use crate::child::new_filesystem;
use crate::plan::{FsParameter, wire};
use crate::spawn::{Host, SpawnError, Spawned};
use crate::sys;

/// Serves launches on a SEQPACKET socket until its end of file.
///
/// # Errors
/// The private mount namespace could not be made, or the socket broke.
pub fn serve(socket: BorrowedFd<'_>) -> Result<(), String> {
    sys::set_comm(c"brood: zygote");
    // Children share our memory image until they exec: nobody in a container may look at it (CVE-2016-9962).
    crate::rootless::hide_from_containers(true).map_err(|errno| format!("PR_SET_DUMPABLE: {errno}"))?;
    if let Err(errno) = private_root() {
        let what = "zygote: private mount namespace".to_owned();
        // Told to the supervisor too, whose users want to know.
        let _ = frame::send_reply(socket, Err(SpawnError::new(what.as_str(), errno)));
        return Err(format!("{what}: {}", crate::report::errno_text(errno)));
    }
    let host = Host::open(true).map_err(|error| error.to_string())?;
    loop {
        let request = match frame::receive(socket) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(errno) => return Err(format!("receive: {errno}")),
        };
        let reply = launch(&host, &request);
        drop(request);
        match frame::send_reply(socket, reply) {
            Ok(()) if host.is_astray() => return Err("cannot return to its own namespaces".to_owned()),
            Ok(()) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(errno) => return Err(format!("reply: {errno}")),
        }
    }
}

fn launch(host: &Host, request: &frame::Request) -> Result<Spawned, SpawnError> {
    let plan = wire::decode(&request.plan, request.fds.len())
        .map_err(|error| SpawnError::new(format!("plan: {error}"), Errno::INVAL))?;
    host.spawn(&plan, &request.fds)
}

/// An empty directory on a file system that has room for nothing.
pub(crate) const EMPTY: &CStr = c"/empty";

/// Exchanges the host's mount table for a tmpfs that holds five directories:
///
/// | directory | for |
/// | --- | --- |
/// | `/empty` | masked directories of containers |
/// | `/proc`, `/sys` | identity maps; and a user namespace may mount these two only where an unhidden one is in sight |
/// | `/lower`, `/scratch` | `OverlayRoot` |
fn private_root() -> Result<(), Errno> {
    sys::unshare(libc::CLONE_NEWNS)?;
    let old_root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    sys::mount_setattr(old_root.as_fd(), true, 0, 0, libc::MS_PRIVATE)?;
    let root = filesystem(c"tmpfs")?;
    rustix::mount::move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for name in [c"proc", c"sys", c"empty", c"lower", c"scratch"] {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))?;
    }
    for (fstype, name) in [(c"proc", c"proc"), (c"sysfs", c"sys")] {
        // An ordinary user may mount neither; what they see of the host's will do.
        let mount = filesystem(fstype).or_else(|_| copy_of_the_hosts(&old_root, name))?;
        rustix::mount::move_mount(&mount, c"", &root, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    let empty = new_filesystem(c"tmpfs", c"tmpfs", &no_room(), None, libc::MOUNT_ATTR_RDONLY);
    let empty = empty.map_err(|failure| failure.errno())?;
    rustix::mount::move_mount(&empty, c"", &root, c"empty", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")?;
    sys::mount_setattr(root.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0)
}

/// Read-only as a whole, and with no inode but its root's.
fn no_room() -> [FsParameter; 2] {
    let flag = FsParameter { key: c"ro".to_owned(), value: None };
    [flag, FsParameter { key: c"nr_inodes".to_owned(), value: Some(c"1".to_owned()) }]
}

fn copy_of_the_hosts(old_root: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    use rustix::mount::OpenTreeFlags;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(old_root, name, flags)
}

fn filesystem(fstype: &CStr) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
