//! What becomes of what an earlier supervisor left: the table of `recovery.rs`, and the order of what is told.

use super::*;

const INIT: PidRecord = PidRecord { pid: 7, start_time: 70 };
const EXEC: PidRecord = PidRecord { pid: 8, start_time: 80 };

fn remains(process: PidRecord) -> Remains {
    Remains { process, exit: None, lives: false, of_keeper: true, parked: false, untold: false, auto_remove: false }
}

fn alone(init: Remains) -> ContainerRemains {
    ContainerRemains { id: "a".into(), init, leads_namespace: true, paused: false, execs: Vec::new() }
}

fn kept(exits: &[(PidRecord, ExitRecord)]) -> Kept<'_> {
    exits.iter().map(|(process, exit)| (*process, exit)).collect()
}

/// Takes it over, and has everything told that is to be told.
fn taken_over(found: ContainerRemains, exits: &[(PidRecord, ExitRecord)]) -> (Registry, Vec<Adopted>, Vec<Effect>) {
    let mut registry = Registry::default();
    let adopted = registry.take_over(found, &kept(exits));
    let events = adopted.iter().filter_map(|one| Some(Input::Event(one.instance, one.event()?)));
    let effects = events.flat_map(|event| registry.handle(event)).collect();
    (registry, adopted, effects)
}

#[test]
fn every_remains_has_its_standing() {
    let alive = Remains { lives: true, ..remains(INIT) };
    let recorded = Remains { exit: Some(exit(3)), ..remains(INIT) };
    let kept = [(INIT, exit(5))];
    let other = [(PidRecord { start_time: 71, ..INIT }, exit(5))];
    let table = [
        ("alive", alive.clone(), &[][..], Standing::Alive, Status::Running),
        ("parked", Remains { parked: true, ..alive }, &[], Standing::Alive, Status::Created),
        ("recorded", recorded.clone(), &[], Standing::Told(exit(3)), Status::Stopped),
        ("recorded, and the keeper has it too", recorded, &kept, Standing::Told(exit(3)), Status::Stopped),
        ("the keeper has it", remains(INIT), &kept, Standing::Ended(exit(5)), Status::Stopped),
        ("the keeper has another with this pid", remains(INIT), &other, Standing::Unaccounted, Status::Running),
        ("nobody has it", remains(INIT), &[], Standing::Unaccounted, Status::Running),
    ];
    for (name, found, kept, standing, status) in table {
        let (registry, adopted, effects) = taken_over(alone(found), kept);
        assert_eq!(adopted[0].standing, standing, "{name}");
        assert_eq!(registry.look(adopted[0].instance).map(|(status, ..)| status), Some(status), "{name}");
        let told = effects.iter().any(|effect| matches!(effect, Effect::RecordExit(..)));
        assert_eq!(told, matches!(standing, Standing::Ended(_)), "{name}: {effects:?}");
    }
}

#[test]
fn what_never_ran_and_was_told_to_nobody_is_undone() {
    let never_ran = ExitRecord { never_ran: true, ..exit(125) };
    let untold = Remains { untold: true, ..remains(INIT) };
    let (_, adopted, effects) = taken_over(alone(untold.clone()), &[(INIT, never_ran.clone())]);
    let container = adopted[0].instance;
    assert_eq!(effects, [Effect::Discard(container), Effect::Remove(container)]);
    // Its program ran; or somebody was told, and so is told its end.
    for (found, exit) in [(untold.clone(), exit(125)), (remains(INIT), never_ran.clone())] {
        let (_, adopted, effects) = taken_over(alone(found), &[(INIT, exit.clone())]);
        assert_eq!(effects, [Effect::RecordExit(adopted[0].instance, exit), Effect::Reap(adopted[0].instance)]);
    }
    // Whoever waits for one that is still on its way hears why there is nothing to wait for.
    let (mut registry, adopted, _) = taken_over(alone(Remains { lives: true, ..untold.clone() }), &[]);
    let container = adopted[0].instance;
    registry.handle(Input::Command(Ticket(1), Command::Process(container, ProcessCommand::Wait)));
    let effects = registry.handle(Input::Event(container, Event::Exited(never_ran.clone())));
    let refused = |failure: &Failure| failure.kind == FailureKind::SetupFailed;
    assert!(
        matches!(&effects[..], [Effect::Reply(Ticket(1), Reply::Refused(failure)), Effect::Discard(_), Effect::Remove(_)]
        if refused(failure)),
        "{effects:?}"
    );
    // An exec was made in it: it is no secret.
    let (mut registry, adopted, _) = taken_over(alone(Remains { lives: true, ..untold }), &[]);
    let container = adopted[0].instance;
    let exec = Command::Exec { target: container, id: "e".into(), auto_remove: false };
    registry.handle(Input::Command(Ticket(1), exec));
    let exec = registry.find_exec(container, "e").expect("it is being made");
    let failure = Failure::new(FailureKind::LaunchFailed, String::new());
    registry.handle(Input::Event(exec, Event::NotCloned(failure)));
    let effects = registry.handle(Input::Event(container, Event::Exited(never_ran.clone())));
    assert_eq!(effects, [Effect::RecordExit(container, never_ran), Effect::Reap(container)]);
}

