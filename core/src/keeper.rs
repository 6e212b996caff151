//! The keeper: parent of the supervisor, tiny and blocking, and the reason why a supervisor may die.
//!
//! It knows nothing of containers. It holds the listening sockets, so that clients can connect while no supervisor is
//! there; it is the nearest subreaper, so that a dead supervisor's children become its own; it writes down how each of
//! them ended until a supervisor says that the exit is durable; and it starts the next supervisor.
//!
//! | message (JSON, SEQPACKET) | direction | meaning |
//! | --- | --- | --- |
//! | `{"exit": {...}}` | to the supervisor | a process that the keeper inherited has ended |
//! | `{"synced": true}` | to the supervisor | these were all exits that are kept |
//! | `{"sync": true}` | to the keeper | reap what has ended, tell of it, then say `synced` again |
//! | `{"ready": true}` | to the keeper | it listens; start-up has succeeded |
//! | `{"recorded": [pid, start time]}` | to the keeper | that exit is durable and need not be kept |

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use brood_launcher::seal::SealedExe;
use brood_launcher::state::{ExitRecord, StateRoot, state_and_start_time};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::exe::Role;
use crate::socket::{self, Listeners};

/// Names the inherited descriptors in a supervisor's environment: keeper socket, RPC listener, stdio listener, lock.
pub const FDS_VARIABLE: &str = "BROOD_KEEPER_FDS";
/// Pause before another supervisor is started when the last one did not even get ready.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Longest message.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How an inherited process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptExit {
    /// Its pid, by now free again.
    pub pid: i32,
    /// Tells it apart from later ones with the same pid.
    pub start_time: u64,
    /// The exit.
    pub exit: ExitRecord,
}

/// A message in either direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// To the supervisor.
    Exit(KeptExit),
    /// To the supervisor.
    Synced(bool),
    /// To the keeper.
    Sync(bool),
    /// To the keeper.
    Ready(bool),
    /// To the keeper: pid and start time.
    Recorded((i32, u64)),
}

fn send(socket: &OwnedFd, message: &Message) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).unwrap_or_default();
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).map(drop)
}

/// The next message; `None` at the end of file. EAGAIN when there is none on a non-blocking socket.
fn receive(socket: &OwnedFd) -> Result<Option<Message>, Errno> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
        Ok((0, _)) | Err(Errno::CONNRESET) => Ok(None),
        Ok((length, _)) => serde_json::from_slice(&buffer[..length]).map(Some).map_err(|_| Errno::PROTO),
        Err(errno) => Err(errno),
    }
}

/// What a supervisor hears from its keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An inherited process has ended.
    Exit(KeptExit),
    /// All that had ended was told.
    Synced,
    /// Nothing now.
    Nothing,
    /// The keeper died.
    Gone,
}

/// The supervisor's end of the socket to its keeper.
#[derive(Debug)]
pub struct KeeperLink {
    socket: OwnedFd,
    alive: std::cell::Cell<bool>,
    /// What the full socket did not take; bounded by the number of containers.
    owed: RefCell<VecDeque<Message>>,
    owing: Rc<tokio::sync::Notify>,
}

impl KeeperLink {
    /// Takes the inherited socket and reads, blocking, the exits that are kept.
    ///
    /// # Errors
    /// The keeper is gone already.
    pub fn open(socket: OwnedFd) -> anyhow::Result<(KeeperLink, Vec<KeptExit>)> {
        let mut kept = Vec::new();
        loop {
            match receive(&socket).context("receive from the keeper")? {
                Some(Message::Exit(exit)) => kept.push(exit),
                Some(Message::Synced(_)) => break,
                Some(_) => {}
                None => anyhow::bail!("the keeper is gone"),
            }
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        let link = KeeperLink { socket, alive: true.into(), owed: RefCell::default(), owing: Rc::default() };
        Ok((link, kept))
    }

    /// Tells the keeper that start-up has succeeded.
    pub fn ready(&self) {
        self.tell(Message::Ready(true));
    }

    /// Tells the keeper that an exit is durable.
    pub fn recorded(&self, pid: i32, start_time: u64) {
        self.tell(Message::Recorded((pid, start_time)));
    }

    /// Whether the keeper is there.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive.get()
    }

    fn tell(&self, message: Message) {
        self.owed.borrow_mut().push_back(message);
        self.flush();
        if self.owes() {
            self.owing.notify_one();
        }
    }

