//! What goes into the core and what comes out of it.

use std::collections::HashMap;

use brood_launcher::report::StepError;
use brood_launcher::state::{ExitRecord, PidRecord};

/// One container or exec for the whole of its life; never used again, unlike its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance(pub u64);

/// The container or exec that a command is about.
pub type Target = Instance;

/// A request that waits for its one [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Everything that can happen to the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody asks.
    Command(Ticket, Command),
    /// Whoever waits for this process's exit has gone away.
    Abandon(Ticket, Instance),
    /// Something happened to a process.
    Event(Instance, Event),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a container of this name.
    Create {
        /// Its name; checked when it is prepared.
        id: String,
        /// Remove it when its init process ends.
        auto_remove: bool,
    },
    /// Make an exec.
    Exec {
        /// In this container.
        target: Target,
        /// Its name, unique there; checked when it is prepared.
        id: String,
        /// Remove it when it ends.
        auto_remove: bool,
    },
    /// To a container's init process, or to an exec.
    Process(Target, ProcessCommand),
}

/// A request to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCommand {
    /// Let the program of a created process run.
    Start,
    /// Tell its exit.
    Wait,
    /// Send a signal.
    Kill {
        /// signal(7) number.
        signal: i32,
        /// To all processes of the container; for an init process only.
        all: bool,
    },
    /// Remove it: with an init process, the container.
    Delete {
        /// Kill it first.
        force: bool,
    },
    /// Stop all processes of a container.
    Pause,
    /// Let a paused container go on.
    Resume,
}

/// Something that happened to a container's init process, or to an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process exists.
    Cloned {
        /// In the supervisor's pid namespace.
        pid: i32,
        /// It is the first in a pid namespace: its end is the end of all in there.
        owns_pid_namespace: bool,
    },
    /// It could not be prepared or cloned; there is no process.
    NotCloned(Failure),
    /// Set-up is complete.
    SetUp {
        /// It waits for `start`; otherwise its program runs.
        parked: bool,
    },
    /// Set-up is complete, and its program goes on from a checkpoint.
    Restored,
    /// A step failed; the process ends.
    SetUpFailed(Failure),
    /// The outcome of a `start`.
    Released(Result<(), Failure>),
    /// A `start` that did not reach the process.
    NotReleased(Failure),
    /// The process ended; it has not been reaped yet.
    Exited(ExitRecord),
    /// The outcome of freezing or thawing.
    PaceChanged(Result<(), Failure>),
    /// The kernel has killed one of a container's processes for memory.
    OutOfMemory,
    /// The images of a checkpoint of it are written. If it is to end with that, it has not yet.
    Checkpointed,
    /// It was taken over from an earlier supervisor, with its exit told.
    Adopted,
    /// The outcome of a removal.
    Removed(Result<(), Failure>),
}

/// Something to be done, by the supervisor, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Prepare, clone and set up what this ticket ordered. Answered by `Cloned` and `SetUp` or `Restored`, or one of the failures.
    Launch(Instance, Ticket),
    /// Connect to the parked process. Answered by `Released`.
    Release(Instance),
    /// Send a signal, and reply if somebody asked.
    Signal {
        /// To which process.
        instance: Instance,
        /// signal(7) number.
        signal: i32,
        /// To all processes of its container.
        all: bool,
        /// Who asked.
        reply: Option<Ticket>,
    },
    /// Stop all processes of a container, which may take a while. Answered by `PaceChanged`.
    Freeze(Instance),
    /// Let them go on. Answered by `PaceChanged`.
    Thaw(Instance),
    /// Make the exit durable: exit file and journal.
    RecordExit(Instance, ExitRecord),
    /// Reap the process: only after its exit is durable.
    Reap(Instance),
    /// Reap a process whose exit nobody will ever ask for, since its creation failed. It is struck off the record before
    /// that: after a crash it counts as half made.
    Discard(Instance),
    /// Write an event to the journal.
    Publish(Instance, EventKind),
    /// Remove what it holds: an exec its folder, a container its cgroup and folder. Answered by `Removed`.
    Remove(Instance),
    /// Drop all that is kept in memory.
    Forget(Instance),
    /// Answer.
    Reply(Ticket, Reply),
}

impl Effect {
    /// What it does, in the words of the list of fault points.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Effect::Launch(..) => "launch",
            Effect::Release(_) => "release",
            Effect::Signal { .. } => "signal",
            Effect::Freeze(_) => "freeze",
            Effect::Thaw(_) => "thaw",
            Effect::RecordExit(..) => "record exit",
            Effect::Reap(_) => "reap",
            Effect::Discard(_) => "discard",
            Effect::Publish(..) => "publish",
            Effect::Remove(_) => "remove",
            Effect::Forget(_) => "forget",
            Effect::Reply(..) => "reply",
        }
    }
}

