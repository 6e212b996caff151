//! Taking over the containers, and their execs, that an earlier supervisor of the same state root left.
//!
//! What becomes of what is found is decided by [`crate::registry::Registry::take_over`]; here it is looked for, written
//! down and watched. What has no pid file is half made: a container is killed by its cgroup and removed; of an exec the
//! folder is removed, and the process killed if it can be told from those that the container has orphaned. One that was still
//! being set up goes on; should it fail, it is undone. A pid file that is damaged costs no process: a container's init process
//! is looked for in its cgroup, an exec is left alone. A removal that was noted is gone on with: those of its hooks that did
//! not run to their end have their turn.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use brood_launcher::cgroup::{Cgroups, Host};
use brood_launcher::state::{
    ContainerDir, ContainerState, ExitRecord, INIT, Manager, Ordered, PidFile, PidRecord, ProcStat, ProcessDir,
    StartSocket, StateError, is_namespace_init, now_ns, open_remains,
};

use super::exec::strays;
use super::{Files, Record, Supervisor};
use crate::exe::Role;
use crate::fault;
use crate::journal::Journal;
use crate::keeper::{Heard, KeptExit};
use crate::limits::EXITS_PER_TURN;
use crate::registry::{Adopted, ContainerRemains, Event, Kept, ProcessCommand, Reaper, Remains};

/// What the keeper has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// There may be more.
    Some,
    /// All that there is now.
    All,
    /// It is gone.
    ByNobody,
}

/// Exits that the journal tells of.
struct Journaled {
    exits: HashMap<PidRecord, ExitRecord>,
    /// Those whose files are missing, and cannot be written now.
    unwritten: RefCell<Vec<(ProcessDir, KeptExit)>>,
}

/// How a process ended, from its file. One that is missing, because an earlier supervisor died between journal and file, or
/// damaged, is written again from the journal: told once is enough.
fn exit_of(dir: &ProcessDir, process: PidRecord, journaled: &Journaled) -> Option<ExitRecord> {
    match dir.read_exit() {
        Ok(exit) => return Some(exit),
        Err(error) if error.is_missing() => {}
        Err(error) => tracing::warn!(%error, "exit file; asking the journal, then the keeper"),
    }
    let exit = journaled.exits.get(&process)?;
    if dir.write_exit(exit).is_err() {
        let exit = KeptExit { pid: process.pid, start_time: process.start_time, exit: exit.clone() };
        journaled.unwritten.borrow_mut().push((dir.clone(), exit));
    }
    Some(exit.clone())
}

/// What an earlier supervisor left of one process, and the handle of one that is there. Fails when there is no pid file
/// ([`StateError::is_missing`]: it was not cloned, or nobody knows), and when it cannot be told whether the process is there.
fn remains_of(
    dir: &ProcessDir,
    start_socket: &StartSocket,
    journaled: &Journaled,
) -> Result<(Remains, Option<OwnedFd>), StateError> {
    let PidFile { record: process, inode, ordered } = dir.read_pid_file()?;
    let exit = exit_of(dir, process, journaled);
    let there = if exit.is_some() { None } else { open_remains(process, inode).map_err(|source| dir.error(source))? };
    let keeper = nix::unistd::getppid().as_raw();
    let of_keeper = there.as_ref().is_some_and(|(_, stat)| stat.parent == keeper);
    // A zombie of the keeper's is the keeper's to tell of; one of somebody else's can be asked for as long as it is there.
    let pidfd = there.filter(|(_, stat)| stat.state != 'Z' || !of_keeper).map(|(pidfd, _)| pidfd);
    let lives = pidfd.is_some();
    let early = start_socket.is_early();
    if lives && early {
        // It goes on to where it can be started, or ends on its way there.
        start_socket.announce()?;
    }
    let parked = early || start_socket.exists();
    let Ordered { auto_remove, at_once } = ordered;
    Ok((Remains { process, exit, lives, of_keeper, parked, untold: at_once || early, auto_remove }, pidfd))
}

