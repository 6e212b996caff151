//! The supervisor: feeds the pure core and does what it says.
//!
//! ```text
//! RPC, exits, launch tasks --Input--> Registry::handle --Effects--> act --(files, signals, zygotes, replies)-->
//!          ^                                                          |
//!          +------------------- events of finished effects ----------+
//! ```
//!
//! One thread. An input is handled to the end, all its effects included, before the next one; effects that take time
//! (launch, release, removal) run as tasks and come back as events.
//!
//! Reading order: here; `act` for the effects; `launch`, `exec` and `checkpoint` for the way from order to running, `start`
//! for that from created to running, `hooks` on either; `remove` for the end; `recover` for what an earlier supervisor left;
//! `record` for what is written down of exits and events; `resources` and `oom` for limits, figures and memory; `thread` for
//! what blocks; `drain` for the end before an upgrade.

mod act;
mod checkpoint;
mod drain;
mod exec;
mod hooks;
mod launch;
mod oom;
mod record;
mod recover;
mod remove;
mod resources;
mod start;
mod thread;

pub use checkpoint::CheckpointFolder;
pub use drain::UPGRADING;
pub use exec::ExecOrder;
pub use recover::Told;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use brood_launcher::plan::Stdio;
use brood_launcher::prepare::{CgroupManager, Source};
use brood_launcher::seal::SealedExe;
use brood_launcher::state::{
    ContainerDir, ContainerState, ExitRecord, INIT, Manager, ProcessDir, StartSocket, StateRoot, Status,
};
use rustix::process::Rlimit;
use tokio::sync::oneshot;

use crate::complaint::Complaint;
use crate::journal::Journal;
use crate::keeper::KeeperLink;
use crate::limits::{BLOCKING_THREADS_MAX, CHECKPOINTS_MAX, HOOK_STARTS_MAX};
use crate::reactor::{Exits, Kind};
use crate::registry::{
    Command, Event, Failure, FailureKind, Inherited, Input, Instance, ProcessCommand, Reaper, Registry, Reply, Target,
    Ticket,
};
use crate::zygotes::Zygotes;

/// How long `kill_all` may take: less than service managers give a daemon that they stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How to run a supervisor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// State directory.
    pub root: StateRoot,
    /// Source of exits.
    pub reactor: Kind,
    /// Number of zygotes.
    pub zygotes: usize,
    /// A container that is not set up after this time is killed, and one whose program does not run this time after its
    /// start; hooks included.
    pub start_timeout: Duration,
    /// Events kept.
    pub retain: usize,
    /// Whether this is a daemon or one command's own supervisor.
    pub manager: Manager,
    /// Who makes cgroups.
    pub cgroups: CgroupManager,
    /// RLIMIT_NOFILE of containers that do not ask for one; `None` for our own.
    pub container_nofile: Option<Rlimit>,
}

/// A container to be created.
#[derive(Debug)]
pub struct Order {
    /// Its name.
    pub id: String,
    /// Its configuration.
    pub source: Source,
    /// Its standard descriptors.
    pub stdio: StdioOrder,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Run at once; otherwise wait for `start`.
    pub start: bool,
    /// Remove when the init process ends.
    pub auto_remove: bool,
    /// Go on without what is not supported.
    pub ignore_unsupported: bool,
    /// Go on from a checkpoint: its folder and its name.
    pub checkpoint: Option<CheckpointFolder>,
}

/// Where the standard descriptors come from.
#[derive(Debug)]
pub enum StdioOrder {
    /// Files in the init process's state folder.
    File,
    /// /dev/null.
    Null,
    /// These.
    Fds(Stdio),
    /// A terminal, whose master the process sends to this socket.
    Terminal(OwnedFd),
}

/// What was ordered, until it is launched.
enum Work {
    Container(Order),
    Exec(ExecOrder),
}

/// What the supervisor keeps of a process beside the core's view. An idle one costs one descriptor: its pidfd.
struct Record {
    files: Files,
    pid: i32,
    start_time: u64,
    /// Open from the clone until the process is reaped.
    pidfd: Option<OwnedFd>,
    reaper: Reaper,
}

/// A process on disk, and the names that go with it.
struct Files {
    /// The container's ID.
    id: String,
    /// `init`, or the exec's name.
    name: String,
    dir: ProcessDir,
    start_socket: StartSocket,
    /// With the init process: the container.
    container: Option<ContainerFiles>,
}

#[derive(Clone)]
struct ContainerFiles {
    dir: ContainerDir,
    state: Arc<ContainerState>,
}

impl Files {
    fn of_init(dir: ContainerDir, state: Arc<ContainerState>) -> Files {
        Files {
            id: state.id.clone(),
            name: INIT.to_owned(),
            dir: dir.process(INIT),
            start_socket: dir.start_socket(),
            container: Some(ContainerFiles { dir, state }),
        }
    }

