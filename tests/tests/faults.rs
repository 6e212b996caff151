//! Processes of ours that are killed at bad moments. (Supervisor and zygote under ordinary use: `daemon.rs`.)

use brood_tests::procfs::process;
use brood_tests::{Bundle, Daemon, Sandbox, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).expect("the process is there");
}

fn list(daemon: &Daemon<'_>) -> Vec<Value> {
    let list = daemon.brood().args(["list", "--format", "json"]).run().ok();
    serde_json::from_str(&list).expect("an array of containers")
}

#[test]
fn a_dead_keeper_lets_no_second_daemon_in() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    let supervisor = daemon.supervisor();
    send(daemon.named("keeper")[0].pid, Signal::KILL);
    waiting::gone(daemon.pid());

    let second = sandbox.brood().arg("daemon").run().expect(125);
    assert!(second.one_line_error().contains("already running"), "{second}");
    // The supervisor goes on as if nothing had been.
    assert_eq!(list(&daemon)[0]["status"], "running");
    daemon.brood().args(["rm", "--force", &id]).run().ok();
    stop(supervisor.pid);
}

/// The keeper that a supervisor has started in the place of one that died.
fn replacement(supervisor: i32) -> i32 {
    waiting::until("another keeper", || {
        let family = brood_tests::procfs::family(supervisor);
        family.into_iter().find(|process| process.cmdline.starts_with("brood: keeper")).map(|keeper| keeper.pid)
    })
}

/// Stops a daemon by the keeper that its supervisor has started.
fn stop(supervisor: i32) {
    let keeper = replacement(supervisor);
    send(keeper, Signal::TERM);
    waiting::gone(supervisor);
    waiting::gone(keeper);
}

#[test]
fn a_dead_keeper_is_replaced_by_one_that_starts_supervisors() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    let pid = list(&daemon)[0]["pid"].clone();
    let first = daemon.supervisor().pid;
    send(daemon.named("keeper")[0].pid, Signal::KILL);
    waiting::gone(daemon.pid());
    let keeper = replacement(first);
    send(first, Signal::KILL);
    waiting::gone(first);
    // The new one's parent is the new keeper.
    let second = waiting::until("another supervisor", || {
        let family = brood_tests::procfs::family(keeper);
        family.into_iter().find(|process| process.cmdline.starts_with("brood: supervisor"))
    });
    assert_eq!(list(&daemon)[0]["status"], "running");
    assert_eq!(list(&daemon)[0]["pid"], pid);
    daemon.brood().args(["kill", "--signal", "KILL", &id]).run().ok();
    daemon.brood().args(["wait", &id]).run().expect(137);
    daemon.brood().args(["rm", &id]).run().ok();
    send(keeper, Signal::TERM);
    waiting::gone(second.pid);
    waiting::gone(keeper);
}

/// Whether the kernel tells others than the parent how a process ended (`PIDFD_GET_INFO`, Linux 6.15).
fn tells_others() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// What a keeper had inherited goes to the host's init when that keeper dies: its successor will never tell of it.
#[test]
fn what_a_dead_keeper_had_inherited_is_still_told() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    let pid = list(&daemon)[0]["pid"].as_i64().unwrap() as i32;
    let first = daemon.supervisor().pid;
    send(first, Signal::KILL);
    waiting::gone(first);
    assert_eq!(list(&daemon)[0]["status"], "running");
    let second = daemon.supervisor().pid;
    send(daemon.named("keeper")[0].pid, Signal::KILL);
    waiting::gone(daemon.pid());
    let keeper = replacement(second);
    send(pid, Signal::KILL);
    let waited = daemon.brood().args(["wait", &id]).run();
    // Others than the parent are told since Linux 6.15; before, the host's init may have been quicker than we.
    if tells_others() {
        waited.expect(137);
    } else {
        assert!([137, 255].contains(&waited.code()), "{waited}");
    }
    daemon.brood().args(["rm", &id]).run().ok();
    send(keeper, Signal::TERM);
    waiting::gone(second);
    waiting::gone(keeper);
}

