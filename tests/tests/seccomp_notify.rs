//! `SCMP_ACT_NOTIFY`: system calls that an agent decides about.
#![cfg(target_arch = "x86_64")]

use brood_tests::agent::Agent;
use brood_tests::{Bundle, Container, Face, Sandbox, binaries};
use rustix::io::Errno;
use serde_json::{Value, json};

const MKDIR: i64 = 83;
/// mkdir fails as no file system would let it fail.
const REFUSED: &[(i64, Errno)] = &[(MKDIR, Errno::XFULL)];

fn notify(bundle: &mut Bundle, agent: &std::path::Path, names: &[&str]) {
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": agent,
        "listenerMetadata": "a \"word\"",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_NOTIFY" }],
    });
}

const SCRIPT: &str = "mkdir /tmp/a; rmdir /tmp/none; echo went on";

#[test]
fn the_agent_answers_and_lets_through() {
    for &face in Face::all() {
        for (no_new_privileges, names) in [
            (true, &["mkdir", "rmdir"][..]),
            (false, &["mkdir", "rmdir"]),
            // What whoever sends the listener, and whoever waits for that, might need.
            (true, &["mkdir", "sendmsg", "writev", "read", "execve", "close", "waitid", "sendto", "futex"]),
            (false, &["mkdir", "sendmsg", "writev", "read", "execve", "close", "waitid", "sendto", "capset"]),
        ] {
            let sandbox = Sandbox::new();
            let socket = sandbox.path("agent.sock");
            let agent = Agent::listen(&socket, REFUSED);
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            notify(&mut bundle, &socket, names);
            bundle.config["process"]["noNewPrivileges"] = no_new_privileges.into();
            bundle.config["annotations"] = json!({ "a": "b" });
            bundle.sh(SCRIPT);
            bundle.write();
            let id = sandbox.id("box");
            let output = face.command(&sandbox, &bundle, &id).run();
            let case = format!("{face:?} {no_new_privileges} {names:?}: {output}");
            assert!(output.stdout.contains("went on"), "{case}");
            assert!(output.stderr.contains("Exchange full"), "{case}");
            assert!(output.stderr.contains("'/tmp/none': No such file"), "{case}");
            let state = agent.state();
            assert_eq!(state["fds"], json!(["seccompFd"]), "{case}");
            assert_eq!(state["metadata"], "a \"word\"", "{case}");
            assert_eq!(state["state"]["id"], id, "{case}");
            assert_eq!(state["state"]["status"], "creating", "{case}");
            assert_eq!(state["state"]["annotations"]["a"], "b", "{case}");
            assert!(state["pid"].as_i64().is_some_and(|pid| pid > 1), "{case}: {state}");
            assert_eq!(state["pid"], state["state"]["pid"], "{case}");
        }
    }
}

#[test]
fn every_process_has_a_listener_and_the_hosts_pid() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("agent.sock");
    let agent = Agent::listen(&socket, REFUSED);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    notify(&mut bundle, &socket, &["mkdir", "execve"]);
    bundle.live_until_term(7);
    bundle.write();
    let container = Container { id: sandbox.id("box"), bundle, sandbox }.up();
    let of_init = agent.state();
    assert_eq!(of_init["pid"], container.pid());
    let output = container.oci(&["exec", &container.id, "sh", "-c", SCRIPT]).run();
    assert!(output.stderr.contains("Exchange full") && output.stdout.contains("went on"), "{output}");
    let of_exec: Value = agent.state();
    assert_ne!(of_exec["pid"], of_init["pid"]);
    assert_eq!(of_exec["state"]["pid"], of_init["pid"]);
    assert_eq!(of_exec["state"]["status"], "running");
    container.end();
    container.call(&["delete"]).ok();
}

/// Whoever listens hears of a container when it is created, and not only when it is started.
#[test]
fn the_listener_comes_with_the_creation() {
    for no_new_privileges in [true, false] {
        let sandbox = Sandbox::new();
        let socket = sandbox.path("agent.sock");
        let agent = Agent::listen(&socket, REFUSED);
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        notify(&mut bundle, &socket, &["mkdir"]);
        bundle.config["process"]["noNewPrivileges"] = no_new_privileges.into();
        bundle.write();
        let container = Container { id: sandbox.id("box"), bundle, sandbox };
        container.create();
        assert_eq!(agent.state()["pid"], container.pid());
        assert_eq!(container.status(), "created");
        container.call(&["delete", "--force"]).ok();
    }
}

#[test]
fn nobody_listens() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        notify(&mut bundle, &sandbox.path("nobody.sock"), &["mkdir"]);
        bundle.write();
        let output = face.command(&sandbox, &bundle, &sandbox.id("box")).run();
        assert_ne!(output.code(), 0, "{face:?}: {output}");
        if !binaries::oracle() {
            assert!(output.one_line_error().contains("linux.seccomp.listenerPath"), "{output}");
        }
        assert_eq!(sandbox.containers(), Vec::<String>::new());
    }
}

#[test]
fn a_path_without_use_is_ignored() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.config["linux"]["seccomp"] =
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": sandbox.path("nobody.sock") });
        bundle.write();
        face.command(&sandbox, &bundle, &sandbox.id("box")).run().expect(0);
    }
}
