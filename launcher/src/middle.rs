//! The process between the cloning one and a child that is born in an existing user namespace.
//!
//! There is no way back from setns(2) into a user namespace: its privileges end there. So a process of its own goes in,
//! clones the child as its sibling (`CLONE_PARENT`), says how to reach it, and ends. It shares the table of descriptors
//! (`CLONE_FILES`), so that the child's pidfd is the cloning process's as well.
//!
//! | cloning process | middle process |
//! | --- | --- |
//! | `clone3` | `setns` into every other namespace, with the host's privileges |
//! | waits for its end | `setns` into the user namespace |
//! | | `setns` into what was refused before, with the privileges of there |
//! | | `clone3` with `CLONE_PARENT`; writes the result on a pipe; ends |
//! | reads the result | |

#![expect(unsafe_code, reason = "clone3, and a descriptor that another process put into our table")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{WaitId, WaitIdOptions};

use crate::child::Birth;
use crate::plan::Namespace;
use crate::spawn::{SpawnError, Spawned, clone_child, failed};
use crate::sys::{self, CloneArgs, Cloned};

/// What the middle process says, as three numbers: one of these, then what belongs to it.
const CLONED: i32 = 0;
const USER_REFUSED: i32 = 1;
const OTHER_REFUSED: i32 = 2;
const CLONE_REFUSED: i32 = 3;

const WORD_LEN: usize = 12;

/// Starts the child in a user namespace and in all of the plan's `born`. With `clone_parent` both processes are our
/// parent's children, and the middle one is handed back to be reaped there.
pub(crate) fn spawn(birth: Birth<'_>, user: BorrowedFd<'_>, clone_parent: bool) -> Result<Spawned, SpawnError> {
    let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
    let (read, write) = pipe.map_err(failed("pipe"))?;
    let parent_flag = if clone_parent { libc::CLONE_PARENT as u64 } else { 0 };
    let args = CloneArgs {
        flags: libc::CLONE_FILES as u64 | parent_flag,
        exit_signal: if clone_parent { 0 } else { libc::SIGCHLD as u64 },
        cgroup: None,
    };
    // SAFETY: this process has one thread (the promise of `Host::spawn`'s caller); what follows in the new one neither
    // allocates nor drops, and ends in `exit_now`.
    let middle = match unsafe { sys::clone3(args) }.map_err(failed("clone3"))? {
        Cloned::Parent { pidfd, .. } => pidfd,
        Cloned::Child => {
            let _ = rustix::io::write(&write, &encode(act(birth, user)));
            sys::exit_now(0)
        }
    };
    // Its end, not the pipe's: with one table of descriptors there is no end of file as long as we hold the other end.
    await_end(middle.as_fd());
    let mut helper = Some(middle);
    if !clone_parent {
        let reaped = helper
            .take()
            .map(|middle| rustix::process::waitid(WaitId::PidFd(middle.as_fd()), WaitIdOptions::EXITED).map(drop));
        reaped.unwrap_or(Ok(())).map_err(failed("reap the process that joins the user namespace"))?;
    }
    let mut word = [0; WORD_LEN];
    let outcome = match rustix::io::read(&read, &mut word) {
        Ok(WORD_LEN) => decode(word),
        _ => Err(SpawnError::new("the process that joins the user namespace was killed", Errno::CANCELED)),
    };
    match outcome {
        Ok((pid, pidfd)) => Ok(Spawned { pid, pidfd, helper }),
        Err(error) => Err(SpawnError { killed: helper.into_iter().collect(), ..error }),
    }
}

fn await_end(process: BorrowedFd<'_>) {
    loop {
        let mut poll = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
        match rustix::event::poll(&mut poll, None) {
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// The middle process's life.
fn act(birth: Birth<'_>, user: BorrowedFd<'_>) -> [i32; 3] {
    let plan = birth.plan;
    let join = |namespace: &Namespace| {
        let fd = birth.fds.get(usize::from(namespace.fd.0)).ok_or(Errno::BADF)?;
        sys::setns(fd.as_fd(), namespace.kind.flag())
    };
    // One bit for each that is to be tried again; there are eight kinds at most.
    let mut refused = 0u32;
    for (namespace, position) in plan.born.iter().zip(0..u32::BITS) {
        if join(namespace).is_err() {
            refused |= 1 << position;
        }
    }
    if let Err(errno) = sys::setns(user, libc::CLONE_NEWUSER) {
        return [USER_REFUSED, errno.raw_os_error(), 0];
    }
    for (namespace, position) in plan.born.iter().zip(0..u32::BITS) {
        if refused & (1 << position) != 0
            && let Err(errno) = join(namespace)
        {
            return [OTHER_REFUSED, errno.raw_os_error(), position as i32];
        }
    }
    match clone_child(birth, true) {
        Ok((pid, pidfd)) => [CLONED, pid, pidfd.into_raw_fd()],
        Err(errno) => [CLONE_REFUSED, errno.raw_os_error(), 0],
    }
}

fn encode(word: [i32; 3]) -> [u8; WORD_LEN] {
    let mut bytes = [0; WORD_LEN];
    for (place, byte) in bytes.iter_mut().zip(word.into_iter().flat_map(i32::to_le_bytes)) {
        *place = byte;
    }
    bytes
}

fn decode(bytes: [u8; WORD_LEN]) -> Result<(i32, OwnedFd), SpawnError> {
    let mut word = [0; 3];
    for (number, bytes) in word.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = i32::from_le_bytes(*bytes);
    }
    let [what, first, second] = word;
    let errno = || Errno::from_raw_os_error(first);
    match what {
        // SAFETY: clone3 of the middle process, which has ended, put the child's pidfd into the table that is ours too,
        // and nobody else knows of it.
        CLONED => Ok((first, unsafe { OwnedFd::from_raw_fd(second) })),
        USER_REFUSED => Err(SpawnError::new("linux.namespaces: join the user namespace", errno())),
        OTHER_REFUSED => {
            Err(SpawnError::new("linux.namespaces: join a namespace, with either user namespace's rights", errno()))
        }
        _ => Err(SpawnError::new("clone3", errno())),
    }
}
