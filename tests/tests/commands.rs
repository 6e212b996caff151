//! The OCI runtime command: ps, pause, resume, and the finer points of kill and delete.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test commands` asks the same of runc.

use std::fs;

use brood_tests::procfs::{process, status};
use brood_tests::{Bundle, Container, binaries, waiting};
use serde_json::{Value, json};

/// A container that runs a shell with two children, `sleep 1001` and `sleep 1002`.
fn with_children() -> Container {
    Container::new(|bundle| bundle.sh("sleep 1001 & sleep 1002 & touch /tmp/up; wait")).up()
}

/// One that shares the pid namespace of the host.
fn without_pid_namespace(edit: impl Fn(&mut Bundle)) -> Container {
    Container::new(|bundle| {
        edit(bundle);
        let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    })
}

#[track_caller]
fn pids(container: &Container) -> Vec<i32> {
    let json = container.oci(&["ps", "--format", "json", &container.id]).run().ok();
    let mut pids: Vec<i32> = serde_json::from_str(&json).unwrap();
    pids.sort_unstable();
    pids
}

#[track_caller]
fn force(container: &Container) {
    container.call(&["delete", "--force"]).ok();
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn ps_gives_the_processes_as_numbers() {
    let container = with_children();
    let pids = pids(&container);
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&container.pid()));
    let sleeping = pids.iter().filter(|pid| process(**pid).unwrap().cmdline.starts_with("sleep 100")).count();
    assert_eq!(sleeping, 2);
    force(&container);
}

#[test]
fn ps_shows_lines_of_ps() {
    let container = with_children();
    let pid = container.pid().to_string();
    let table = container.call(&["ps"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].contains("PID") && lines[0].contains("PPID"), "{table}");
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines.iter().any(|line| line.contains("sleep 1001")), "{table}");

    let table = container.oci(&["ps", &container.id, "-e", "-o", "stat,pid,comm"]).run().ok();
    let init = table.lines().find(|line| line.split_whitespace().nth(1) == Some(pid.as_str()));
    assert!(init.is_some_and(|line| line.ends_with(" sh")), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");

    container.oci(&["ps", &container.id, "-e", "-o", "args"]).run().one_line_error();
    container.oci(&["ps", "--format", "poem", &container.id]).run().one_line_error();
    if !binaries::oracle() {
        let json = container.oci(&["ps", &container.id, "--format", "json"]).run().ok();
        assert_eq!(serde_json::from_str::<Vec<i32>>(&json).unwrap().len(), 3);
        let refused = container.oci(&["ps", &container.id, "--no-such-option"]).run();
        assert!(refused.one_line_error().contains("no-such-option"), "{refused}");
    }
    force(&container);
}

#[test]
fn ps_of_a_stopped_container_is_empty() {
    let container = Container::long_lived().up();
    container.end();
    let json: Value = serde_json::from_str(&container.oci(&["ps", "-f", "json", &container.id]).run().ok()).unwrap();
    assert!(json.as_array().is_none_or(Vec::is_empty), "{json}");
    container.call(&["delete"]).ok();
}

#[test]
fn pause_stops_every_process_and_resume_lets_them_go_on() {
    let container = Container::new(|bundle| {
        bundle.sh("while :; do echo -n x >> /tmp/alive; touch /tmp/up; done");
    })
    .up();
    let alive = container.bundle.rootfs().join("tmp/alive");
    let length = || fs::metadata(&alive).map_or(0, |metadata| metadata.len());
    container.call(&["pause"]).ok();
    // `pause` came back, so nothing moves any more, without having to wait for it.
    let before = length();
    assert_eq!(container.status(), "paused");
    let listed: Value = serde_json::from_str(&container.oci(&["list", "-f", "json"]).run().ok()).unwrap();
    assert_eq!(listed[0]["status"], "paused");
    assert_eq!(listed[0]["pid"], json!(container.pid()));
    assert_eq!(length(), before);
    container.call(&["resume"]).ok();
    assert_eq!(container.status(), "running");
    waiting::until("it goes on", || (length() > before).then_some(()));
    force(&container);
}

