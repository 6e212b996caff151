//! Who decides about `SCMP_ACT_NOTIFY`: an agent at the socket of `linux.seccomp.listenerPath`.

#![expect(unsafe_code, reason = "the ioctls of seccomp_unotify(2)")]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::ioctl::{Updater, opcode};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::Value;

/// Longest time until a listener comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// `struct seccomp_notif`
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECEIVE: u32 = opcode::read_write::<Notification>(b'!', 0);
const SEND: u32 = opcode::read_write::<Response>(b'!', 1);
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`
const CONTINUE: u32 = 1;

/// A running agent; its threads end with the agent and with the containers.
#[derive(Debug)]
pub struct Agent {
    listener: UnixListener,
    states: Receiver<Value>,
    accepting: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens at `path`. A system call whose number is in `refused` fails with that errno, all others go on.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn listen(path: &Path, refused: &'static [(i64, Errno)]) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let ours = listener.try_clone().expect("a descriptor");
        let (sender, states) = channel();
        let accepting = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let served = accept(&stream, &sender);
                served.map(|served| std::thread::spawn(move || serve(&served, refused)));
            }
        });
        Self { listener: ours, states, accepting: Some(accepting) }
    }

    /// The state that came with the next listener.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> Value {
        self.states.recv_timeout(PATIENCE).expect("a listener for the agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ends the accept(2).
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).expect("a socket");
        let ended = self.accepting.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || std::thread::panicking(), "the agent panicked");
    }
}

/// Takes the listener and the state of one process; `None` at the end of file.
fn accept(stream: &UnixStream, states: &Sender<Value>) -> Option<OwnedFd> {
    let mut text = vec![0; 65536];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let length = message.expect("a message").bytes;
    if length == 0 {
        return None;
    }
    let _ = states.send(serde_json::from_slice(&text[..length]).expect("the state is JSON"));
    let fds = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some(fds.expect("a listener comes with the state"))
}

/// Answers until nobody is left under the filter.
fn serve(listener: &OwnedFd, refused: &[(i64, Errno)]) {
    loop {
        let mut polled = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        rustix::event::poll(&mut polled, None).expect("poll");
        if !polled[0].revents().contains(PollFlags::IN) {
            return;
        }
        let mut asked = Notification::default();
        // SAFETY: the request's own structure, zeroed as it wants it.
        let request = unsafe { Updater::<RECEIVE, _>::new(&mut asked) };
        // SAFETY: the structure outlives the call. ENOENT: the process was killed meanwhile.
        if unsafe { rustix::ioctl::ioctl(listener, request) }.is_err() {
            continue;
        }
        let refusal = refused.iter().find(|(number, _)| *number == i64::from(asked.number));
        let mut answer = match refusal {
            Some((_, errno)) => Response { id: asked.id, value: 0, error: -errno.raw_os_error(), flags: 0 },
            None => Response { id: asked.id, value: 0, error: 0, flags: CONTINUE },
        };
        // SAFETY: the request's own structure.
        let request = unsafe { Updater::<SEND, _>::new(&mut answer) };
        // SAFETY: as above; ENOENT as above.
        let _ = unsafe { rustix::ioctl::ioctl(listener, request) };
    }
}
