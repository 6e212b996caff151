//! The time of an event among a million containers: what does not grow with their number, and what does.

use std::fmt;
use std::time::{Duration, Instant as Moment};

use brood_launcher::state::ExitRecord;

use crate::registry::{Command, Effect, Event, Input, Instance, ProcessCommand, Registry, Ticket};

/// Of each kind of event this many are timed.
const EVENTS: usize = 20_000;

/// One line of the table; the times are means.
#[derive(Clone, Debug)]
pub struct Line {
    /// Containers that run meanwhile.
    pub containers: usize,
    /// From the request to `Running`: four inputs.
    pub start: Duration,
    /// One exit, with somebody who waits for it.
    pub exit: Duration,
    /// A removal: two inputs.
    pub delete: Duration,
    /// Looking a name up.
    pub find: Duration,
    /// Going through all of them, sorted by name; per container.
    pub list: Duration,
    /// Bytes of memory per container.
    pub memory: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { containers, start, exit, delete, find, list, memory } = self;
        let [start, exit, delete, find, list] = [start, exit, delete, find, list].map(Duration::as_nanos);
        write!(f, "| {containers} | {start} | {exit} | {delete} | {find} | {list} | {memory} |")
    }
}

/// The heads of the columns, as of a table in Markdown.
pub const HEAD: &str = "| containers | start, ns | exit, ns | delete, ns | find, ns | list, ns each | bytes each |
| --- | --- | --- | --- | --- | --- | --- |";

/// Times the core among so many running containers.
#[must_use]
pub fn measure(containers: usize) -> Line {
    let before = resident();
    let mut node = Node::default();
    for number in 0..containers {
        node.start(number);
    }
    let memory = resident().saturating_sub(before) / containers.max(1);
    let names = containers..containers + EVENTS;
    let (start, instances) = timed(EVENTS, || names.clone().map(|number| node.start(number)).collect::<Vec<_>>());
    let (exit, ()) = timed(EVENTS, || instances.iter().for_each(|instance| node.exit(*instance)));
    let (find, found) = timed(EVENTS, || names.filter(|number| node.core.find(&name(*number)).is_some()).count());
    assert_eq!(found, EVENTS, "every container has its name");
    let (delete, ()) = timed(EVENTS, || instances.iter().for_each(|instance| node.delete(*instance)));
    let (list, count) = timed(containers.max(1), || node.core.iter().count());
    assert_eq!(count, containers, "nothing is left of those that were deleted");
    Line { containers, start, exit, delete, find, list, memory }
}

fn timed<T>(events: usize, work: impl FnOnce() -> T) -> (Duration, T) {
    let began = Moment::now();
    let result = work();
    (began.elapsed() / u32::try_from(events).unwrap_or(u32::MAX), result)
}

/// Bytes of memory of this process (proc_pid_statm(5)); 0 where /proc is of no help.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn name(number: usize) -> String {
    // Not in their order: names are given by clients.
    format!("job-{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[derive(Default)]
struct Node {
    core: Registry,
    tickets: u64,
}

impl Node {
    fn ask(&mut self, command: Command) -> Vec<Effect> {
        self.tickets += 1;
        self.core.handle(Input::Command(Ticket(self.tickets), command))
    }

    /// Created, cloned, set up, and somebody waits for its exit.
    fn start(&mut self, number: usize) -> Instance {
        let effects = self.ask(Command::Create { id: name(number), auto_remove: false });
        let Some(Effect::Launch(instance, _)) = effects.first() else { panic!("{effects:?}") };
        let instance = *instance;
        self.core.handle(Input::Event(instance, Event::Cloned { pid: 7, owns_pid_namespace: true }));
        self.core.handle(Input::Event(instance, Event::SetUp { parked: false }));
        self.ask(Command::Process(instance, ProcessCommand::Wait));
        instance
    }

    fn exit(&mut self, instance: Instance) {
        let exit = ExitRecord::new(Some(0), None, 1);
        self.core.handle(Input::Event(instance, Event::Exited(exit)));
    }

    fn delete(&mut self, instance: Instance) {
        self.ask(Command::Process(instance, ProcessCommand::Delete { force: false }));
        self.core.handle(Input::Event(instance, Event::Removed(Ok(()))));
    }
}
