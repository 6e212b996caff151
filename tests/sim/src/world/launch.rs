//! What takes time: launches, starts, removals, step by step; and the children's side of them. Between two steps anything
//! can happen.

use brood_launcher::state::PidRecord;

use super::disk::{Folder, ProcessFolder};
use super::kernel::{Ending, Parent, Process, Stage};
use super::supervisor::{Place, Record};
use super::{Uid, World, say};
use crate::registry::{Event, Failure, FailureKind, Instance, Reaper, Ticket};

/// After this time a process that is not set up is killed.
const START_TIMEOUT_NS: u64 = 50_000_000;

/// What is to be made.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) uid: Uid,
    /// Of an exec: its container, as the core calls it.
    pub(super) container: Option<Instance>,
    pub(super) place: Place,
    pub(super) parks: bool,
    pub(super) auto_remove: bool,
    pub(super) owns_namespace: bool,
}

/// Something on its way.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// The folder is next.
    Prepare(Instance, Order),
    /// The clone is next.
    Clone(Instance, Order),
    /// The child is to be written down.
    WriteDown(Instance, Order, PidRecord),
    /// Reads the child's reports, until then.
    Reports(Instance, PidRecord, u64),
    /// Connects to a parked process.
    Release(Instance),
    /// Reads its last reports.
    Started(Instance, PidRecord),
    /// Freezes or thaws a container.
    ChangePace(Instance, bool),
    /// Kills what is left in a cgroup.
    Remove(Instance),
    /// Removes the folder.
    RemoveFolder(Instance, Record),
}

fn failure(what: &str) -> Failure {
    Failure::new(FailureKind::LaunchFailed, what.to_owned())
}

impl World {
    pub(super) fn begin_launch(&mut self, instance: Instance, ticket: Ticket) {
        let Some(supervisor) = &mut self.supervisor else { return };
        let Some(order) = supervisor.orders.remove(&ticket) else {
            return self.event(instance, Event::NotCloned(failure("the order is lost")));
        };
        supervisor.uids.insert(instance, order.uid);
        supervisor.tasks.push(Task::Prepare(instance, order));
    }

    /// Whether a task has something to do.
    pub(super) fn can_go_on(&self, task: &Task) -> bool {
        // What stands still on its way is given up when it is late.
        let is = |process: PidRecord, waits: fn(Stage) -> bool| {
            self.kernel.get(process).is_none_or(|process| {
                process.ending.is_some() || !waits(process.stage) || self.kernel.is_frozen(process.cgroup)
            })
        };
        match task {
            Task::Reports(_, process, _) => is(*process, |stage| stage == Stage::SettingUp),
            Task::Started(_, process) => is(*process, |stage| stage == Stage::Released),
            _ => true,
        }
    }

    /// A task takes its next step.
    pub(super) fn go_on(&mut self, index: usize) {
        let Some(supervisor) = &mut self.supervisor else { return };
        let task = supervisor.tasks.swap_remove(index);
        say!(self, "task: {task:?}");
        let next = match task {
            Task::Prepare(instance, order) => self.prepare(instance, order),
            Task::Clone(instance, order) => self.clone_child(instance, order),
            Task::WriteDown(instance, order, process) => self.write_down(instance, order, process),
            Task::Reports(instance, process, deadline) => self.reports(instance, process, deadline),
            Task::Release(instance) => self.release(instance),
            Task::Started(instance, process) => self.started(instance, process),
            Task::ChangePace(instance, freeze) => self.change_pace(instance, freeze),
            Task::Remove(instance) => self.kill_cgroup(instance),
            Task::RemoveFolder(instance, record) => self.remove_folder(instance, &record),
        };
        if let (Some(task), Some(supervisor)) = (next, &mut self.supervisor) {
            supervisor.tasks.push(task);
        }
    }

    fn not_cloned(&mut self, instance: Instance, what: &str) -> Option<Task> {
        self.event(instance, Event::NotCloned(failure(what)));
        None
    }

    fn prepare(&mut self, instance: Instance, order: Order) -> Option<Task> {
        if self.faulty() {
            return self.not_cloned(instance, "prepare");
        }
        let Order { uid, ref place, auto_remove, parks, .. } = order;
        let new = ProcessFolder { uid, pid: None, exit: None, parked: parks, untold: true, auto_remove };
        match (&place.exec, self.disk.folders.get_mut(&place.container)) {
            (None, Some(_)) => return self.not_cloned(instance, "the name is taken"),
            (None, None) => {
                let folder = Folder { init: new, execs: std::collections::BTreeMap::new() };
                self.disk.folders.insert(place.container.clone(), folder);
            }
            (Some(_), None) => return self.not_cloned(instance, "the container is gone"),
            (Some(exec), Some(folder)) if folder.execs.contains_key(exec) => {
                return self.not_cloned(instance, "the exec's name is taken");
            }
            (Some(exec), Some(folder)) => drop(folder.execs.insert(exec.clone(), new)),
        }
        self.checker.made(uid);
        Some(Task::Clone(instance, order))
    }