/// Writes the damaged pid file of an init process again. One that lives is found in its cgroup: the first process of a pid
/// namespace, or the only one whose parent is not in there. One that has ended is in the journal, or its status is lost. False
/// when there are processes and none of them is certainly the one.
fn mend_pid(dir: &ProcessDir, state: &ContainerState, journal: &Journal) -> bool {
    let Ok(members) = state.cgroups.processes() else { return false };
    let members: HashSet<i32> = members.into_iter().collect();
    let unknown = PidRecord { pid: 0, start_time: 0 };
    let process = if dir.read_exit().is_ok() || members.is_empty() {
        // The last event, if that is an exit; behind any other it is that of an earlier container of this name.
        let last = journal.events().filter(|event| event.id == state.id && event.process == INIT).last();
        let exit = last.and_then(|last| Some(PidRecord { pid: last.pid, start_time: last.start_time? }));
        Some(exit.unwrap_or(unknown))
    } else {
        let stats = members.iter().filter_map(|pid| Some((*pid, ProcStat::read(*pid)?)));
        let outer: Vec<(i32, ProcStat)> = stats.filter(|(_, stat)| !members.contains(&stat.parent)).collect();
        let leader = outer.iter().find(|(pid, _)| is_namespace_init(*pid));
        let init = leader.or(if let [only] = &outer[..] { Some(only) } else { None });
        init.map(|(pid, stat)| PidRecord { pid: *pid, start_time: stat.start_time })
    };
    let write = |record| dir.write_pid(&PidFile { record, inode: None, ordered: Ordered::default() });
    !state.cgroups.is_empty() && process.is_some_and(|process| write(process).is_ok())
}

/// An exec that was written down.
type ExecRemains = (String, Remains, Option<OwnedFd>);

/// The execs of a container, and whether there were some that had not been written down; their folders are removed.
fn execs_of(dir: &ContainerDir, id: &str, journaled: &Journaled) -> (Vec<ExecRemains>, bool) {
    let names = dir.execs().unwrap_or_else(|error| {
        tracing::warn!(container = id, %error, "execs are left alone");
        Vec::new()
    });
    let (all, mut damaged) = (names.len(), 0);
    let found = names.into_iter().filter_map(|name| {
        let exec = dir.process(&name);
        match remains_of(&exec, &exec.start_socket(), journaled) {
            Ok((remains, pidfd)) => Some((name, remains, pidfd)),
            Err(error) if error.is_missing() => {
                tracing::warn!(container = id, process = name, "half made: removed");
                let _ = exec.remove();
                None
            }
            Err(error) => {
                tracing::error!(container = id, process = name, %error, "left alone");
                damaged += 1;
                None
            }
        }
    });
    let found: Vec<ExecRemains> = found.collect();
    // Which of them an unknown process is cannot be told.
    let half_made = damaged == 0 && found.len() < all;
    (found, half_made)
}

/// Kills execs that had not been written down. The keeper, whose children they are now, reaps them. In a pid namespace of
/// its own what a container orphans goes to its init process, so that they cannot be taken for that; elsewhere only one that
/// has not begun its program is certainly no orphan.
fn end_half_made(cgroups: &Cgroups, written_down: &HashSet<i32>, own_pid_namespace: bool) {
    let Some(keeper) = rustix::process::getppid() else { return };
    for (pid, stray) in strays(cgroups, keeper, written_down) {
        if own_pid_namespace || Role::Zygote.is_of(pid) {
            // It may end by itself.
            let _ = rustix::process::pidfd_send_signal(&stray, rustix::process::Signal::KILL);
        }
    }
}

