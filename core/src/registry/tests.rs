//! The state machine as a table, and as random walks whose every step keeps the promises.

use brood_launcher::state::{ExitRecord, PidRecord};
use proptest::prelude::*;

use super::*;
use crate::limits::WAITERS_PER_CONTAINER_MAX;

mod execs;
mod recovery;

fn exit(status: u8) -> ExitRecord {
    ExitRecord { status, time_ns: 1, ..ExitRecord::default() }
}

fn failure() -> Failure {
    Failure::new(FailureKind::SetupFailed, "step".into())
}

fn command(registry: &mut Registry, ticket: u64, target: Instance, command: ProcessCommand) -> Vec<Effect> {
    registry.handle(Input::Command(Ticket(ticket), Command::Process(target, command)))
}

/// A registry with one container, brought to a phase by the inputs that lead there.
fn reached(phase: &str) -> (Registry, Instance) {
    let mut registry = Registry::default();
    registry.handle(Input::Command(Ticket(1), Command::Create { id: "a".into(), auto_remove: false }));
    let instance = registry.find("a").unwrap();
    bring(&mut registry, instance, phase, true);
    (registry, instance)
}

fn bring(registry: &mut Registry, instance: Instance, phase: &str, owns_pid_namespace: bool) {
    let mut event = |event| registry.handle(Input::Event(instance, event));
    if phase != "creating" {
        event(Event::Cloned { pid: 7, owns_pid_namespace });
    }
    match phase {
        "creating" => {}
        "failing" => drop(event(Event::SetUpFailed(failure()))),
        _ => drop(event(Event::SetUp { parked: !["running", "pausing", "paused", "resuming"].contains(&phase) })),
    }
    match phase {
        "pausing" => drop(command(registry, 2, instance, ProcessCommand::Pause)),
        "paused" | "resuming" => {
            command(registry, 2, instance, ProcessCommand::Pause);
            registry.handle(Input::Event(instance, Event::PaceChanged(Ok(()))));
        }
        "starting" => drop(command(registry, 2, instance, ProcessCommand::Start)),
        "stopped" | "removing" => drop(registry.handle(Input::Event(instance, Event::Exited(exit(3))))),
        _ => {}
    }
    if phase == "removing" {
        command(registry, 3, instance, ProcessCommand::Delete { force: false });
    }
    if phase == "resuming" {
        command(registry, 3, instance, ProcessCommand::Resume);
    }
}

/// What a command meets: an effect that goes on, an answer, a refusal, or silence until something happens.
fn outcome(effects: &[Effect]) -> &'static str {
    match effects {
        [] => "later",
        [Effect::Reply(_, Reply::Refused(failure))] if failure.kind == FailureKind::WrongState => "refused",
        [Effect::Reply(_, Reply::Refused(_))] => "failure",
        [Effect::Reply(..)] => "answer",
        _ => "acts",
    }
}

#[test]
fn every_command_in_every_phase() {
    const PHASES: [&str; 7] = ["creating", "failing", "created", "starting", "running", "stopped", "removing"];
    let table: [(&str, [&str; 7]); 7] = [
        ("start", ["refused", "refused", "acts", "refused", "refused", "refused", "refused"]),
        ("wait", ["later", "failure", "later", "later", "later", "answer", "answer"]),
        ("kill", ["refused", "refused", "acts", "acts", "acts", "refused", "refused"]),
        ("delete", ["refused", "refused", "refused", "refused", "refused", "acts", "later"]),
        ("force", ["later", "later", "acts", "acts", "acts", "acts", "later"]),
        ("pause", ["refused", "refused", "refused", "refused", "acts", "refused", "refused"]),
        ("resume", ["refused"; 7]),
    ];
    for (name, expected) in table {
        for (phase, expected) in PHASES.iter().zip(expected) {
            for (kind, (mut registry, target)) in [("container", reached(phase)), ("exec", execs::reached(phase))] {
                // It is the container that stands still.
                let expected = if (kind, name) == ("exec", "pause") { "refused" } else { expected };
                let effects = command(&mut registry, 9, target, request(name));
                assert_eq!(outcome(&effects), expected, "{name} of {kind} while {phase}: {effects:?}");
            }
        }
    }
}

