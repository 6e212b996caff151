//! No descriptors, no processes, no memory left for the daemon: typed errors or a wait, no busy loop, no exit, nothing left
//! behind, and service as before once the cause is away.

use std::fs;
use std::path::PathBuf;

use brood_tests::{Daemon, Running, Sandbox, procfs, waiting};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// Clock ticks (1/100 s) of processor time that a process has had.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn limit_descriptors(pid: i32, limit: u64) -> Rlimit {
    let limit = Rlimit { current: Some(limit), maximum: None };
    set_descriptors(pid, limit)
}

fn set_descriptors(pid: i32, mut limit: Rlimit) -> Rlimit {
    let pid = Pid::from_raw(pid);
    if limit.maximum.is_none() {
        // The hard limit stays: raising it again takes CAP_SYS_RESOURCE.
        let text = fs::read_to_string(format!("/proc/{}/limits", pid.unwrap().as_raw_nonzero())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        limit.maximum = line.split_whitespace().nth(4).unwrap().parse().ok();
    }
    prlimit(pid, Resource::Nofile, limit).expect("a soft limit may be changed")
}

/// The limit below which so many numbers are free.
fn limit_with_room(pid: i32, room: usize) -> u64 {
    let taken: Vec<i32> = procfs::descriptors(pid).into_iter().map(|(number, _)| number).collect();
    let last = (0..).filter(|number| !taken.contains(number)).nth(room).unwrap();
    u64::try_from(last).unwrap()
}

/// Has a container run and waits until the supervisor holds nothing of it any more; what is opened once and for all is open
/// then.
fn warm_up(sandbox: &Sandbox, daemon: &Daemon<'_>) {
    let held = || {
        let all = procfs::descriptors(daemon.supervisor().pid);
        all.iter().filter(|(_, what)| ["socket:", "pipe:", "pidfd"].iter().any(|kind| what.contains(kind))).count()
    };
    let containers = || fs::read_dir(sandbox.root()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    let before = held();
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    waiting::until("a supervisor that holds nothing", || (containers() == 0 && held() <= before).then_some(()));
}

#[test]
fn without_descriptors_clients_wait_and_the_loop_does_not_spin() {
    for reactor in brood_tests::daemon::REACTORS {
        let sandbox = Sandbox::new();
        let daemon = Daemon::with_reactor(&sandbox, reactor);
        let supervisor = daemon.supervisor().pid;
        let before = limit_descriptors(supervisor, 3);
        let began = ticks(supervisor);
        // Three seconds, of which the supervisor may work for one third.
        let host = format!("unix://{}", daemon.socket().display());
        let brood = brood_tests::binaries::brood();
        let waits = sandbox.command("timeout").arg("3").arg(brood).args(["--host", &host, "version"]).run();
        assert_eq!(waits.code(), 124, "{waits}");
        assert!(ticks(supervisor) - began < 100, "{reactor}: {} ticks", ticks(supervisor) - began);
        assert!(daemon.log().contains("accept; trying again"), "{}", daemon.log());
        set_descriptors(supervisor, before);
        daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
        assert_eq!(daemon.supervisor().pid, supervisor);
    }
}

#[test]
fn wherever_descriptors_run_out_a_launch_is_refused_or_succeeds() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let id = sandbox.id("box");
    let supervisor = daemon.supervisor().pid;
    // All that is opened once and for all is open.
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    let mut outcomes = [0; 2];
    for room in 1..24 {
        let before = limit_descriptors(supervisor, limit_with_room(supervisor, room));
        let host = format!("unix://{}", daemon.socket().display());
        let run = sandbox.command("timeout").args(["--signal", "KILL", "2"]).arg(brood_tests::binaries::brood());
        let run = run.args(["--host", &host, "run", "-d", "--rm", "--name", &id, "--", "true"]).run();
        set_descriptors(supervisor, before);
        match run.code() {
            0 => outcomes[0] += 1,
            // It waits to be accepted, or for its descriptors to be; timeout(1) shares the fate of what it kills.
            137 | -1 => {}
            _ => {
                assert!(run.one_line_error().to_lowercase().contains("too many open files"), "room {room}: {run}");
                outcomes[1] += 1;
            }
        }
        waiting::until("its removal", || sandbox.containers().is_empty().then_some(()));
        daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
        assert_eq!(daemon.supervisor().pid, supervisor, "room {room}");
    }
    assert!(outcomes.iter().all(|&count| count > 0), "{outcomes:?}");
}

/// System calls of a process and of its threads that fail with ENFILE, until dropped: what a full table of the whole machine
/// looks like to it (`fs.file-max` is everybody's). By ptrace(2), so that it can begin and end at any moment.
struct Injected(Option<Running>);

impl Injected {
    fn into(sandbox: &Sandbox, pid: i32, calls: &str) -> Self {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=ENFILE"));
        let strace = sandbox.command("strace").args(["-f", "-q", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p"]);
        let strace = strace.arg(pid.to_string()).start();
        let traced = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            procfs::status_field(&status, "TracerPid").is_none_or(|tracer| tracer != "0")
        };
        waiting::until("the tracer", || {
            fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().all(traced).then_some(())
        });
        Self(Some(strace))
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        if let Some(strace) = self.0.take() {
            // It lets go and ends by the same signal.
            kill_process(Pid::from_raw(strace.pid()).unwrap(), Signal::TERM).unwrap();
            strace.finish();
        }
    }
}

#[test]
fn without_files_in_the_whole_system_clients_wait() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let injected = Injected::into(&sandbox, supervisor, "accept,accept4");
    let waits = daemon.brood().arg("version").start();
    waiting::until("a try", || daemon.log().contains("accept; trying again").then_some(()));
    drop(injected);
    waits.finish().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

#[test]
fn without_files_in_the_whole_system_a_launch_is_refused_and_exits_are_told() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let mut refused = 0;
    let all = ["open,openat,openat2", "pipe,pipe2", "socket,socketpair", "memfd_create", "pidfd_open,dup,dup2,dup3"];
    for (number, calls) in all.iter().enumerate() {
        let (long, short) = (sandbox.id(&format!("long{number}")), sandbox.id(&format!("short{number}")));
        daemon.brood().args(["run", "-d", "--name", &long, "--", "sleep", "1000"]).run().ok();
        // One that is connected, and has asked, waits through all of it.
        let waiter = daemon.brood().args(["wait", &long]).start();
        let injected = Injected::into(&sandbox, supervisor, calls);
        let run = daemon.brood().args(["run", "-d", "--rm", "--name", &short, "--", "true"]).run();
        if run.code() != 0 {
            let error = run.one_line_error().to_lowercase();
            assert!(error.contains("too many open files in system") || error.contains("zygote"), "{calls}: {run}");
            refused += 1;
        }
        daemon.brood().args(["kill", "--signal", "KILL", &long]).run().ok();
        assert_eq!(waiter.finish().code(), 137, "{calls}");
        drop(injected);
        daemon.brood().args(["wait", &long]).run().expect(137);
        daemon.brood().args(["rm", &long]).run().ok();
        waiting::until("their removal", || sandbox.containers().is_empty().then_some(()));
        daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
        assert_eq!(daemon.supervisor().pid, supervisor, "{calls}");
    }
    assert!(refused > 1, "nothing was in the way of {} launches", all.len() - refused);
}

/// What an attached run is told when the daemon has no number left for its descriptors: that, and not that the daemon has
/// died.
#[test]
fn without_descriptors_an_attached_run_hears_so() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    warm_up(&sandbox, &daemon);
    // Its connection, that for its descriptors, and one of the three.
    let before = limit_descriptors(supervisor, limit_with_room(supervisor, 3));
    let run = daemon.brood().args(["run", "--rm", "--", "true"]).run().expect(125);
    assert_eq!(run.one_line_error(), "brood: hand descriptors to the daemon: too many open files");
    set_descriptors(supervisor, before);
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

/// A client whose descriptors are not taken, by a supervisor that then dies, hands them to the next one.
#[test]
fn descriptors_that_nobody_took_are_handed_over_again() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    warm_up(&sandbox, &daemon);
    // Its connection, and nothing else.
    limit_descriptors(supervisor, limit_with_room(supervisor, 1));
    let run = daemon.brood().args(["run", "--rm", "--", "echo", "said"]).start();
    waiting::until("a try", || daemon.log().contains("accept descriptors; trying again").then_some(()));
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    assert_eq!(run.finish().ok(), "said\n");
}

