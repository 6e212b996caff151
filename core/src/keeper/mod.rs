//! The keeper: parent of the supervisor, tiny and blocking, and the reason why a supervisor may die.
//!
//! It knows nothing of containers. It holds the listening sockets, so that clients can connect while no supervisor is
//! there; it is the nearest subreaper, so that a dead supervisor's children become its own; it writes down how each of
//! them ended until a supervisor says that the exit is durable; and it starts the next supervisor.
//!
//! | file | what |
//! | --- | --- |
//! | `message` | what keeper and supervisor say |
//! | `link` | the supervisor's end |
//! | `handover` | a keeper that takes over from another: the new binary of an upgrade, or the replacement of one that died |

mod handover;
mod link;
mod message;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use brood_launcher::seal::SealedExe;
use brood_launcher::state::{ExitRecord, ProcStat, StateRoot};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

use crate::exe::Role;
use crate::socket::{self, Listeners};
pub use handover::{BINARY_VARIABLE, Spare, binary_in, check_binary};
use handover::{HandOver, Handed};
pub use link::{Heard, Inherited, KeeperLink};
pub use message::KeptExit;
use message::{Message, receive, send};

/// Names the inherited descriptors in a supervisor's environment: keeper socket, RPC listener, stdio listener, lock.
pub const FDS_VARIABLE: &str = "BROOD_KEEPER_FDS";
/// Pause before another supervisor is started when the last one did not even get ready.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long until a zombie is looked at again that could not be told from others.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long a supervisor may take to end what it is at before an upgrade. It limits itself to less.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// Runs the keeper until the daemon is stopped.
///
/// # Errors
/// The state root is in use by another daemon, or the first supervisor did not get ready.
pub fn run(root: &StateRoot, arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let handed = Handed::take()?;
    brood_launcher::sys::set_comm(c"brood: keeper");
    brood_launcher::sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("PR_SET_CHILD_SUBREAPER")?;
    let watched = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let watched: SigSet = watched.into_iter().collect();
    watched.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
    let exe = SealedExe::lasting()?;
    let mut keeper = match handed {
        Some(handed) => Keeper::taking_over(exe, arguments, handed),
        None => {
            let lock = socket::lock(root)?;
            Keeper::new(exe, arguments, Listeners::bind(root)?, lock)
        }
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
    /// There is a zombie of which it could not be told who it was: it is looked at again after [`LOOK_PAUSE`].
    unknown: bool,
    /// What takes our place when the supervisor has ended, and when that is killed for it.
    next: Option<(SealedExe, Instant)>,
}

struct Running {
    process: Process,
    socket: OwnedFd,
    ready: bool,
}

/// A supervisor.
enum Process {
    Child(Child),
    /// Of a keeper that is dead.
    Strange {
        pid: i32,
        pidfd: OwnedFd,
    },
}

impl Process {
    fn pid(&self) -> i32 {
        match self {
            Process::Child(child) => child.id() as i32,
            Process::Strange { pid, .. } => *pid,
        }
    }

    /// Sends a signal to it; it has not been reaped, or is known by its descriptor.
    fn signal(&self, signal: rustix::process::Signal) {
        let _ = match self {
            Process::Child(child) => rustix::process::kill_process(rustix::process::Pid::from_child(child), signal),
            Process::Strange { pidfd, .. } => rustix::process::pidfd_send_signal(pidfd, signal),
        };
    }

    /// Reaps it if it has ended: its status, `None` of somebody else's child.
    fn ended(&mut self) -> std::io::Result<Option<Option<ExitStatus>>> {
        match self {
            Process::Child(child) => Ok(child.try_wait()?.map(Some)),
            Process::Strange { pidfd, .. } => {
                let mut poll = [PollFd::new(pidfd, PollFlags::IN)];
                let ready = rustix::event::poll(&mut poll, Some(&Timespec::default()));
                Ok(ready.is_ok_and(|ready| ready > 0).then_some(None))
            }
        }
    }
}

impl Keeper {
    fn new(exe: SealedExe, arguments: Vec<OsString>, listeners: Listeners, lock: OwnedFd) -> Keeper {
        Keeper {
            exe,
            arguments,
            listeners,
            lock,
            kept: BTreeMap::new(),
            told: VecDeque::new(),
            supervisor: None,
            was_ready: false,
            stopping: false,
            unknown: false,
            next: None,
        }
    }

    fn taking_over(exe: SealedExe, arguments: Vec<OsString>, handed: Handed) -> Keeper {
        let Handed { rpc, stdio, lock, kept, supervisor } = handed;
        let supervisor = supervisor.map(|(pid, pidfd, socket)| {
            // A service manager watches the keeper, and has lost it.
            socket::notify(&format!("MAINPID={}", std::process::id()));
            Running { process: Process::Strange { pid, pidfd }, socket, ready: true }
        });
        let kept = kept.into_iter().map(|exit| ((exit.pid, exit.start_time), exit)).collect();
        let listeners = Listeners { rpc, stdio };
        Keeper { kept, supervisor, was_ready: true, ..Keeper::new(exe, arguments, listeners, lock) }
    }

    fn until_stopped(&mut self, signals: &SignalFd) -> anyhow::Result<ExitCode> {
        let mut not_before = Instant::now();
        loop {
            if self.supervisor.is_none() {
                if self.stopping {
                    return Ok(ExitCode::SUCCESS);
                }
                if let Some((next, _)) = self.next.take() {
                    let error = self.become_next(&next);
                    tracing::error!("{error:#}; going on with the old binary");
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
                match number {
                    libc::SIGTERM | libc::SIGINT => self.stop(),
                    libc::SIGHUP => self.upgrade(),
                    _ => {}
                }
            }
            self.hurry();
            let sync = self.hear();
            let Some((status, ready)) = self.reap()? else {
                if sync {
                    self.told.push_back(Message::Synced(true));
                }
                continue;
            };
            if self.stopping {
                let success = status.is_none_or(|status| status.success());
                return Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            let status = status.map_or_else(|| "status not known".to_owned(), |status| status.to_string());
            anyhow::ensure!(self.was_ready, "the supervisor did not start ({status})");
            if self.next.is_none() {
                tracing::error!(status, "supervisor died; starting another");
            }
            not_before = Instant::now() + if ready { Duration::ZERO } else { RESTART_PAUSE };
        }
    }

    fn wait(&self, signals: &SignalFd, not_before: Instant) -> anyhow::Result<()> {
        let mut poll = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some(running) = &self.supervisor {
            let out = if self.told.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            poll.push(PollFd::new(&running.socket, PollFlags::IN | out));
            if let Process::Strange { pidfd, .. } = &running.process {
                poll.push(PollFd::new(pidfd, PollFlags::IN));
            }
        }
        let upgrade = self.next.as_ref().map(|(_, deadline)| *deadline);
        let until = if self.supervisor.is_none() { Some(not_before) } else { upgrade };
        let again = self.unknown.then(|| Instant::now() + LOOK_PAUSE);
        let until = until.into_iter().chain(again).min();
        let pause = until.unwrap_or(not_before).saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        let timeout = until.is_some().then_some(&timeout);
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
        Handed::hide_from(&mut command);
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
        Ok(Running { process: Process::Child(process), socket: ours, ready: false })
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
            running.process.signal(rustix::process::Signal::TERM);
        }
    }

    /// Takes the binary that is at the daemon's path by now, and asks the supervisor to end what it is at.
    fn upgrade(&mut self) {
        if self.next.is_some() || self.stopping {
            return;
        }
        match handover::next_binary() {
            Ok(next) => {
                self.next = Some((next, Instant::now() + UPGRADE_PATIENCE));
                if let Some(running) = &self.supervisor {
                    running.process.signal(rustix::process::Signal::HUP);
                }
            }
            Err(error) => tracing::error!("no upgrade: {error:#}"),
        }
    }

    /// Kills a supervisor that does not come to its end: what it has not written down, the next one undoes.
    fn hurry(&self) {
        let late = self.next.as_ref().is_some_and(|(_, deadline)| *deadline <= Instant::now());
        if let Some(running) = self.supervisor.as_ref().filter(|_| late) {
            running.process.signal(rustix::process::Signal::KILL);
        }
    }

    /// Becomes the new binary, in the same process: it stays the parent of what it has inherited. Returns only when that
    /// fails.
    fn become_next(&self, next: &SealedExe) -> anyhow::Error {
        let mut command = Command::new(next.path());
        command.arg0(Role::Keeper.argv0()).args(&self.arguments);
        let hand_over = HandOver {
            rpc: self.listeners.rpc.as_fd(),
            stdio: self.listeners.stdio.as_fd(),
            lock: self.lock.as_fd(),
            kept: self.kept.values().collect(),
            supervisor: None,
        };
        let never = hand_over.through(&mut command, |command| Err::<(), _>(command.exec()));
        never.map_or_else(|error| error.context("become the new binary"), |()| anyhow::anyhow!("execve(2) returned"))
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
                Message::Exit(exit) => drop(self.kept.insert((exit.pid, exit.start_time), exit)),
                Message::Synced(_) => {}
            }
        }
        sync
    }

    /// Reaps every child that has ended. Returns the supervisor's status when it was among them.
    /// It is not known of one that was somebody else's child.
    fn reap(&mut self) -> anyhow::Result<Option<(Option<ExitStatus>, bool)>> {
        self.unknown = false;
        loop {
            let ended = self.supervisor.as_mut().map(|running| running.process.ended()).transpose();
            if let Some(status) = ended.context("reap the supervisor")?.flatten() {
                // Its last words may have come after we listened.
                self.hear();
                return Ok(self.supervisor.take().map(|running| (status, running.ready)));
            }
            // Looked at first and reaped after it is written down: start time and flags are gone with the zombie.
            let ended = match brood_launcher::sys::peek_ended_child() {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(Errno::CHILD) => return Ok(None),
                Err(errno) => return Err(errno).context("waitid"),
            };
            let raw = ended.pid;
            if self.supervisor.as_ref().is_some_and(|running| running.process.pid() == raw) {
                continue;
            }
            let Some(stat) = ProcStat::read(raw) else {
                // For want of memory or descriptors. Nobody could tell whose exit this was: it stays a zombie for now.
                self.unknown = true;
                return Ok(None);
            };
            let (start_time, never_ran) = (stat.start_time, stat.never_ran());
            let exit = KeptExit { pid: raw, start_time, exit: ExitRecord { never_ran, ..ExitRecord::of(&ended) } };
            self.told.push_back(Message::Exit(exit.clone()));
            self.kept.insert((raw, start_time), exit);
            let pid = rustix::process::Pid::from_raw(raw).context("waitid told no pid")?;
            rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).context("reap")?;
        }
    }
}
