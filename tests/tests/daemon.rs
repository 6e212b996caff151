//! `brood daemon` and its clients: containers that outlive a command, and processes that have each other's parents.
//! Every test here runs on both reactors. Who may speak to the daemon is in `socket.rs`.

use std::fs;
use std::path::Path;

use brood_tests::procfs::{descriptors, process, status};
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
    a_container_from_run_to_rm
    wait_gives_the_status_to_everybody
    create_parks_until_start
    kill_and_signals
    the_container_is_the_supervisors_child
    state_on_disk_follows_the_container
    events_are_told_in_order
    events_can_be_followed
    foreground_runs_go_through_the_daemon
    a_killed_supervisor_loses_nothing
    an_exit_without_a_supervisor_is_kept
    a_killed_zygote_is_replaced
    the_hosts_mounts_stay_outside
    nothing_accumulates
    a_stopped_daemon_leaves_its_containers
    kill_on_exit_takes_them_along
}

/// A daemon's container, on busybox, that lives until SIGTERM and then exits with 7.
struct Container<'a> {
    daemon: &'a Daemon<'a>,
    bundle: Bundle,
    id: String,
}

impl<'a> Container<'a> {
    fn new(daemon: &'a Daemon<'a>, sandbox: &Sandbox, name: &str) -> Self {
        let mut bundle = Bundle::busybox(sandbox, name);
        bundle.live_until_term(7);
        bundle.write();
        Self { daemon, bundle, id: sandbox.id(name) }
    }

    /// Runs it detached and waits until its program is ready for the signal.
    #[track_caller]
    fn up(self) -> Self {
        self.run_detached();
        self.bundle.await_up();
        self
    }

    #[track_caller]
    fn run_detached(&self) {
        self.daemon.brood().args(["run", "-d", "--name", &self.id, "--bundle"]).arg(self.bundle.path()).run().ok();
    }

    /// `brood COMMAND ARGS... ID`
    fn command(&self, args: &[&str]) -> Cmd {
        self.daemon.brood().args(args).arg(&self.id)
    }

    #[track_caller]
    fn pid(&self) -> i32 {
        let state: Value = serde_json::from_str(&self.command(&["state"]).run().ok()).expect("`state` prints JSON");
        i32::try_from(state["pid"].as_i64().expect("a pid")).unwrap()
    }

    /// Its line in `brood list`, in words.
    #[track_caller]
    fn listed(&self) -> Option<Vec<String>> {
        let table = self.daemon.brood().arg("list").run().ok();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(table.lines().next().unwrap()), ["ID", "PATH", "STATUS", "PROCESSES"]);
        table.lines().map(words).find(|line| line[0] == self.id)
    }

    #[track_caller]
    fn term_and_wait(&self) {
        self.command(&["kill"]).run().ok();
        self.command(&["wait"]).run().expect(7);
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).expect("the process is there");
}

fn a_container_from_run_to_rm(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box").up();
    let path = container.bundle.path().to_str().unwrap();
    assert_eq!(container.listed().unwrap(), [&container.id, path, "running", "init"]);
    assert_eq!(daemon.brood().args(["list", "-q"]).run().ok(), format!("{}\n", container.id));
    container.term_and_wait();
    assert_eq!(container.listed().unwrap()[2], "stopped");
    container.command(&["rm"]).run().ok();
    assert_eq!(container.listed(), None);
    container.command(&["state"]).run().expect(125).one_line_error();
}

fn wait_gives_the_status_to_everybody(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box").up();
    let waiters: Vec<_> = (0..3).map(|_| container.command(&["wait"]).start()).collect();
    container.command(&["kill"]).run().ok();
    for waiter in waiters {
        assert_eq!(waiter.finish().expect(7).stdout.trim(), "7");
    }
    assert_eq!(container.command(&["wait"]).run().expect(7).stdout.trim(), "7", "and to those who come later");
    container.command(&["rm"]).run().ok();
}

fn create_parks_until_start(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box");
    let id = &container.id;
    daemon.brood().args(["create", "--name", id, "--bundle"]).arg(container.bundle.path()).run().ok();
    assert_eq!(container.listed().unwrap()[2], "created");
    assert!(!container.bundle.rootfs().join("tmp/up").exists(), "the program ran before `start`");
    container.command(&["start"]).run().ok();
    container.bundle.await_up();
    container.command(&["start"]).run().expect(125).one_line_error();
    container.term_and_wait();
    container.command(&["rm"]).run().ok();
}