    fn clone_child(&mut self, instance: Instance, order: Order) -> Option<Task> {
        let (uid, parks) = (order.uid, order.parks);
        let init = match order.container {
            None => None,
            Some(container) => {
                let init = self.supervisor.as_ref()?.records.get(&container).map(|record| record.process);
                let init = init.and_then(|init| self.kernel.get(init)).filter(|init| init.ending.is_none());
                match init {
                    Some(init) => Some(init.clone()),
                    None => return self.undo(instance, &order, "the init process is gone"),
                }
            }
        };
        if self.faulty() || self.kernel.is_full() {
            return self.undo(instance, &order, "clone3");
        }
        let leads = init.is_none() && order.owns_namespace;
        let namespace = match &init {
            Some(init) => init.namespace,
            None => order.owns_namespace.then_some(uid),
        };
        let cgroup = init.map_or(uid, |init| init.cgroup);
        let (parent, stage, heard, ending) = (Parent::Supervisor, Stage::SettingUp, true, None);
        let make = |name| Process { name, uid, cgroup, parent, namespace, leads, stage, parks, heard, ending };
        let process = self.kernel.clone_process(make);
        say!(self, "kernel: {} for {uid:?}, namespace {namespace:?}", process.pid);
        self.checker.cloned(uid, process);
        Some(Task::WriteDown(instance, order, process))
    }

    /// Nothing is left of a launch that brought no child.
    fn undo(&mut self, instance: Instance, order: &Order, what: &str) -> Option<Task> {
        self.drop_folder(&order.place, order.uid);
        self.not_cloned(instance, what)
    }

    fn write_down(&mut self, instance: Instance, order: Order, process: PidRecord) -> Option<Task> {
        if self.faulty() {
            // It is killed and reaped at once.
            self.end(process, Ending::Signal(libc::SIGKILL as u8));
            self.kernel.reap(process);
            return self.undo(instance, &order, "the pid cannot be written");
        }
        let Order { uid, place, owns_namespace, container, .. } = order;
        match self.disk.process(&place.container, place.exec.as_deref()) {
            Some(folder) => folder.pid = Some(process),
            None => self.checker.violation = Some(format!("{uid:?}: its folder is gone while it is being made")),
        }
        if self.crashes() {
            return None;
        }
        let supervisor = self.supervisor.as_mut()?;
        let cgroup = container.and_then(|one| supervisor.records.get(&one)).map_or(uid, |record| record.uid);
        let record = Record { uid, cgroup, place, process, pidfd: true, noticed: false, reaper: Reaper::Us };
        supervisor.records.insert(instance, record);
        let owns_pid_namespace = owns_namespace && container.is_none();
        self.event(instance, Event::Cloned { pid: process.pid, owns_pid_namespace });
        Some(Task::Reports(instance, process, self.now + START_TIMEOUT_NS))
    }

    fn reports(&mut self, instance: Instance, process: PidRecord, deadline: u64) -> Option<Task> {
        let stage = self.kernel.get(process).map(|process| process.stage);
        let event = match stage {
            Some(Stage::Parked) => Event::SetUp { parked: true },
            Some(Stage::Running) => Event::SetUp { parked: false },
            Some(Stage::Failed) => Event::SetUpFailed(failure("a step failed")),
            Some(Stage::Hung | Stage::SettingUp) if self.kernel.runs(process) => {
                self.now = self.now.max(deadline);
                Event::SetUpFailed(failure("late"))
            }
            _ => Event::SetUpFailed(failure("killed on the way")),
        };
        if event == (Event::SetUp { parked: true }) {
            let place = self.supervisor.as_ref()?.records.get(&instance).map(|record| record.place.clone())?;
            if let Some(folder) = self.disk.process(&place.container, place.exec.as_deref()) {
                folder.untold = false;
            }
            if self.crashes() {
                return None;
            }
        }
        self.event(instance, event);
        None
    }

