//! The zygote pool: asks for launches, hands out answers, replaces zygotes that die.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use brood_launcher::plan::{Plan, wire};
use brood_launcher::seal::SealedExe;
use brood_launcher::spawn::{SpawnError, Spawned};
use brood_launcher::zygote::frame::{self, Outgoing};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::exe::Role;
use crate::watch::watch;

/// Room in the sockets for several requests at once.
const SOCKET_BUFFER_BYTES: usize = 512 * 1024;

/// Pause before a zygote is replaced that lived no longer than this: what killed it will likely kill the next one.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Why a launch brought no child.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The zygote could not clone.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The zygote died with the launch in flight.
    #[error("the zygote died during the launch; another one is started")]
    ZygoteDied,
    /// The request could not be sent.
    #[error("send to the zygote: {}", brood_launcher::report::errno_text(*.0))]
    Send(Errno),
}

type Answer = oneshot::Sender<Result<Spawned, LaunchError>>;

/// One zygote's socket and the launches that it has yet to answer, in order.
struct Zygote {
    socket: AsyncFd<OwnedFd>,
    process: RefCell<Child>,
    pending: RefCell<VecDeque<Answer>>,
    /// One request at a time: the messages of two must not mix.
    sending: tokio::sync::Mutex<()>,
    dead: Cell<bool>,
    started: Instant,
}

/// The pool.
pub struct Zygotes {
    exe: Rc<SealedExe>,
    members: RefCell<Vec<Rc<Zygote>>>,
    nofile: Option<Rlimit>,
    /// Set at the end: the dead are not replaced.
    stopping: Cell<bool>,
}

impl Zygotes {
    /// Starts the zygotes. Must be called inside the runtime.
    ///
    /// # Errors
    /// A process or socket cannot be had.
    pub fn start(exe: Rc<SealedExe>, count: usize, nofile: Option<Rlimit>) -> std::io::Result<Rc<Zygotes>> {
        let zygotes = Rc::new(Zygotes { exe, nofile, members: RefCell::default(), stopping: Cell::new(false) });
        for slot in 0..count {
            let zygote = zygotes.spawn(slot)?;
            zygotes.members.borrow_mut().push(zygote);
        }
        Ok(zygotes)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.borrow().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all zygotes and reaps them.
    pub fn stop(&self) {
        self.stopping.set(true);
        for zygote in self.members.borrow().iter() {
            zygote.dead.set(true);
            zygote.end();
        }
    }

    /// Has a plan's child cloned; it is this process's own child.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(&self, plan: &Plan, fds: Vec<OwnedFd>) -> Result<Spawned, LaunchError> {
        let zygote = {
            let members = self.members.borrow();
            let least =
                members.iter().filter(|zygote| !zygote.dead.get()).min_by_key(|zygote| zygote.pending.borrow().len());
            least.cloned().ok_or(LaunchError::ZygoteDied)?
        };
        let mut request = Outgoing::new(&wire::encode(plan), fds).map_err(LaunchError::Send)?;
        let (answer, answered) = oneshot::channel();
        {
            let _turn = zygote.sending.lock().await;
            zygote.send(&mut request).await?;
            zygote.pending.borrow_mut().push_back(answer);
        }
        drop(request);
        answered.await.unwrap_or(Err(LaunchError::ZygoteDied))
    }