fn kill_and_signals(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box").up();
    container.command(&["kill", "--signal", "NOSUCH"]).run().expect(125).one_line_error();
    container.command(&["rm"]).run().expect(125).one_line_error();
    assert_eq!(container.listed().unwrap()[2], "running");
    container.command(&["kill", "--signal", "KILL"]).run().ok();
    container.command(&["wait"]).run().expect(128 + 9);
    container.command(&["kill"]).run().expect(125).one_line_error();
    container.command(&["rm"]).run().ok();
    let again = Container { daemon: &daemon, bundle: container.bundle, id: container.id }.up();
    again.command(&["rm", "--force"]).run().ok();
    assert_eq!(again.listed(), None, "the name can be used again, and forced away");
}

fn the_container_is_the_supervisors_child(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box").up();
    let supervisor = daemon.supervisor();
    let keepers = daemon.named("keeper");
    assert_eq!(keepers.len(), 1, "{:?}", daemon.family());
    assert_eq!(supervisor.ppid, keepers[0].pid);
    let zygotes = daemon.named("zygote");
    assert!(!zygotes.is_empty(), "{:?}", daemon.family());
    assert!(zygotes.iter().all(|zygote| zygote.ppid == supervisor.pid), "{zygotes:?}");
    assert_eq!(status(container.pid(), "PPid").unwrap(), supervisor.pid.to_string());
    container.term_and_wait();
}

