//! One supervisor takes the place of another under clients that wait: planned, by a new binary, or because it was killed.

use std::fs;
use std::path::PathBuf;

use brood_tests::{Daemon, Sandbox, binaries, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What takes the supervisor away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Upgrade,
    Kill,
}

fn list(daemon: &Daemon<'_>) -> Vec<Value> {
    let list = daemon.brood().args(["list", "--format", "json"]).run().ok();
    serde_json::from_str(&list).expect("an array of containers")
}

/// A daemon whose binary is a copy of this test's own, which may be replaced.
fn replaceable(sandbox: &Sandbox) -> (PathBuf, Daemon<'_>) {
    let binary = sandbox.path("brood-copy");
    fs::copy(binaries::brood(), &binary).unwrap();
    let script = format!("shift; exec {} \"$@\"", binary.display());
    let daemon = Daemon::start_through(sandbox, &["sh", "-c", &script, "sh"], &[]);
    (binary, daemon)
}

/// Puts another copy in the place of the daemon's binary, as a package manager does.
fn install(binary: &std::path::Path) {
    let new = binary.with_extension("new");
    fs::copy(binaries::brood(), &new).unwrap();
    fs::rename(new, binary).unwrap();
}

fn replace(daemon: &Daemon<'_>, binary: &std::path::Path, by: By) {
    let (keeper, old) = (daemon.named("keeper")[0].pid, daemon.supervisor().pid);
    match by {
        By::Upgrade => {
            install(binary);
            let said = daemon.brood().args(["daemon", "--upgrade"]).run();
            assert!(said.stdout.contains(&format!("(pid {old}) -> ")), "{said}\n{}", daemon.log());
        }
        By::Kill => {
            kill_process(Pid::from_raw(old).unwrap(), Signal::KILL).unwrap();
            waiting::gone(old);
        }
    }
    assert_ne!(daemon.supervisor().pid, old);
    assert_eq!(daemon.named("keeper")[0].pid, keeper, "the parent of the orphans stays");
}

/// Clients of every kind wait, and none of them notices.
fn clients_go_on(by: By) {
    let sandbox = Sandbox::new();
    let (binary, daemon) = replaceable(&sandbox);
    let (attached, waited, removed) = (sandbox.id("attached"), sandbox.id("waited"), sandbox.id("removed"));
    let go = sandbox.path("go");
    // Two lines, one before and one after; only its own standard output has them.
    let script = format!("echo before; until [ -e {} ]; do sleep 0.05; done; echo after; exit 7", go.display());
    let volume = format!("{0}:{0}", go.parent().unwrap().display());
    let mut run = daemon.brood().args(["run", "--name", &attached, "-v", &volume, "sh", "-c", &script]).start();
    run.output_until(|text| text.contains("before"));
    let mut gone = daemon.brood().args(["run", "--rm", "--name", &removed, "-v", &volume, "sh", "-c", &script]).start();
    gone.output_until(|text| text.contains("before"));
    daemon.brood().args(["run", "-d", "--name", &waited, "sleep", "1000"]).run().ok();
    let mut exec = daemon.brood().args(["exec", &waited, "sh", "-c", "echo inside; sleep 1000"]).start();
    exec.output_until(|text| text.contains("inside"));
    let wait = daemon.brood().args(["wait", &waited]).start();
    let mut events = daemon.brood().args(["events", "--follow", "--format", "json"]).start();
    events.output_until(|text| text.contains("start-process"));
    let before = list(&daemon);

    replace(&daemon, &binary, by);
    let pids = |list: &[Value]| list.iter().map(|state| state["pid"].clone()).collect::<Vec<_>>();
    assert_eq!(pids(&list(&daemon)), pids(&before), "every container lives");
    fs::write(&go, "").unwrap();
    for running in [run, gone] {
        let output = running.finish().expect(7);
        assert_eq!(output.stdout, "before\nafter\n", "{output}");
    }
    daemon.brood().args(["kill", "--signal", "KILL", &waited]).run().ok();
    assert_eq!(exec.finish().expect(137).stdout, "inside\n");
    assert_eq!(wait.finish().expect(137).stdout, "137\n");
    daemon.brood().args(["rm", &waited, &attached]).run().ok();
    // Each event once, without a gap.
    let text = events.output_until(|text| text.matches("\"delete\"").count() == 3);
    let numbers: Vec<u64> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{text}");
    events.signal(Signal::TERM);
    events.finish();
}

