//! The system calls that neither rustix nor nix offers in the form needed here, each behind one safe function.
//!
//! This is one of the few modules that may hold `unsafe`. Everything here may run after a clone: no allocation, no
//! lock, no panic.

#![expect(unsafe_code, reason = "raw system calls that have no safe wrapper in rustix or nix")]

mod wait;

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::plan::{CapabilitySets, Rlimit, Scheduler};

pub use wait::{EndedChild, peek_child, peek_ended_child, pidfd_exit_status};

/// Result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;

fn check(returned: c_long) -> Result<c_long> {
    if returned < 0 { Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) } else { Ok(returned) }
}

/// Arguments of [`clone3`].
#[derive(Clone, Copy, Debug)]
pub struct CloneArgs<'fd> {
    /// `CLONE_*` bits; `CLONE_PIDFD` is added.
    pub flags: u64,
    /// Signal to the parent at exit; must be 0 with `CLONE_PARENT`, which inherits the caller's.
    pub exit_signal: u64,
    /// Cgroup v2 directory for `CLONE_INTO_CGROUP`.
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// In the caller.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// The child's handle.
        pidfd: OwnedFd,
    },
    /// In the child.
    Child,
}

/// clone3(2) without a stack: a fork that makes namespaces and a pidfd.
///
/// # Safety
/// The process must have a single thread, or the child may only make async-signal-safe calls. The flags must not
/// contain `CLONE_VM`.
///
/// # Errors
/// As clone3(2).
pub unsafe fn clone3(args: CloneArgs<'_>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut flags = args.flags | libc::CLONE_PIDFD as u64;
    // SAFETY: clone_args is plain data for which all zeroes is the documented default.
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = args.cgroup {
        flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP; libc's constant overflows its type.
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    raw.flags = flags;
    raw.pidfd = (&raw mut pidfd) as u64;
    raw.exit_signal = args.exit_signal;
    // SAFETY: the caller vouches for the child; `raw` and `pidfd` outlive the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel stored a new descriptor that nobody else knows of.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// The same by clone(2), for where clone3(2) is filtered; the cgroup is not looked at.
///
/// # Safety
/// As [`clone3`].
///
/// # Errors
/// As clone(2).
pub unsafe fn clone(args: CloneArgs<'_>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let flags = args.flags | libc::CLONE_PIDFD as u64 | args.exit_signal;
    // SAFETY: the caller vouches for the child; without a stack it goes on on a copy of ours; `pidfd` outlives the call. The
    // place of the third argument is the same on all architectures.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel stored a new descriptor that nobody else knows of.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// mount_setattr(2) on the mount that a descriptor refers to.
///
/// # Errors
/// As mount_setattr(2); ENOSYS before Linux 5.12.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64, propagation: u64) -> Result<()> {
    mount_attributes(mount, recursive, libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 })
}

/// Gives a mount the identity maps of a user namespace (`MOUNT_ATTR_IDMAP`).
///
/// # Errors
/// EINVAL where the file system cannot do that, or when the mount is attached already; others as mount_setattr(2).
pub fn mount_set_id_map(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let userns_fd = user_namespace.as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    mount_attributes(mount, recursive, attr)
}

fn mount_attributes(mount: BorrowedFd<'_>, recursive: bool, attr: libc::mount_attr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant and `attr` outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(done).map(drop)
}

/// setns(2)
///
/// # Errors
/// As setns(2).
pub fn setns(namespace: BorrowedFd<'_>, kind: c_int) -> Result<()> {
    // SAFETY: integers only.
    check(c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), kind) })).map(drop)
}

