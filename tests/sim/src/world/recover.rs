//! A supervisor starts: what `core/src/supervisor/recover.rs` does, with the same decisions of the core.

use brood_launcher::state::{ExitRecord, PidRecord, Status};

use super::disk::{Folder, ProcessFolder};
use super::keeper::{Answer, Keeper};
use super::kernel::{Ending, Parent, Stage};
use super::supervisor::{Place, Record, Supervisor};
use super::{Uid, World, say};
use crate::registry::{Adopted, ContainerRemains, Kept, Remains};

/// A process that was found, and where.
struct Found {
    uid: Uid,
    cgroup: Uid,
    place: Place,
    process: PidRecord,
    pidfd: bool,
}

impl World {
    pub(super) fn recover(&mut self) {
        let keeper = self.keeper.get_or_insert_with(Keeper::default);
        let kept: Vec<(PidRecord, ExitRecord)> = keeper.kept().map(|(process, exit)| (process, exit.clone())).collect();
        say!(self, "=== a supervisor starts; the keeper has {} exits", kept.len());
        self.supervisor = Some(Supervisor::new((self.make_core)(), true));
        let by_process: Kept<'_> = kept.iter().map(|(process, exit)| (*process, exit)).collect();
        self.complete_last_exit();
        let ids: Vec<String> = self.disk.folders.keys().cloned().collect();
        for id in ids {
            if self.crashes() {
                return;
            }
            self.adopt(id, &by_process);
        }
        for (process, _) in &kept {
            let Some(supervisor) = &self.supervisor else { return };
            if supervisor.inherited.find(*process).is_none() {
                self.tell_keeper(Answer::Recorded(*process));
            }
            if self.crashes() {
                return;
            }
        }
        self.tell_keeper(Answer::Sync);
    }

    /// If the last supervisor died right after an exit was in the journal, it is put into its file.
    fn complete_last_exit(&mut self) {
        let Some((place, process, exit)) = self.disk.last_exit.clone() else { return };
        let Some(folder) = self.disk.process(&place.container, place.exec.as_deref()) else { return };
        if folder.pid == Some(process) && folder.exit.is_none() {
            let uid = folder.uid;
            say!(self, "supervisor: completes the exit of {uid:?}");
            self.write_exit(uid, &place, exit);
        }
    }

    /// `None` when there is no pid file.
    fn remains(&self, folder: &ProcessFolder) -> Option<Remains> {
        let process = folder.pid?;
        let there = self.kernel.get(process);
        let lives = folder.exit.is_none() && there.is_some();
        let of_keeper = there.is_some_and(|process| process.parent == Parent::Keeper);
        let ProcessFolder { exit, parked, untold, auto_remove, .. } = folder.clone();
        Some(Remains { process, exit, lives, of_keeper, parked, untold, auto_remove })
    }

    /// Execs that run and had not been written down.
    fn end_half_made<'a>(
        &mut self,
        cgroup: Uid,
        init: PidRecord,
        execs: impl Iterator<Item = &'a ProcessFolder> + Clone,
        leads_namespace: bool,
    ) {
        let half_made = execs.clone().filter(|exec| exec.pid.is_none()).map(|exec| exec.uid);
        let known: Vec<PidRecord> = execs.clone().filter_map(|exec| exec.pid).chain([init]).collect();
        let half_made: Vec<Uid> = half_made.collect();
        if half_made.is_empty() {
            return;
        }
        for process in self.kernel.members(cgroup).into_iter().filter(|process| !known.contains(process)) {
            let Some(seen) = self.kernel.get(process) else { continue };
            if seen.parent == Parent::Keeper && (leads_namespace || seen.stage != Stage::Running) {
                self.end(process, Ending::Signal(libc::SIGKILL as u8));
            }
        }
        // The others cannot be told from what the container has orphaned.
        half_made.into_iter().for_each(|uid| self.checker.left_to_its_container(uid));
    }

    fn adopt(&mut self, id: String, kept: &Kept<'_>) {
        let Some(Folder { init, execs }) = self.disk.folders.get(&id).cloned() else { return };
        let cgroup = init.uid;
        let place = |exec: Option<String>| Place { container: id.clone(), exec };
        let Some(remains) = self.remains(&init) else {
            say!(self, "supervisor: {cgroup:?} is half made");
            self.empty(cgroup);
            return self.drop_folder(&place(None), cgroup);
        };
        let (process, pidfd) = (remains.process, remains.lives);
        let leads_namespace = self.kernel.get(process).is_some_and(|process| process.leads);
        self.end_half_made(cgroup, process, execs.values(), leads_namespace);
        let paused = self.kernel.is_frozen(cgroup);
        let mut found = Vec::new();
        let mut exec_remains = Vec::new();
        for (name, exec) in execs {
            let place = place(Some(name.clone()));
            match self.remains(&exec) {
                Some(remains) => {
                    let (uid, process, pidfd) = (exec.uid, remains.process, remains.lives);
                    found.push(Found { uid, cgroup, place, process, pidfd });
                    exec_remains.push((name, remains));
                }
                None => self.drop_folder(&place, exec.uid),
            }
        }
        found.push(Found { uid: cgroup, cgroup, place: place(None), process, pidfd });
        let runs = remains.lives && !remains.parked && remains.exit.is_none();
        let container = ContainerRemains { id, init: remains, leads_namespace, paused, execs: exec_remains };
        let Some(supervisor) = &mut self.supervisor else { return };
        let adopted = supervisor.core.take_over(container, kept);
        let status = adopted.last().and_then(|container| supervisor.core.look(container.instance));
        if paused && runs && status.is_none_or(|(status, _)| status != Status::Paused) {
            self.checker.violation.get_or_insert(format!("{cgroup:?}: it stands still, and that is not known"));
        }
        for (adopted, found) in adopted.iter().zip(found) {
            say!(self, "supervisor: {:?} is {:?}: {:?}", found.uid, adopted.instance, adopted.standing);
            supervisor.enter(adopted, found);
        }
        for adopted in adopted {
            if let Some(event) = adopted.event() {
                self.event(adopted.instance, event);
            }
        }
    }
}

impl Supervisor {
    fn enter(&mut self, adopted: &Adopted, found: Found) {
        let Found { uid, cgroup, place, process, pidfd } = found;
        self.uids.insert(adopted.instance, uid);
        self.inherited.enter(process, adopted);
        let record = Record { uid, cgroup, place, process, pidfd, noticed: false, reaper: adopted.reaper };
        self.records.insert(adopted.instance, record);
    }
}