/// A tracer that never looks at what it traces keeps an exit from everybody, and costs nobody else anything.
#[test]
fn exits_that_a_tracer_holds_back_stop_nothing_else() {
    // More than there are threads for what blocks.
    const TRACED: usize = 12;
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let ids: Vec<String> = (0..TRACED).map(|number| sandbox.id(&format!("box{number}"))).collect();
    for id in &ids {
        daemon.brood().args(["run", "-d", "--name", id, "--", "sleep", "1000"]).run().ok();
    }
    let pids: Vec<i32> = list(&daemon).iter().map(|one| one["pid"].as_i64().unwrap() as i32).collect();
    assert_eq!(pids.len(), TRACED);
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let (seized, ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // A tracer is a thread; what it traces is free when that ends.
        scope.spawn(move || {
            for pid in &pids {
                nix::sys::ptrace::seize(nix::unistd::Pid::from_raw(*pid), nix::sys::ptrace::Options::empty()).unwrap();
            }
            for pid in pids {
                send(pid, Signal::KILL);
            }
            seized.send(()).unwrap();
            let _ = held.recv();
        });
        ready.recv().unwrap();
        let waits: Vec<_> = ids.iter().map(|id| daemon.brood().args(["wait", id]).start()).collect();
        for _ in 0..3 {
            daemon.brood().args(["run", "--rm", "--", "true"]).run().ok();
        }
        assert!(list(&daemon).iter().all(|one| one["status"] == "running"));
        drop(let_go);
        for wait in waits {
            assert_eq!(wait.finish().code(), 137);
        }
    });
    for id in &ids {
        daemon.brood().args(["rm", id]).run().ok();
    }
}

/// Keeper and supervisor at once: nobody is left who could reap. Containers go on; of what ended meanwhile perhaps
/// nobody knows the status, and none is made up.
#[test]
fn what_ends_while_nobody_is_there_is_told_as_lost() {
    const EACH: usize = 8;
    let sandbox = Sandbox::new();
    let first = Daemon::start(&sandbox, &[]);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh("while [ ! -e /$NAME ]; do sleep 0.02; done; echo $NAME; exit 7");
    let open = |name: &str| std::fs::write(bundle.rootfs().join(name), "").unwrap();
    let mut all = Vec::new();
    for number in 0..2 * EACH {
        let (id, name) = (sandbox.id(&format!("box{number}")), ["early", "late"][number / EACH]);
        let mut own = Bundle::busybox(&sandbox, &format!("bundle{number}"));
        own.config = bundle.config.clone();
        own.config["root"]["path"] = json!(bundle.rootfs());
        own.config["process"]["env"].as_array_mut().unwrap().push(json!(format!("NAME={name}")));
        own.write();
        first.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(own.path()).run().ok();
        all.push((id, name));
    }
    let pids: Vec<i32> = list(&first).iter().map(|state| state["pid"].as_i64().unwrap() as i32).collect();
    assert_eq!(pids.len(), 2 * EACH);
    let supervisor = first.supervisor().pid;
    // Neither may start the other again.
    for signal in [Signal::STOP, Signal::KILL] {
        send(first.pid(), signal);
        send(supervisor, signal);
    }
    waiting::gone(supervisor);
    open("early");
    waiting::until("half of them to end", || {
        let living = pids.iter().filter(|pid| process(**pid).is_some_and(|process| process.state != 'Z')).count();
        (living == EACH).then_some(())
    });

    let second = Daemon::start(&sandbox, &[]);
    assert_eq!(list(&second).len(), 2 * EACH);
    open("late");
    for (id, name) in &all {
        let waited = second.brood().args(["wait", id]).run();
        let lost =
            waited.stderr.contains("exit status unknown: it ended while neither supervisor nor keeper was there");
        // The kernel knows it until somebody, who is the machine's init, has reaped it.
        let known = waited.code() == 7 && !lost;
        assert!(known || (*name == "early" && lost && waited.code() == 255), "{name}: {waited}");
        let said = std::fs::read_to_string(sandbox.root().join(id).join("init/stdout")).unwrap();
        assert_eq!(said, format!("{name}\n"));
        second.brood().args(["rm", id]).run().ok();
    }
    drop(second);
    drop(first);
}

