//! Limits, pauses, figures and lack of memory, through the daemon. What each limit means in files is in `limits.rs`.

use std::fs;

use brood_tests::cgroups;
use brood_tests::{Bundle, Cmd, Daemon, Sandbox, guest, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

macro_rules! on_both_reactors {
    ($($test:ident)*) => {
        mod io_uring { $(#[test] fn $test() { super::$test("io_uring"); })* }
        mod epoll { $(#[test] fn $test() { super::$test("epoll"); })* }
    };
}

on_both_reactors! {
    out_of_memory_is_told_before_the_exit
    out_of_memory_is_told_while_others_live_on
    a_paused_container_stands_still
    what_is_paused_can_be_killed_and_deleted
    a_killed_supervisor_leaves_it_paused
    figures_grow
    an_update_changes_what_it_names
}

macro_rules! in_the_guest {
    ($($test:ident)*) => {
        mod v2 { $(
            #[test]
            #[ignore = "runs in the guest: tests/guest/run"]
            fn $test() {
                super::guest::insist();
                super::$test("epoll");
            }
        )* }
    };
}

in_the_guest! {
    out_of_memory_is_told_before_the_exit
    out_of_memory_is_told_while_others_live_on
    a_paused_container_stands_still
    a_killed_supervisor_leaves_it_paused
    figures_grow
    an_update_changes_what_it_names
}

/// Uses up whatever memory there is.
const GLUTTON: &str = "tail /dev/zero";

/// Counts in a file, for ever.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done";

/// A daemon's container, on busybox.
struct Container<'a> {
    daemon: &'a Daemon<'a>,
    bundle: Bundle,
    id: String,
}

impl<'a> Container<'a> {
    /// `brood run -d OPTIONS... -- sh -c SCRIPT`
    #[track_caller]
    fn run(daemon: &'a Daemon<'a>, sandbox: &Sandbox, options: &[&str], script: &str) -> Self {
        Self::named("box", daemon, sandbox, options, script)
    }

    #[track_caller]
    fn named(name: &str, daemon: &'a Daemon<'a>, sandbox: &Sandbox, options: &[&str], script: &str) -> Self {
        let this = Self { daemon, bundle: Bundle::busybox(sandbox, name), id: sandbox.id(name) };
        let rootfs = this.bundle.rootfs();
        let run = daemon.brood().args(["run", "-d", "--name", &this.id, "--rootfs"]).arg(rootfs).args(options);
        run.args(["--", "sh", "-c", script]).run().ok();
        this
    }

    /// `brood COMMAND ARGS... ID`
    fn command(&self, args: &[&str]) -> Cmd {
        self.daemon.brood().args(args).arg(&self.id)
    }

    #[track_caller]
    fn state(&self) -> Value {
        serde_json::from_str(&self.command(&["state"]).run().ok()).expect("`state` prints JSON")
    }

    #[track_caller]
    fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("a pid")).unwrap()
    }

    #[track_caller]
    fn stats(&self) -> Value {
        serde_json::from_str(&self.command(&["stats", "--json"]).run().ok()).expect("`stats --json` prints JSON")
    }

    #[track_caller]
    fn events(&self) -> Vec<Value> {
        let lines = self.daemon.brood().args(["events", "--format", "json", "--id", &self.id]).run().ok();
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
    }

    #[track_caller]
    fn told(&self) -> Vec<String> {
        self.events().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    /// The last whole number that the counter has written.
    fn count(&self) -> u64 {
        waiting::until("the counter", || {
            fs::read_to_string(self.bundle.rootfs().join("tmp/n")).ok()?.trim_end().parse().ok()
        })
    }

    fn counts_on(&self) {
        let before = self.count();
        waiting::until("the counter to go on", || (self.count() > before).then_some(()));
    }
}

fn out_of_memory_is_told_before_the_exit(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &["--memory", "32m"], &format!("exec {GLUTTON}"));
    container.command(&["wait"]).run().expect(137);
    assert_eq!(container.told(), ["create", "start-container", "oom", "exit"]);
    let times: Vec<String> = container.events().iter().map(|event| event["time"].to_string()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let exit = container.state()["exit"].clone();
    assert_eq!(exit["oomKilled"], true, "{exit}");
    let peak = exit["memoryPeak"].as_u64();
    // Kernels before 5.19 do not tell it.
    let known = peak.is_some_and(|peak| peak > 16 << 20 && peak <= 32 << 20);
    assert!(known || (cgroups::is_v2_only() && peak.is_none()), "{exit}");
    assert!(exit["cpuTotalNs"].as_u64().unwrap() > 0, "{exit}");
    assert!(exit["rusage"]["maxRssBytes"].as_u64().unwrap() > 8 << 20, "{exit}");
    assert_eq!(sandbox.record(&container.id, "init/exit"), exit);
    assert_eq!(container.events().last().unwrap()["exit"], exit);
}

fn out_of_memory_is_told_while_others_live_on(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &["--memory", "32m"], &format!("{GLUTTON}; exec sleep 1000"));
    waiting::until("the notice", || container.told().contains(&"oom".to_owned()).then_some(()));
    assert_eq!(container.state()["status"], "running");
    // An exec that is killed so says it too.
    let exec = container.daemon.brood().args(["exec", &container.id, "sh", "-c", &format!("exec {GLUTTON}")]);
    exec.run().expect(137);
    let events = container.events();
    let at = |kind: &str, process: &str| {
        events.iter().rposition(|event| event["type"] == kind && event["process"] == process)
    };
    assert!(at("oom", "init") < at("exit", &exec_name(&events)), "{events:?}");
    assert!(events.iter().filter(|event| event["type"] == "oom").count() >= 2, "{events:?}");
    container.command(&["kill", "-s", "KILL"]).run().ok();
    container.command(&["wait"]).run().expect(137);
    assert_eq!(container.state()["exit"]["oomKilled"], true);
    // One that never lacked memory does not say so.
    let other = Container::named("other", &daemon, &sandbox, &["--memory", "32m"], "true");
    other.command(&["wait"]).run().expect(0);
    assert_eq!(other.state()["exit"]["oomKilled"], Value::Null);
}

fn exec_name(events: &[Value]) -> String {
    let exec = events.iter().find(|event| event["type"] == "exec-added").expect("an exec");
    exec["process"].as_str().unwrap().to_owned()
}

fn a_paused_container_stands_still(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &[], COUNTER);
    container.counts_on();
    assert!(container.command(&["resume"]).run().expect(125).one_line_error().contains("it is running"));
    container.command(&["pause"]).run().ok();
    assert_eq!(container.state()["status"], "paused");
    let file = || fs::read_to_string(container.bundle.rootfs().join("tmp/n")).unwrap();
    let (before, used) = (file(), container.stats()["cpu"]["totalNs"].clone());
    for (command, message) in [("pause", "it is paused"), ("start", "it is paused"), ("rm", "it is paused")] {
        assert!(container.command(&[command]).run().expect(125).one_line_error().contains(message), "{command}");
    }
    let exec = daemon.brood().args(["exec", &container.id, "true"]).run().expect(125);
    assert!(exec.one_line_error().contains("cannot exec in container"), "{exec}");
    assert_eq!((file(), &container.stats()["cpu"]["totalNs"]), (before, &used));
    let listed = daemon.brood().args(["ps"]).run().ok();
    assert!(listed.lines().any(|line| line.contains(&container.id) && line.contains("paused")), "{listed}");
    container.command(&["resume"]).run().ok();
    assert_eq!(container.state()["status"], "running");
    container.counts_on();
    assert_eq!(container.told(), ["create", "start-container", "paused", "resumed"]);
}

fn what_is_paused_can_be_killed_and_deleted(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &[], COUNTER);
    container.command(&["pause"]).run().ok();
    let waiter = container.command(&["wait"]).start();
    container.command(&["kill", "-s", "KILL"]).run().ok();
    waiter.finish().expect(137);
    container.command(&["rm"]).run().ok();
    let container = Container::named("second", &daemon, &sandbox, &[], COUNTER);
    container.command(&["pause"]).run().ok();
    container.command(&["rm", "--force"]).run().ok();
    // A signal that can be handled is met when it goes on.
    let script = "trap 'exit 9' TERM; : > /tmp/up; while :; do :; done";
    let container = Container::named("third", &daemon, &sandbox, &[], script);
    container.bundle.await_up();
    container.command(&["pause"]).run().ok();
    container.command(&["kill"]).run().ok();
    assert_eq!(container.state()["status"], "paused");
    // It may end before it is told that it goes on.
    let resumed = container.command(&["resume"]).run();
    assert!(resumed.code() == 0 || resumed.stderr.contains("has stopped"), "{resumed}");
    container.command(&["wait"]).run().expect(9);
}