    /// Sends what is owed, as far as the socket takes it.
    fn flush(&self) {
        let mut owed = self.owed.borrow_mut();
        while let Some(message) = owed.front() {
            match send(&self.socket, message) {
                Ok(()) => drop(owed.pop_front()),
                Err(Errno::AGAIN) => return,
                // A dead keeper wants nothing; its end of file is noticed by whoever listens.
                Err(_) => owed.clear(),
            }
        }
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.owed.borrow().is_empty()
    }

    /// Wakes when something begins to wait to be sent.
    #[must_use]
    pub fn owing(&self) -> Rc<tokio::sync::Notify> {
        self.owing.clone()
    }

    /// A second descriptor of the socket, for the loop to wait on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn waitable(&self) -> std::io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Asks for everything that has ended by now; [`Heard::Synced`] says that it was told.
    pub fn sync(&self) {
        self.tell(Message::Sync(true));
    }

    /// The next thing that the keeper says, without waiting.
    #[must_use]
    pub fn hear(&self) -> Heard {
        self.flush();
        match receive(&self.socket) {
            Ok(Some(Message::Exit(exit))) => Heard::Exit(exit),
            Ok(Some(_)) => Heard::Synced,
            Err(Errno::AGAIN) => Heard::Nothing,
            Ok(None) | Err(_) => {
                self.alive.set(false);
                Heard::Gone
            }
        }
    }
}

/// Runs the keeper until the daemon is stopped.
///
/// # Errors
/// The state root is in use by another daemon, or the first supervisor did not get ready.
pub fn run(root: &StateRoot, arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let lock = socket::lock(root)?;
    let listeners = Listeners::bind(root)?;
    brood_launcher::sys::set_comm(c"brood: keeper");
    brood_launcher::sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("PR_SET_CHILD_SUBREAPER")?;
    let watched: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    watched.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
    let mut keeper = Keeper {
        exe: SealedExe::lasting()?,
        arguments,
        listeners,
        lock,
        kept: BTreeMap::new(),
        told: VecDeque::new(),
        supervisor: None,
        was_ready: false,
        stopping: false,
    };
    let result = keeper.until_stopped(&signals);
    Listeners::unlink(root);
    result
}

struct Keeper {
    exe: SealedExe,
    arguments: Vec<OsString>,
    listeners: Listeners,
    /// Held by the supervisor as well: whichever of the two lives keeps a second daemon out.
    lock: OwnedFd,
    kept: BTreeMap<(i32, u64), KeptExit>,
    /// Messages that wait for room in the socket to the supervisor.
    told: VecDeque<Message>,
    supervisor: Option<Running>,
    /// Some supervisor got ready: the settings are good, and a later failure is no reason to give up.
    was_ready: bool,
    stopping: bool,
}

struct Running {
    process: Child,
    socket: OwnedFd,
    ready: bool,
}

