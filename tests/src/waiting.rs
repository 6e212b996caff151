//! Waiting with a deadline.
//!
//! Where the kernel can tell (a pidfd, a pipe) a test waits for that. What remains, such as "the daemon accepts
//! connections", is asked again every few milliseconds until it holds or the deadline has passed.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

/// How long a test waits for anything at most. Generous: it only matters to a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Asks until the answer is `Some`.
///
/// # Panics
/// After [`PATIENCE`], naming what was waited for.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        pause();
    }
}

/// Asks until the condition holds; false when it does not within `patience`.
pub fn holds_within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        pause();
    }
    true
}

/// Waits until a process has ended, and reaps it if it is ours. A process that is no more is fine.
///
/// # Panics
/// After [`PATIENCE`].
pub fn gone(pid: i32) {
    assert!(gone_within(pid, PATIENCE), "process {pid} is still there after {PATIENCE:?}");
}

/// As [`gone`], but says whether it happened.
#[must_use]
pub fn gone_within(pid: i32, patience: Duration) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return true };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let ended = readable(&pidfd, Instant::now() + patience);
    if ended {
        // ECHILD: somebody else's child, or reaped already.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
    ended
}

/// Waits until the descriptor is readable or at its end; false when the deadline passed first.
///
/// # Panics
/// When poll(2) fails, which it has no reason to.
#[must_use]
pub fn readable(fd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = timespec(deadline.saturating_duration_since(Instant::now()));
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return count > 0,
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// A duration in the form that poll(2) takes.
#[must_use]
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

fn pause() {
    // poll(2) without descriptors: the gap between two questions, not a wait for anything.
    let _ = poll(&mut [], Some(&timespec(BETWEEN_TRIES)));
}