/// unshare(2), for flags that do not unshare memory or descriptors of other threads.
///
/// # Errors
/// As unshare(2).
pub fn unshare(flags: c_int) -> Result<()> {
    // SAFETY: integers only; namespaces do not invalidate memory.
    check(c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// prctl(2) for the options that take integers.
///
/// # Errors
/// As prctl(2).
pub fn prctl(option: c_int, first: c_ulong, second: c_ulong) -> Result<c_int> {
    // SAFETY: only called with options whose arguments are integers (the constants of this crate).
    check(c_long::from(unsafe { libc::prctl(option, first, second, 0, 0) })).map(|value| value as c_int)
}

/// `PR_SET_NAME`: what `ps -o comm` shows, cut at 15 bytes.
pub fn set_comm(name: &CStr) {
    // SAFETY: the kernel copies at most 16 bytes of a NUL-terminated string. It cannot fail.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// As close_range(2).
pub fn close_range_cloexec(first: RawFd) -> Result<()> {
    // SAFETY: integers only; nothing is closed now.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(done).map(drop)
}

/// Gives a command no descriptor but 0, 1 and 2, whatever our own caller left open (CVE-2024-21626).
pub fn only_standard_fds(command: &mut std::process::Command) {
    let close = || close_range_cloexec(3).map_err(std::io::Error::from);
    // SAFETY: between fork and exec one system call is made; it allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, close) };
}

/// The signals that this process ignores, one bit each from bit 0 for signal 1. Handled ones become default by execve(2),
/// but an ignored signal stays ignored, and the Rust runtime ignores SIGPIPE.
#[must_use]
pub fn ignored_signals() -> u64 {
    let mut ignored = 0;
    for signal in 1..=64 {
        // SAFETY: sigaction is plain data; all zeroes is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks; `action` outlives the call. The C library refuses its own two signals.
        let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        if asked == 0 && action.sa_sigaction == libc::SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    ignored
}

/// Gives these signals (as [`ignored_signals`] returns them) their default action, and unblocks all. Not yet SIGPIPE, which
/// stays, or gets, ignored until [`heed_broken_pipes`].
pub fn reset_signals(ignored: u64) {
    const PIPE: u64 = 1 << (libc::SIGPIPE - 1);
    for signal in (1..=64).filter(|signal| ignored & !PIPE & (1 << (signal - 1)) != 0) {
        // SAFETY: SIG_DFL is always a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if ignored & PIPE == 0 {
        // SAFETY: SIG_IGN is always a valid disposition.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    }
    // SAFETY: a zeroed sigset_t is the empty set on Linux.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` outlives the call; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// Gives SIGPIPE its default action, which a program expects.
pub fn heed_broken_pipes() {
    // SAFETY: SIG_DFL is always a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ends this process at the signals by which somebody asks it to end. As the first process of a pid namespace it would not
/// even receive them by default (pid_namespaces(7)). In force until the exec.
pub fn end_when_asked() {
    extern "C" fn end(signal: c_int) {
        exit_now(128 + signal);
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the handler makes one system call, which does not return.
        unsafe { libc::signal(signal, end as *const () as libc::sighandler_t) };
    }
}

/// setrlimit(2) by number, so that limits newer than the library's list work.
///
/// # Errors
/// As setrlimit(2).
pub fn set_rlimit(limit: &Rlimit) -> Result<()> {
    set_rlimit_of(0, limit)
}

/// prlimit(2) of another process.
///
/// # Errors
/// As prlimit(2).
pub fn set_rlimit_of(pid: i32, limit: &Rlimit) -> Result<()> {
    let raw = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: `raw` outlives the call; the old limit is not asked for.
    check(c_long::from(unsafe { libc::prlimit(pid, limit.resource, &raw const raw, std::ptr::null_mut()) })).map(drop)
}

/// sched_setattr(2) of this thread.
///
/// # Errors
/// As sched_setattr(2).
pub fn set_scheduler(scheduler: &Scheduler) -> Result<()> {
    let attr = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: scheduler.policy,
        sched_flags: scheduler.flags,
        sched_nice: scheduler.nice,
        sched_priority: scheduler.priority,
        sched_runtime: scheduler.runtime,
        sched_deadline: scheduler.deadline,
        sched_period: scheduler.period,
    };
    // SAFETY: `attr` tells its own size and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// ioprio_set(2) of this thread: `class << 13 | level`.
///
/// # Errors
/// As ioprio_set(2).
pub fn set_io_priority(value: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// sched_setaffinity(2) of this thread; the mask may be of any length.
///
/// # Errors
/// As sched_setaffinity(2).
pub fn set_affinity(mask: &[u64]) -> Result<()> {
    // SAFETY: pointer and length describe `mask`.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) }).map(drop)
}

/// personality(2) of this thread.
///
/// # Errors
/// As personality(2).
pub fn set_personality(value: u32) -> Result<()> {
    // SAFETY: integers only.
    check(c_long::from(unsafe { libc::personality(c_ulong::from(value)) })).map(drop)
}

/// set_mempolicy(2) of this thread.
///
/// # Errors
/// As set_mempolicy(2).
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    let (pointer, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel reads one bit less than it is told.
        nodes => (nodes.as_ptr(), nodes.len() * u64::BITS as usize + 1),
    };
    // SAFETY: pointer and length describe `nodes`.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`: a new keyring, or one of this name that the caller may search. Without a name
/// always a new one.
///
/// # Errors
/// As keyctl(2); ENOSYS without keyrings.
pub fn join_session_keyring(name: &CStr) -> Result<()> {
    let name = if name.is_empty() { std::ptr::null() } else { name.as_ptr() };
    // SAFETY: the name is NUL-terminated, or there is none.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) }).map(drop)
}

/// A number in decimal on the stack: no formatting machinery after the clone.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    bytes: [u8; 20],
    start: usize,
}

impl Decimal {
    /// The text of a number.
    #[must_use]
    pub fn of(value: i64) -> Decimal {
        let mut text = Decimal { bytes: [0; 20], start: 20 };
        let mut rest = value.unsigned_abs();
        loop {
            text.put_before(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            text.put_before(b'-');
        }
        text
    }

    fn put_before(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(slot) = self.bytes.get_mut(self.start) {
            *slot = byte;
        }
    }

    /// Its digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// setgroups(2) of this thread.
///
/// # Errors
/// As setgroups(2).
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length describe `groups`.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setresgid(2) of this thread, all three ids alike.
///
/// # Errors
/// As setresgid(2).
pub fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2) of this thread, all three ids alike.
///
/// # Errors
/// As setresuid(2).
pub fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// capset(2) of this thread: effective, permitted and inheritable (the ambient set goes by prctl).
///
/// # Errors
/// As capset(2).
pub fn capset(sets: &CapabilitySets) -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let header = Header { version: 0x2008_0522, pid: 0 }; // _LINUX_CAPABILITY_VERSION_3: two 32-bit halves
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data elements, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Whether the working directory lies below the process's root: the kernel says `(unreachable)` when it does not.
///
/// # Errors
/// As getcwd(2).
pub fn working_directory_is_inside() -> Result<bool> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length describe `buffer`.
    check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(buffer[0] == b'/')
}

/// readlinkat(2) into a buffer; returns the length. A result that fills the buffer is refused as too long.
///
/// # Errors
/// EINVAL for what is no link; others as readlinkat(2).
pub fn read_link(directory: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length describe `buffer`; the name is NUL-terminated.
    let length = check(unsafe {
        libc::syscall(libc::SYS_readlinkat, directory.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr(), buffer.len())
    })?;
    let length = length as usize;
    if length < buffer.len() { Ok(length) } else { Err(Errno::NAMETOOLONG) }
}

/// The kind of namespace (`CLONE_NEW*`) that a descriptor refers to (ioctl_nsfs(2)).
///
/// # Errors
/// ENOTTY for what is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> Result<c_int> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    check(c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) })).map(|kind| kind as c_int)
}

/// Brings the interface `lo` of the current network namespace up.
///
/// # Errors
/// As socket(2) and netdevice(7).
pub fn loopback_up() -> Result<()> {
    // SAFETY: integers only.
    let socket = check(c_long::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }))?;
    // SAFETY: a new descriptor that nobody else knows of.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as RawFd) };
    // SAFETY: ifreq is plain data; all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    check(c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })).map(drop)
}

/// A NULL-terminated array of C strings for [`execve`], built before the clone.
#[derive(Debug)]
pub struct CStrArray<'a> {
    pointers: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> CStrArray<'a> {
    /// Collects the pointers; the strings are borrowed for as long as the array lives.
    pub fn new(strings: impl IntoIterator<Item = &'a CStr>) -> Self {
        let mut pointers: Vec<_> = strings.into_iter().map(CStr::as_ptr).collect();
        pointers.push(std::ptr::null());
        CStrArray { pointers, strings: std::marker::PhantomData }
    }
}

/// execve(2). Returns only when it failed.
#[must_use]
pub fn execve(path: &CStr, argv: &CStrArray<'_>, env: &CStrArray<'_>) -> Errno {
    // SAFETY: both arrays are NULL-terminated and borrow NUL-terminated strings.
    let failed = unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    check(c_long::from(failed)).err().unwrap_or(Errno::INVAL)
}

/// The child's only way out.
pub fn exit_now(status: c_int) -> ! {
    // SAFETY: _exit runs no handlers and cannot fail.
    unsafe { libc::_exit(status) }
}

/// dup2(2) onto a number that the program is to find it at; the copy stays open across execve.
///
/// # Errors
/// As dup2(2).
pub fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: integers only. Descriptors 0 to 2 are nobody's `OwnedFd` in a process of ours; what a child finds at higher
    // numbers it does not use (`crate::spawn` moves all that it does out of the way).
    check(c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) })).map(drop)
}