impl Keeper {
    fn until_stopped(&mut self, signals: &SignalFd) -> anyhow::Result<ExitCode> {
        let mut not_before = Instant::now();
        loop {
            if self.supervisor.is_none() {
                if self.stopping {
                    return Ok(ExitCode::SUCCESS);
                }
                if not_before <= Instant::now() {
                    match self.start() {
                        Ok(running) => self.supervisor = Some(running),
                        Err(error) if self.was_ready => {
                            tracing::error!("{error:#}; trying again");
                            not_before = Instant::now() + RESTART_PAUSE;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            self.tell();
            self.wait(signals, not_before)?;
            while let Some(signal) = signals.read_signal().context("read signal")? {
                let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
                if number == libc::SIGTERM || number == libc::SIGINT {
                    self.stop();
                }
            }
            let sync = self.hear();
            let Some((status, ready)) = self.reap()? else {
                if sync {
                    self.told.push_back(Message::Synced(true));
                }
                continue;
            };
            if self.stopping {
                return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            anyhow::ensure!(self.was_ready, "the supervisor did not start ({status})");
            tracing::error!(%status, "supervisor died; starting another");
            not_before = Instant::now() + if ready { Duration::ZERO } else { RESTART_PAUSE };
        }
    }

    fn wait(&self, signals: &SignalFd, not_before: Instant) -> anyhow::Result<()> {
        let mut poll = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some(running) = &self.supervisor {
            let out = if self.told.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            poll.push(PollFd::new(&running.socket, PollFlags::IN | out));
        }
        let pause = not_before.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        let timeout = self.supervisor.is_none().then_some(&timeout);
        match rustix::event::poll(&mut poll, timeout) {
            Err(Errno::INTR) => Ok(()),
            result => result.map(drop).context("poll"),
        }
    }

    /// Starts a supervisor and queues what it is to hear.
    fn start(&mut self) -> anyhow::Result<Running> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let inherited = [theirs.as_fd(), self.listeners.rpc.as_fd(), self.listeners.stdio.as_fd(), self.lock.as_fd()];
        let numbers: Vec<String> = inherited.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let mut command = Command::new(self.exe.path());
        command.arg0(Role::Supervisor.argv0()).args(&self.arguments).env(FDS_VARIABLE, numbers.join(","));
        // This process has one thread: nobody else forks while the descriptors are inheritable.
        for fd in inherited {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let process = command.spawn().context("start the supervisor");
        for fd in inherited {
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
        let process = process?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.told = self.kept.values().cloned().map(Message::Exit).collect();
        self.told.push_back(Message::Synced(true));
        Ok(Running { process, socket: ours, ready: false })
    }

    /// Sends what is queued, as far as the socket takes it.
    fn tell(&mut self) {
        let Some(running) = &self.supervisor else { return };
        while let Some(message) = self.told.front() {
            match send(&running.socket, message) {
                Ok(()) => drop(self.told.pop_front()),
                Err(Errno::AGAIN) => return,
                // Dead; the next one is told everything that is kept.
                Err(_) => self.told.clear(),
            }
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        if let Some(running) = &self.supervisor {
            let pid = rustix::process::Pid::from_child(&running.process);
            // Not reaped yet, so the pid is its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Reads what the supervisor says. True when it wants to hear all that has ended.
    fn hear(&mut self) -> bool {
        let mut sync = false;
        let Some(running) = &mut self.supervisor else { return false };
        while let Ok(Some(message)) = receive(&running.socket) {
            match message {
                Message::Ready(_) => {
                    running.ready = true;
                    if !std::mem::replace(&mut self.was_ready, true) {
                        socket::notify_ready();
                    }
                }
                Message::Recorded(key) => drop(self.kept.remove(&key)),
                Message::Sync(_) => sync = true,
                Message::Exit(_) | Message::Synced(_) => {}
            }
        }
        sync
    }

    /// Reaps every child that has ended. Returns the supervisor's status when it was among them.
    fn reap(&mut self) -> anyhow::Result<Option<(std::process::ExitStatus, bool)>> {
        loop {
            // Looked at first and reaped after it is written down: the start time is gone with the zombie.
            let ended = match brood_launcher::sys::peek_ended_child() {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(Errno::CHILD) => return Ok(None),
                Err(errno) => return Err(errno).context("waitid"),
            };
            let raw = ended.pid;
            if let Some(mut running) = self.supervisor.take_if(|running| running.process.id() as i32 == raw) {
                let status = running.process.wait().context("reap the supervisor")?;
                return Ok(Some((status, running.ready)));
            }
            let start_time = state_and_start_time(raw).map_or(0, |(_, time)| time);
            let exit = KeptExit { pid: raw, start_time, exit: ExitRecord::of(&ended) };
            self.told.push_back(Message::Exit(exit.clone()));
            self.kept.insert((raw, start_time), exit);
            let pid = rustix::process::Pid::from_raw(raw).context("waitid told no pid")?;
            rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).context("reap")?;
        }
    }
}

/// The descriptors that a supervisor inherits.
#[derive(Debug)]
pub struct Inherited {
    /// To the keeper.
    pub keeper: OwnedFd,
    /// Listens for RPC.
    pub rpc: OwnedFd,
    /// Listens for descriptors.
    pub stdio: OwnedFd,
    /// The lock on the state directory.
    pub lock: OwnedFd,
}

impl Inherited {
    /// Takes the descriptors that [`FDS_VARIABLE`] names. Must be called once, before any thread is started.
    ///
    /// # Errors
    /// The variable is missing: somebody else than a keeper called.
    #[expect(unsafe_code, reason = "descriptor numbers from the environment become owned descriptors")]
    pub fn take() -> anyhow::Result<Inherited> {
        let numbers = std::env::var(FDS_VARIABLE).context("a supervisor is started by its keeper, not by hand")?;
        let numbers: Vec<RawFd> = numbers.split(',').map(str::parse).collect::<Result<_, _>>().context(FDS_VARIABLE)?;
        let take = |index: usize| -> anyhow::Result<OwnedFd> {
            let number = *numbers.get(index).context(FDS_VARIABLE)?;
            anyhow::ensure!(number > 2, "{FDS_VARIABLE}: {number} is a standard descriptor");
            // SAFETY: the keeper opened this number for us and nobody else in this fresh process owns it; it is
            // checked to be open right below.
            let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
            rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).context(FDS_VARIABLE)?;
            Ok(fd)
        };
        Ok(Inherited { keeper: take(0)?, rpc: take(1)?, stdio: take(2)?, lock: take(3)? })
    }
}