fn a_killed_supervisor_leaves_it_paused(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &[], COUNTER);
    container.counts_on();
    container.command(&["pause"]).run().ok();
    let supervisor = daemon.supervisor();
    kill_process(Pid::from_raw(supervisor.pid).unwrap(), Signal::KILL).unwrap();
    waiting::gone(supervisor.pid);
    assert_eq!(container.state()["status"], "paused");
    container.command(&["pause"]).run().expect(125);
    container.command(&["resume"]).run().ok();
    container.counts_on();
    container.command(&["kill", "-s", "KILL"]).run().ok();
    container.command(&["wait"]).run().expect(137);
    assert_eq!(container.told(), ["create", "start-container", "paused", "resumed", "exit"]);
}

fn figures_grow(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &["--memory", "64m", "--pids-limit", "40"], COUNTER);
    let first = container.stats();
    let cpu = |stats: &Value| stats["cpu"]["totalNs"].as_u64().unwrap();
    waiting::until("more processor time", || (cpu(&container.stats()) > cpu(&first)).then_some(()));
    let now = container.stats();
    assert!(now["timeNs"].as_u64() > first["timeNs"].as_u64());
    assert!(now["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{now}");
    assert_eq!(now["memory"]["usage"]["limit"], 64 << 20, "{now}");
    assert_eq!((&now["pids"]["current"], &now["pids"]["limit"]), (&json!(1), &json!(40)), "{now}");
    assert_eq!(now["memory"]["oomKills"], 0, "{now}");
    let table = daemon.brood().arg("stats").run().ok();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = table.lines().map(words).collect();
    assert_eq!(rows[0], ["ID", "CPU", "MEMORY", "LIMIT", "PEAK", "PIDS", "READ", "WRITTEN"]);
    assert_eq!((rows[1][0].as_str(), rows[1][3].as_str(), rows[1][5].as_str()), (&*container.id, "64.0MiB", "1"));
    container.command(&["kill", "-s", "KILL"]).run().ok();
    container.command(&["wait"]).run().expect(137);
    assert!(container.command(&["stats"]).run().expect(125).one_line_error().contains("it is stopped"));
    assert_eq!(daemon.brood().arg("stats").run().ok().lines().count(), 1, "what has stopped is not among all");
    daemon.brood().args(["stats", "nonesuch"]).run().expect(125).one_line_error();
}

