//! The seccomp filter, and its listener to whoever decides about `SCMP_ACT_NOTIFY`.
//!
//! From the moment the filter is there, any system call of ours may wait for an answer, and nobody answers before the
//! listener is delivered. So it is delivered by somebody else, cloned before the filter:
//!
//! | child | helper: not under the filter, same descriptors |
//! | --- | --- |
//! | clones the helper | looks at the shared page again and again |
//! | seccomp(2); stores the listener's number in the shared page | |
//! | waits for the helper's end | sends the listener with the state; closes it, for both; stores the result; exits |
//!
//! Nothing can be done to wake the helper that the filter could not hold up; hence its looking.

#![expect(unsafe_code, reason = "clone3, and a page that is shared with the helper")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::{NanosleepRelativeResult, Timespec};

use super::{Child, Done, During, Failure};
use crate::plan::{SeccompListener, StateText};
use crate::report::Op;
use crate::seccomp::{Instruction, install};
use crate::sys::{self, CloneArgs, Cloned};

/// Neither a descriptor nor an error number.
const NOTHING_YET: i32 = -1;
/// In place of a descriptor: there will be none.
const NO_LISTENER: i32 = -2;
/// The pauses of the helper between two looks, in nanoseconds. A filter is installed in about 100 us.
const FIRST_PAUSE_NS: i64 = 20_000;
const LONGEST_PAUSE_NS: i64 = 1_000_000;
/// The most pieces of a message: a state has three parts and two pids.
const PIECES: usize = 8;

/// What child and helper tell each other.
struct Shared {
    /// [`NOTHING_YET`], [`NO_LISTENER`], or the listener's number.
    listener: AtomicI32,
    /// [`NOTHING_YET`], 0 when it was sent, or the error number.
    result: AtomicI32,
}

impl Child<'_> {
    pub(super) fn seccomp(&self, program: &[Instruction], flags: u32, listener: Option<&SeccompListener>) -> Done {
        let Some(SeccompListener { socket, state }) = listener else {
            return install(program, flags).map(drop).during(Op::Call);
        };
        let socket = self.fd(*socket)?;
        let mut buffer = [0u8; 32];
        // Our pid in the namespace of whoever launches, which is what the receiver can use.
        let length = sys::read_link(self.birth.proc, c"self", &mut buffer).during(Op::ProcRead)?;
        let pid = buffer.get(..length).unwrap_or_default();
        let shared = share().during(Op::SendListener)?;
        let own_pid = rustix::process::getpid();
        let args = CloneArgs { flags: libc::CLONE_FILES as u64, exit_signal: libc::SIGCHLD as u64, cgroup: None };
        // SAFETY: a child of a clone has one thread.
        let helper = match unsafe { sys::clone3(args) }.during(Op::SendListener)? {
            Cloned::Child => help(shared, Some(own_pid), socket, state, pid),
            Cloned::Parent { pidfd, .. } => pidfd,
        };
        let installed = install(program, flags).during(Op::Call);
        let number = match &installed {
            Ok(Some(listener)) => listener.as_raw_fd(),
            Ok(None) | Err(_) => NO_LISTENER,
        };
        shared.listener.store(number, Ordering::Release);
        let result = await_result(shared, helper.as_fd());
        if let Some(listener) = installed? {
            // The helper has closed it; the number is nobody's.
            let _ = listener.into_raw_fd();
        }
        match result {
            0 => Ok(()),
            NOTHING_YET => Err(Failure { op: Op::SendListener, errno: Errno::CHILD }),
            errno => Err(Failure { op: Op::SendListener, errno: Errno::from_raw_os_error(errno) }),
        }
    }
}

/// A page that the helper shares although it has a memory of its own. It stays until the exec.
fn share() -> Result<&'static Shared, Errno> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), protection, flags, -1, 0) };
    let page = NonNull::new(page.cast::<Shared>()).filter(|_| page != libc::MAP_FAILED).ok_or(Errno::NOMEM)?;
    // SAFETY: mapped, zeroed (which is valid for atomics), aligned to a page, never unmapped.
    let shared = unsafe { page.as_ref() };
    shared.listener.store(NOTHING_YET, Ordering::Relaxed);
    shared.result.store(NOTHING_YET, Ordering::Relaxed);
    Ok(shared)
}

/// Waits for the helper's end. Where the filter refuses even that, the page says when it is done.
fn await_result(shared: &Shared, helper: BorrowedFd<'_>) -> i32 {
    loop {
        let ended = rustix::process::waitid(WaitId::PidFd(helper), WaitIdOptions::EXITED).is_ok();
        let result = shared.result.load(Ordering::Acquire);
        if ended || result != NOTHING_YET {
            return result;
        }
        std::hint::spin_loop();
    }
}

/// The helper's life.
fn help(
    shared: &Shared,
    parent: Option<rustix::process::Pid>,
    socket: BorrowedFd<'_>,
    state: &StateText,
    pid: &[u8],
) -> ! {
    let bound = sys::prctl(libc::PR_SET_PDEATHSIG, Signal::KILL.as_raw() as u64, 0);
    let mut pause = Timespec { tv_sec: 0, tv_nsec: FIRST_PAUSE_NS };
    let listener = loop {
        match shared.listener.load(Ordering::Acquire) {
            // The child may have been killed before the signal of its death was asked for.
            _ if bound.is_err() || rustix::process::getppid() != parent => sys::exit_now(1),
            NOTHING_YET => {}
            NO_LISTENER => sys::exit_now(0),
            listener => break listener,
        }
        if let NanosleepRelativeResult::Ok = rustix::thread::nanosleep(&pause) {
            pause.tv_nsec = (pause.tv_nsec * 2).min(LONGEST_PAUSE_NS);
        }
    };
    // SAFETY: the child left it open, and leaves it to us.
    let borrowed = unsafe { BorrowedFd::borrow_raw(listener) };
    let result = send(socket, borrowed, state, pid).map_or_else(Errno::raw_os_error, |()| 0);
    sys::close_forgotten(listener);
    shared.result.store(result, Ordering::Release);
    sys::exit_now(0)
}

/// One message: receivers read no second one.
fn send(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>, state: &StateText, pid: &[u8]) -> Result<(), Errno> {
    let pieces = || state.parts.iter().enumerate().flat_map(|(i, part)| [if i > 0 { pid } else { &[] }, part]);
    let mut message = [IoSlice::new(&[]); PIECES];
    for (slot, piece) in message.iter_mut().zip(pieces()) {
        *slot = IoSlice::new(piece);
    }
    if pieces().count() > PIECES {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [listener];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(socket, &message, &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent == pieces().map(<[u8]>::len).sum::<usize>() { Ok(()) } else { Err(Errno::IO) }
}