impl Supervisor {
    /// Takes over what is there. `kept` are the exits that the keeper has seen meanwhile.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn recover(self: &Rc<Self>, kept: &[KeptExit]) -> Result<usize, StateError> {
        let key = |exit: &KeptExit| PidRecord { pid: exit.pid, start_time: exit.start_time };
        let by_process: Kept<'_> = kept.iter().map(|kept| (key(kept), &kept.exit)).collect();
        let mut adopted = 0;
        drop(self.sweep());
        let journaled = self.journaled();
        for id in self.settings.root.list()? {
            let Ok(dir) = self.settings.root.find(&id) else { continue };
            match dir.read_state() {
                Ok(mut state) if state.manager == Manager::Daemon => {
                    state.cgroups.share_with(Host::find());
                    fault::around("adopt", || self.adopt(dir, state.into(), &by_process, &journaled));
                    adopted += 1;
                }
                Ok(_) => {}
                Err(error @ StateError::Damaged { .. }) => {
                    tracing::warn!(container = id, %error, "taken over by its name alone");
                    let state = self.by_name_alone(id);
                    self.adopt(dir, state.into(), &by_process, &journaled);
                    adopted += 1;
                }
                Err(error) => tracing::warn!(container = id, %error, "left alone"),
            }
        }
        journaled.unwritten.take().into_iter().for_each(|(dir, exit)| self.owe(dir, exit));
        if let Some(keeper) = &self.keeper {
            // The others are kept until `Reap` says that they are durable.
            let is_nobodys =
                |kept: &&KeptExit| self.inherited.borrow().find(key(kept)).is_none() && !self.owes(key(kept));
            let nobodys = kept.iter().filter(is_nobodys);
            nobodys.for_each(|kept| keeper.recorded(kept.pid, kept.start_time));
            keeper.sync();
        }
        Ok(adopted)
    }

    /// What is known of a container whose `state.json` is damaged.
    fn by_name_alone(&self, id: String) -> ContainerState {
        let cgroups = Cgroups::found(Host::find(), |hierarchy| hierarchy.place(self.settings.root.path(), &id, None));
        ContainerState { id, cgroups, manager: Manager::Daemon, ..ContainerState::default() }
    }

    /// The exits that are in the journal.
    fn journaled(&self) -> Journaled {
        let journal = self.journal.borrow();
        let exits = journal.events().filter_map(|event| {
            Some((PidRecord { pid: event.pid, start_time: event.start_time? }, event.exit.clone()?))
        });
        Journaled { exits: exits.collect(), unwritten: RefCell::default() }
    }

    fn adopt(self: &Rc<Self>, dir: ContainerDir, state: Arc<ContainerState>, kept: &Kept<'_>, journaled: &Journaled) {
        let id = state.id.clone();
        let removing = dir.removal_has_begun();
        let found = || remains_of(&dir.process(INIT), &dir.start_socket(), journaled);
        let found = match found() {
            Err(error @ StateError::Damaged { .. }) => {
                tracing::warn!(container = id, %error, "looking for the process");
                if !mend_pid(&dir.process(INIT), &state, &self.journal.borrow()) {
                    return tracing::error!(container = id, "not found for certain: left alone");
                }
                found()
            }
            found => found,
        };
        let init = match found {
            // Nobody was told of it: a launch that failed.
            Ok((init, _)) if removing && init.exit.is_none() => return self.clear_away(dir, state, "half removed"),
            Ok(init) => init,
            Err(error) if error.is_missing() => return self.clear_away(dir, state, "half made"),
            // It may well be there and run.
            Err(error) => return tracing::error!(container = id, %error, "left alone"),
        };
        let (init, init_fd) = (Remains { auto_remove: state.auto_remove, ..init.0 }, init.1);
        let leads_namespace = init.lives && is_namespace_init(init.process.pid);
        let (execs, half_made) = execs_of(&dir, &id, journaled);
        if half_made {
            let pids = execs.iter().map(|(_, remains, _)| remains.process.pid);
            end_half_made(&state.cgroups, &pids.chain([init.process.pid]).collect(), leads_namespace);
        }
        let (paused, cgroups) = (state.cgroups.is_to_be_frozen(), state.cgroups.clone());
        let mut entries = Vec::new();
        let execs = execs.into_iter().map(|(name, remains, pidfd)| {
            entries.push((Files::of_exec(&id, &name, dir.process(&name)), remains.process, pidfd));
            (name, remains)
        });
        let execs = execs.collect();
        entries.push((Files::of_init(dir, state), init.process, init_fd));
        let found = ContainerRemains { id: id.clone(), init, leads_namespace, paused, execs };
        let adopted = self.core.borrow_mut().take_over(found, kept);
        for (adopted, (files, process, pidfd)) in adopted.iter().zip(entries) {
            self.enter(adopted, files, process, pidfd);
        }
        if let Some(container) = adopted.last() {
            self.watch_adopted_memory(container.instance, &id, &cgroups);
            let _ = self.tell_oom(container.instance, None);
        }
        for adopted in &adopted {
            match adopted.event() {
                Some(Event::Exited(exit)) => self.exited(adopted.instance, exit),
                Some(event) => self.event(adopted.instance, event),
                None => {}
            }
        }
        // The container comes last.
        if let Some(container) = adopted.last().filter(|_| removing) {
            // Nobody waits for the answer any more. Hooks that did not run to their end run again.
            drop(self.ask(container.instance, ProcessCommand::Delete { force: true }));
        }
    }

    /// Writes down what was found, and watches what lives.
    fn enter(&self, adopted: &Adopted, files: Files, process: PidRecord, pidfd: Option<OwnedFd>) {
        if let Some(pidfd) = &pidfd
            && let Err(error) = self.exits.watch(pidfd.as_fd(), adopted.instance.0)
        {
            tracing::error!(container = files.id, process = files.name, %error, "cannot watch");
        }
        let PidRecord { pid, start_time } = process;
        let record = Record { files, pid, start_time, pidfd, reaper: adopted.reaper };
        self.records.borrow_mut().insert(adopted.instance, record);
        self.inherited.borrow_mut().enter(process, adopted);
    }

    /// Whether something waits to be sent to the keeper.
    #[must_use]
    pub fn owes_keeper(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.owes())
    }

    /// Wakes when something begins to wait to be sent to the keeper.
    pub async fn owing(&self) {
        match self.keeper.as_ref().map(|keeper| keeper.owing()) {
            Some(owing) => owing.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what the keeper has to tell, but no more than is one turn's.
    #[must_use]
    pub fn hear_keeper(self: &Rc<Self>) -> Told {
        let Some(keeper) = &self.keeper else { return Told::ByNobody };
        for _ in 0..EXITS_PER_TURN {
            match keeper.hear() {
                Heard::Exit(kept) => self.kept_exit(&kept),
                Heard::Synced => self.give_up_unaccounted(),
                Heard::Nothing => return Told::All,
                Heard::Gone => {
                    self.give_up_unaccounted();
                    // Another keeper will not be their parent.
                    for record in self.records.borrow_mut().values_mut() {
                        if record.reaper == Reaper::Keeper {
                            record.reaper = Reaper::Stranger;
                        }
                    }
                    // These it would have told.
                    let awaited = self.inherited.borrow_mut().awaited();
                    awaited.into_iter().for_each(|instance| self.on_exit(instance));
                    return Told::ByNobody;
                }
            }
        }
        Told::Some
    }

    /// The keeper reaped a process that it had inherited: one that was adopted, or somebody's orphan.
    fn kept_exit(self: &Rc<Self>, kept: &KeptExit) {
        let instance = self.inherited.borrow().find(PidRecord { pid: kept.pid, start_time: kept.start_time });
        if let Some(instance) = instance {
            // Once the exit is durable, `Reap` tells the keeper.
            self.exited(instance, kept.exit.clone());
        } else if let Some(keeper) = &self.keeper {
            keeper.recorded(kept.pid, kept.start_time);
        }
    }

    /// All that anybody knows has been told: what is still missing is lost, and said to be lost.
    fn give_up_unaccounted(self: &Rc<Self>) {
        let lost = self.inherited.borrow_mut().give_up();
        for instance in lost {
            let exit = ExitRecord::unknown("it ended while neither supervisor nor keeper was there", now_ns());
            // The core takes only the first exit of a process.
            self.exited(instance, exit);
        }
    }
}