/// The file and its content, on v1 and v2.
fn value(pid: i32, controller: &str, v1: &str, v2: &str) -> String {
    cgroups::value(pid, controller, if cgroups::is_v2_only() { v2 } else { v1 })
}

fn an_update_changes_what_it_names(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::run(&daemon, &sandbox, &["--memory", "64m", "--pids-limit", "40"], "exec sleep 1000");
    let pid = container.pid();
    container.command(&["update", "--memory", "96m"]).run().ok();
    assert_eq!(value(pid, "memory", "memory.limit_in_bytes", "memory.max"), (96 << 20).to_string());
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "40");
    let file = sandbox.path("resources.json");
    fs::write(&file, r#"{"pids":{"limit":30},"cpu":{"shares":512}}"#).unwrap();
    // The container had no cgroup of v1's cpu controller; what the options say goes before what the file says.
    let resources = format!("--resources={}", file.display());
    container.command(&["update", "--pids-limit", "25", &resources]).run().ok();
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "25");
    assert_eq!(value(pid, "cpu", "cpu.shares", "cpu.weight"), if cgroups::is_v2_only() { "59" } else { "512" });
    let refused = container.command(&["update", "--pids-limit", "20", "--cpuset-cpus", "77"]).run().expect(125);
    assert!(refused.one_line_error().contains("cpuset"), "{refused}");
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "25", "after a refusal everything is as it was");
    container.command(&["update"]).run().expect(125).one_line_error();
    container.command(&["update", "--memory", "1x"]).run().expect(125).one_line_error();
    container.command(&["pause"]).run().ok();
    container.command(&["update", "--pids-limit", "22"]).run().ok();
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "22");
    // Nothing of the new cgroups is left either.
    container.command(&["rm", "--force"]).run().ok();
    assert!(
        daemon.brood().args(["update", "--memory", "1g", &container.id]).run().expect(125).stderr.contains("exist")
    );
}

