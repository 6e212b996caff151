//! Processes as /proc and pidfds show them: identity that survives the re-use of a pid, and exits of other people's
//! children.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::{ExitRecord, PidRecord, now_ns};

/// Start time of a process (field 22 of `/proc/PID/stat`); `None` when there is none or it is a zombie.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    state_and_start_time(pid).filter(|(state, _)| !matches!(state, 'Z' | 'X')).map(|(_, start_time)| start_time)
}

/// The process's state letter and start time, zombies too: their pid is not free yet.
#[must_use]
pub fn state_and_start_time(pid: i32) -> Option<(char, u64)> {
    ProcStat::read(pid).map(|stat| (stat.state, stat.start_time))
}

/// Type of the file system of pidfds (linux/magic.h).
const PIDFS_MAGIC: rustix::fs::FsWord = 0x5049_4446;

/// `PF_FORKNOEXEC` of linux/sched.h: cleared by the first execve(2) of a process. A zombie keeps it.
const FORKED_WITHOUT_EXEC: u64 = 0x40;

/// The fields of `/proc/PID/stat` (proc_pid_stat(5)) that identify a process and tell of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Field 3; `Z` is a zombie.
    pub state: char,
    /// Field 4.
    pub parent: i32,
    /// Field 9.
    pub flags: u64,
    /// Field 22.
    pub start_time: u64,
    /// Field 52: a wait status (wait(2)), for a zombie and a reader who may ptrace.
    pub exit_code: i32,
}

impl ProcStat {
    /// Reads the fields; `None` when there is no such process, or when they cannot be read.
    #[must_use]
    pub fn read(pid: i32) -> Option<ProcStat> {
        ProcStat::find(pid).ok().flatten()
    }

    /// Reads the fields; `None` when there is no such process.
    ///
    /// # Errors
    /// As open(2) and read(2), for want of descriptors or memory: nothing is known of the process then.
    pub fn find(pid: i32) -> std::io::Result<Option<ProcStat>> {
        // One read: the size of a file in /proc is 0, and std::fs::read would begin with 32 bytes.
        let mut stat = Vec::with_capacity(1024);
        let file = std::fs::File::open(format!("/proc/{pid}/stat"));
        match file.and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut stat)) {
            Ok(_) => Ok(ProcStat::parse(&stat)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(stat: &[u8]) -> Option<ProcStat> {
        // The second field is the program's name in parentheses and may hold anything, parentheses too.
        let after_name = stat.iter().rposition(|&byte| byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(stat.get(after_name + 2..)?).ok()?.trim_end().split(' ').collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(ProcStat {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            flags: field(9)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
            exit_code: field(52)?.parse().ok()?,
        })
    }
}

impl ProcStat {
    /// Whether it has never called execve(2): a child of ours that has not come as far as its program. What CRIU has
    /// restored looks the same.
    #[must_use]
    pub fn never_ran(&self) -> bool {
        self.flags & FORKED_WITHOUT_EXEC != 0
    }
}

/// Whether an error says that there is no such process.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether the process is the first of its own pid namespace, so that its end is the end of all in there
/// (pid_namespaces(7)).
#[must_use]
pub fn is_namespace_init(pid: i32) -> bool {
    // Its pids in all namespaces that it is in, the innermost last (proc_pid_status(5)).
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    pids.split_whitespace().last() == Some("1")
}

/// The exit of a process that is not our child: from its zombie, or, once that was reaped by its parent, from what the
/// kernel keeps for holders of a handle (`PIDFD_GET_INFO`, Linux 6.15).
#[must_use]
pub fn exit_of_stranger(record: PidRecord, pidfd: BorrowedFd<'_>) -> Option<ExitRecord> {
    let zombie = ProcStat::read(record.pid).filter(|stat| stat.start_time == record.start_time && stat.state == 'Z');
    let never_ran = zombie.is_some_and(|stat| stat.never_ran());
    let wait_status = zombie.map(|stat| stat.exit_code).or_else(|| crate::sys::pidfd_exit_status(pidfd))?;
    let signal = Some((wait_status & 0x7f) as u8).filter(|signal| *signal != 0);
    let code = signal.is_none().then_some((wait_status >> 8) as u8);
    Some(ExitRecord { never_ran, ..ExitRecord::new(code, signal, now_ns()) })
}

/// A handle on the recorded process; `None` when it is gone and its pid perhaps somebody else's.
#[must_use]
pub fn open_process(record: PidRecord) -> Option<OwnedFd> {
    // Open first, look second: what is looked at is then what the handle refers to.
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(record.pid)?, PidfdFlags::empty()).ok()?;
    (start_time(record.pid)? == record.start_time).then_some(pidfd)
}

/// The number of a handle's inode, which is that of one process alone from boot to shutdown (pidfs, Linux 6.9); `None` on
/// older kernels, where all handles have the same.
#[must_use]
pub fn pidfs_inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    let is_pidfs = rustix::fs::fstatfs(pidfd).is_ok_and(|fs| fs.f_type == PIDFS_MAGIC);
    is_pidfs.then(|| rustix::fs::fstat(pidfd).ok()).flatten().map(|stat| stat.st_ino)
}

/// The process that was written down, as [`open_process`], or its zombie, which can still be asked how it ended. A start time
/// is told in hundredths of a second; with an inode another process of the same pid is told apart for certain.
///
/// # Errors
/// For want of descriptors or memory: nothing is known of the process then.
pub fn open_remains(record: PidRecord, inode: Option<u64>) -> std::io::Result<Option<(OwnedFd, ProcStat)>> {
    let Some(pid) = Pid::from_raw(record.pid) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        pidfd => pidfd?,
    };
    let stat = ProcStat::find(record.pid)?;
    let stat = stat.filter(|stat| stat.start_time == record.start_time && stat.state != 'X');
    let same = inode.is_none_or(|inode| pidfs_inode(pidfd.as_fd()).is_none_or(|found| found == inode));
    Ok(stat.filter(|_| same).map(|stat| (pidfd, stat)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_of_a_stranger_is_seen_before_and_after_its_reaping() {
        for (script, status) in [("exit 7", 7), ("kill -9 $$", 137)] {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
            let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).unwrap();
            let raw = pid.as_raw_nonzero().get();
            let record = PidRecord { pid: raw, start_time: state_and_start_time(raw).unwrap().1 };
            assert_eq!(exit_of_stranger(record, pidfd.as_fd()).unwrap().status, status);
            child.wait().unwrap();
            // Kernels before 6.15 keep nothing for us: then there is no status, but never a wrong one.
            assert!(exit_of_stranger(record, pidfd.as_fd()).is_none_or(|exit| exit.status == status));
        }
    }

    #[test]
    fn a_pid_with_another_inode_is_somebody_else() {
        let pid = rustix::process::getpid();
        let own = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let pid = pid.as_raw_nonzero().get();
        let record = PidRecord { pid, start_time: start_time(pid).unwrap() };
        assert!(open_remains(record, None).unwrap().is_some());
        // Before Linux 6.9 there is none to compare.
        if let Some(inode) = pidfs_inode(own.as_fd()) {
            assert!(open_remains(record, Some(inode)).unwrap().is_some());
            assert!(open_remains(record, Some(inode + 1)).unwrap().is_none());
        }
    }

    #[test]
    fn a_pid_with_another_start_time_is_somebody_else() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let record = PidRecord { pid, start_time: start_time(pid).unwrap() };
        assert!(open_process(record).is_some());
        assert!(open_process(PidRecord { start_time: record.start_time + 1, ..record }).is_none());
    }
}
