//! The frames between a supervisor and its zygotes, on a SEQPACKET socket.
//!
//! | message | content | descriptors |
//! | --- | --- | --- |
//! | request, first | header (8 bytes), then the plan unless it travels in a memfd | up to [`FDS_PER_MESSAGE`] |
//! | request, more | one byte | the rest, [`FDS_PER_MESSAGE`] at a time |
//! | reply, success | `0`, pid (le i32) | pidfd; that of an ended helper, if there was one |
//! | reply, failure | `1`, errno (le i32), text | pidfds of what was cloned and killed |
//!
//! Header: number of descriptors (le u32), then 1 when the plan is in a memfd (the last descriptor) or 0 (le u32).

use std::io::{IoSlice, IoSliceMut, Read, Seek};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::spawn::{SpawnError, Spawned};

/// The kernel takes at most 253 descriptors in one message (`SCM_MAX_FD`).
pub const FDS_PER_MESSAGE: usize = 250;
/// Longer plans travel in a memfd: a SEQPACKET message has to fit the socket's send buffer.
const INLINE_PLAN_BYTES: usize = 64 * 1024;
/// Upper bound of a plan: the kernel takes at most 6 MiB of arguments and environment (execve(2)).
const PLAN_BYTES_MAX: u64 = 8 * 1024 * 1024;
const HEADER_LEN: usize = 8;

/// A plan's bytes and the descriptors it names.
#[derive(Debug, Default)]
pub struct Request {
    /// [`crate::plan::wire`]
    pub plan: Vec<u8>,
    /// In the order of their [`crate::plan::FdIndex`].
    pub fds: Vec<OwnedFd>,
}

/// The messages of one request, ready to be sent one by one.
#[derive(Debug)]
pub struct Outgoing {
    first: Vec<u8>,
    fds: Vec<OwnedFd>,
    sent: usize,
    started: bool,
}

impl Outgoing {
    /// Prepares a request.
    ///
    /// # Errors
    /// A large plan needs a memfd, which may be refused.
    pub fn new(plan: &[u8], mut fds: Vec<OwnedFd>) -> Result<Outgoing, Errno> {
        let inline = plan.len() <= INLINE_PLAN_BYTES;
        if !inline {
            let memfd = rustix::fs::memfd_create(c"brood-plan", MemfdFlags::CLOEXEC)?;
            let mut rest = plan;
            while !rest.is_empty() {
                let written = rustix::io::write(&memfd, rest)?;
                rest = rest.get(written..).unwrap_or_default();
            }
            fds.push(memfd);
        }
        let mut first = Vec::with_capacity(HEADER_LEN + if inline { plan.len() } else { 0 });
        first.extend((fds.len() as u32).to_le_bytes());
        first.extend(u32::from(!inline).to_le_bytes());
        if inline {
            first.extend_from_slice(plan);
        }
        Ok(Outgoing { first, fds, sent: 0, started: false })
    }

    /// Whether a message has been sent: then the rest must follow, or the zygote is of no use any more.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.started
    }

    /// Sends the next message; true when that was the last one.
    ///
    /// # Errors
    /// EAGAIN on a non-blocking socket: call again when it is writable. Others as sendmsg(2).
    pub fn send_next(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        let end = self.fds.len().min(self.sent + FDS_PER_MESSAGE);
        let part: Vec<BorrowedFd<'_>> = self.fds[self.sent..end].iter().map(AsFd::as_fd).collect();
        let payload: &[u8] = if self.started { &[0] } else { &self.first };
        send(socket, payload, &part)?;
        self.started = true;
        self.sent = end;
        Ok(end == self.fds.len())
    }
}

/// Sends one message with descriptors.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(payload)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Receives one message: its length in the buffer, and its descriptors (close-on-exec). Length 0 is the end of file.
///
/// # Errors
/// As recvmsg(2); EMSGSIZE when the buffer was too small.
pub fn receive_message(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        // The usual reason: no descriptor number was left for what came along.
        return Err(Errno::MFILE);
    }
    if got.flags.contains(rustix::net::ReturnFlags::TRUNC) { Err(Errno::MSGSIZE) } else { Ok(got.bytes) }
}

/// Receives one request (blocking socket); `None` at the end of file.
///
/// # Errors
/// As recvmsg(2); EPROTO for what is no request.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<Request>, Errno> {
    let mut buffer = vec![0; HEADER_LEN + INLINE_PLAN_BYTES];
    let mut fds = Vec::new();
    let length = receive_message(socket, &mut buffer, &mut fds)?;
    if length == 0 {
        return Ok(None);
    }
    buffer.truncate(length);
    let (count, rest) = buffer.split_first_chunk::<4>().ok_or(Errno::PROTO)?;
    let (in_memfd, plan) = rest.split_first_chunk::<4>().ok_or(Errno::PROTO)?;
    let count = u32::from_le_bytes(*count) as usize;
    while fds.len() < count {
        let before = fds.len();
        receive_message(socket, &mut [0; 1], &mut fds)?;
        if fds.len() == before {
            return Err(Errno::PROTO);
        }
    }
    let plan = if u32::from_le_bytes(*in_memfd) == 1 {
        let mut memfd = std::fs::File::from(fds.pop().ok_or(Errno::PROTO)?);
        let mut plan = Vec::new();
        let read = memfd.rewind().and_then(|()| memfd.take(PLAN_BYTES_MAX).read_to_end(&mut plan));
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        plan
    } else {
        plan.to_vec()
    };
    Ok(Some(Request { plan, fds }))
}