/// Kinds of journal events other than exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Set-up is complete.
    Create,
    /// The program runs.
    Start,
    /// Set-up of an exec is complete.
    ExecAdded,
    /// The program of an exec runs.
    StartProcess,
    /// None of the container's processes runs.
    Paused,
    /// They go on.
    Resumed,
    /// The kernel has killed one of them for memory.
    OutOfMemory,
    /// The images of a checkpoint of the container are written.
    Checkpoint,
    /// It goes on from a checkpoint: between `Create` and `Start`.
    Restore,
    /// Nothing of the container is left.
    Delete,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `Create` and `Exec`.
    Created(Instance),
    /// To `Wait`.
    Exit(ExitRecord),
    /// To the others.
    Done,
    /// An expected failure.
    Refused(Failure),
}

/// Kinds of expected failures; the same as in `schema/brood.capnp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No such container.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A field of the request.
    InvalidRequest,
    /// The bundle or its config.json.
    InvalidConfig,
    /// A step between clone and execve.
    SetupFailed,
    /// Not in this state.
    WrongState,
    /// The clone.
    LaunchFailed,
    /// A limit is reached.
    Overloaded,
    /// The state directory or the kernel.
    Internal,
}

/// An expected failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// One line for people.
    pub message: String,
    /// What a command line should exit with: 125, 126 or 127.
    pub exit_status: u8,
    /// The kernel's reason, or 0.
    pub errno: i32,
    /// The failed set-up step, or empty.
    pub step: String,
}

impl Failure {
    /// A failure without a step.
    #[must_use]
    pub fn new(kind: FailureKind, message: String) -> Failure {
        Failure { kind, message, exit_status: 125, errno: 0, step: String::new() }
    }

    /// A failed set-up step.
    #[must_use]
    pub fn of_step(error: &StepError) -> Failure {
        Failure {
            kind: FailureKind::SetupFailed,
            message: error.to_string(),
            exit_status: error.exit_status(),
            errno: error.errno.raw_os_error(),
            step: error.step.clone(),
        }
    }
}

/// Whose child a process is, and so who reaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaper {
    /// Launched by us.
    Us,
    /// Inherited from an earlier supervisor by the keeper, which tells us the status.
    Keeper,
    /// Inherited by somebody else while no daemon was there; the kernel tells, if it is new enough.
    Stranger,
}

/// A process that was written down.
#[derive(Clone, Debug)]
pub struct Remains {
    /// From its pid file.
    pub process: PidRecord,
    /// From its exit file.
    pub exit: Option<ExitRecord>,
    /// It is there, perhaps as a zombie.
    pub lives: bool,
    /// The keeper is its parent.
    pub of_keeper: bool,
    /// It waits for its start.
    pub parked: bool,
    /// Nobody has been told that there is such a process, unless its program has begun.
    pub untold: bool,
    /// Remove it when it ends.
    pub auto_remove: bool,
}

/// A container that was written down.
#[derive(Clone, Debug)]
pub struct ContainerRemains {
    /// Its name.
    pub id: String,
    /// Its init process.
    pub init: Remains,
    /// The init process lives and is the first in a pid namespace.
    pub leads_namespace: bool,
    /// It stands still.
    pub paused: bool,
    /// Its execs by name.
    pub execs: Vec<(String, Remains)>,
}

/// What the keeper has seen.
pub type Kept<'a> = HashMap<PidRecord, &'a ExitRecord>;

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its exit was told.
    Told(ExitRecord),
    /// It is to be watched.
    Alive,
    /// Its exit is known, and to be told.
    Ended(ExitRecord),
    /// It is gone, and nobody has told how it ended; the keeper is asked once more.
    Unaccounted,
}

/// A process that was taken over.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What it is called from now on.
    pub instance: Instance,
    /// Where it stands.
    pub standing: Standing,
    /// Who reaps it.
    pub reaper: Reaper,
}

impl Adopted {
    /// What the core is to hear as soon as everything of the container is ready to be acted on.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        match &self.standing {
            Standing::Told(_) => Some(Event::Adopted),
            Standing::Ended(exit) => Some(Event::Exited(exit.clone())),
            Standing::Alive | Standing::Unaccounted => None,
        }
    }
}