#[test]
fn a_removal_that_was_ordered_is_made_up_for() {
    let stopped = Remains { exit: Some(exit(3)), auto_remove: true, ..remains(INIT) };
    let (_, adopted, effects) = taken_over(alone(stopped.clone()), &[]);
    assert_eq!(effects, [Effect::Remove(adopted[0].instance)]);
    // The same of an exec, in a container that goes on.
    let found = ContainerRemains {
        execs: vec![("e".into(), Remains { process: EXEC, ..stopped })],
        ..alone(Remains { lives: true, ..remains(INIT) })
    };
    let (_, adopted, effects) = taken_over(found, &[]);
    assert_eq!(effects, [Effect::Remove(adopted[0].instance)]);
}

#[test]
fn an_exec_that_lives_on_ends_before_a_removal_is_made_up_for() {
    let found = ContainerRemains {
        execs: vec![("e".into(), Remains { lives: true, ..remains(EXEC) })],
        ..alone(Remains { exit: Some(exit(3)), auto_remove: true, ..remains(INIT) })
    };
    let (mut registry, adopted, effects) = taken_over(found, &[]);
    let (exec, container) = (adopted[0].instance, adopted[1].instance);
    assert_eq!(effects, [Effect::Signal { instance: exec, signal: libc::SIGKILL, all: false, reply: None }]);
    let effects = registry.handle(Input::Event(exec, Event::Exited(exit(137))));
    assert_eq!(effects, [Effect::RecordExit(exec, exit(137)), Effect::Reap(exec), Effect::Remove(container)]);
}

#[test]
fn adopted_execs_hold_the_exit_back() {
    let living = |process| Remains { lives: true, ..remains(process) };
    let found = ContainerRemains { execs: vec![("e".into(), living(EXEC))], ..alone(living(INIT)) };
    let (mut registry, adopted, effects) = taken_over(found, &[]);
    assert!(effects.is_empty(), "{effects:?}");
    let (exec, container) = (adopted[0].instance, adopted[1].instance);
    assert!(registry.handle(Input::Event(container, Event::Exited(exit(1)))).is_empty());
    let effects = registry.handle(Input::Event(exec, Event::Exited(exit(2))));
    assert!(matches!(&effects[..], [Effect::RecordExit(first, _), _, Effect::RecordExit(then, _), _]
        if *first == exec && *then == container));
}

#[test]
fn exits_that_the_keeper_has_are_told_in_the_same_order() {
    let found = ContainerRemains { execs: vec![("e".into(), remains(EXEC))], ..alone(remains(INIT)) };
    let (_, adopted, effects) = taken_over(found, &[(INIT, exit(1)), (EXEC, exit(2))]);
    let recorded = [Effect::RecordExit(adopted[0].instance, exit(2)), Effect::RecordExit(adopted[1].instance, exit(1))];
    let told: Vec<_> = effects.into_iter().filter(|effect| matches!(effect, Effect::RecordExit(..))).collect();
    assert_eq!(told, recorded);
}

#[test]
fn what_is_inherited_is_accounted_for_until_it_is_told() {
    let mut inherited = Inherited::default();
    let adopted = |number, standing| Adopted { instance: Instance(number), standing, reaper: Reaper::Keeper };
    inherited.enter(INIT, &adopted(1, Standing::Unaccounted));
    inherited.enter(EXEC, &adopted(2, Standing::Alive));
    let past = PidRecord { pid: 9, start_time: 1 };
    inherited.enter(past, &adopted(3, Standing::Told(exit(0))));
    assert_eq!([INIT, EXEC, past].map(|one| inherited.find(one)), [Some(Instance(1)), Some(Instance(2)), None]);
    inherited.await_keeper(Instance(2));
    inherited.told(INIT);
    assert!(inherited.give_up().is_empty(), "the keeper did tell");
    assert_eq!(inherited.awaited().into_iter().collect::<Vec<_>>(), [Instance(2)]);
}

#[test]
fn what_stands_still_is_known_to() {
    let paused = |init| ContainerRemains { paused: true, ..alone(init) };
    let alive = Remains { lives: true, ..remains(INIT) };
    let (mut registry, adopted, _) = taken_over(paused(alive), &[]);
    let container = adopted[0].instance;
    assert_eq!(registry.look(container).map(|(status, ..)| status), Some(Status::Paused));
    let effects = command(&mut registry, 9, container, ProcessCommand::Resume);
    assert_eq!(effects, [Effect::Thaw(container)]);
    // Whatever its freezer says, what has ended has ended.
    let (registry, adopted, _) = taken_over(paused(Remains { exit: Some(exit(3)), ..remains(INIT) }), &[]);
    assert_eq!(registry.look(adopted[0].instance).map(|(status, ..)| status), Some(Status::Stopped));
}