fn state_on_disk_follows_the_container(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    let container = Container::new(&daemon, &sandbox, "box").up();
    let id = container.id.as_str();
    let state = sandbox.record(id, "state.json");
    assert_eq!((&state["id"], &state["bundle"]), (&json!(id), &json!(container.bundle.path())));
    assert_eq!(sandbox.record(id, "init/process.json")["args"][0], "sh");
    assert_eq!(sandbox.record(id, "init/pid")["pid"], container.pid());
    // The daemonless face reads the same layout.
    let seen: Value = serde_json::from_str(&sandbox.oci().args(["state", id]).run().ok()).unwrap();
    assert_eq!((&seen["status"], &seen["pid"]), (&json!("running"), &json!(container.pid())));
    let exit = sandbox.root().join(id).join("init/exit");
    assert!(!exit.exists());
    container.term_and_wait();
    assert_eq!(sandbox.record(id, "init/exit")["status"], 7);
    container.command(&["rm"]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

/// The positions of the lines that tell of these kinds of event of one container.
#[track_caller]
fn positions(events: &str, id: &str, kinds: &[&str]) -> Vec<usize> {
    let of = |kind: &str| events.lines().position(|line| line.contains(id) && line.contains(kind));
    kinds.iter().map(|kind| of(kind).unwrap_or_else(|| panic!("no {kind} of {id} in\n{events}"))).collect()
}

const LIFE: [&str; 4] = ["create", "start", "exit", "delete"];

fn events_are_told_in_order(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    for name in ["one", "two"] {
        let container = Container::new(&daemon, &sandbox, name).up();
        container.term_and_wait();
        container.command(&["rm"]).run().ok();
    }
    let replay = daemon.brood().arg("events").run().ok();
    for name in ["one", "two"] {
        assert!(positions(&replay, &sandbox.id(name), &LIFE).is_sorted(), "{replay}");
    }
}

fn events_can_be_followed(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let early = Container::new(&daemon, &sandbox, "early").up();
    let mut follower = daemon.brood().args(["events", "--follow"]).start();
    follower.output_until(|text| text.contains(&early.id));
    early.term_and_wait();
    early.command(&["rm"]).run().ok();
    let events = follower.output_until(|text| text.lines().any(|line| line.contains("delete")));
    assert!(positions(&events, &early.id, &LIFE).is_sorted(), "{events}");
}

fn foreground_runs_go_through_the_daemon(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let output =
        daemon.brood().args(["run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).run().expect(7);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let echo = daemon.brood().args(["run", "--rm", "-i", "--", "cat"]).stdin("words").run();
    assert_eq!(echo.ok(), "words");
    daemon.brood().args(["run", "--rm", "--", "no-such-program"]).run().expect(127).one_line_error();
    daemon.brood().args(["run", "--rm", "--", "/etc/passwd"]).run().expect(126).one_line_error();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

/// The new supervisor after the old one has been killed.
#[track_caller]
fn kill_supervisor(daemon: &Daemon) -> i32 {
    let old = daemon.supervisor().pid;
    kill(old);
    waiting::until("another supervisor", || {
        daemon.named("supervisor").into_iter().map(|process| process.pid).find(|pid| *pid != old)
    })
}

fn a_killed_supervisor_loses_nothing(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box").up();
    let pid = container.pid();
    kill_supervisor(&daemon);
    assert!(process(pid).is_some_and(|process| process.state != 'Z'), "the container died with the supervisor");
    assert_eq!(container.listed().unwrap()[2], "running");
    assert_eq!(container.pid(), pid);
    container.term_and_wait();
    container.command(&["rm"]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

fn an_exit_without_a_supervisor_is_kept(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::new(&daemon, &sandbox, "box").up();
    let pid = container.pid();
    // The signal is on its way before the new supervisor can be there: whoever reaps keeps the record.
    kill(daemon.supervisor().pid);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    container.command(&["wait"]).run().expect(7);
    container.command(&["rm"]).run().ok();
}

fn a_killed_zygote_is_replaced(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let old: Vec<i32> = daemon.named("zygote").into_iter().map(|zygote| zygote.pid).collect();
    old.iter().copied().for_each(kill);
    waiting::until("another zygote", || daemon.named("zygote").iter().any(|z| !old.contains(&z.pid)).then_some(()));
    let container = Container::new(&daemon, &sandbox, "box").up();
    container.term_and_wait();
    container.command(&["rm"]).run().ok();
}

fn the_hosts_mounts_stay_outside(reactor: &str) {
    const MOUNTS: usize = 500;
    let sandbox = Sandbox::new();
    let extra = sandbox.path("extra");
    fs::create_dir(&extra).unwrap();
    // In a mount namespace of the daemon's own, so that the machine's stays as it is.
    let script = format!(
        "cd {} && for n in $(seq {MOUNTS}); do mkdir m$n && mount -t tmpfs extra-mount m$n || exit 1; done; exec \"$@\"",
        extra.display()
    );
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
    let daemon = Daemon::start_through(&sandbox, &wrapper, &["--reactor", reactor]);
    let mountinfo = |pid: i32| fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("the process is there");
    let count = |pid: i32| mountinfo(pid).lines().filter(|line| line.contains("extra-mount")).count();

    let supervisor = daemon.supervisor().pid;
    let before = mountinfo(supervisor);
    assert_eq!(count(supervisor), MOUNTS);
    let container = Container::new(&daemon, &sandbox, "box").up();
    let pid = container.pid();
    assert_eq!(count(pid), 0);
    for zygote in daemon.named("zygote") {
        assert_eq!(count(zygote.pid), 0);
        assert!(mountinfo(zygote.pid).lines().count() < 10, "{}", mountinfo(zygote.pid));
    }
    container.term_and_wait();
    container.command(&["rm"]).run().ok();
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    assert_eq!(mountinfo(supervisor), before, "a mount leaked");
}

fn nothing_accumulates(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.args(&["true"]);
    bundle.write();
    let run = |name: &str| {
        let id = sandbox.id(name);
        daemon.brood().args(["run", "--rm", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    };
    let held = || -> Vec<(String, usize)> {
        daemon.family().into_iter().map(|process| (process.cmdline, descriptors(process.pid).len())).collect()
    };
    // The first run may open what is kept.
    run("first");
    // What is on its way out must not become part of the measure: the removal is over, and two looks agree.
    let mut last = Vec::new();
    let before = waiting::until("a quiet daemon", || {
        let now = held();
        let quiet = sandbox.containers().is_empty() && now == last;
        last = now;
        quiet.then(|| last.clone())
    });
    for n in 0..20 {
        run(&format!("n{n}"));
        // What cannot be started must not cost anything either.
        daemon.brood().args(["run", "--rm", "--", "no-such-program"]).run().expect(127);
    }
    waiting::until("processes and descriptors as before", || (held() == before).then_some(()));
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

fn a_stopped_daemon_leaves_its_containers(reactor: &str) {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::with_reactor(&sandbox, reactor);
    let pid = Container::new(&daemon, &sandbox, "box").up().pid();
    daemon.stop();
    assert!(process(pid).is_some_and(|process| process.state != 'Z'), "the container went with the daemon");
    assert!(!Path::new(&daemon.socket()).exists(), "the socket is taken away");
    // The next daemon takes it over, and the guard removes it by that one.
    let next = Daemon::with_reactor(&sandbox, reactor);
    let list = next.brood().args(["list", "--format", "json"]).run().ok();
    assert!(list.contains("\"running\"") && list.contains(&pid.to_string()), "{list}");
    kill(pid);
    waiting::gone(pid);
}

fn kill_on_exit_takes_them_along(reactor: &str) {
    let sandbox = Sandbox::new();
    let mut daemon = Daemon::start(&sandbox, &["--kill-on-exit", "--reactor", reactor]);
    let pid = Container::new(&daemon, &sandbox, "box").up().pid();
    daemon.stop();
    waiting::gone(pid);
}
