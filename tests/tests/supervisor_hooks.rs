//! Hooks that the daemon runs: one that takes long holds up its own container, for a limited time, and nothing else.
//! What hooks are and when they run is in `hooks.rs`.

use std::fs;
use std::path::PathBuf;

use brood_tests::procfs::process;
use brood_tests::{Bundle, Cmd, Daemon, Sandbox, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

macro_rules! on_both_reactors {
    ($($test:ident)*) => {
        mod io_uring { $(#[test] fn $test() { super::$test("io_uring"); })* }
        mod epoll { $(#[test] fn $test() { super::$test("epoll"); })* }
    };
}

on_both_reactors! {
    hooks_of_many_containers_hold_up_no_other
    a_hook_that_outlasts_the_time_to_start_ends_its_container
    a_start_that_takes_too_long_leaves_a_stopped_container
    a_daemon_is_up_before_the_hooks_of_what_others_left
    a_stopping_daemon_waits_for_no_hook
    a_run_with_rm_returns_after_the_removal
}

fn sh(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

/// A hook that hangs, and the file that has its pid.
struct Hanging(PathBuf);

impl Hanging {
    fn new(sandbox: &Sandbox, name: &str) -> Hanging {
        Hanging(sandbox.path(format!("{name}.hook")))
    }

    fn hook(&self) -> Value {
        sh(&format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", self.0.display()))
    }

    /// Waits until it runs.
    #[track_caller]
    fn pid(&self) -> i32 {
        waiting::until("the hook", || fs::read_to_string(&self.0).ok()?.trim().parse().ok())
    }

    #[track_caller]
    fn end(&self) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), Signal::TERM).expect("it runs");
    }
}

fn bundle(sandbox: &Sandbox, name: &str, hooks: Value) -> Bundle {
    let mut bundle = Bundle::busybox(sandbox, name);
    bundle.live_until_term(7);
    bundle.config["hooks"] = hooks;
    bundle.write();
    bundle
}

fn run_detached(daemon: &Daemon, sandbox: &Sandbox, bundle: &Bundle, name: &str) -> Cmd {
    daemon.brood().args(["run", "-d", "--name", &sandbox.id(name), "--bundle"]).arg(bundle.path())
}

fn hooks_of_many_containers_hold_up_no_other(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--reactor", reactor, "--start-timeout", "100s"]);
    // More than there are threads for what may block.
    let hanging: Vec<_> = (0..10)
        .map(|number| {
            let name = format!("box{number}");
            let hanging = Hanging::new(&sandbox, &name);
            let bundle = bundle(&sandbox, &name, json!({ "createRuntime": [hanging.hook()] }));
            let run = run_detached(&daemon, &sandbox, &bundle, &name).start();
            (hanging, bundle, run)
        })
        .collect();
    for (hanging, ..) in &hanging {
        hanging.pid();
    }
    let hooked = bundle(&sandbox, "other", json!({ "createRuntime": [sh("true")] }));
    run_detached(&daemon, &sandbox, &hooked, "other").run().ok();
    for (hanging, _, run) in hanging {
        hanging.end();
        let output = run.finish();
        assert!(output.one_line_error().contains("createRuntime hook #0"), "{output}");
    }
}

fn a_hook_that_outlasts_the_time_to_start_ends_its_container(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--reactor", reactor, "--start-timeout", "1s"]);
    for kind in ["createRuntime", "poststart"] {
        let hanging = Hanging::new(&sandbox, kind);
        let (next, last) = (sandbox.path(format!("{kind}.next")), sandbox.path(format!("{kind}.last")));
        let pid = hanging.0.display();
        // The last hook says whether the one that took too long was gone by then.
        let hooks = json!({
            kind: [hanging.hook(), sh(&format!("touch {}", next.display()))],
            "poststop": [sh(&format!("kill -0 $(cat {pid}) || echo gone > {}", last.display()))],
        });
        let bundle = bundle(&sandbox, kind, hooks);
        let failed = run_detached(&daemon, &sandbox, &bundle, kind).run();
        assert!(failed.one_line_error().contains("--start-timeout"), "{kind}: {failed}");
        assert!(process(hanging.pid()).is_none(), "{kind}: it is killed, and reaped");
        assert!(!next.exists(), "{kind}: the list goes on");
        assert_eq!(fs::read_to_string(&last).unwrap_or_default(), "gone\n", "{kind}");
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{kind}");
    }
}

fn a_start_that_takes_too_long_leaves_a_stopped_container(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--reactor", reactor, "--start-timeout", "1s"]);
    for (kind, hook) in [
        ("startContainer", json!({ "path": "/bin/sleep", "args": ["sleep", "1000"] })),
        ("poststart", Hanging::new(&sandbox, "poststart").hook()),
    ] {
        let (bundle, id) = (bundle(&sandbox, kind, json!({ kind: [hook] })), sandbox.id(kind));
        daemon.brood().args(["create", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
        let failed = daemon.brood().args(["start", &id]).run();
        assert!(failed.one_line_error().contains("--start-timeout"), "{kind}: {failed}");
        let state: Value = serde_json::from_str(&daemon.brood().args(["state", &id]).run().ok()).unwrap();
        assert_eq!(state["status"], "stopped", "{kind}");
        daemon.brood().args(["wait", &id]).run().expect(137);
        daemon.brood().args(["start", &id]).run().one_line_error();
        daemon.brood().args(["rm", &id]).run().ok();
    }
}

fn a_daemon_is_up_before_the_hooks_of_what_others_left(reactor: &str) {
    let sandbox = Sandbox::new();
    let hanging = Hanging::new(&sandbox, "box");
    let bundle = bundle(&sandbox, "box", json!({ "poststop": [hanging.hook()] }));
    let run = sandbox.brood().args(["run", "--bundle"]).arg(bundle.path()).start();
    bundle.await_up();
    run.signal(Signal::KILL);
    run.finish();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    assert_eq!(daemon.brood().args(["list", "--quiet"]).run().ok(), "");
    hanging.end();
    waiting::until("the removal", || sandbox.containers().is_empty().then_some(()));
}

fn a_stopping_daemon_waits_for_no_hook(reactor: &str) {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox, &["--reactor", reactor, "--start-timeout", "100s"]);
    let hanging = Hanging::new(&sandbox, "box");
    let bundle = bundle(&sandbox, "box", json!({ "createRuntime": [hanging.hook()] }));
    let run = run_detached(&daemon, &sandbox, &bundle, "box").start();
    let hook = hanging.pid();
    daemon.stop();
    waiting::gone(hook);
    run.finish().one_line_error();
    // What it leaves is a stopped container, which the guard removes by the next daemon.
    let _next = Daemon::with_reactor(&sandbox, reactor);
}

/// On one reactor: it takes as long as the daemon's patience lasts, 20 s.
#[test]
fn a_daemon_that_removes_all_waits_for_its_hooks_for_a_time() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--kill-on-exit"]);
    let hanging = Hanging::new(&sandbox, "box");
    let bundle = bundle(&sandbox, "box", json!({ "poststop": [hanging.hook()] }));
    run_detached(&daemon, &sandbox, &bundle, "box").run().ok();
    bundle.await_up();
    kill_process(Pid::from_raw(daemon.pid()).unwrap(), Signal::TERM).unwrap();
    let hook = hanging.pid();
    waiting::gone(daemon.pid());
    waiting::gone(hook);
    // The next one runs the hook anew, since it has not run to its end.
    fs::remove_file(&hanging.0).unwrap();
    let _next = Daemon::start(&sandbox, &[]);
    hanging.end();
    waiting::until("the removal", || sandbox.containers().is_empty().then_some(()));
}

fn a_run_with_rm_returns_after_the_removal(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let last = sandbox.path("last");
    let mut bundle = Bundle::busybox(&sandbox, "box");
    bundle.sh("exit 3");
    // Long enough for a command that does not wait to be gone.
    bundle.config["hooks"]["poststop"] = json!([sh(&format!("sleep 1; touch {}", last.display()))]);
    bundle.write();
    daemon.brood().args(["run", "--rm", "--bundle"]).arg(bundle.path()).run().expect(3);
    assert!(last.exists(), "the hook has not run yet");
    assert_eq!(daemon.brood().args(["list", "--quiet"]).run().ok(), "");
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}