/// A pid file that is damaged costs no container: one that lives is found by its cgroup, one that has ended by the journal.
#[test]
fn a_damaged_pid_file_costs_no_container() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let [alive, ended, namespace] = ["alive", "ended", "namespace"].map(|name| sandbox.id(name));
    daemon.brood().args(["run", "-d", "--name", &alive, "--", "sh", "-c", "sleep 1000 & sleep 1000"]).run().ok();
    daemon.brood().args(["run", "-d", "--name", &ended, "--", "sh", "-c", "exit 7"]).run().ok();
    daemon.brood().args(["wait", &ended]).run().expect(7);
    // Without a pid namespace, and so without a process that leads it.
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh("sleep 1000");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.write();
    daemon.brood().args(["run", "-d", "--name", &namespace, "--bundle"]).arg(bundle.path()).run().ok();
    let before = list(&daemon);
    let first = daemon.supervisor().pid;
    for id in [&alive, &ended, &namespace] {
        std::fs::write(sandbox.root().join(id).join("init/pid"), "{\"pid\": 4").unwrap();
        let exit = sandbox.root().join(id).join("init/exit");
        let _ = std::fs::remove_file(exit);
    }
    send(first, Signal::KILL);
    waiting::gone(first);
    let after = list(&daemon);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before["id"], &before["status"], &before["pid"]), (&after["id"], &after["status"], &after["pid"]));
    }
    assert_eq!(after.len(), 3);
    daemon.brood().args(["wait", &ended]).run().expect(7);
    for id in [&alive, &namespace] {
        daemon.brood().args(["kill", "--all", "--signal", "KILL", id]).run().ok();
        daemon.brood().args(["wait", id]).run().expect(137);
    }
    assert!(daemon.log().contains("init/pid: damaged"), "{}", daemon.log());
    daemon.brood().args(["rm", &alive, &ended, &namespace]).run().ok();
}

#[test]
fn exits_that_pile_up_while_nobody_listens_are_all_told() {
    // More than fit into the socket between keeper and supervisor.
    const CONTAINERS: usize = 320;
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    for number in 0..CONTAINERS {
        let id = sandbox.id(&format!("box{number}"));
        daemon.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    }
    let first = daemon.supervisor().pid;
    send(first, Signal::KILL);
    waiting::gone(first);
    let second = waiting::until("another supervisor", || {
        let one = daemon.named("supervisor").first()?.pid;
        (list(&daemon).len() == CONTAINERS).then_some(one)
    });

    let pids: Vec<i32> = list(&daemon).iter().map(|state| state["pid"].as_i64().unwrap() as i32).collect();
    send(second, Signal::STOP);
    pids.iter().for_each(|pid| send(*pid, Signal::KILL));
    pids.iter().for_each(|pid| waiting::gone(*pid));
    send(second, Signal::CONT);

    let told = |state: &Value| state["status"] == "stopped" && state["exit"]["status"] == 137;
    waiting::until("every exit", || list(&daemon).iter().all(told).then_some(()));
}

#[test]
fn a_killed_run_is_swept_by_the_next_one() {
    let sandbox = Sandbox::new();
    let id = sandbox.id("box");
    let running = sandbox.brood().args(["run", "--name", &id, "--", "sleep", "1000"]).start();
    let pid = waiting::until("the container", || {
        let record = std::fs::read(sandbox.root().join(&id).join("init/pid")).ok()?;
        let record: Value = serde_json::from_slice(&record).ok()?;
        let pid = i32::try_from(record["pid"].as_i64()?).ok()?;
        process(pid).filter(|process| process.cmdline.starts_with("sleep")).map(|_| pid)
    });
    send(running.pid(), Signal::KILL);
    running.finish();
    // It dies with the command that ran it; what is left are its folder and its cgroup.
    waiting::gone(pid);
    assert_eq!(sandbox.containers(), [id]);
    sandbox.brood().args(["run", "--", "true"]).run().ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn brood_oci_does_not_delete_under_a_running_daemon() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    let refused = sandbox.oci().args(["delete", "--force", &id]).run().expect(1);
    assert!(refused.one_line_error().contains("use `brood rm`"), "{refused}");
    assert_eq!(list(&daemon)[0]["status"], "running");
}