    fn release(&mut self, instance: Instance) -> Option<Task> {
        if self.faulty() {
            self.event(instance, Event::NotReleased(failure("connect")));
            return None;
        }
        let record = self.supervisor.as_ref()?.records.get(&instance)?.clone();
        let process = self.kernel.get_mut(record.process).filter(|process| process.ending.is_none());
        let Some(process) = process.filter(|process| process.stage == Stage::Parked) else {
            self.event(instance, Event::Released(Err(failure("it has stopped"))));
            return None;
        };
        (process.stage, process.heard) = (Stage::Released, true);
        if self.crashes() {
            return None;
        }
        if let Some(folder) = self.disk.process(&record.place.container, record.place.exec.as_deref()) {
            folder.parked = false;
        }
        Some(Task::Started(instance, record.process))
    }

    fn started(&mut self, instance: Instance, process: PidRecord) -> Option<Task> {
        let result = match self.kernel.get(process).map(|process| process.stage) {
            Some(Stage::Running) => Ok(()),
            Some(Stage::Failed) => Err(failure("execve")),
            _ => Err(failure("it has stopped")),
        };
        self.event(instance, Event::Released(result));
        None
    }

    fn change_pace(&mut self, instance: Instance, freeze: bool) -> Option<Task> {
        let cgroup = self.supervisor.as_ref()?.records.get(&instance).map(|record| record.cgroup);
        let result = match cgroup {
            Some(cgroup) if !self.faulty() => {
                self.kernel.freeze(cgroup, freeze);
                Ok(())
            }
            _ => Err(failure("cgroup.freeze")),
        };
        if !self.crashes() {
            self.event(instance, Event::PaceChanged(result));
        }
        None
    }

    fn kill_cgroup(&mut self, instance: Instance) -> Option<Task> {
        let Some(record) = self.supervisor.as_ref()?.records.get(&instance).cloned() else {
            self.event(instance, Event::Removed(Ok(())));
            return None;
        };
        if self.faulty() {
            return self.not_removed(instance, record.uid);
        }
        if record.place.exec.is_none() {
            self.empty(record.uid);
        }
        Some(Task::RemoveFolder(instance, record))
    }

    /// Kills all in a container's cgroup.
    pub(super) fn empty(&mut self, cgroup: Uid) {
        for process in self.kernel.members(cgroup) {
            self.end(process, Ending::Signal(libc::SIGKILL as u8));
        }
    }

    fn remove_folder(&mut self, instance: Instance, record: &Record) -> Option<Task> {
        if self.faulty() {
            return self.not_removed(instance, record.uid);
        }
        self.drop_folder(&record.place, record.uid);
        if !self.crashes() {
            self.event(instance, Event::Removed(Ok(())));
        }
        None
    }

    fn not_removed(&mut self, instance: Instance, uid: Uid) -> Option<Task> {
        self.supervisor.as_mut()?.stuck.insert(uid);
        self.event(instance, Event::Removed(Err(failure("it is busy"))));
        None
    }

    pub(super) fn drop_folder(&mut self, place: &Place, uid: Uid) {
        match &place.exec {
            None => {
                let folder = self.disk.folders.remove(&place.container);
                let execs = folder.map(|folder| folder.execs).unwrap_or_default();
                execs.into_values().for_each(|exec| self.checker.removed(exec.uid));
            }
            Some(exec) => {
                let execs = self.disk.folders.get_mut(&place.container).map(|folder| &mut folder.execs);
                drop(execs.and_then(|execs| execs.remove(exec)));
            }
        }
        say!(self, "disk: the folder of {uid:?} is gone");
        self.checker.removed(uid);
    }

    /// A child takes its steps: to its report, or to its end.
    pub(super) fn child_steps(&mut self, name: PidRecord) {
        let bad = !self.calm && self.random.permille(self.weather.bad_child);
        let hangs = self.random.coin();
        let Some(process) = self.kernel.get_mut(name) else { return };
        let (stage, end) = match process.stage {
            // Nobody reads its reports any more, and it is behind a seccomp profile.
            stage if !process.heard && hangs => (stage, Some(Ending::Signal(libc::SIGPIPE as u8))),
            Stage::SettingUp if bad && hangs => (Stage::Hung, None),
            Stage::SettingUp if bad => (Stage::Failed, Some(Ending::Code(125))),
            Stage::Released if bad => (Stage::Failed, Some(Ending::Code(127))),
            Stage::SettingUp if process.parks => (Stage::Parked, None),
            _ => (Stage::Running, None),
        };
        process.stage = stage;
        say!(self, "child {}: {stage:?}", name.pid);
        if let Some(ending) = end {
            self.end(name, ending);
        }
    }
}