/// Answers a request.
///
/// # Errors
/// As sendmsg(2).
pub fn send_reply(socket: BorrowedFd<'_>, reply: Result<Spawned, SpawnError>) -> Result<(), Errno> {
    let mut payload = Vec::with_capacity(64);
    let fds: Vec<BorrowedFd<'_>> = match &reply {
        Ok(spawned) => {
            payload.push(0);
            payload.extend(spawned.pid.to_le_bytes());
            std::iter::once(&spawned.pidfd).chain(&spawned.helper).map(AsFd::as_fd).collect()
        }
        Err(error) => {
            payload.push(1);
            payload.extend(error.errno.raw_os_error().to_le_bytes());
            payload.extend_from_slice(error.what.as_bytes());
            error.killed.iter().map(AsFd::as_fd).collect()
        }
    };
    send(socket, &payload, &fds)
}

/// Receives an answer; `None` at the end of file (the zygote died).
///
/// # Errors
/// EAGAIN on a non-blocking socket without an answer; EPROTO for what is no answer; others as recvmsg(2).
pub fn receive_reply(socket: BorrowedFd<'_>) -> Result<Option<Result<Spawned, SpawnError>>, Errno> {
    let mut buffer = [0; 4096];
    let mut fds = Vec::new();
    let length = match receive_message(socket, &mut buffer, &mut fds) {
        Ok(0) | Err(Errno::CONNRESET) => return Ok(None),
        Ok(length) => length,
        // The message itself came; only its descriptor did not.
        Err(Errno::MFILE) => buffer.len(),
        Err(errno) => return Err(errno),
    };
    let (kind, rest) = buffer.get(..length).and_then(<[u8]>::split_first).ok_or(Errno::PROTO)?;
    let (number, text) = rest.split_first_chunk::<4>().ok_or(Errno::PROTO)?;
    let number = i32::from_le_bytes(*number);
    Ok(Some(match kind {
        0 => {
            let mut fds = fds.into_iter();
            match fds.next() {
                Some(pidfd) => Ok(Spawned { pid: number, pidfd, helper: fds.next() }),
                None => {
                    end_unreachable(number);
                    Err(SpawnError::new("receive the child's handle", Errno::MFILE))
                }
            }
        }
        _ => Err(SpawnError {
            what: String::from_utf8_lossy(text).into_owned(),
            errno: Errno::from_raw_os_error(number),
            killed: fds,
        }),
    }))
}

/// A child without a handle: it is ours and unreaped, so its pid is its own until we reap it here.
fn end_unreachable(pid: i32) {
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn requests_of_every_size_arrive_whole() {
        for (plan_len, fd_count) in [(1, 0), (INLINE_PLAN_BYTES, 3), (INLINE_PLAN_BYTES + 1, 0), (3_000_000, 600)] {
            let (ours, theirs) = pair();
            let plan: Vec<u8> = (0..plan_len).map(|i| i as u8).collect();
            let fds = (0..fd_count).map(|_| rustix::fs::memfd_create(c"x", MemfdFlags::CLOEXEC).unwrap()).collect();
            let mut outgoing = Outgoing::new(&plan, fds).unwrap();
            let sender = std::thread::spawn(move || while !outgoing.send_next(ours.as_fd()).unwrap() {});
            let request = receive(theirs.as_fd()).unwrap().unwrap();
            sender.join().unwrap();
            assert_eq!((request.plan.len(), request.fds.len()), (plan_len, fd_count));
            assert_eq!(request.plan, plan);
            assert!(receive(theirs.as_fd()).unwrap().is_none());
        }
    }

    #[test]
    fn replies_keep_their_kind() {
        let (ours, theirs) = pair();
        let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        send_reply(theirs.as_fd(), Ok(Spawned { pid: 77, pidfd: pidfd.unwrap(), helper: None })).unwrap();
        let failure = SpawnError::new("clone3", Errno::AGAIN);
        send_reply(theirs.as_fd(), Err(failure)).unwrap();
        assert_eq!(receive_reply(ours.as_fd()).unwrap().unwrap().unwrap().pid, 77);
        let error = receive_reply(ours.as_fd()).unwrap().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "clone3: resource temporarily unavailable");
        drop(theirs);
        assert!(receive_reply(ours.as_fd()).unwrap().is_none());
    }
}