fn request(name: &str) -> ProcessCommand {
    match name {
        "start" => ProcessCommand::Start,
        "wait" => ProcessCommand::Wait,
        "kill" => ProcessCommand::Kill { signal: 15, all: false },
        "pause" => ProcessCommand::Pause,
        "resume" => ProcessCommand::Resume,
        _ => ProcessCommand::Delete { force: name == "force" },
    }
}

#[test]
fn every_command_to_a_container_that_stands_still_or_is_about_to() {
    const PHASES: [&str; 3] = ["pausing", "paused", "resuming"];
    let table: [(&str, [&str; 3]); 7] = [
        ("start", ["refused"; 3]),
        ("wait", ["later"; 3]),
        ("kill", ["acts"; 3]),
        ("delete", ["refused"; 3]),
        ("force", ["acts"; 3]),
        ("pause", ["refused"; 3]),
        ("resume", ["refused", "acts", "refused"]),
    ];
    for (name, expected) in table {
        for (phase, expected) in PHASES.iter().zip(expected) {
            let (mut registry, target) = reached(phase);
            let effects = command(&mut registry, 9, target, request(name));
            assert_eq!(outcome(&effects), expected, "{name} while {phase}: {effects:?}");
        }
    }
}

#[test]
fn a_pause_is_told_before_it_is_answered() {
    let (mut registry, target) = reached("pausing");
    assert_eq!(registry.look(target).map(|(status, ..)| status), Some(Status::Running));
    let effects = registry.handle(Input::Event(target, Event::PaceChanged(Ok(()))));
    assert_eq!(effects, [Effect::Publish(target, EventKind::Paused), Effect::Reply(Ticket(2), Reply::Done)]);
    assert_eq!(registry.look(target).map(|(status, ..)| status), Some(Status::Paused));
    command(&mut registry, 3, target, ProcessCommand::Resume);
    let effects = registry.handle(Input::Event(target, Event::PaceChanged(Ok(()))));
    assert_eq!(effects, [Effect::Publish(target, EventKind::Resumed), Effect::Reply(Ticket(3), Reply::Done)]);
    assert_eq!(registry.look(target).map(|(status, ..)| status), Some(Status::Running));
}

#[test]
fn a_change_of_pace_that_fails_leaves_things_as_they_were() {
    for (phase, status) in [("pausing", Status::Running), ("resuming", Status::Paused)] {
        let (mut registry, target) = reached(phase);
        let effects = registry.handle(Input::Event(target, Event::PaceChanged(Err(failure()))));
        assert!(matches!(&effects[..], [Effect::Reply(_, Reply::Refused(_))]), "{effects:?}");
        assert_eq!(registry.look(target).map(|(now, ..)| now), Some(status));
    }
}

#[test]
fn what_ends_while_it_is_paused_is_told_and_the_pause_refused() {
    let (mut registry, target) = reached("pausing");
    let effects = registry.handle(Input::Event(target, Event::Exited(exit(137))));
    let refused = |effect: &Effect| matches!(effect, Effect::Reply(Ticket(2), Reply::Refused(_)));
    assert!(effects.contains(&Effect::RecordExit(target, exit(137))) && effects.iter().any(refused), "{effects:?}");
    assert!(registry.handle(Input::Event(target, Event::PaceChanged(Ok(())))).is_empty());
}

#[test]
fn what_was_killed_while_it_was_being_frozen_is_killed_once_more() {
    for request in [ProcessCommand::Kill { signal: libc::SIGKILL, all: false }, ProcessCommand::Delete { force: true }]
    {
        let (mut registry, target) = reached("pausing");
        command(&mut registry, 9, target, request);
        let effects = registry.handle(Input::Event(target, Event::PaceChanged(Ok(()))));
        let again = Effect::Signal { instance: target, signal: libc::SIGKILL, all: true, reply: None };
        assert!(effects.contains(&again), "{request:?}: {effects:?}");
    }
}

