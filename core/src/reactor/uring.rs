//! Exits by io_uring: one `POLL_ADD` per process in a ring of our own (io-uring 0.7), the ring's descriptor in the loop.
//!
//! The ring is apart from tokio-uring's because that one spends a task and 300 to 650 bytes on each poll, where this
//! spends none. One system call to watch, none to be told: completions are read from shared memory.

#![expect(unsafe_code, reason = "submission entries point at descriptors that must stay open")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::ExitSource;
use crate::limits::EXIT_RING_ENTRIES;

/// The ring.
pub(super) struct UringSource {
    ring: IoUring<squeue::Entry, cqueue::Entry>,
}

impl UringSource {
    /// Makes the ring and checks that it can poll.
    pub(super) fn new() -> std::io::Result<UringSource> {
        let ring = IoUring::builder().build(EXIT_RING_ENTRIES)?;
        if !ring.params().is_feature_nodrop() {
            return Err(std::io::Error::other("io_uring without IORING_FEAT_NODROP (Linux 5.5) could lose exits"));
        }
        Ok(UringSource { ring })
    }
}

impl AsFd for UringSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl ExitSource for UringSource {
    fn watch(&mut self, pidfd: BorrowedFd<'_>, token: u64) -> std::io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(pidfd.as_raw_fd()), libc::POLLIN as u32).build().user_data(token);
        // SAFETY: the entry holds no pointer; the kernel takes its own reference to the file when it is submitted.
        while unsafe { self.ring.submission().push(&poll) }.is_err() {
            self.ring.submit()?;
        }
        // EBUSY: completions have overflowed; reading them makes room, and the entry goes with a later submission.
        match self.ring.submit() {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => Err(error),
            _ => Ok(()),
        }
    }

    fn take(&mut self, tokens: &mut Vec<u64>, limit: usize) -> std::io::Result<()> {
        loop {
            let before = tokens.len();
            tokens.extend(self.ring.completion().take(limit.saturating_sub(before)).map(|entry| entry.user_data()));
            let overflowed = self.ring.submission().cq_overflow();
            let unsubmitted = !self.ring.submission().is_empty();
            if tokens.len() >= limit || !(overflowed || unsubmitted) {
                return Ok(());
            }
            // Flushes completions that the kernel kept aside, and entries that found it busy.
            match self.ring.submitter().submit_and_wait(0) {
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) => return Err(error),
                _ => {}
            }
        }
    }
}