    fn of_exec(id: &str, name: &str, dir: ProcessDir) -> Files {
        let start_socket = dir.start_socket();
        Files { id: id.to_owned(), name: name.to_owned(), dir, start_socket, container: None }
    }
}

/// A container as `state` and `list` show it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// From `state.json`.
    pub state: Arc<ContainerState>,
    /// The init process, now.
    pub init: ProcessSnapshot,
    /// Its execs, sorted by name.
    pub execs: Vec<ProcessSnapshot>,
}

/// A process as `state` and `list` show it.
#[derive(Clone, Debug)]
pub struct ProcessSnapshot {
    /// `init`, or the exec's name.
    pub name: String,
    /// Now.
    pub status: Status,
    /// 0 when there is no process.
    pub pid: i32,
    /// Once it ended.
    pub exit: Option<ExitRecord>,
}

/// The creation of a container or exec on its way.
pub struct Creation {
    /// The container or exec, unless the order was refused at once.
    pub instance: Option<Instance>,
    created: Asked,
    exit: Option<Asked>,
}

impl Creation {
    /// Resolves when it is set up (and running, if the order says so), with its coming exit.
    ///
    /// # Errors
    /// An expected failure; nothing is left behind.
    pub async fn complete(self) -> Result<(Instance, Asked), Failure> {
        match (self.created.await, self.exit) {
            (Reply::Created(instance), Some(exit)) => Ok((instance, exit)),
            (Reply::Refused(failure), _) => Err(failure),
            _ => Err(Failure::new(FailureKind::Internal, "unexpected answer".into())),
        }
    }
}

/// An answer on its way. Dropping one that waits for an exit takes the waiter off the container's list.
pub struct Asked {
    receiver: oneshot::Receiver<Reply>,
    ticket: Ticket,
    waits_for: Option<Instance>,
    supervisor: Rc<Supervisor>,
}

impl Future for Asked {
    type Output = Reply;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Reply> {
        let received = std::task::ready!(std::pin::Pin::new(&mut self.receiver).poll(context));
        self.waits_for = None;
        let stopping = |_| Reply::Refused(Failure::new(FailureKind::Internal, "the supervisor is stopping".into()));
        std::task::Poll::Ready(received.unwrap_or_else(stopping))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(instance) = self.waits_for {
            self.supervisor.replies.borrow_mut().remove(&self.ticket);
            self.supervisor.dispatch(Input::Abandon(self.ticket, instance));
        }
    }
}

/// Until when a launch or a start must be through (`--start-timeout`).
#[derive(Clone, Copy)]
struct Deadline {
    at: tokio::time::Instant,
    limit: Duration,
    what: &'static str,
}

impl Deadline {
    fn after(limit: Duration, what: &'static str) -> Deadline {
        Deadline { at: tokio::time::Instant::now() + limit, limit, what }
    }

    /// What is late is dropped.
    async fn keep<T>(self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let missed = |_| {
            let message = format!("not {} within {} s (--start-timeout)", self.what, self.limit.as_secs_f32());
            Failure::new(FailureKind::LaunchFailed, message)
        };
        tokio::time::timeout_at(self.at, work).await.map_err(missed)
    }
}

/// What a task on another thread comes to when the runtime ends.
fn going_down(_: tokio::task::JoinError) -> Failure {
    Failure::new(FailureKind::Internal, "the supervisor is stopping".to_owned())
}

/// The supervisor.
pub struct Supervisor {
    settings: Settings,
    core: RefCell<Registry>,
    inputs: RefCell<VecDeque<Input>>,
    acting: Cell<bool>,
    records: RefCell<HashMap<Instance, Record>>,
    orders: RefCell<HashMap<Ticket, Work>>,
    replies: RefCell<HashMap<Ticket, oneshot::Sender<Reply>>>,
    last_ticket: Cell<u64>,
    journal: RefCell<Journal>,
    /// Exits that are told and could not be written down yet.
    debts: RefCell<Vec<record::Debt>>,
    /// A task tries again to write down what is owed.
    paying: Cell<bool>,
    unwritten: Complaint,
    exits: Exits,
    zygotes: Rc<Zygotes>,
    keeper: Option<KeeperLink>,
    inherited: RefCell<Inherited>,
    oom: oom::OomNotices,
    /// Limits are changed one update at a time.
    updating: tokio::sync::Mutex<()>,
    blocking: tokio::sync::Semaphore,
    thread: thread::Warmth,
    /// Shared by all that CRIU does.
    criu: tokio::sync::Semaphore,
    hook_starts: tokio::sync::Semaphore,
    /// Nothing new is begun: another supervisor is about to take over.
    draining: Cell<bool>,
    /// Something that was under way may have come to its end, while draining.
    settled: tokio::sync::Notify,
    captures: Cell<usize>,
    /// Shared by the launches of execs from the request to a zygote until the child is written down.
    launching_execs: tokio::sync::RwLock<()>,
}