#[test]
fn out_of_memory_is_told_after_the_start_and_before_the_exit() {
    let told = |effects: &[Effect], target| effects.contains(&Effect::Publish(target, EventKind::OutOfMemory));
    let (mut registry, target) = reached("running");
    assert!(told(&registry.handle(Input::Event(target, Event::OutOfMemory)), target));
    let (mut registry, target) = reached("starting");
    assert!(registry.handle(Input::Event(target, Event::OutOfMemory)).is_empty());
    assert!(registry.handle(Input::Event(target, Event::Exited(exit(137)))).is_empty());
    let effects = registry.handle(Input::Event(target, Event::Released(Ok(()))));
    let kinds = effects.iter().filter_map(|effect| match effect {
        Effect::Publish(_, kind) => Some(Some(*kind)),
        Effect::RecordExit(..) => Some(None),
        _ => None,
    });
    let expected = [Some(EventKind::Start), Some(EventKind::OutOfMemory), None];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}

#[test]
fn an_exit_is_durable_before_anybody_is_told_and_reaped_after() {
    let (mut registry, instance) = reached("running");
    command(&mut registry, 5, instance, ProcessCommand::Wait);
    let effects = registry.handle(Input::Event(instance, Event::Exited(exit(7))));
    assert_eq!(
        effects,
        [Effect::RecordExit(instance, exit(7)), Effect::Reap(instance), Effect::Reply(Ticket(5), Reply::Exit(exit(7))),]
    );
}

#[test]
fn an_exit_that_overtakes_its_start_is_told_after_it() {
    let (mut registry, instance) = reached("starting");
    assert!(registry.handle(Input::Event(instance, Event::Exited(exit(0)))).is_empty());
    let effects = registry.handle(Input::Event(instance, Event::Released(Ok(()))));
    let start = effects.iter().position(|effect| matches!(effect, Effect::Publish(_, EventKind::Start)));
    let exit = effects.iter().position(|effect| matches!(effect, Effect::RecordExit(..)));
    assert!(start < exit && start.is_some(), "{effects:?}");
}

#[test]
fn a_failed_set_up_answers_only_when_nothing_is_left() {
    let (mut registry, instance) = reached("failing");
    let effects = registry.handle(Input::Event(instance, Event::Exited(exit(125))));
    assert_eq!(effects, [Effect::Discard(instance), Effect::Remove(instance)]);
    let effects = registry.handle(Input::Event(instance, Event::Removed(Ok(()))));
    assert_eq!(effects, [Effect::Forget(instance), Effect::Reply(Ticket(1), Reply::Refused(failure()))]);
    assert_eq!(registry.find("a"), None);
}

#[test]
fn what_a_failed_set_up_leaves_behind_can_be_deleted() {
    let (mut registry, instance) = reached("failing");
    registry.handle(Input::Event(instance, Event::Exited(exit(125))));
    let busy = Failure::new(FailureKind::Internal, "busy".into());
    let effects = registry.handle(Input::Event(instance, Event::Removed(Err(busy.clone()))));
    assert_eq!(effects, [Effect::Reply(Ticket(1), Reply::Refused(failure()))]);
    for last in [false, true] {
        let effects = command(&mut registry, 4, instance, ProcessCommand::Delete { force: false });
        assert_eq!(effects, [Effect::Remove(instance)]);
        let result = if last { Ok(()) } else { Err(busy.clone()) };
        let effects = registry.handle(Input::Event(instance, Event::Removed(result)));
        // It was never created, as far as anybody was told, so nobody is told that it is gone.
        let gone = [Effect::Forget(instance), Effect::Reply(Ticket(4), Reply::Done)];
        let still_there = [Effect::Reply(Ticket(4), Reply::Refused(busy.clone()))];
        assert_eq!(effects, if last { &gone[..] } else { &still_there[..] });
    }
    assert_eq!(registry.find("a"), None);
}

#[test]
fn a_removal_that_fails_can_be_tried_again() {
    let (mut registry, instance) = reached("removing");
    registry.handle(Input::Event(instance, Event::Removed(Err(failure()))));
    assert_eq!(registry.look(instance).map(|(status, ..)| status), Some(Status::Stopped));
    let effects = command(&mut registry, 4, instance, ProcessCommand::Delete { force: false });
    assert_eq!(effects, [Effect::Remove(instance)]);
}