#[test]
fn what_a_paused_container_refuses() {
    let container = Container::long_lived().up();
    let refused = container.call(&["resume"]);
    assert!(refused.one_line_error().contains("container not paused"), "{refused}");
    container.call(&["pause"]).ok();
    let refused = container.call(&["pause"]);
    assert!(refused.one_line_error().contains("container not running"), "{refused}");
    let refused = container.call(&["start"]);
    assert!(refused.one_line_error().contains("paused"), "{refused}");
    let refused = container.call(&["delete"]);
    assert!(refused.one_line_error().contains("paused"), "{refused}");
    let refused = container.oci(&["exec", &container.id, "true"]).run().expect(255);
    assert!(refused.one_line_error().contains("paused container"), "{refused}");

    let mut exec = container.oci(&["exec", "--ignore-paused", &container.id, "sh", "-c", "echo in"]).start();
    // It is born frozen like the others.
    waiting::until("one more process", || (pids(&container).len() == 3).then_some(()));
    container.call(&["resume"]).ok();
    exec.output_until(|text| text == "in\n");
    exec.finish().ok();
    container.oci(&["kill", &container.id, "TERM"]).run().ok();
    waiting::until("its end", || (container.status() == "stopped").then_some(()));
    let refused = container.call(&["pause"]);
    assert!(refused.one_line_error().contains("container not running"), "{refused}");
    container.call(&["delete"]).ok();
}

#[test]
fn a_created_container_can_be_paused_too() {
    let container = Container::long_lived();
    container.create();
    container.call(&["pause"]).ok();
    assert_eq!(container.status(), "paused");
    let refused = container.call(&["start"]);
    assert!(refused.one_line_error().contains("cannot start a container in the paused state"), "{refused}");
    container.call(&["resume"]).ok();
    assert_eq!(container.status(), "created");
    container.call(&["start"]).ok();
    container.bundle.await_up();
    force(&container);
}

#[test]
fn a_paused_container_can_be_killed() {
    let container = Container::long_lived().up();
    container.call(&["pause"]).ok();
    container.end();
    waiting::until("its end", || (container.status() == "stopped").then_some(()));
    container.call(&["delete"]).ok();
}

#[test]
fn delete_with_force_takes_a_paused_container() {
    let container = with_children();
    let pids = pids(&container);
    container.call(&["pause"]).ok();
    force(&container);
    for pid in pids {
        waiting::gone(pid);
    }
}

#[test]
fn a_signal_to_a_paused_container_arrives_later() {
    let container = Container::long_lived().up();
    let pid = container.pid();
    container.call(&["pause"]).ok();
    container.oci(&["kill", &container.id, "TERM"]).run().ok();
    assert_eq!(container.status(), "paused");
    container.call(&["resume"]).ok();
    waiting::gone(pid);
    container.call(&["delete"]).ok();
}

#[test]
fn without_a_cgroup_there_is_no_pause() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc has no way to go without");
        return;
    }
    let container = Container::long_lived();
    let words = ["--cgroup-manager", "disabled", "run", "--detach", "--bundle"];
    container.oci(&words).arg(container.bundle.path()).arg(&container.id).run().ok();
    container.bundle.await_up();
    for command in ["pause", "resume", "ps"] {
        let refused = container.call(&[command]);
        assert!(refused.one_line_error().contains("has no cgroup"), "{refused}");
    }
    // What cannot be done for all is done for the one, and said.
    let output = container.oci(&["kill", "--all", &container.id, "TERM"]).run().expect(0);
    assert!(output.stderr.contains("level=warning"), "{output}");
    waiting::until("its end", || (container.status() == "stopped").then_some(()));
    container.call(&["delete"]).ok();
}

#[test]
fn kill_all_reaches_every_process() {
    let container = Container::new(|bundle| {
        // The shell says on standard error that its `sleep` was killed, and nobody reads that any more.
        bundle.sh(
            "exec 2> /dev/null; sh -c 'trap \"touch /tmp/child\" USR1; touch /tmp/up; while :; do sleep 1; done' & \
                   trap 'touch /tmp/init' USR1; while :; do wait; done",
        );
    })
    .up();
    container.oci(&["kill", "--all", &container.id, "USR1"]).run().ok();
    for name in ["tmp/init", "tmp/child"] {
        let mark = container.bundle.rootfs().join(name);
        waiting::until(name, || mark.exists().then_some(()));
    }
    container.oci(&["kill", "-a", &container.id, "KILL"]).run().ok();
    waiting::until("its end", || (container.status() == "stopped").then_some(()));
    // Nobody is left: for all of nobody that is fine, for the init process it is not.
    container.oci(&["kill", "-a", &container.id, "KILL"]).run().ok();
    let refused = container.oci(&["kill", &container.id, "KILL"]).run();
    assert!(refused.one_line_error().contains("container not running"), "{refused}");
    container.call(&["delete"]).ok();
}

