//! Execs, and what they and their container mean for each other.

use super::*;
use crate::limits::{EXECS_MAX, EXECS_PER_CONTAINER_MAX};

/// An exec in a running container, brought to a phase by the inputs that lead there.
pub(super) fn reached(phase: &str) -> (Registry, Instance) {
    let (mut registry, container) = super::reached("running");
    let exec = exec_in(&mut registry, container, phase);
    (registry, exec)
}

fn exec_in(registry: &mut Registry, container: Instance, phase: &str) -> Instance {
    registry.handle(ask(1000, container, "e"));
    let exec = registry.find_exec(container, "e").unwrap();
    bring(registry, exec, phase, false);
    exec
}

fn ask(ticket: u64, target: Instance, name: &str) -> Input {
    Input::Command(Ticket(ticket), Command::Exec { target, id: name.into(), auto_remove: false })
}

/// A running container that shares its pid namespace, with a running exec.
fn shared() -> (Registry, Instance, Instance) {
    let (mut registry, container) = super::reached("creating");
    bring(&mut registry, container, "running", false);
    let exec = exec_in(&mut registry, container, "running");
    (registry, container, exec)
}

fn exited(instance: Instance, status: u8) -> Input {
    Input::Event(instance, Event::Exited(exit(status)))
}

#[test]
fn an_exec_in_every_phase_of_its_container() {
    let table = [
        ("creating", "refused"),
        ("failing", "refused"),
        ("created", "acts"),
        ("starting", "acts"),
        ("running", "acts"),
        ("pausing", "refused"),
        ("paused", "refused"),
        ("resuming", "refused"),
        ("stopped", "refused"),
        ("removing", "refused"),
    ];
    for (phase, expected) in table {
        let (mut registry, target) = super::reached(phase);
        // What begins is a launch and nothing else.
        let expected = if expected == "acts" { "launch" } else { expected };
        let effects = registry.handle(ask(9, target, "e"));
        let met = if matches!(&effects[..], [Effect::Launch(..)]) { "launch" } else { outcome(&effects) };
        assert_eq!(met, expected, "exec while {phase}: {effects:?}");
    }
}

#[test]
fn an_exec_is_told_to_be_added_started_and_ended() {
    let (mut registry, exec) = reached("creating");
    let effects = registry.handle(Input::Event(exec, Event::SetUp { parked: true }));
    let created = Effect::Reply(Ticket(1000), Reply::Created(exec));
    assert_eq!(effects, [Effect::Publish(exec, EventKind::ExecAdded), created]);
    assert_eq!(command(&mut registry, 5, exec, ProcessCommand::Start), [Effect::Release(exec)]);
    let effects = registry.handle(Input::Event(exec, Event::Released(Ok(()))));
    assert_eq!(effects, [Effect::Publish(exec, EventKind::StartProcess), Effect::Reply(Ticket(5), Reply::Done)]);
    assert_eq!(registry.handle(exited(exec, 7)), [Effect::RecordExit(exec, exit(7)), Effect::Reap(exec)]);
    assert_eq!(command(&mut registry, 6, exec, ProcessCommand::Delete { force: false }), [Effect::Remove(exec)]);
    let effects = registry.handle(Input::Event(exec, Event::Removed(Ok(()))));
    assert_eq!(effects, [Effect::Forget(exec), Effect::Reply(Ticket(6), Reply::Done)]);
}

#[test]
fn a_name_is_taken_once_in_a_container() {
    let (mut registry, exec) = reached("running");
    let container = registry.find("a").unwrap();
    let effects = registry.handle(ask(9, container, "e"));
    assert!(matches!(&effects[..], [Effect::Reply(_, Reply::Refused(f))] if f.kind == FailureKind::AlreadyExists));
    registry.handle(exited(exec, 0));
    command(&mut registry, 10, exec, ProcessCommand::Delete { force: false });
    registry.handle(Input::Event(exec, Event::Removed(Ok(()))));
    assert!(matches!(&registry.handle(ask(11, container, "e"))[..], [Effect::Launch(..)]));
}

#[test]
fn an_exec_is_no_container() {
    let (mut registry, exec) = reached("running");
    let effects = registry.handle(ask(9, exec, "f"));
    assert!(matches!(&effects[..], [Effect::Reply(_, Reply::Refused(f))] if f.kind == FailureKind::NotFound));
    let all = ProcessCommand::Kill { signal: 15, all: true };
    let signal = Effect::Signal { instance: exec, signal: 15, all: false, reply: Some(Ticket(9)) };
    assert_eq!(command(&mut registry, 9, exec, all), [signal], "never to the whole container");
}