#[test]
fn a_forced_delete_of_what_is_being_created_kills_it_as_soon_as_it_is() {
    let (mut registry, target) = reached("creating");
    command(&mut registry, 8, target, ProcessCommand::Delete { force: true });
    let effects = registry.handle(Input::Event(target, Event::SetUp { parked: true }));
    assert!(effects.contains(&Effect::Signal { instance: target, signal: libc::SIGKILL, all: true, reply: None }));
    registry.handle(Input::Event(target, Event::Exited(exit(137))));
    let effects = registry.handle(Input::Event(target, Event::Removed(Ok(()))));
    assert!(effects.contains(&Effect::Reply(Ticket(8), Reply::Done)), "{effects:?}");
}

#[test]
fn a_checkpoint_is_told_before_the_exit_and_a_restore_before_the_start() {
    let (mut registry, target) = reached("creating");
    let effects = registry.handle(Input::Event(target, Event::Restored));
    let published = |kind| Effect::Publish(target, kind);
    let told = [EventKind::Create, EventKind::Restore, EventKind::Start].map(published);
    assert_eq!(effects[..3], told, "{effects:?}");
    assert_eq!(effects[3..], [Effect::Reply(Ticket(1), Reply::Created(target))]);
    assert_eq!(
        registry.handle(Input::Event(target, Event::Checkpointed)),
        [published(EventKind::Checkpoint)],
        "it runs"
    );
    registry.handle(Input::Event(target, Event::Exited(exit(137))));
    assert_eq!(registry.handle(Input::Event(target, Event::Checkpointed)), [], "its exit was told");
}

#[test]
fn a_start_that_reached_nobody_can_be_tried_again() {
    let (mut registry, target) = reached("starting");
    let effects = registry.handle(Input::Event(target, Event::NotReleased(failure())));
    assert_eq!(effects, [Effect::Reply(Ticket(2), Reply::Refused(failure()))]);
    assert_eq!(outcome(&command(&mut registry, 9, target, ProcessCommand::Start)), "acts");
}

#[test]
fn waiters_are_bounded() {
    let (mut registry, instance) = reached("running");
    for ticket in 0..WAITERS_PER_CONTAINER_MAX as u64 {
        assert!(command(&mut registry, 100 + ticket, instance, ProcessCommand::Wait).is_empty());
    }
    let effects = command(&mut registry, 9999, instance, ProcessCommand::Wait);
    assert!(matches!(&effects[..], [Effect::Reply(_, Reply::Refused(f))] if f.kind == FailureKind::Overloaded));
    // One who goes away makes room, and is not told.
    assert!(registry.handle(Input::Abandon(Ticket(100), instance)).is_empty());
    assert!(command(&mut registry, 10000, instance, ProcessCommand::Wait).is_empty());
    let effects = registry.handle(Input::Event(instance, Event::Exited(exit(0))));
    assert!(!effects.contains(&Effect::Reply(Ticket(100), Reply::Exit(exit(0)))));
}

/// Replays random inputs against two names and checks what must hold whatever happens.
#[derive(Default)]
struct Walk {
    registry: Registry,
    tickets: u64,
    answered: std::collections::HashSet<Ticket>,
    recorded: std::collections::HashSet<Instance>,
    reaped: std::collections::HashSet<Instance>,
    /// Execs whose program was told to run.
    execs: HashMap<Instance, Instance>,
}