impl Supervisor {
    /// Starts the zygotes and the watch for exits. Must be called inside the runtime of its [`Kind`].
    ///
    /// # Errors
    /// The journal, a ring or a process cannot be had.
    pub fn start(settings: Settings, keeper: Option<KeeperLink>) -> std::io::Result<Rc<Supervisor>> {
        let journal = if settings.manager == Manager::Daemon {
            let (journal, damaged) = Journal::open(settings.root.path(), settings.retain)?;
            if damaged > 0 {
                tracing::warn!(damaged, "journal: skipped damaged lines");
            }
            journal
        } else {
            Journal::in_memory(settings.retain)
        };
        let lasting = settings.manager == Manager::Daemon;
        let exe = Rc::new(if lasting { SealedExe::lasting()? } else { SealedExe::brief()? });
        let supervisor = Rc::new(Supervisor {
            core: RefCell::default(),
            inputs: RefCell::default(),
            acting: Cell::new(false),
            records: RefCell::default(),
            orders: RefCell::default(),
            replies: RefCell::default(),
            last_ticket: Cell::new(0),
            journal: journal.into(),
            debts: RefCell::default(),
            paying: Cell::new(false),
            unwritten: Complaint::default(),
            exits: Exits::new(settings.reactor)?,
            zygotes: Zygotes::start(exe, settings.zygotes, settings.container_nofile)?,
            keeper,
            inherited: RefCell::default(),
            oom: oom::OomNotices::new()?,
            updating: tokio::sync::Mutex::new(()),
            thread: thread::Warmth::default(),
            blocking: tokio::sync::Semaphore::new(BLOCKING_THREADS_MAX),
            criu: tokio::sync::Semaphore::new(CHECKPOINTS_MAX),
            hook_starts: tokio::sync::Semaphore::new(HOOK_STARTS_MAX),
            draining: Cell::new(false),
            settled: tokio::sync::Notify::new(),
            captures: Cell::new(0),
            launching_execs: tokio::sync::RwLock::new(()),
            settings,
        });
        tokio::task::spawn_local(supervisor.clone().watch_exits());
        tokio::task::spawn_local(supervisor.clone().watch_oom());
        Ok(supervisor)
    }

    /// How it was started.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Begins to create a container. Its exit is waited for from the very beginning, so that it cannot be missed, not
    /// even by `auto_remove`.
    pub fn begin(self: &Rc<Self>, order: Order) -> Creation {
        let id = order.id.clone();
        let command = Command::Create { id: id.clone(), auto_remove: order.auto_remove };
        self.begin_work(command, Work::Container(order), |core| core.find(&id))
    }

    /// The same for an exec.
    pub fn begin_exec(self: &Rc<Self>, order: ExecOrder) -> Creation {
        let (target, id) = (order.container, order.exec.id.clone());
        let command = Command::Exec { target, id: id.clone(), auto_remove: order.auto_remove };
        self.begin_work(command, Work::Exec(order), |core| core.find_exec(target, &id))
    }

    fn begin_work(
        self: &Rc<Self>,
        command: Command,
        work: Work,
        find: impl Fn(&Registry) -> Option<Instance>,
    ) -> Creation {
        let ticket = self.new_ticket();
        let taken = find(&self.core.borrow()).is_some();
        self.orders.borrow_mut().insert(ticket, work);
        let created = self.ask_as(ticket, command, None);
        // Taken by the launch, unless the command was refused.
        self.orders.borrow_mut().remove(&ticket);
        let instance = find(&self.core.borrow()).filter(|_| !taken);
        let exit = instance.map(|instance| self.ask(instance, ProcessCommand::Wait));
        Creation { instance, created, exit }
    }

    /// Hands a command to a process to the core. It is handled when this returns, not when the answer is awaited, so that callers
    /// may rely on the order of their calls.
    pub fn ask(self: &Rc<Self>, target: Target, command: ProcessCommand) -> Asked {
        let waits_for = (command == ProcessCommand::Wait).then_some(target);
        self.ask_as(self.new_ticket(), Command::Process(target, command), waits_for)
    }

    fn ask_as(self: &Rc<Self>, ticket: Ticket, command: Command, waits_for: Option<Instance>) -> Asked {
        let (sender, receiver) = oneshot::channel();
        if waits_for.is_none()
            && let Err(upgrading) = self.insist_on_staying()
        {
            let _ = sender.send(Reply::Refused(upgrading));
        } else {
            self.replies.borrow_mut().insert(ticket, sender);
            self.dispatch(Input::Command(ticket, command));
        }
        Asked { receiver, ticket, waits_for, supervisor: self.clone() }
    }