#[test]
fn without_a_pid_namespace_nobody_is_left_over() {
    let container = without_pid_namespace(|bundle| bundle.sh("sleep 1001 & touch /tmp/up; wait")).up();
    let pids = pids(&container);
    assert_eq!(pids.len(), 2);
    container.oci(&["kill", &container.id, "KILL"]).run().ok();
    if binaries::oracle() {
        // Debian's runc is older than this behaviour.
        container.oci(&["kill", "--all", &container.id, "KILL"]).run().ok();
    }
    for pid in pids {
        waiting::gone(pid);
    }
    container.call(&["delete"]).ok();

    let container = without_pid_namespace(|bundle| bundle.sh("sleep 1001 & touch /tmp/up; exit 0"));
    container.create();
    container.call(&["start"]).ok();
    waiting::until("its end", || (container.status() == "stopped").then_some(()));
    let left = self::pids(&container);
    assert_eq!(left.len(), 1, "the child outlives the init process");
    container.call(&["delete"]).ok();
    waiting::gone(left[0]);
}

#[test]
fn real_time_signals_have_names() {
    let container = Container::new(|bundle| {
        bundle.sh("trap 'touch /tmp/got' 37; touch /tmp/up; while :; do sleep 1000 & wait; done");
    })
    .up();
    let name = if binaries::oracle() { "37" } else { "SIGRTMIN+3" };
    assert_eq!(status(container.pid(), "State").unwrap().chars().next(), Some('S'));
    container.oci(&["kill", &container.id, name]).run().ok();
    let got = container.bundle.rootfs().join("tmp/got");
    waiting::until(name, || got.exists().then_some(()));
    for wrong in ["RTMIN+99", "KILLED", "9x"] {
        let refused = container.oci(&["kill", &container.id, wrong]).run();
        assert!(refused.one_line_error().contains("unknown signal"), "{refused}");
    }
    force(&container);
}

#[test]
fn delete_needs_no_force_for_what_never_ran() {
    let container = Container::long_lived();
    container.create();
    let pid = container.pid();
    container.call(&["delete"]).ok();
    waiting::gone(pid);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn delete_says_what_it_does_not_take() {
    let container = Container::long_lived().up();
    let refused = container.call(&["delete"]);
    let expected = format!("cannot delete container {} that is not stopped: running", container.id);
    assert!(refused.one_line_error().contains(&expected), "{refused}");
    force(&container);
    let refused = container.call(&["delete"]);
    assert!(refused.one_line_error().contains("container does not exist"), "{refused}");
    container.call(&["delete", "--force"]).ok();
    container.call(&["delete", "-f"]).ok();
}

#[test]
fn regular_expressions_choose_containers() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc has none, crun refuses this machine");
        return;
    }
    let container = Container::long_lived();
    let id = |name: &str| container.sandbox.id(name);
    for name in ["a1", "a2", "b1"] {
        container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(id(name)).run().ok();
    }
    let status = |name: &str| {
        let text = container.oci(&["state", &id(name)]).run().ok();
        serde_json::from_str::<Value>(&text).unwrap()["status"].as_str().unwrap().to_owned()
    };
    container.oci(&["kill", "--regex", "^a[0-9]-", "KILL"]).run().ok();
    for name in ["a1", "a2"] {
        waiting::until(name, || (status(name) == "stopped").then_some(()));
    }
    assert_eq!(status("b1"), "created");
    let output = container.oci(&["kill", "-r", "1-", "KILL"]).run().expect(0);
    assert_eq!(output.stderr.matches("level=warning").count(), 1, "a1 is stopped already: {output}");
    waiting::until("b1", || (status("b1") == "stopped").then_some(()));
    container.oci(&["delete", "--regex", "1-"]).run().ok();
    assert_eq!(container.sandbox.containers(), [id("a2")]);
    let refused = container.oci(&["delete", "--force", "--regex", "("]).run();
    assert!(refused.one_line_error().contains("invalid regular expression"), "{refused}");
    container.oci(&["delete", "-r", "-f", "."]).run().ok();
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn ps_of_one_container_does_not_show_another_ones() {
    let (one, two) = (Container::long_lived().up(), Container::long_lived().up());
    assert!(pids(&one).iter().all(|pid| !pids(&two).contains(pid)));
    force(&one);
    force(&two);
}
