//! The floor: the least that the kernel can be asked for to run the bundle, without a runtime.
//!
//! One clone3 into the same namespaces and a fresh cgroup v2 directory, the bundle's mounts, devices and links,
//! pivot_root, masked and read-only paths, execve, a wait by pidfd, rmdir. No config.json is read, no state is written,
//! identity, capabilities and cgroup limits are left as they are.
//!
//! It is the naive floor: a plain fork of this process with a copy of the host's mount table. Who starts from a smaller
//! process or from a near-empty mount namespace may well get below it.
#![expect(unsafe_code, reason = "clone3, execve and _exit, between which nothing may allocate")]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdir, mknodat, open, rmdir, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, chdir, pidfd_send_signal, pivot_root, umask, waitid};

use crate::bundle::{Bundle, DEVICES, HOSTNAME, LINKS, MASKED, MOUNTS, READONLY};
use crate::contenders::{Contender, wait_for_exit};
use crate::machine;

/// From linux/sched.h; libc's constant is too narrow for its value.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The kernel alone.
pub struct Floor {
    bundle: Rc<Bundle>,
    rootfs: CString,
    mounts: Vec<(MountFlags, &'static crate::bundle::Mount)>,
    /// Our own cgroup in the v2 hierarchy, when a directory can be made there.
    cgroup_parent: Option<PathBuf>,
    /// The child says here what went wrong; nothing is ever written when all is well.
    complaints: Option<(File, OwnedFd)>,
    /// Tells this floor's cgroups from another one's in this process.
    serial: u64,
    launches: u64,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Floor {
    /// Not yet prepared.
    pub fn new(bundle: Rc<Bundle>) -> Self {
        Self {
            bundle,
            rootfs: CString::default(),
            mounts: Vec::new(),
            cgroup_parent: None,
            complaints: None,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            launches: 0,
        }
    }

    /// Clone, wait, reap.
    fn run_child(&mut self, cgroup: Option<BorrowedFd<'_>>, started: Instant) -> Result<()> {
        let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        if self.bundle.netns {
            flags |= libc::CLONE_NEWNET;
        }
        let pidfd = match clone3(flags, cgroup).context("clone3")? {
            Some(pidfd) => pidfd,
            None => self.child(),
        };
        let waited = wait_for_exit(pidfd.as_fd(), started);
        if waited.is_err() {
            pidfd_send_signal(&pidfd, Signal::KILL).context("cannot end the child")?;
        }
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).context("waitid")?;
        waited?;
        match status.and_then(|s| s.exit_status()) {
            Some(0) => Ok(()),
            Some(code) => Err(self.complaint().unwrap_or_else(|| anyhow!("exit status {code}"))),
            None => bail!("the child was ended by a signal"),
        }
    }

    fn complaint(&mut self) -> Option<anyhow::Error> {
        let (reader, _) = self.complaints.as_mut()?;
        let mut text = [0; 256];
        let length = reader.read(&mut text).ok()?;
        let (step, errno) = text.get(..length)?.split_last_chunk::<4>()?;
        let error = std::io::Error::from_raw_os_error(i32::from_ne_bytes(*errno));
        Some(anyhow!(error).context(String::from_utf8_lossy(step).into_owned()))
    }

    /// The child's whole life. No allocation, no lock, no panic: this is a fork of a process with threads.
    fn child(&self) -> ! {
        let Err((step, errno)) = self.set_up_and_exec();
        if let Some((_, writer)) = &self.complaints {
            let mut message = [0; 64];
            let length = step.len().min(60);
            message[..length].copy_from_slice(&step.as_bytes()[..length]);
            message[length..length + 4].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
            let _ = rustix::io::write(writer, &message[..length + 4]);
        }
        // SAFETY: _exit may be called at any time; it runs no exit handler of the process that we are a copy of.
        unsafe { libc::_exit(1) }
    }

    fn set_up_and_exec(&self) -> Result<Infallible, (&'static str, Errno)> {
        let at = |step: &'static str| move |errno: Errno| (step, errno);
        rustix::system::sethostname(HOSTNAME.to_bytes()).map_err(at("hostname"))?;
        if self.bundle.netns {
            loopback_up().map_err(at("loopback up"))?;
        }
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(at("private mounts"))?;
        let tree = open_tree(CWD, &*self.rootfs, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(at("open the root"))?;
        move_mount(tree.as_fd(), c"", CWD, &*self.rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(at("attach the root"))?;
        chdir(&*self.rootfs).map_err(at("enter the root"))?;
        umask(Mode::empty());
        for (flags, entry) in &self.mounts {
            let target = relative(entry.destination);
            match mkdir(target, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(("mount point", errno)),
            }
            mount(entry.source, target, entry.fstype, *flags, entry.data).map_err(at("mount"))?;
        }
        for (path, major, minor) in DEVICES {
            let mode = Mode::from_raw_mode(0o666);
            mknodat(CWD, relative(path), FileType::CharacterDevice, mode, makedev(major, minor))
                .map_err(at("device"))?;
        }
        for (path, content) in LINKS {
            symlinkat(content, CWD, relative(path)).map_err(at("link"))?;
        }
        pivot_root(c".", c".").map_err(at("pivot root"))?;
        unmount(c".", UnmountFlags::DETACH).map_err(at("let go of the old root"))?;
        chdir(c"/").map_err(at("chdir"))?;
        mount_remount(c"/", MountFlags::BIND | MountFlags::RDONLY, c"").map_err(at("read-only root"))?;
        for path in READONLY {
            match mount_bind(path, path) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(at("read-only path"))?,
            }
            mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, c"").map_err(at("read-only path"))?;
        }
        for path in MASKED {
            match mount_bind(c"/dev/null", path) {
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR) => {
                    mount(c"tmpfs", path, c"tmpfs", MountFlags::RDONLY, c"").map_err(at("mask a directory"))?;
                }
                other => other.map_err(at("mask a file"))?,
            }
        }
        umask(Mode::from_raw_mode(0o022));
        Err(("exec", exec_true()))
    }
}