    /// The container that has this name now.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, id: &str) -> Result<Instance, Failure> {
        let missing = || Failure::new(FailureKind::NotFound, format!("container does not exist: {id}"));
        self.core.borrow().find(id).ok_or_else(missing)
    }

    /// The exec of a container that has this name now.
    ///
    /// # Errors
    /// There is none.
    pub fn find_exec(&self, container: Instance, name: &str) -> Result<Instance, Failure> {
        let missing = || Failure::new(FailureKind::NotFound, format!("exec does not exist: {name}"));
        self.core.borrow().find_exec(container, name).ok_or_else(missing)
    }

    /// How a container is now; `None` when it is gone, or not written down yet.
    #[must_use]
    pub fn snapshot(&self, instance: Instance) -> Option<Snapshot> {
        let init = self.process_snapshot(instance)?;
        let state = self.records.borrow().get(&instance)?.files.container.as_ref()?.state.clone();
        let execs: Vec<Instance> = self.core.borrow().execs(instance).map(|(_, exec)| exec).collect();
        let execs = execs.into_iter().filter_map(|exec| self.process_snapshot(exec)).collect();
        Some(Snapshot { state, init, execs })
    }

    /// How a process is now; `None` as with [`Supervisor::snapshot`].
    #[must_use]
    pub fn process_snapshot(&self, instance: Instance) -> Option<ProcessSnapshot> {
        let core = self.core.borrow();
        let (status, pid, exit) = core.look(instance)?;
        let name = self.records.borrow().get(&instance)?.files.name.clone();
        Some(ProcessSnapshot { name, status, pid, exit: exit.cloned() })
    }

    /// All containers, sorted by ID.
    #[must_use]
    pub fn list(&self) -> Vec<Snapshot> {
        let instances: Vec<Instance> = self.core.borrow().iter().map(|(_, instance)| instance).collect();
        instances.into_iter().filter_map(|instance| self.snapshot(instance)).collect()
    }

    /// The journal, for subscribers.
    pub fn journal(&self) -> std::cell::Ref<'_, Journal> {
        self.journal.borrow()
    }

    /// Tells the keeper that start-up has succeeded.
    pub fn ready(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.ready();
        }
    }

    /// Goes on with another keeper.
    pub fn replace_keeper(&self, socket: OwnedFd) {
        if let Some(keeper) = &self.keeper {
            keeper.replace(socket);
            self.entrust_debts();
        }
    }

    /// Ends the zygotes. Containers are left alone.
    pub fn stop(&self) {
        self.zygotes.stop();
    }

    /// Kills and removes every container; returns when none is left, or when that takes too long: what is left, a hook that
    /// hangs for one, is the next supervisor's.
    pub async fn kill_all(self: &Rc<Self>) {
        let instances: Vec<Instance> = self.core.borrow().iter().map(|(_, instance)| instance).collect();
        let delete = |target| self.ask(target, ProcessCommand::Delete { force: true });
        let asked: Vec<Asked> = instances.into_iter().map(delete).collect();
        let all = async {
            for reply in asked {
                if let Reply::Refused(failure) = reply.await {
                    tracing::warn!(%failure, "stop");
                }
            }
        };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            tracing::warn!("not all containers could be removed in {} s", STOP_PATIENCE.as_secs());
        }
    }

    /// Path of the state directory.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.settings.root.path().to_owned()
    }

    fn new_ticket(&self) -> Ticket {
        self.last_ticket.set(self.last_ticket.get() + 1);
        Ticket(self.last_ticket.get())
    }

    /// Handles an input and its effects, and those that come up meanwhile, one after the other.
    fn dispatch(self: &Rc<Self>, input: Input) {
        self.inputs.borrow_mut().push_back(input);
        if self.acting.replace(true) {
            return;
        }
        loop {
            let Some(input) = self.inputs.borrow_mut().pop_front() else { break };
            let effects = self.core.borrow_mut().handle(input);
            for effect in effects {
                self.act(effect);
            }
        }
        self.acting.set(false);
        if self.draining.get() {
            self.settled.notify_one();
        }
    }

    fn event(self: &Rc<Self>, instance: Instance, event: Event) {
        self.dispatch(Input::Event(instance, event));
    }

    async fn watch_exits(self: Rc<Self>) {
        loop {
            match self.exits.next().await {
                Ok(tokens) => tokens.into_iter().for_each(|token| self.on_exit(Instance(token))),
                Err(error) => {
                    // The ring or set itself broke: nothing can be watched any more. The keeper starts us anew.
                    tracing::error!(%error, "exit source broke");
                    std::process::abort();
                }
            }
        }
    }
}
