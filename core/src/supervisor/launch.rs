//! From an order to a running (or parked) process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use brood_launcher::cgroup::Anchor;
use brood_launcher::hooks::{List, Point};
use brood_launcher::plan::{AskedMaps, Io, Launch, Plan, Stdio};
use brood_launcher::prepare::{self, PrepareError, Prepared, Reserved};
use brood_launcher::report::{self, Outcome, Question, ReportReader};
use brood_launcher::spawn::Spawned;
use brood_launcher::state::{
    ContainerDir, ContainerState, INIT, Kept, Manager, Ordered, PidRecord, ProcessDir, StateError,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::PidfdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::act::internal;
use super::remove::remove_unborn;
use super::{Deadline, Files, Order, Record, Settings, StdioOrder, Supervisor, Work};
use crate::fault;
use crate::registry::{Event, Failure, FailureKind, Instance, Reaper, Ticket};
use crate::watch::watch;
use crate::zygotes::{LaunchError, end_child};

/// A child on its way.
pub(super) struct Cloned {
    pub(super) plan: Plan,
    /// What the child may ask for.
    pub(super) asked_maps: AskedMaps,
    /// Our end of the status pipe or socket.
    pub(super) status: OwnedFd,
    /// An init process's; an exec has no hooks.
    pub(super) hooked: Option<Hooked>,
}

/// A container whose hooks are ours to run.
pub(super) struct Hooked {
    kept: Kept,
    state: ContainerState,
    pid: i32,
}

impl Order {
    /// As the launcher takes it, and the standard descriptors.
    pub(super) fn for_launcher(self, Settings { manager, cgroups, .. }: &Settings) -> (prepare::Order, StdioOrder) {
        let Order { id, source, stdio, labels, start, auto_remove, ignore_unsupported, checkpoint: _ } = self;
        // A daemon's containers outlive it; those of a single command end with it.
        let die_with_parent = (*manager == Manager::Embedded).then_some(libc::SIGKILL as u32);
        let order = prepare::Order {
            id,
            source,
            labels,
            park: !start,
            manager: *manager,
            die_with_parent,
            ignore_unsupported,
            auto_remove,
            cgroup: *cgroups,
            no_pivot: false,
            new_keyring: true,
            preserve: Vec::new(),
            env: Vec::new(),
        };
        (order, stdio)
    }
}

impl Supervisor {
    pub(super) fn begin_launch(self: &Rc<Self>, instance: Instance, ticket: Ticket) {
        let Some(work) = self.orders.borrow_mut().remove(&ticket) else {
            return self.event(instance, Event::NotCloned(internal("the order is lost")));
        };
        tokio::task::spawn_local(self.clone().launch(instance, work));
    }

    async fn launch(self: Rc<Self>, instance: Instance, work: Work) {
        let work = match work {
            Work::Container(mut order) => match order.checkpoint.take() {
                Some(from) => return self.restore(instance, order, from).await,
                None => Work::Container(order),
            },
            exec => exec,
        };
        let deadline = Deadline::after(self.settings.start_timeout, "set up");
        // What is given up here undoes itself when it is done: the reservation is dropped, a late child is killed.
        let cloned = deadline.keep(async {
            match work {
                Work::Container(order) => self.clone_child(instance, order).await,
                Work::Exec(order) => self.clone_exec(instance, order).await,
            }
        });
        let event = match cloned.await.flatten() {
            Ok(cloned) => {
                let set_up = fault::around_async("hear reports", self.set_up(instance, cloned, deadline)).await;
                match set_up.and_then(|parked| self.announce(instance, parked)) {
                    Ok(parked) => Event::SetUp { parked },
                    Err(failure) => Event::SetUpFailed(failure),
                }
            }
            Err(failure) => Event::NotCloned(failure),
        };
        self.event(instance, event);
    }

    /// A parked child can be found by whoever starts it.
    fn announce(&self, instance: Instance, parked: bool) -> Result<bool, Failure> {
        let socket = self.records.borrow().get(&instance).map(|record| record.files.start_socket.clone());
        match socket.filter(|_| parked).map_or(Ok(()), |socket| fault::around("announce", || socket.announce())) {
            Ok(()) => Ok(parked),
            Err(error) => Err(internal(&error.to_string())),
        }
    }

    /// Waits until the child is parked (true) or its program runs, and runs the hooks that come before that.
    async fn set_up(&self, instance: Instance, cloned: Cloned, deadline: Deadline) -> Result<bool, Failure> {
        let Cloned { plan, asked_maps, status, hooked } = cloned;
        let broken = |error: std::io::Error| internal(&format!("status pipe: {error}"));
        let status = watch_reports(status).map_err(broken)?;
        let mut reader = ReportReader::default();
        let hooks = |point| hooked.as_ref().map(|Hooked { kept, state, pid }| List::of(kept, point, state, *pid));
        loop {
            deadline.keep(read_reports(&status, &mut reader)).await?.map_err(broken)?;
            let Some(question) = reader.take_question() else { break };
            let done = match (question, hooks(Point::CreateRuntime)) {
                (Question::RuntimeHooks, None) => Ok(()),
                (Question::RuntimeHooks, Some(hooks)) => self.run_hooks(hooks, Some(deadline)).await.map(Ok)?,
                (Question::MapIds { number, tree }, _) => self.map_ids(instance, &asked_maps, number, tree),
            };
            report::answer(status.get_ref(), done);
        }
        match reader.finish(&plan) {
            Outcome::Parked => Ok(true),
            Outcome::Running => {
                if let Some(hooks) = hooks(Point::Poststart) {
                    self.run_hooks(hooks, Some(deadline)).await?;
                }
                Ok(false)
            }
            Outcome::Failed(error) => Err(Failure::of_step(&error)),
            Outcome::Vanished => Err(internal("the process was killed while it was being set up")),
        }
    }

    /// `SRCH` when the child is gone.
    fn map_ids(&self, instance: Instance, maps: &AskedMaps, number: u16, tree: RawFd) -> Result<(), Errno> {
        let records = self.records.borrow();
        let pidfd = records.get(&instance).and_then(|record| record.pidfd.as_ref()).ok_or(Errno::SRCH)?;
        maps.set(number, pidfd.as_fd(), tree)
    }

    /// Prepares on a thread that may block, has a zygote clone, and writes down and watches the child.
    async fn clone_child(self: &Rc<Self>, instance: Instance, order: Order) -> Result<Cloned, Failure> {
        let settings = self.settings.clone();
        let ordered = Ordered { at_once: order.start, ..Ordered::default() };
        let prepare = move || {
            let (order, stdio) = order.for_launcher(&settings);
            let io = |dir: &ContainerDir, _| open_stdio(stdio, &dir.process(INIT)).map_err(PrepareError::Pipe);
            fault::around("prepare", || prepare::prepare(&settings.root, order, io))
        };
        let prepared = self.blocking(prepare).await?.map_err(prepare_failure)?;
        let Prepared { launch, status, kept, state, notes, mut reserved } = prepared;
        for note in &notes {
            tracing::warn!(container = state.id, "{note}");
        }
        for detail in &launch.details {
            tracing::debug!(container = state.id, "{detail}");
        }
        let Launch { plan, fds, asked_maps, .. } = launch;
        let spawned = match fault::around_async("clone", self.zygotes.launch(&plan, fds)).await {
            Ok(spawned) => spawned,
            Err(error) => return Err(self.undo(error, reserved, state).await),
        };
        self.let_go(reserved.take_anchor());
        let owns_pid_namespace = plan.clone_flags & libc::CLONE_NEWPID as u64 != 0;
        let (pid, init) = (spawned.pid, reserved.dir().process(INIT));
        self.watch_memory(instance, &state.cgroups);
        let files = || Files::of_init(reserved.keep(), state.clone().into());
        self.write_down(
            instance,
            spawned,
            |pid, pidfd| init.record_pid(pid, Some(pidfd), ordered),
            owns_pid_namespace,
            files,
        )?;
        Ok(Cloned { plan, asked_maps, status, hooked: Some(Hooked { kept, state, pid }) })
    }

    /// Ends a process on a thread that may wait for it.
    pub(super) fn let_go(self: &Rc<Self>, anchor: Option<Anchor>) {
        let Some(anchor) = anchor else { return };
        let supervisor = self.clone();
        tokio::task::spawn_local(async move { supervisor.blocking(move || drop(anchor)).await });
    }

    /// Writes the child down, in its folder and here, and watches it; kills it when that cannot be.
    pub(super) fn write_down(
        self: &Rc<Self>,
        instance: Instance,
        spawned: Spawned,
        record_pid: impl FnOnce(i32, BorrowedFd<'_>) -> Result<PidRecord, StateError>,
        owns_pid_namespace: bool,
        keep: impl FnOnce() -> Files,
    ) -> Result<(), Failure> {
        let Spawned { pid, pidfd, .. } = spawned;
        let recorded = fault::around("write pid", || record_pid(pid, pidfd.as_fd())).and_then(|record| {
            let watched = self.exits.watch(pidfd.as_fd(), instance.0);
            watched.map(|()| record).map_err(|source| StateError::Io { path: "exit source".into(), source })
        });
        match recorded {
            Ok(PidRecord { start_time, .. }) => {
                let record = Record { files: keep(), pid, start_time, pidfd: Some(pidfd), reaper: Reaper::Us };
                self.records.borrow_mut().insert(instance, record);
                self.event(instance, Event::Cloned { pid, owns_pid_namespace });
                Ok(())
            }
            Err(error) => {
                end_child(&pidfd);
                Err(internal(&error.to_string()))
            }
        }
    }

    /// Removes what is left of a launch that brought no child, however long its caller waits for that.
    async fn undo(self: &Rc<Self>, error: LaunchError, reserved: Reserved, state: ContainerState) -> Failure {
        let failure = launch_failure(&error);
        // Killing and waiting may take a moment, which the loop does not have.
        let undo = move || {
            if let LaunchError::Spawn(error) = error {
                error.killed.iter().for_each(end_child);
            }
            // A zygote that died on the way may have left a child, which nobody knows but by its cgroup.
            for pid in state.cgroups.processes().unwrap_or_default() {
                let child = rustix::process::Pid::from_raw(pid);
                let child = child.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
                child.iter().for_each(end_child);
            }
            remove_unborn(reserved.dir(), &state)
        };
        let supervisor = self.clone();
        let undone = tokio::task::spawn_local(async move {
            if let Err(failure) = supervisor.blocking(undo).await.flatten() {
                tracing::warn!(%failure, "undo a launch");
            }
        });
        let _ = undone.await;
        failure
    }
}

/// Prepares the descriptor of a child's reports, a pipe or a socket.
pub(super) fn watch_reports(from: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&from, true)?;
    watch(from, Interest::READABLE)
}

/// Reads a child's reports to their end, or to the point at which the child waits for an answer.
pub(super) async fn read_reports(from: &AsyncFd<OwnedFd>, reader: &mut ReportReader) -> std::io::Result<()> {
    let mut buffer = [0; 32];
    loop {
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(()),
            Ok(length) => {
                reader.push(buffer.get(..length).unwrap_or_default());
                if reader.is_asked() {
                    return Ok(());
                }
            }
            Err(Errno::AGAIN) => from.readable().await?.clear_ready(),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The standard descriptors of a process whose folder this is.
pub(super) fn open_stdio(order: StdioOrder, dir: &ProcessDir) -> Result<Io, Errno> {
    let null = |flags| rustix::fs::open(c"/dev/null", flags | OFlags::CLOEXEC, Mode::empty());
    let file = |name: &str| {
        let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC;
        // O_NOFOLLOW would stay with the file, and CRIU gives that another one by way of a link in /proc.
        let (mode, resolve) = (Mode::from_raw_mode(0o600), ResolveFlags::NO_SYMLINKS);
        rustix::fs::openat2(CWD, dir.path().join(name), flags, mode, resolve)
    };
    Ok(Io::Descriptors(match order {
        StdioOrder::Terminal(socket) => return Ok(Io::Terminal(socket)),
        StdioOrder::Fds(stdio) => stdio,
        StdioOrder::Null => {
            Stdio { stdin: null(OFlags::RDONLY)?, stdout: null(OFlags::WRONLY)?, stderr: null(OFlags::WRONLY)? }
        }
        StdioOrder::File => Stdio { stdin: null(OFlags::RDONLY)?, stdout: file("stdout")?, stderr: file("stderr")? },
    }))
}

pub(super) fn launch_failure(error: &LaunchError) -> Failure {
    Failure {
        errno: if let LaunchError::Spawn(error) = error { error.errno.raw_os_error() } else { 0 },
        ..Failure::new(FailureKind::LaunchFailed, error.to_string())
    }
}

pub(super) fn prepare_failure(error: PrepareError) -> Failure {
    let kind = match &error {
        PrepareError::Id(_) | PrepareError::Io(_) => FailureKind::InvalidRequest,
        PrepareError::Config(_)
        | PrepareError::Plan(_)
        | PrepareError::NoCgroup
        | PrepareError::Limit(_)
        | PrepareError::Resctrl(_) => FailureKind::InvalidConfig,
        PrepareError::State(StateError::InUse(_)) => FailureKind::AlreadyExists,
        PrepareError::State(_) | PrepareError::Cgroup(_) | PrepareError::Scope(_) | PrepareError::Pipe(_) => {
            FailureKind::Internal
        }
    };
    Failure::new(kind, error.to_string())
}