#[test]
fn clients_go_on_over_an_upgrade() {
    clients_go_on(By::Upgrade);
}

#[test]
fn clients_go_on_over_a_crash() {
    clients_go_on(By::Kill);
}

/// Clients wait for some of them; the others' exits come while nobody listens, right before and right after.
#[test]
fn nothing_of_a_thousand_containers_is_lost_by_an_upgrade() {
    const CONTAINERS: usize = 1000;
    let sandbox = Sandbox::new();
    let (binary, daemon) = replaceable(&sandbox);
    let ids: Vec<String> = (0..CONTAINERS).map(|number| sandbox.id(&format!("box{number}"))).collect();
    std::thread::scope(|scope| {
        for half in ids.chunks(CONTAINERS / 2) {
            let daemon = &daemon;
            scope.spawn(move || {
                for id in half {
                    daemon.brood().args(["run", "-d", "--name", id, "sleep", "1000"]).run().ok();
                }
            });
        }
    });
    let before = list(&daemon);
    assert_eq!(before.len(), CONTAINERS);
    let waits: Vec<_> = ids[..20].iter().map(|id| daemon.brood().args(["wait", id]).start()).collect();

    let pid = |state: &Value| state["pid"].as_i64().unwrap() as i32;
    let doomed: Vec<i32> = before[900..].iter().map(pid).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for pid in &doomed {
                kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
            }
        });
        replace(&daemon, &binary, By::Upgrade);
    });
    doomed.iter().for_each(|pid| waiting::gone(*pid));
    let after = waiting::until("every exit", || {
        let list = list(&daemon);
        let told = list[900..].iter().all(|state| state["exit"]["status"] == 137);
        told.then_some(list)
    });
    assert_eq!(after.len(), CONTAINERS);
    assert_eq!(after[..900].iter().map(pid).collect::<Vec<_>>(), before[..900].iter().map(pid).collect::<Vec<_>>());

    let all = |words: &[&str]| daemon.brood().args(words).args(&ids).run();
    all(&["rm", "--force"]).ok();
    for wait in waits {
        assert_eq!(wait.finish().expect(137).stdout, "137\n");
    }
    assert!(list(&daemon).is_empty());
}

#[test]
fn what_does_not_run_is_not_upgraded_to() {
    let sandbox = Sandbox::new();
    let (binary, daemon) = replaceable(&sandbox);
    let supervisor = daemon.supervisor().pid;
    for (text, problem) in [("#!/bin/sh\nexit 3\n", "does not say its version"), ("nothing", "format")] {
        let new = binary.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &binary).unwrap();
        let refused = daemon.brood().args(["daemon", "--upgrade"]).run();
        assert!(refused.one_line_error().to_lowercase().contains(problem), "{refused}");
        // Nor when the keeper is asked by others.
        let refusals = daemon.log().matches("no upgrade").count();
        kill_process(Pid::from_raw(daemon.named("keeper")[0].pid).unwrap(), Signal::HUP).unwrap();
        waiting::until("the refusal", || (daemon.log().matches("no upgrade").count() > refusals).then_some(()));
        assert_eq!(daemon.supervisor().pid, supervisor);
    }
    fs::remove_file(&binary).unwrap();
    let refused = daemon.brood().args(["daemon", "--upgrade"]).run();
    assert!(refused.one_line_error().contains("brood-copy"), "{refused}");
}

#[test]
fn without_a_daemon_there_is_nothing_to_upgrade() {
    let sandbox = Sandbox::new();
    let refused = sandbox.brood().args(["daemon", "--upgrade"]).run();
    assert!(refused.one_line_error().contains("cannot reach the daemon"), "{refused}");
}