#[test]
fn exits_of_execs_are_told_before_that_of_the_init_process() {
    let (mut registry, exec) = reached("running");
    let container = registry.find("a").unwrap();
    command(&mut registry, 5, container, ProcessCommand::Wait);
    assert!(registry.handle(exited(container, 1)).is_empty(), "held back");
    for refused in [ProcessCommand::Start, ProcessCommand::Kill { signal: 9, all: false }] {
        assert_eq!(outcome(&command(&mut registry, 6, container, refused)), "refused");
    }
    assert_eq!(outcome(&registry.handle(ask(7, container, "f"))), "refused", "no exec after the init process");
    let told = [
        Effect::RecordExit(exec, exit(137)),
        Effect::Reap(exec),
        Effect::RecordExit(container, exit(1)),
        Effect::Reap(container),
        Effect::Reply(Ticket(5), Reply::Exit(exit(1))),
    ];
    assert_eq!(registry.handle(exited(exec, 137)), told);
}

#[test]
fn an_exec_that_fails_lets_the_exit_go_too() {
    let (mut registry, exec) = reached("creating");
    let container = registry.find("a").unwrap();
    assert!(registry.handle(exited(container, 1)).is_empty());
    let effects = registry.handle(Input::Event(exec, Event::NotCloned(failure())));
    let told = [Effect::Remove(exec), Effect::RecordExit(container, exit(1)), Effect::Reap(container)];
    assert_eq!(effects, told);
}

#[test]
fn in_a_shared_pid_namespace_the_exit_waits_for_nobody() {
    let (mut registry, container, exec) = shared();
    let told = [Effect::RecordExit(container, exit(1)), Effect::Reap(container)];
    assert_eq!(registry.handle(exited(container, 1)), told);
    assert_eq!(registry.look(exec).map(|(status, ..)| status), Some(Status::Running));
    // But nothing is removed from under the exec.
    let kill = Effect::Signal { instance: exec, signal: libc::SIGKILL, all: false, reply: None };
    assert_eq!(command(&mut registry, 5, container, ProcessCommand::Delete { force: false }), [kill]);
    let told = [Effect::RecordExit(exec, exit(137)), Effect::Reap(exec), Effect::Remove(container)];
    assert_eq!(registry.handle(exited(exec, 137)), told);
    let effects = registry.handle(Input::Event(container, Event::Removed(Ok(()))));
    assert!(effects.contains(&Effect::Forget(exec)) && effects.contains(&Effect::Reply(Ticket(5), Reply::Done)));
    assert_eq!(registry.look(exec), None);
}

#[test]
fn an_exec_that_is_being_made_is_ended_for_a_removal() {
    let (mut registry, container, _) = shared();
    registry.handle(ask(8, container, "late"));
    let late = registry.find_exec(container, "late").unwrap();
    registry.handle(exited(container, 1));
    command(&mut registry, 5, container, ProcessCommand::Delete { force: false });
    let effects = registry.handle(Input::Event(late, Event::SetUp { parked: true }));
    let kill = Effect::Signal { instance: late, signal: libc::SIGKILL, all: false, reply: None };
    assert!(effects.contains(&kill), "{effects:?}");
}

#[test]
fn execs_are_bounded() {
    let (mut registry, container) = super::reached("running");
    for number in 0..EXECS_PER_CONTAINER_MAX {
        assert_eq!(registry.handle(ask(5, container, &number.to_string())).len(), 1);
    }
    let overloaded = |effects: &[Effect]| matches!(effects, [Effect::Reply(_, Reply::Refused(f))] if f.kind == FailureKind::Overloaded);
    assert!(overloaded(&registry.handle(ask(6, container, "more"))));
    for other in 1..=EXECS_MAX / EXECS_PER_CONTAINER_MAX {
        let id = format!("b{other}");
        registry.handle(Input::Command(Ticket(7), Command::Create { id: id.clone(), auto_remove: false }));
        let container = registry.find(&id).unwrap();
        bring(&mut registry, container, "running", true);
        let made = (0..EXECS_PER_CONTAINER_MAX)
            .filter(|number| !overloaded(&registry.handle(ask(8, container, &number.to_string()))));
        let expected = if other < EXECS_MAX / EXECS_PER_CONTAINER_MAX { EXECS_PER_CONTAINER_MAX } else { 0 };
        assert_eq!(made.count(), expected);
    }
}
