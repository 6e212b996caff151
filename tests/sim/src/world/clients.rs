//! Clients: they ask for what makes sense and for what does not, wait, lose patience, and come back after a crash.

use super::launch::Order;
use super::supervisor::Place;
use super::{World, say};
use crate::checker::Asked;
use crate::registry::{Command, Input, Instance, ProcessCommand, Ticket};

/// All of them.
#[derive(Debug)]
pub(super) struct Clients {
    /// Waits for exits, of each client.
    waits: Vec<Vec<(Ticket, Instance)>>,
    commands: u32,
}

impl Clients {
    pub(super) fn new(clients: usize, commands: u32) -> Clients {
        Clients { waits: vec![Vec::new(); clients], commands }
    }

    pub(super) fn have_commands(&self) -> bool {
        self.commands > 0
    }

    /// Nobody asks for anything more.
    pub(super) fn stop(&mut self) {
        self.commands = 0;
    }

    /// Their connections are gone.
    pub(super) fn disconnect(&mut self) {
        self.waits.iter_mut().for_each(Vec::clear);
    }
}

impl World {
    /// A client does something.
    pub(super) fn client(&mut self, client: usize) {
        self.clients.commands -= 1;
        let id = format!("c{}", self.random.index(self.weather.names));
        let Some(supervisor) = &self.supervisor else { return };
        let container = supervisor.core.find(&id);
        let exec_name = format!("e{}", self.random.below(5));
        let exec = container.and_then(|container| supervisor.core.find_exec(container, &exec_name));
        let target = if self.random.permille(400) { exec.or(container) } else { container };
        match (self.random.below(20), target, container) {
            (0..=1, ..) => self.loses_patience(client),
            (_, None, _) | (2, ..) => self.create(client, id),
            (3..=5, _, Some(container)) => self.exec(client, container, id, exec_name),
            (6..=7, Some(target), _) => drop(self.ask(target, ProcessCommand::Start)),
            (8..=10, Some(target), _) => self.wait(client, target),
            (11..=12, Some(target), _) => {
                let signal = if self.random.coin() { libc::SIGKILL } else { libc::SIGTERM };
                let all = self.random.coin();
                let _ = self.ask(target, ProcessCommand::Kill { signal, all });
            }
            (16..=17, Some(target), _) => drop(self.ask(target, ProcessCommand::Pause)),
            (18..=19, Some(target), _) => drop(self.ask(target, ProcessCommand::Resume)),
            (_, Some(target), _) => {
                let force = self.random.coin();
                let _ = self.ask(target, ProcessCommand::Delete { force });
            }
        }
        self.check_bounds();
    }

    fn create(&mut self, client: usize, id: String) {
        let (parks, auto_remove, owns_namespace) =
            (self.random.coin(), self.random.permille(300), self.random.permille(800));
        let uid = self.new_uid();
        self.checker.ordered(uid, None, owns_namespace);
        if !parks {
            self.checker.runs_at_once(uid);
        }
        let place = Place { container: id.clone(), exec: None };
        let order = Order { uid, container: None, place, parks, auto_remove, owns_namespace };
        let command = Command::Create { id: id.clone(), auto_remove };
        self.begin_work(client, command, order, |world| world.supervisor.as_ref()?.core.find(&id));
    }

    fn exec(&mut self, client: usize, container: Instance, id: String, name: String) {
        let (parks, auto_remove) = (self.random.coin(), self.random.permille(300));
        let Some(&of) = self.supervisor.as_ref().and_then(|supervisor| supervisor.uids.get(&container)) else { return };
        let uid = self.new_uid();
        self.checker.ordered(uid, Some(of), false);
        if !parks {
            self.checker.runs_at_once(uid);
        }
        let place = Place { container: id, exec: Some(name.clone()) };
        let order = Order { uid, container: Some(container), place, parks, auto_remove, owns_namespace: false };
        let command = Command::Exec { target: container, id: name.clone(), auto_remove };
        let find = |world: &World| world.supervisor.as_ref()?.core.find_exec(container, &name);
        self.begin_work(client, command, order, find);
    }

    /// As the supervisor's function of this name: the exit is waited for from the very beginning.
    fn begin_work(&mut self, client: usize, command: Command, order: Order, find: impl Fn(&World) -> Option<Instance>) {
        let taken = find(self).is_some();
        let ticket = self.ticket(Asked::Create(order.uid));
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.orders.insert(ticket, order);
        }
        say!(self, "client {client}: {ticket:?} {command:?}");
        self.dispatch(Input::Command(ticket, command));
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.orders.remove(&ticket);
        }
        if let Some(instance) = find(self).filter(|_| !taken && self.supervisor.is_some()) {
            self.wait(client, instance);
        }
    }

    fn wait(&mut self, client: usize, target: Instance) {
        if let Some(ticket) = self.ask(target, ProcessCommand::Wait)
            && self.checker.waits(ticket)
        {
            self.clients.waits[client].push((ticket, target));
        }
    }

    pub(super) fn ask(&mut self, target: Instance, command: ProcessCommand) -> Option<Ticket> {
        let uid = self.supervisor.as_ref()?.uids.get(&target).copied();
        let asked = match (uid, command) {
            (None, _) => Asked::Nothing,
            (Some(uid), ProcessCommand::Start) => Asked::Start(uid),
            (Some(uid), ProcessCommand::Wait) => Asked::Wait(uid),
            (Some(uid), ProcessCommand::Kill { .. }) => Asked::Kill(uid),
            (Some(uid), ProcessCommand::Delete { .. }) => Asked::Delete(uid),
            (Some(uid), ProcessCommand::Pause) => Asked::Pause(uid),
            (Some(uid), ProcessCommand::Resume) => Asked::Resume(uid),
        };
        let ticket = self.ticket(asked);
        say!(self, "client: {ticket:?} {command:?} of {target:?}");
        self.dispatch(Input::Command(ticket, Command::Process(target, command)));
        Some(ticket)
    }

    /// A client gives up waiting, or everything: its connection is lost.
    fn loses_patience(&mut self, client: usize) {
        let waits = &mut self.clients.waits[client];
        waits.retain(|(ticket, _)| self.checker.waits(*ticket));
        let first = if self.random.coin() { 0 } else { waits.len().saturating_sub(1) };
        for (ticket, instance) in waits.split_off(first) {
            say!(self, "client {client}: gives up {ticket:?}");
            self.checker.abandoned(ticket);
            self.dispatch(Input::Abandon(ticket, instance));
        }
    }

    fn check_bounds(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        let execs = supervisor.core.list().into_iter().map(|(_, execs)| execs.len());
        let (most, all) = execs.fold((0, 0), |(most, all), execs| (execs.max(most), all + execs));
        self.checker.bounds(most, all);
    }
}