    fn spawn(self: &Rc<Self>, slot: usize) -> std::io::Result<Rc<Zygote>> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        for socket in [&ours, &theirs] {
            rustix::net::sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
        }
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new(self.exe.path());
        command.arg0(Role::Zygote.argv0()).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        let socket = watch(ours, Interest::READABLE | Interest::WRITABLE)?;
        let mut process = command.env_clear().spawn()?;
        if let Some(nofile) = &self.nofile {
            // Before the first launch: its children inherit it.
            let limited = rustix::process::prlimit(Some(Pid::from_child(&process)), Resource::Nofile, *nofile);
            if let Err(errno) = limited {
                let _ = process.kill();
                let _ = process.wait();
                return Err(errno.into());
            }
        }
        drop(command); // and with it our copy of the zygote's end: its death must be an end of file
        let zygote = Rc::new(Zygote {
            socket,
            started: Instant::now(),
            process: process.into(),
            pending: RefCell::default(),
            sending: tokio::sync::Mutex::new(()),
            dead: Cell::new(false),
        });
        tokio::task::spawn_local(self.clone().serve(slot, zygote.clone()));
        Ok(zygote)
    }

    /// Hands answers out until the zygote dies, then replaces it.
    async fn serve(self: Rc<Self>, slot: usize, zygote: Rc<Zygote>) {
        let reason = zygote.answers().await;
        zygote.dead.set(true);
        // Before anybody looks for what it has left: it clones no more.
        let status = zygote.end();
        for answer in zygote.pending.borrow_mut().drain(..) {
            let _ = answer.send(Err(LaunchError::ZygoteDied));
        }
        if self.stopping.get() {
            return;
        }
        tracing::warn!(zygote = slot, ?status, reason, "zygote died; starting another");
        let mut short_lived = zygote.started.elapsed() < RESTART_PAUSE;
        loop {
            if short_lived {
                tokio::time::sleep(RESTART_PAUSE).await;
            }
            if self.stopping.get() {
                return;
            }
            match self.spawn(slot) {
                Ok(next) => {
                    if let Some(member) = self.members.borrow_mut().get_mut(slot) {
                        *member = next;
                    }
                    return;
                }
                Err(error) => {
                    tracing::error!(zygote = slot, %error, "cannot start a zygote; trying again");
                    short_lived = true;
                }
            }
        }
    }
}

impl Zygote {
    async fn send(&self, request: &mut Outgoing) -> Result<(), LaunchError> {
        loop {
            match request.send_next(self.socket.get_ref().as_fd()) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Errno::AGAIN) => match self.socket.writable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(error) => return Err(LaunchError::Send(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
                },
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(LaunchError::ZygoteDied),
                Err(errno) => {
                    // The rest of a half-sent request would be taken for the next one.
                    if request.begun() {
                        let _ = self.process.borrow_mut().kill();
                    }
                    return Err(LaunchError::Send(errno));
                }
            }
        }
    }

    /// Returns when the zygote is gone, with the reason.
    async fn answers(&self) -> &'static str {
        loop {
            match frame::receive_reply(self.socket.get_ref().as_fd()) {
                Ok(Some(mut reply)) => {
                    if let Some(helper) = reply.as_mut().ok().and_then(|spawned| spawned.helper.take()) {
                        tokio::task::spawn_local(end_child_meanwhile(helper));
                    }
                    let answer = self.pending.borrow_mut().pop_front();
                    let unwanted = match answer {
                        Some(answer) => answer.send(reply.map_err(LaunchError::from)).err(),
                        None => {
                            // Nobody asked: it says why it cannot work.
                            if let Err(error) = reply {
                                tracing::error!(%error, "zygote");
                            }
                            None
                        }
                    };
                    // Whoever asked has given up meanwhile.
                    let left = match unwanted {
                        Some(Ok(spawned)) => vec![spawned.pidfd],
                        Some(Err(LaunchError::Spawn(error))) => error.killed,
                        _ => Vec::new(),
                    };
                    for pidfd in left {
                        tokio::task::spawn_local(end_child_meanwhile(pidfd));
                    }
                }
                Ok(None) => return "end of file",
                Err(Errno::AGAIN) => match self.socket.readable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return "the loop cannot watch its socket",
                },
                Err(_) => return "not an answer",
            }
        }
    }

    /// Makes sure that the process is gone, and reaps it: after the end of file it is dead or about to be.
    fn end(&self) -> Option<std::process::ExitStatus> {
        let mut process = self.process.borrow_mut();
        let _ = process.kill();
        process.wait().ok()
    }
}

/// [`end_child`] without blocking, and without a thread, which might not be to be had.
async fn end_child_meanwhile(pidfd: OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    match watch(pidfd, Interest::READABLE) {
        Ok(watched) => {
            let _ = watched.readable().await;
            end_child(watched.get_ref());
        }
        Err(error) => tracing::warn!(%error, "reap a failed launch"),
    }
}

/// Kills and reaps a child that nobody knows of; blocks until it is gone.
pub(crate) fn end_child(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    let ended = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    if let Err(errno) = ended {
        tracing::warn!(%errno, "reap a failed launch");
    }
}