/// `run` flags, and what is read back for them on v1 and v2.
#[test]
fn run_flags_become_limits() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let rows = [
        (&["--memory", "64m"][..], "memory", "memory.limit_in_bytes", "67108864"),
        (&["--memory", "0.0625GiB", "--memory-swap", "96MB"], "memory", "memory.memsw.limit_in_bytes", "100663296"),
        (&["--memory-reservation", "32768k"], "memory", "memory.soft_limit_in_bytes", "33554432"),
        (&["--cpus", "1.5"], "cpu", "cpu.cfs_quota_us", "150000"),
        (&["--cpus", ".5"], "cpu", "cpu.cfs_period_us", "100000"),
        (&["--cpu-shares", "512"], "cpu", "cpu.shares", "512"),
        (&["--cpuset-cpus", "0"], "cpuset", "cpuset.cpus", "0"),
        (&["--cpuset-mems", "0"], "cpuset", "cpuset.mems", "0"),
        (&["--pids-limit", "50"], "pids", "pids.max", "50"),
        (&["--pids-limit", "-1"], "pids", "pids.max", "max"),
    ];
    for (number, (flags, controller, file, expected)) in rows.iter().enumerate() {
        let container = Container::named(&format!("box{number}"), &daemon, &sandbox, flags, "exec sleep 1000");
        assert_eq!(cgroups::value(container.pid(), controller, file), *expected, "{flags:?}");
        container.command(&["rm", "--force"]).run().ok();
    }
    drop(daemon);
    // The same without a daemon; the program tells where it is.
    for (number, (flags, controller, file, expected)) in rows.iter().enumerate() {
        let bundle = Bundle::busybox(&sandbox, &format!("alone{number}"));
        let run = sandbox.brood().args(["run", "--rootfs"]).arg(bundle.rootfs()).args(*flags);
        let script = "trap 'exit 7' TERM; : > /tmp/up; while :; do :; done";
        let running = run.args(["--name", &sandbox.id("alone"), "--", "sh", "-c", script]).start();
        bundle.await_up();
        let record = sandbox.root().join(sandbox.id("alone")).join("init/pid");
        waiting::until("its pid", || record.exists().then_some(()));
        let pid = sandbox.record(&sandbox.id("alone"), "init/pid")["pid"].as_i64().unwrap();
        assert_eq!(cgroups::value(i32::try_from(pid).unwrap(), controller, file), *expected, "{flags:?}");
        running.signal(Signal::TERM);
        running.finish().expect(7);
    }
}

#[test]
fn a_device_can_be_given() {
    let sandbox = Sandbox::new();
    let bundle = Bundle::busybox(&sandbox, "bundle");
    let run = |flags: &[&str], script: &str| {
        let run = sandbox.brood().args(["run", "--rootfs"]).arg(bundle.rootfs()).args(flags);
        run.args(["--", "sh", "-c", script]).run()
    };
    assert_eq!(run(&["--device", "/dev/fuse"], "exec 3<>/dev/fuse && echo open").ok(), "open\n");
    assert_eq!(run(&["--device", "/dev/fuse:/dev/x:rw"], "exec 3<>/dev/x && echo open").ok(), "open\n");
    assert_ne!(run(&["--device", "/dev/fuse:/dev/x:r"], "exec 3<>/dev/x && echo open").stdout, "open\n");
    assert_eq!(run(&[], "test -e /dev/fuse || echo none").ok(), "none\n");
}

#[test]
fn bad_flags_are_refused_in_one_line_that_names_them() {
    let sandbox = Sandbox::new();
    for (flag, values) in [
        ("--memory", &["", "x", "5x", "-2", "1.5.5m", "0", "1e3"][..]),
        ("--memory-swap", &["m", "-5m"]),
        ("--memory-reservation", &["1gg", "99999999p"]),
        ("--cpus", &["0", "-1", "x", "1e3", "nan"]),
        ("--cpu-shares", &["1", "x", "300000", "-1"]),
        ("--cpuset-cpus", &["", "x", "0;1", "-1"]),
        ("--cpuset-mems", &["a-b"]),
        ("--pids-limit", &["0", "-2", "1.5", "many"]),
        ("--blkio-weight", &["9", "1001", "x"]),
        ("--device", &["", "fuse", "/dev/fuse:x", "/dev/fuse:/x:rwx", "/dev/fuse:/x:", "/dev/nonesuch", "/etc/passwd"]),
    ] {
        for value in values {
            let refused = sandbox.brood().args(["run", flag, value, "--", "true"]).run().expect(125);
            let line = refused.one_line_error();
            assert!(line.contains(&format!("{flag} {value:?}: ")), "{flag} {value:?}: {line}");
        }
    }
    // The kernel's own words, with the name of the limit.
    let refused =
        sandbox.brood().args(["run", "--memory", "64m", "--memory-swap", "32m", "--", "true"]).run().expect(125);
    assert!(refused.one_line_error().contains("linux.resources.memory.swap"), "{refused}");
    sandbox.brood().args(["run", "--bundle", "/x", "--memory", "64m"]).run().expect(125).one_line_error();
    assert!(sandbox.containers().is_empty());
}