impl Contender for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn version(&self) -> String {
        let cgroup = if self.cgroup_parent.is_some() { "born in a fresh v2 cgroup" } else { "without a cgroup" };
        format!("bare kernel: clone3, mounts, pivot_root, exec, wait; {cgroup}")
    }

    fn notes(&self) -> Vec<String> {
        match self.cgroup_parent {
            Some(_) => Vec::new(),
            None => vec!["floor: no writable cgroup v2 hierarchy, so it makes no cgroup".to_owned()],
        }
    }

    fn prepare(&mut self) -> Result<()> {
        self.rootfs = CString::new(self.bundle.rootfs().as_os_str().as_bytes())?;
        self.mounts = MOUNTS.iter().map(|entry| Ok((mount_flags(entry.flags)?, entry))).collect::<Result<_>>()?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context("cannot make a pipe")?;
        self.complaints = Some((File::from(reader), writer));
        if let Some(parent) = machine::own_v2_cgroup() {
            let trial = parent.join(format!("brood-bench-{}-{}-trial", std::process::id(), self.serial));
            if mkdir(&trial, Mode::RWXU).is_ok() {
                rmdir(&trial).context("cannot remove a cgroup")?;
                self.cgroup_parent = Some(parent);
            }
        }
        self.launch_once().map(|_| ())
    }

    fn launch_once(&mut self) -> Result<Duration> {
        self.launches += 1;
        let name = format!("brood-bench-{}-{}-{}", std::process::id(), self.serial, self.launches);
        let path = self.cgroup_parent.as_ref().map(|parent| parent.join(name));
        let started = Instant::now();
        let cgroup = match &path {
            None => None,
            Some(path) => {
                mkdir(path, Mode::RWXU).context("cannot make a cgroup")?;
                Some(open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("cannot open a cgroup"))
            }
        };
        let outcome = match cgroup.transpose() {
            Ok(cgroup) => self.run_child(cgroup.as_ref().map(AsFd::as_fd), started),
            Err(error) => Err(error),
        };
        let removed = path.as_ref().map_or(Ok(()), rmdir);
        // The first error is the one to tell: a cgroup stays busy because of what went wrong before.
        outcome?;
        removed.context("cannot remove a cgroup")?;
        Ok(started.elapsed())
    }

    fn finish(&mut self) -> Result<()> {
        self.complaints = None;
        Ok(())
    }
}

/// fork by clone3(2): the child's pidfd in the parent, `None` in the child.
fn clone3(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> std::io::Result<Option<OwnedFd>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is made of integers, for which all bits zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned() | libc::CLONE_PIDFD.cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child works on a copy of this memory and returns once; `args` and `pidfd` outlive the
    // call. The caller runs nothing in the child that another thread could have left locked.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(std::io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: the kernel has stored a new descriptor there, which nobody else knows.
        _ => Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Replaces the process; returns only why it could not.
fn exec_true() -> Errno {
    const PROGRAM: &CStr = c"/bin/true";
    let argv = [PROGRAM.as_ptr(), std::ptr::null()];
    let envp = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(), std::ptr::null()];
    // SAFETY: all strings end with NUL, both lists with a null pointer, and all outlive the call.
    unsafe { libc::execve(PROGRAM.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    last_errno()
}

/// `SIOCSIFFLAGS` with `IFF_UP` for `lo`.
fn loopback_up() -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is made of integers and a union of such, for which all bits zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is, and the descriptor is open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    match result {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// libc's errno. An OS error is kept in `io::Error` as a number, without an allocation.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The path without its leading slash: below the current directory, which is the coming root.
fn relative(path: &CStr) -> &CStr {
    CStr::from_bytes_with_nul(path.to_bytes_with_nul().strip_prefix(b"/").unwrap_or(b".\0")).unwrap_or(c".")
}

fn mount_flags(names: &str) -> Result<MountFlags> {
    names.split(',').filter(|name| !name.is_empty()).try_fold(MountFlags::empty(), |flags, name| {
        Ok(flags
            | match name {
                "nosuid" => MountFlags::NOSUID,
                "noexec" => MountFlags::NOEXEC,
                "nodev" => MountFlags::NODEV,
                "ro" => MountFlags::RDONLY,
                "strictatime" => MountFlags::STRICTATIME,
                _ => bail!("unknown mount flag {name}"),
            })
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::Floor;
    use crate::bundle::Bundle;
    use crate::contenders::Contender;

    #[test]
    fn the_floor_launches_with_and_without_a_network_namespace() {
        for netns in [false, true] {
            let mut floor = Floor::new(Rc::new(Bundle::create(netns).expect("a bundle can be written")));
            floor.prepare().expect("the floor needs root, as all of the bench does");
            floor.launch_once().expect("it worked a moment ago");
        }
    }

    #[test]
    fn a_failed_step_is_named_with_its_cause() {
        let bundle = Rc::new(Bundle::create(false).expect("a bundle can be written"));
        std::fs::remove_file(bundle.rootfs().join("bin/true")).expect("the bundle has a /bin/true");
        let error = Floor::new(bundle).prepare().expect_err("there is nothing to execute");
        assert_eq!(format!("{error:#}"), "exec: No such file or directory (os error 2)");
    }
}
