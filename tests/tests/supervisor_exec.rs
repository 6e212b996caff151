//! Execs through the daemon: one more process in a container, with a name, a status and a place in the order of events.
//! What an exec is made of is in `exec.rs`; the two steps, pipelining and captured output are in `pycapnp.rs`.

use std::fs;

use brood_tests::procfs::{self, descriptors, process, status, status_field};
use brood_tests::{Bundle, Cmd, Daemon, Output, Sandbox, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

macro_rules! on_both_reactors {
    ($($test:ident)*) => {
        mod io_uring { $(#[test] fn $test() { super::$test("io_uring"); })* }
        mod epoll { $(#[test] fn $test() { super::$test("epoll"); })* }
    };
}

on_both_reactors! {
    status_output_and_input_are_the_processs_own
    options_change_the_process
    it_is_the_supervisors_child_in_the_containers_cgroup
    detached_it_is_listed_until_it_is_removed
    what_cannot_be_is_refused
    one_exec_is_killed_and_the_init_process_runs_on
    signals_are_passed_on
    a_terminal_is_the_callers_own
    a_created_container_takes_execs
    events_are_told_in_order
    exits_of_execs_are_told_before_that_of_the_init_process
    in_a_shared_pid_namespace_an_exec_outlives_the_init_process
    two_hundred_execs_leave_nothing
    killed_zygotes_leave_no_exec_that_nobody_knows
    a_killed_supervisor_loses_no_status
    an_exit_without_a_supervisor_is_kept
}

/// A container on busybox whose program lives until SIGTERM and then exits with 7.
struct Container<'a> {
    daemon: &'a Daemon<'a>,
    sandbox: &'a Sandbox,
    id: String,
}

impl<'a> Container<'a> {
    fn up(daemon: &'a Daemon<'a>, sandbox: &'a Sandbox) -> Self {
        Self::up_with(daemon, sandbox, |_| {})
    }

    fn up_with(daemon: &'a Daemon<'a>, sandbox: &'a Sandbox, edit: impl Fn(&mut Value)) -> Self {
        let (container, bundle) = Self::new(daemon, sandbox, edit);
        daemon.brood().args(["run", "-d", "--name", &container.id, "--bundle"]).arg(bundle.path()).run().ok();
        bundle.await_up();
        container
    }

    fn new(daemon: &'a Daemon<'a>, sandbox: &'a Sandbox, edit: impl Fn(&mut Value)) -> (Self, Bundle) {
        let mut bundle = Bundle::busybox(sandbox, "bundle");
        bundle.live_until_term(7);
        edit(&mut bundle.config);
        bundle.write();
        (Self { daemon, sandbox, id: sandbox.id("box") }, bundle)
    }

    /// `brood COMMAND ARGS... ID`
    fn command(&self, args: &[&str]) -> Cmd {
        self.daemon.brood().args(args).arg(&self.id)
    }

    /// `brood exec OPTIONS... ID COMMAND...`
    fn exec(&self, options: &[&str], command: &[&str]) -> Cmd {
        self.daemon.brood().arg("exec").args(options).arg(&self.id).args(command)
    }

    #[track_caller]
    fn sh(&self, options: &[&str], script: &str) -> Output {
        self.exec(options, &["sh", "-c", script]).run()
    }

    #[track_caller]
    fn detached(&self, name: &str, command: &[&str]) {
        assert_eq!(self.exec(&["-d", "--name", name], command).run().ok(), format!("{name}\n"));
    }

    #[track_caller]
    fn state(&self) -> Value {
        serde_json::from_str(&self.command(&["state"]).run().ok()).expect("`state` prints JSON")
    }

    /// An entry of the list of processes in `state`.
    #[track_caller]
    fn process(&self, name: &str) -> Value {
        let state = self.state();
        let processes = state["processes"].as_array().expect("a list");
        let found = processes.iter().find(|process| process["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {state:#}")).clone()
    }

    #[track_caller]
    fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.process(name)["pid"].as_i64().expect("a pid")).unwrap()
    }

    /// The folders of its processes.
    fn folders(&self) -> Vec<String> {
        let entries = fs::read_dir(self.sandbox.root().join(&self.id)).expect("the container's folder");
        let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// Type and process of its events, in their order.
    fn events(&self) -> Vec<(String, String)> {
        let lines = self.daemon.brood().args(["events", "--format", "json", "--id", &self.id]).run().ok();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let event = |line: &str| {
            let event: Value = serde_json::from_str(line).expect("one object per line");
            (text(&event["type"]), text(&event["process"]))
        };
        lines.lines().map(event).collect()
    }

    fn remove(&self) {
        self.command(&["rm", "--force"]).run().ok();
    }
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).expect("the process is there");
}

fn status_output_and_input_are_the_processs_own(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    let output = container.sh(&[], "echo out; echo err >&2; exit 5").expect(5);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(container.exec(&["-i"], &["cat"]).stdin("through").run().ok(), "through");
    assert_eq!(container.exec(&[], &["cat"]).stdin("not through").run().ok(), "", "without -i there is no input");
    container.sh(&[], "kill -9 $$").expect(128 + 9);
    // It is removed after its exit has been told.
    waiting::until("no folder of an exec", || (container.folders() == ["init"]).then_some(()));
    container.remove();
}

fn options_change_the_process(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let edit = |config: &mut Value| {
        config["process"]["env"] = json!(["PATH=/bin", "COLOUR=green", "SHAPE=round"]);
        config["process"]["noNewPrivileges"] = json!(false);
    };
    let container = Container::up_with(&daemon, &sandbox, edit);
    let script = "id -u; id -g; pwd; echo $COLOUR $SHAPE; env | grep -c COLOUR; cat /proc/self/status";
    let options = ["--user", "5:6", "--cwd", "/dev", "-e", "COLOUR=brown", "--no-new-privs"];
    let output = container.sh(&options, script).ok();
    assert!(output.starts_with("5\n6\n/dev\nbrown round\n1\n"), "{output}");
    assert_eq!(status_field(&output, "NoNewPrivs").unwrap(), "1");
    assert_eq!(status_field(&output, "CapInh").unwrap(), "0000000000000000");
    let own = container.sh(&[], script).ok();
    assert!(own.starts_with("0\n0\n/\ngreen round\n1\n"), "{own}");
    for user in ["root", "5:", "+5", "4294967296"] {
        container.sh(&["--user", user], "true").expect(125).one_line_error();
    }
    container.remove();
}

fn it_is_the_supervisors_child_in_the_containers_cgroup(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    let own = || daemon.family().iter().filter(|process| process.cmdline.starts_with("brood:")).count();
    let before = own();
    container.detached("bg", &["sleep", "1000"]);
    let (init, exec) = (container.pid("init"), container.pid("bg"));
    assert_eq!(status(exec, "PPid").unwrap(), daemon.supervisor().pid.to_string());
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process is there");
    assert_eq!(cgroup(init), cgroup(exec));
    let namespace = |pid: i32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["pid", "mnt", "ipc", "uts"] {
        assert_eq!(namespace(init, kind), namespace(exec, kind), "{kind}");
    }
    assert_eq!(own(), before, "an exec is one process and no more");
    container.remove();
}

fn detached_it_is_listed_until_it_is_removed(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    container.detached("bg", &["sh", "-c", "echo words; echo more >&2; exec sleep 1000"]);
    let shown = container.process("bg");
    assert_eq!((&shown["status"], &shown["exit"]), (&json!("running"), &Value::Null));
    assert_eq!(sandbox.record(&container.id, "bg/process.json")["args"][0], "sh");
    assert_eq!(sandbox.record(&container.id, "bg/pid")["pid"], shown["pid"]);
    let list = daemon.brood().args(["list"]).run().ok();
    assert!(list.contains("init,bg"), "{list}");
    container.command(&["rm", "--exec", "bg"]).run().expect(125).one_line_error();
    container.command(&["kill", "--exec", "bg"]).run().ok();
    container.command(&["wait", "--exec", "bg"]).run().expect(128 + 15);
    let file = |name: &str| fs::read_to_string(sandbox.root().join(&container.id).join("bg").join(name)).unwrap();
    assert_eq!((file("stdout").as_str(), file("stderr").as_str()), ("words\n", "more\n"));
    assert_eq!(sandbox.record(&container.id, "bg/exit")["status"], 128 + 15);
    let ended = container.process("bg");
    assert_eq!((&ended["status"], &ended["exit"]["status"]), (&json!("stopped"), &json!(128 + 15)));
    container.command(&["rm", "--exec", "bg"]).run().ok();
    assert_eq!(container.folders(), ["init"]);
    container.command(&["wait", "--exec", "bg"]).run().expect(125).one_line_error();
    container.remove();
}

fn what_cannot_be_is_refused(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    let refused = |options: &[&str], command: &[&str], code: i32, words: &str| {
        let output = container.exec(options, command).run().expect(code);
        assert!(output.one_line_error().contains(words), "{output}");
    };
    container.detached("bg", &["sleep", "1000"]);
    refused(&["--name", "bg"], &["true"], 125, "already exists");
    for name in ["init", "state.json", "start.sock"] {
        refused(&["--name", name], &["true"], 125, "reserved");
    }
    refused(&["--name", "a/b"], &["true"], 125, "not allowed");
    refused(&["--cwd", "relative"], &["true"], 125, "cwd");
    refused(&["--cwd", "/no/such"], &["true"], 125, "/no/such");
    refused(&[], &["no-such-program"], 127, "no-such-program");
    refused(&[], &["/etc/passwd"], 126, "/etc/passwd");
    daemon.brood().args(["exec", "no-such-container", "true"]).run().expect(125).one_line_error();
    assert_eq!(container.folders(), ["bg", "init"], "what was refused leaves nothing");
    container.command(&["kill"]).run().ok();
    container.command(&["wait"]).run().expect(7);
    refused(&[], &["true"], 125, "stopped");
    container.command(&["rm"]).run().ok();
}

fn one_exec_is_killed_and_the_init_process_runs_on(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    for name in ["one", "two"] {
        container.detached(name, &["sleep", "1000"]);
    }
    container.command(&["kill", "--signal", "KILL", "--exec", "one"]).run().ok();
    container.command(&["wait", "--exec", "one"]).run().expect(128 + 9);
    container.command(&["kill", "--exec", "one"]).run().expect(125).one_line_error();
    assert_eq!(container.state()["status"], "running");
    assert_eq!(container.process("two")["status"], "running");
    container.remove();
}

fn signals_are_passed_on(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    let mut exec = container.exec(&[], &["sh", "-c", "trap 'exit 9' TERM; echo up; sleep 1000 & wait"]).start();
    exec.output_until(|text| text.contains("up"));
    exec.signal(Signal::TERM);
    exec.finish().expect(9);
    assert_eq!(container.state()["status"], "running");
    container.remove();
}

fn a_terminal_is_the_callers_own(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    // script(1) gives the command a terminal of its own.
    let brood = format!("{} --root {}", brood_tests::binaries::brood().display(), sandbox.root().display());
    let on_terminal = |command: &str| {
        let line = format!(
            "stty rows 33 cols 77; before=$(stty -g); {command}; status=$?; [ $before = $(stty -g) ] && exit $status"
        );
        sandbox.command("script").args(["--quiet", "--return", "--command", &line, "/dev/null"]).run()
    };
    let exec = on_terminal(&format!("{brood} exec -t {} sh -c 'tty; stty size; exit 4'", container.id)).expect(4);
    // The end of script's own input is echoed somewhere in between.
    assert!(exec.stdout.contains("/dev/pts/0\r\n") && exec.stdout.contains("33 77\r\n"), "{exec}");
    let run = on_terminal(&format!("{brood} run --rm -t -- sh -c 'tty; exit 5'")).expect(5);
    assert!(run.stdout.contains("/dev/pts/0\r\n"), "{run}");
    let typed = container.exec(&["-t"], &["sh", "-c", "read word; echo got $word"]).stdin("bread\n").run().ok();
    assert!(typed.contains("got bread\r\n"), "{typed}");
    container.exec(&["-t", "-d"], &["true"]).run().expect(125);
    container.remove();
}

fn a_created_container_takes_execs(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let (container, bundle) = Container::new(&daemon, &sandbox, |_| {});
    daemon.brood().args(["create", "--name", &container.id, "--bundle"]).arg(bundle.path()).run().ok();
    assert_eq!(container.sh(&[], "echo early").ok(), "early\n");
    assert_eq!(container.state()["status"], "created");
    container.remove();
}

fn owned(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(kind, process)| ((*kind).to_owned(), (*process).to_owned())).collect()
}

fn events_are_told_in_order(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    container.exec(&["--name", "quick"], &["true"]).run().ok();
    container.exec(&["--name", "missing"], &["no-such-program"]).run().expect(127);
    let expected = [
        ("create", "init"),
        ("start-container", "init"),
        ("exec-added", "quick"),
        ("start-process", "quick"),
        ("exit", "quick"),
    ];
    assert_eq!(container.events(), owned(&expected));
    container.remove();
}

fn exits_of_execs_are_told_before_that_of_the_init_process(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    let names = ["e1", "e2", "e3", "e4"];
    names.iter().for_each(|name| container.detached(name, &["sleep", "1000"]));
    kill(container.pid("init"), Signal::KILL);
    container.command(&["wait"]).run().expect(128 + 9);
    for name in names {
        container.command(&["wait", "--exec", name]).run().expect(128 + 9);
    }
    let exits: Vec<String> =
        container.events().into_iter().filter(|(kind, _)| kind == "exit").map(|(_, process)| process).collect();
    assert_eq!(exits.len(), names.len() + 1);
    assert_eq!(exits.last().unwrap(), "init", "{exits:?}");
    container.command(&["rm"]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

fn in_a_shared_pid_namespace_an_exec_outlives_the_init_process(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let shared = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    };
    let container = Container::up_with(&daemon, &sandbox, shared);
    container.detached("bg", &["sleep", "1000"]);
    let pid = container.pid("bg");
    kill(container.pid("init"), Signal::KILL);
    container.command(&["wait"]).run().expect(128 + 9);
    assert_eq!(container.state()["status"], "stopped");
    assert_eq!(container.process("bg")["status"], "running");
    // Nothing of a container is left when its removal is told.
    container.command(&["rm"]).run().ok();
    assert!(process(pid).is_none(), "{:?}", process(pid));
    let exits = container.events().into_iter().filter(|(kind, _)| kind == "exit" || kind == "delete");
    let expected = [("exit", "init"), ("exit", "bg"), ("delete", "init")];
    assert_eq!(exits.collect::<Vec<_>>(), owned(&expected));
}

fn two_hundred_execs_leave_nothing(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    let held = || -> Vec<(String, usize)> {
        daemon.family().into_iter().map(|process| (process.cmdline, descriptors(process.pid).len())).collect()
    };
    // The first exec may open what is kept.
    container.exec(&[], &["true"]).run().ok();
    let mut last = Vec::new();
    let before = waiting::until("a quiet daemon", || {
        let now = held();
        let quiet = now == last;
        last = now;
        quiet.then(|| last.clone())
    });
    for _ in 0..40 {
        let running: Vec<_> =
            (0..4).map(|status| container.exec(&[], &["sh", "-c", &format!("exit {status}")]).start()).collect();
        for (status, exec) in (0..).zip(running) {
            exec.finish().expect(status);
        }
        // What cannot be started must not cost anything either.
        container.exec(&[], &["no-such-program"]).run().expect(127);
    }
    waiting::until("processes and descriptors as before", || (held() == before).then_some(()));
    waiting::until("no folder of an exec", || (container.folders() == ["init"]).then_some(()));
    waiting::until("all that has ended to be reaped", || (zombies(&daemon) == 0).then_some(()));
    container.remove();
}

/// Children of the supervisor that have ended and are not reaped.
fn zombies(daemon: &Daemon) -> usize {
    let supervisor = daemon.supervisor().pid;
    procfs::processes().iter().filter(|process| process.ppid == supervisor && process.state == 'Z').count()
}

fn killed_zygotes_leave_no_exec_that_nobody_knows(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    for round in 0..4 {
        let names: Vec<String> = (0..6).map(|number| format!("e{round}-{number}")).collect();
        let exec = |name: &String| container.exec(&["-d", "--name", name], &["sleep", "1000"]).start();
        let running: Vec<_> = names.iter().map(exec).collect();
        // Whichever of them a zygote has in its hands.
        for zygote in daemon.named("zygote") {
            let _ = kill_process(Pid::from_raw(zygote.pid).unwrap(), Signal::KILL);
        }
        for exec in running {
            let output = exec.finish();
            assert!([0, 125].contains(&output.code()), "{output}");
        }
        let state = container.state();
        let listed = state["processes"].as_array().unwrap().iter().filter(|process| process["status"] == "running");
        let supervisor = daemon.supervisor().pid;
        let children = daemon.family().into_iter().filter(|process| process.ppid == supervisor);
        let execs = children.filter(|process| process.cmdline == "sleep 1000").count();
        assert_eq!(execs + 1, listed.count(), "{state:#}");
        waiting::until("all that has ended to be reaped", || (zombies(&daemon) == 0).then_some(()));
        waiting::until("new zygotes", || (!daemon.named("zygote").is_empty()).then_some(()));
    }
    container.remove();
}

/// Waits for the supervisor that comes after this one.
fn await_another_supervisor(daemon: &Daemon, old: i32) {
    let another = || daemon.named("supervisor").into_iter().find(|process| process.pid != old);
    waiting::until("another supervisor", another);
}

fn a_killed_supervisor_loses_no_status(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    container.detached("bg", &["sh", "-c", "trap 'exit 9' TERM; touch /tmp/ready; sleep 1000 & wait"]);
    let ready = sandbox.path("bundle/rootfs/tmp/ready");
    waiting::until("the exec", || ready.exists().then_some(()));
    let (pid, supervisor) = (container.pid("bg"), daemon.supervisor().pid);
    kill(supervisor, Signal::KILL);
    await_another_supervisor(&daemon, supervisor);
    assert_eq!(container.pid("bg"), pid);
    assert_eq!(container.process("bg")["status"], "running");
    container.command(&["kill", "--exec", "bg"]).run().ok();
    container.command(&["wait", "--exec", "bg"]).run().expect(9);
    assert_eq!(container.exec(&[], &["echo", "again"]).run().ok(), "again\n");
    container.command(&["rm", "--exec", "bg"]).run().ok();
    container.remove();
}

fn an_exit_without_a_supervisor_is_kept(reactor: &str) {
    let sandbox = Sandbox::new();
    let daemon = Daemon::with_reactor(&sandbox, reactor);
    let container = Container::up(&daemon, &sandbox);
    container.detached("one", &["sh", "-c", "trap 'exit 9' TERM; touch /tmp/ready; sleep 1000 & wait"]);
    container.detached("two", &["sleep", "1000"]);
    let ready = sandbox.path("bundle/rootfs/tmp/ready");
    waiting::until("the exec", || ready.exists().then_some(()));
    let (one, init) = (container.pid("one"), container.pid("init"));
    // The signals are on their way before the new supervisor can be there: whoever reaps keeps the records.
    let supervisor = daemon.supervisor().pid;
    kill(supervisor, Signal::KILL);
    kill(one, Signal::TERM);
    waiting::gone(one);
    kill(init, Signal::KILL);
    container.command(&["wait"]).run().expect(128 + 9);
    container.command(&["wait", "--exec", "one"]).run().expect(9);
    container.command(&["wait", "--exec", "two"]).run().expect(128 + 9);
    let exits: Vec<String> =
        container.events().into_iter().filter(|(kind, _)| kind == "exit").map(|(_, process)| process).collect();
    assert_eq!(exits.len(), 3, "{exits:?}");
    assert_eq!(exits.last().unwrap(), "init", "{exits:?}");
    container.command(&["rm"]).run().ok();
}
