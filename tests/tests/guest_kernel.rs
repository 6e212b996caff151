//! What is different on the guest's kernel: that it is the one we mean, and what Brood does without newer features.

use std::collections::BTreeSet;
use std::fs;

use brood_tests::{Bundle, Daemon, Face, Sandbox, config, guest, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).expect("the process is there");
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn the_guest_is_an_old_kernel_with_nothing_but_cgroup_v2() {
    guest::insist();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(release.starts_with("6.1."), "{release}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let cgroups: Vec<&str> = mounts.lines().filter(|line| line.contains(" /sys/fs/cgroup")).collect();
    assert!(matches!(cgroups.as_slice(), [one] if one.starts_with("cgroup2 /sys/fs/cgroup cgroup2 ")), "{cgroups:?}");
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap();
    let controllers: BTreeSet<&str> = controllers.split_whitespace().collect();
    for needed in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        assert!(controllers.contains(needed), "{needed} is not among {controllers:?}");
    }
}

/// Before Linux 6.15 the kernel keeps no status for those who hold a handle on a process that somebody else reaped.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_status_that_another_process_took_is_255_with_a_reason() {
    guest::insist();
    let sandbox = Sandbox::new();
    let mut first = Daemon::start(&sandbox, &[]);
    let id = sandbox.id("box");
    first.brood().args(["run", "-d", "--name", &id, "--", "sleep", "1000"]).run().ok();
    let state = |daemon: &Daemon<'_>| -> Value {
        serde_json::from_str(&daemon.brood().args(["state", &id]).run().ok()).expect("`state` prints JSON")
    };
    let pid = i32::try_from(state(&first)["pid"].as_i64().unwrap()).unwrap();
    first.stop();

    // The container is an orphan now, and so our child: we take its status while the next supervisor stands still.
    let next = Daemon::start(&sandbox, &[]);
    assert_eq!(state(&next)["status"], "running");
    let supervisor = next.supervisor().pid;
    send(supervisor, Signal::STOP);
    send(pid, Signal::KILL);
    waiting::gone(pid);
    send(supervisor, Signal::CONT);

    next.brood().args(["wait", &id]).run().expect(255);
    let exit = state(&next)["exit"].clone();
    assert_eq!(exit["status"], 255, "{exit}");
    assert!(exit["reason"].as_str().is_some_and(|reason| reason.contains("reaped by another process")), "{exit}");
}

/// The ids of a tmpfs can be mapped since Linux 6.3.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_tmpfs_whose_ids_cannot_be_mapped_is_refused_by_its_name() {
    guest::insist();
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        let mount = json!({ "destination": "/mapped", "type": "tmpfs", "uidMappings": map, "gidMappings": map });
        config::push(&mut bundle.config["mounts"], mount);
        bundle.args(&["true"]);
        let output = face.run(&sandbox, &bundle);
        assert_ne!(output.code(), 0, "{face:?}: {output}");
        let error = output.one_line_error();
        assert!(error.contains("/mapped (tmpfs)") && error.contains("invalid argument"), "{face:?}: {output}");
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?}");
    }
}