/// A directory in one hierarchy of cgroup v1, for the daemon, until dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(sandbox: &Sandbox, controller: &str) -> Self {
        let own = brood_tests::cgroups::directory(std::process::id() as i32, controller);
        let path = own.join(format!("daemon-{}", sandbox.token()));
        fs::create_dir(&path).expect("a hierarchy of cgroup v1");
        Self(path)
    }

    fn daemon<'a>(&self, sandbox: &'a Sandbox, args: &[&str]) -> Daemon<'a> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        Daemon::start_through(sandbox, &["sh", "-c", &script, "sh"], args)
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap().trim().to_owned()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        waiting::holds_within(waiting::PATIENCE, || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn without_processes_a_launch_is_refused() {
    let sandbox = Sandbox::new();
    let cgroup = Cgroup::new(&sandbox, "pids");
    let daemon = cgroup.daemon(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let id = sandbox.id("box");
    let run = || daemon.brood().args(["run", "--rm", "--name", &id, "--", "true"]).run();
    run().ok();
    for _ in 0..5 {
        cgroup.set("pids.max", &cgroup.get("pids.current"));
        let refused = run().expect(125);
        assert!(refused.one_line_error().to_lowercase().contains("resource temporarily unavailable"), "{refused}");
        assert_eq!(sandbox.containers(), Vec::<String>::new());
        cgroup.set("pids.max", "max");
        run().ok();
    }
    assert_eq!(daemon.supervisor().pid, supervisor);
}

#[test]
fn without_threads_a_launch_is_refused() {
    let sandbox = Sandbox::new();
    let cgroup = Cgroup::new(&sandbox, "pids");
    let daemon = cgroup.daemon(&sandbox, &["--zygotes", "1", "--reactor", "epoll"]);
    let supervisor = daemon.supervisor().pid;
    // Idle threads end after 10 s.
    let threads = || procfs::status(supervisor, "Threads").unwrap();
    waiting::until("the end of idle threads", || (threads() == "1").then_some(()));
    cgroup.set("pids.max", &cgroup.get("pids.current"));
    let refused = daemon.brood().args(["run", "--rm", "--", "true"]).run().expect(125);
    assert!(refused.one_line_error().to_lowercase().contains("resource temporarily unavailable"), "{refused}");
    cgroup.set("pids.max", "max");
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

#[test]
fn without_processes_a_dead_zygote_is_replaced_later() {
    let sandbox = Sandbox::new();
    let cgroup = Cgroup::new(&sandbox, "pids");
    let daemon = cgroup.daemon(&sandbox, &["--zygotes", "1"]);
    let supervisor = daemon.supervisor().pid;
    let id = sandbox.id("box");
    daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    cgroup.set("pids.max", "1");
    let zygote = daemon.named("zygote")[0].pid;
    rustix::process::kill_process(Pid::from_raw(zygote).unwrap(), rustix::process::Signal::KILL).unwrap();
    waiting::until("a try", || daemon.log().contains("cannot start a zygote").then_some(()));
    let refused = daemon.brood().args(["run", "--rm", "--name", &id, "--", "true"]).run().expect(125);
    assert!(refused.one_line_error().contains("zygote"), "{refused}");
    cgroup.set("pids.max", "max");
    waiting::until("another zygote", || daemon.named("zygote").first().cloned());
    daemon.brood().args(["run", "--rm", "--name", &id, "--", "true"]).run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor);
}

/// The limit of a daemon's memory cgroup that leaves it so much.
fn leave(cgroup: &Cgroup, bytes: u64) {
    let usage: u64 = cgroup.get("memory.usage_in_bytes").parse().unwrap();
    cgroup.set("memory.limit_in_bytes", &(usage + bytes).to_string());
}

/// Takes more memory than there is in the cgroup, until the kernel ends it, which it does before it looks at the keeper: that
/// one cannot make itself less of a choice without `CAP_SYS_RESOURCE`.
fn fill(sandbox: &Sandbox, cgroup: &Cgroup) {
    let script = "echo $$ > $0/cgroup.procs && echo 900 > /proc/self/oom_score_adj && head -c 200m /dev/zero | tail";
    let filled = sandbox.command("sh").args(["-c", script]).arg(&cgroup.0).run();
    assert_ne!(filled.code(), 0, "{filled}");
}

#[test]
fn without_memory_launches_are_refused_or_succeed() {
    let sandbox = Sandbox::new();
    let cgroup = Cgroup::new(&sandbox, "memory");
    let daemon = cgroup.daemon(&sandbox, &["--zygotes", "1"]);
    let (long, id) = (sandbox.id("long"), sandbox.id("box"));
    daemon.brood().args(["run", "-d", "--name", &long, "--", "sleep", "1000"]).run().ok();
    for kib in [0, 64, 256, 1024] {
        leave(&cgroup, kib << 10);
        let run = daemon.brood().args(["run", "-d", "--rm", "--name", &id, "--", "true"]).run();
        cgroup.set("memory.limit_in_bytes", "-1");
        if run.code() != 0 {
            assert_eq!(run.code(), 125, "{run}");
            run.one_line_error();
        }
        waiting::until("its removal", || (sandbox.containers() == [long.as_str()]).then_some(()));
        daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
    }
    daemon.brood().args(["kill", "--signal", "KILL", &long]).run().ok();
    daemon.brood().args(["wait", &long]).run().expect(137);
    daemon.brood().args(["rm", &long]).run().ok();
}

#[test]
fn a_supervisor_that_is_killed_for_memory_loses_nothing() {
    let sandbox = Sandbox::new();
    let cgroup = Cgroup::new(&sandbox, "memory");
    let daemon = cgroup.daemon(&sandbox, &["--zygotes", "1"]);
    let (keeper, first) = (daemon.pid(), daemon.supervisor().pid);
    let id = sandbox.id("box");
    daemon
        .brood()
        .args(["run", "-d", "--name", &id, "--", "sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait"])
        .run()
        .ok();
    let waiter = daemon.brood().args(["wait", &id]).start();
    // The one that the kernel ends first.
    fs::write(format!("/proc/{first}/oom_score_adj"), "1000").expect("anybody may raise it");
    leave(&cgroup, 1 << 20);
    fill(&sandbox, &cgroup);
    cgroup.set("memory.limit_in_bytes", "-1");
    waiting::gone(first);
    assert_ne!(daemon.supervisor().pid, first);
    assert_eq!(daemon.pid(), keeper);
    daemon.brood().args(["kill", "--signal", "TERM", &id]).run().ok();
    assert_eq!(waiter.finish().code(), 7);
    let events = daemon.brood().args(["events", "--id", &id, "--format", "json"]).run().ok();
    assert_eq!(events.lines().filter(|line| line.contains("\"type\":\"exit\"")).count(), 1, "{events}");
    daemon.brood().args(["rm", &id]).run().ok();
}
