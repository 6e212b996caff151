//! The end of a history: nothing fails any more, everything ends and is deleted, and nothing may be left.

use brood_launcher::state::Status;

use super::kernel::Parent;
use super::{World, say};
use crate::registry::{Instance, ProcessCommand};

impl World {
    pub(super) fn come_to_rest(&mut self) {
        self.calm = true;
        say!(self, "=== from here on nothing fails");
        self.clients.stop();
        while self.is_sound() && self.turn() {}
        if self.is_sound() {
            self.check_auto_removal();
            self.delete_all();
        }
        while self.is_sound() && self.turn() {}
        if self.is_sound() {
            self.checker.at_rest();
            self.check_leaks();
        }
    }

    fn check_auto_removal(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        for folder in self.disk.folders.values() {
            for process in std::iter::once(&folder.init).chain(folder.execs.values()) {
                let is_it = |instance: &&Instance| supervisor.uids.get(instance) == Some(&process.uid);
                let instance = supervisor.records.keys().find(is_it);
                let stopped = instance
                    .and_then(|one| supervisor.core.look(*one))
                    .is_some_and(|(status, _)| status == Status::Stopped);
                if process.auto_remove && stopped && !supervisor.stuck.contains(&process.uid) {
                    self.checker.violation.get_or_insert(format!("{:?}: was to be removed and is there", process.uid));
                }
            }
        }
    }

    fn delete_all(&mut self) {
        let listed = self.supervisor.as_ref().map(|supervisor| supervisor.core.list()).unwrap_or_default();
        for (container, execs) in listed {
            // Some of the execs, and then all with their container.
            let execs = execs.into_iter().filter(|_| self.random.coin()).collect::<Vec<_>>();
            for instance in execs.into_iter().chain([container]) {
                let _ = self.ask(instance, ProcessCommand::Delete { force: true });
            }
        }
    }

    fn check_leaks(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        let keeper = self.keeper.as_ref().map_or(0, |keeper| keeper.kept().count());
        let left = [
            ("containers or execs in the core", supervisor.core.count()),
            ("names in the core", supervisor.core.list().len()),
            ("records", supervisor.records.len()),
            ("tasks", supervisor.tasks.len()),
            ("orders", supervisor.orders.len()),
            ("inherited processes", supervisor.inherited.count()),
            ("folders", self.disk.folders.len()),
            ("processes", self.kernel.iter().filter(|process| process.parent != Parent::Host).count()),
            ("exits with the keeper", keeper),
        ];
        let left: Vec<String> =
            left.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
        if !left.is_empty() {
            self.checker.violation.get_or_insert(format!("left behind: {}", left.join(", ")));
        }
    }
}