impl Walk {
    fn input(&mut self, input: Input) {
        for effect in self.registry.handle(input) {
            match effect {
                Effect::Reply(ticket, reply) => {
                    assert!(self.answered.insert(ticket), "{ticket:?} answered twice");
                    if let Reply::Created(instance) = reply {
                        assert!(self.registry.look(instance).is_some());
                    }
                }
                // Answered by the supervisor, from what the kernel says.
                Effect::Signal { reply: Some(ticket), .. } => assert!(self.answered.insert(ticket)),
                Effect::RecordExit(instance, _) => {
                    assert!(self.recorded.insert(instance), "two exits of {instance:?}");
                    assert!(!self.reaped.contains(&instance), "reaped before the exit was durable");
                    let role = &self.registry.lives[&instance].role;
                    if matches!(role, Role::Init { own_pid_namespace: true, .. }) {
                        let mut execs = self.execs.iter().filter(|(_, container)| **container == instance);
                        let before = |exec: &Instance| self.recorded.contains(exec);
                        assert!(execs.all(|(exec, _)| before(exec)), "an exec's exit after that of {instance:?}");
                    }
                }
                Effect::Publish(exec, EventKind::StartProcess) => {
                    let Some(Life { role: Role::Exec { container }, .. }) = self.registry.lives.get(&exec) else {
                        panic!("{exec:?} is no exec");
                    };
                    self.execs.insert(exec, *container);
                }
                Effect::Remove(instance) => {
                    let busy = |exec: &Instance| self.registry.lives.get(exec).is_some_and(Life::is_busy);
                    let mut execs = self.registry.execs(instance);
                    assert!(!execs.any(|(_, exec)| busy(&exec)), "{instance:?} is removed under its execs");
                }
                Effect::Reap(instance) | Effect::Discard(instance) => {
                    assert!(self.reaped.insert(instance), "reaped twice");
                }
                _ => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.tickets += 1;
        self.input(Input::Command(Ticket(self.tickets), command));
    }
}

proptest! {
    #[test]
    fn nothing_is_answered_or_reaped_twice(steps in proptest::collection::vec((0u8..21, 0u8..4, any::<bool>()), 0..200)) {
        let mut walk = Walk::default();
        for (step, which, flag) in steps {
            let id = ["a", "b"][usize::from(which % 2)].to_owned();
            let container = walk.registry.find(&id).unwrap_or(Instance(u64::MAX));
            // Half of the inputs are for an exec of the container.
            let exec = walk.registry.find_exec(container, "e").unwrap_or(Instance(u64::MAX));
            let known = if which < 2 { container } else { exec };
            match step {
                0 | 1 => walk.command(Command::Create { id, auto_remove: flag }),
                2 => walk.command(Command::Process(known, ProcessCommand::Start)),
                3 => walk.command(Command::Process(known, ProcessCommand::Wait)),
                4 => walk.command(Command::Process(known, ProcessCommand::Kill { signal: 9, all: flag })),
                5 => walk.command(Command::Process(known, ProcessCommand::Delete { force: flag })),
                6 | 14 => walk.input(Input::Event(known, Event::Cloned { pid: 2, owns_pid_namespace: flag })),
                12 | 13 => walk.command(Command::Exec { target: container, id: "e".into(), auto_remove: flag }),
                7 => walk.input(Input::Event(known, Event::SetUp { parked: flag })),
                8 if flag => walk.input(Input::Event(known, Event::SetUpFailed(failure()))),
                8 => walk.input(Input::Event(known, Event::NotCloned(failure()))),
                9 if which == 0 && flag => walk.input(Input::Event(known, Event::NotReleased(failure()))),
                9 => walk.input(Input::Event(known, Event::Released(if flag { Ok(()) } else { Err(failure()) }))),
                15 => walk.command(Command::Process(known, ProcessCommand::Pause)),
                16 => walk.command(Command::Process(known, ProcessCommand::Resume)),
                17 => walk.input(Input::Event(known, Event::PaceChanged(if flag { Ok(()) } else { Err(failure()) }))),
                18 => walk.input(Input::Event(known, Event::OutOfMemory)),
                19 => walk.input(Input::Event(container, Event::Restored)),
                20 => walk.input(Input::Event(container, Event::Checkpointed)),
                10 => walk.input(Input::Event(known, Event::Exited(exit(1)))),
                _ => walk.input(Input::Event(known, Event::Removed(if flag { Ok(()) } else { Err(failure()) }))),
            }
        }
        // Whatever came before, a removal of everything answers everybody.
        for id in ["a", "b"] {
            let Some(known) = walk.registry.find(id) else { continue };
            let execs: Vec<Instance> = walk.registry.execs(known).map(|(_, exec)| exec).collect();
            let finish = [Event::SetUp { parked: false }, Event::Released(Ok(())), Event::Exited(exit(0))];
            for (instance, event) in execs.iter().chain([&known]).flat_map(|one| finish.iter().map(|event| (*one, event))) {
                walk.input(Input::Event(instance, event.clone()));
            }
            for instance in execs.into_iter().chain([known]) {
                walk.command(Command::Process(instance, ProcessCommand::Delete { force: true }));
                walk.input(Input::Event(instance, Event::Removed(Ok(()))));
            }
            prop_assert_eq!(walk.registry.find(id), None);
        }
        prop_assert!(walk.registry.lives.is_empty());
        prop_assert_eq!(walk.answered.len() as u64, walk.tickets);
    }
}