/// dup3(2) with `O_CLOEXEC` over another open descriptor, which thereby loses what it referred to.
///
/// # Errors
/// As dup3(2).
pub fn dup_cloexec_to(fd: BorrowedFd<'_>, over: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: integers only; the number stays open and stays the property of its owner.
    check(c_long::from(unsafe { libc::dup3(fd.as_raw_fd(), over.as_raw_fd(), libc::O_CLOEXEC) })).map(drop)
}

/// close(2) of a number that a child inherited and nobody there uses: its owner is the memory of the parent.
pub(crate) fn close_forgotten(number: RawFd) {
    // SAFETY: the caller's promise: no `OwnedFd` of this process is used or dropped for it any more.
    unsafe { libc::close(number) };
}

/// close_range(2) of numbers that a child inherited and nobody there uses: their owner is the memory of the parent. A
/// number that is not open is fine.
pub(crate) fn close_forgotten_range(first: RawFd, last: RawFd) {
    // SAFETY: the caller's promise: no `OwnedFd` of this process is used or dropped for them any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// A close-on-exec copy of a descriptor that the caller of this process left open for it: one that is open, and not
/// close-on-exec as all of ours are.
///
/// # Errors
/// EBADF when there is no such descriptor.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: integers only; an unknown number is an error.
    let flags = check(c_long::from(unsafe { libc::fcntl(number, libc::F_GETFD) }))?;
    if flags & c_long::from(libc::FD_CLOEXEC) != 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: as above.
    let copy = check(c_long::from(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }))?;
    // SAFETY: a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::Decimal;

    #[test]
    fn decimal_agrees_with_the_library() {
        for value in [0, 1, 9, 10, 999, 1000, -1, -1000, 123_456, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::of(value).as_bytes(), value.to_string().as_bytes());
        }
    }
}
