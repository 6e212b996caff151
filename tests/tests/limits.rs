//! `linux.resources`: what is written, what is read back, and what comes of it, on every layout of cgroups.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test limits` asks the same of runc. With `--nocapture` they print
//! rows of docs/resources.md, "Seen": what was asked for, where it is, what was found there or came of it.

use std::fs;

use brood_tests::cgroups::{self, Layout};
use brood_tests::{Bundle, Container, Face, Output, Sandbox, binaries, waiting};
use serde_json::{Value, json};

use Layout::{Hybrid, V1, V2};

/// A limit, and for cgroup v1 and v2 the file and what is in it afterwards.
type Row = (&'static str, Value, Option<(&'static str, &'static str)>, Option<(&'static str, &'static str)>);

/// Limits that any of the machines can keep; of devices only what every machine has.
fn rows() -> Vec<Row> {
    let mib = 1 << 20;
    vec![
        (
            "memory",
            json!({ "memory": { "limit": 64 * mib, "swap": 96 * mib, "reservation": 32 * mib } }),
            Some(("memory.limit_in_bytes", "67108864")),
            Some(("memory.max", "67108864")),
        ),
        (
            "memory",
            json!({ "memory": { "limit": 64 * mib, "swap": 96 * mib } }),
            Some(("memory.memsw.limit_in_bytes", "100663296")),
            Some(("memory.swap.max", "33554432")),
        ),
        (
            "memory",
            json!({ "memory": { "reservation": 32 * mib } }),
            Some(("memory.soft_limit_in_bytes", "33554432")),
            Some(("memory.low", "33554432")),
        ),
        ("memory", json!({ "memory": { "swappiness": 0 } }), Some(("memory.swappiness", "0")), None),
        (
            "memory",
            json!({ "memory": { "disableOOMKiller": true } }),
            Some(("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0")),
            None,
        ),
        (
            "memory",
            json!({ "memory": { "kernelTCP": 16 * mib } }),
            Some(("memory.kmem.tcp.limit_in_bytes", "16777216")),
            None,
        ),
        ("memory", json!({ "unified": { "memory.high": "33554432" } }), None, Some(("memory.high", "33554432"))),
        ("cpu", json!({ "cpu": { "shares": 512 } }), Some(("cpu.shares", "512")), Some(("cpu.weight", "59"))),
        (
            "cpu",
            json!({ "cpu": { "quota": 20_000, "period": 50_000 } }),
            Some(("cpu.cfs_quota_us", "20000")),
            Some(("cpu.max", "20000 50000")),
        ),
        (
            "cpu",
            json!({ "cpu": { "quota": 20_000, "burst": 10_000 } }),
            Some(("cpu.cfs_burst_us", "10000")),
            Some(("cpu.max.burst", "10000")),
        ),
        ("cpu", json!({ "cpu": { "idle": 1 } }), Some(("cpu.idle", "1")), Some(("cpu.idle", "1"))),
        (
            "cpuset",
            json!({ "cpu": { "cpus": "0", "mems": "0" } }),
            Some(("cpuset.cpus", "0")),
            Some(("cpuset.cpus", "0")),
        ),
        ("pids", json!({ "pids": { "limit": 50 } }), Some(("pids.max", "50")), Some(("pids.max", "50"))),
        ("pids", json!({ "pids": { "limit": -1 } }), Some(("pids.max", "max")), Some(("pids.max", "max"))),
        ("pids", json!({ "pids": { "limit": 0 } }), Some(("pids.max", "1")), Some(("pids.max", "1"))),
    ]
}

fn limited(resources: &Value) -> Container {
    Container::new(|bundle| {
        bundle.args(&["sleep", "1000"]);
        bundle.config["linux"]["resources"] = resources.clone();
    })
}

fn create(layout: Layout, container: &Container) -> Output {
    layout.oci(&container.sandbox).args(["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run()
}

/// `brood-oci COMMAND... ID`
#[track_caller]
fn call(layout: Layout, container: &Container, args: &[&str]) -> Output {
    layout.oci(&container.sandbox).args(args).arg(&container.id).run()
}

#[track_caller]
fn delete(layout: Layout, container: &Container) {
    call(layout, container, &["delete", "--force"]).ok();
}

fn reads_back(layout: Layout) {
    // Debian's runc knows none of these.
    let newer = |resources: &Value| {
        let (memory, cpu) = (&resources["memory"], &resources["cpu"]);
        !memory["kernelTCP"].is_null()
            || !cpu["burst"].is_null()
            || !cpu["idle"].is_null()
            || resources["pids"]["limit"] == 0
    };
    let known = |(_, resources, ..): &Row| !(binaries::oracle() && newer(resources));
    for (controller, resources, v1, v2) in rows().into_iter().filter(known) {
        let container = limited(&resources);
        let Some((file, expected)) = (if layout.is_v2() { v2 } else { v1 }) else {
            let refused = create(layout, &container);
            // A foreign runtime may leave out what does not exist.
            if !binaries::oracle() {
                show(layout, &resources, "refused", refused.one_line_error());
                assert!(refused.one_line_error().contains("linux.resources."), "{resources}: {refused}");
            }
            continue;
        };
        create(layout, &container).ok();
        let found = cgroups::value(container.pid(), controller, file);
        let expected: Vec<&str> = expected.lines().collect();
        let found: Vec<&str> = found.lines().take(expected.len()).collect();
        assert_eq!(found, expected, "{resources}: {file}");
        show(layout, &resources, &format!("`{file}`"), &found.join("\n"));
        delete(layout, &container);
    }
}

/// Runs a script under limits, to its end.
fn run(layout: Layout, resources: &Value, script: &str) -> Output {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh(script);
    bundle.config["linux"]["resources"] = resources.clone();
    bundle.write();
    layout.oci(&sandbox).args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run()
}

/// A row of the table.
fn show(layout: Layout, asked: &Value, place: &str, found: &str) {
    eprintln!("| {layout:?} | `{asked}` | {place} | `{}` |", found.trim().replace('\n', "` `"));
}

/// What each limit is for.
fn takes_effect(layout: Layout) {
    // 64 MiB in one process, of 32: `dd` holds its whole block in memory.
    let memory = json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } });
    let killed = run(layout, &memory, "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo $?");
    assert_eq!(killed.stdout.trim(), "137", "killed for memory: {killed}");
    show(layout, &memory, "status of `dd bs=64M`", &killed.stdout);

    let three = json!({ "pids": { "limit": 3 } });
    let few = run(layout, &three, "sleep 5 & sleep 5 & sleep 5 & wait");
    assert!(few.stderr.contains("can't fork"), "three processes at most: {few}");
    show(layout, &three, "a shell's third child", &few.stderr);
    let alone = run(layout, &json!({ "pids": { "limit": 0 } }), "echo alone; true & wait");
    let refused = binaries::oracle() || alone.stderr.contains("can't fork");
    assert!(alone.stdout.contains("alone") && refused, "no second process: {alone}");

    // Of each 100 ms of one processor 5: a loop is stopped again and again.
    let container = Container::new(|bundle| {
        bundle.sh("while :; do :; done");
        bundle.config["linux"]["resources"] = json!({ "cpu": { "quota": 5000, "period": 100_000 } });
    });
    create(layout, &container).ok();
    call(layout, &container, &["start"]).ok();
    let pid = container.pid();
    let times = waiting::until("the processor is denied", || {
        let stat = cgroups::value(pid, "cpu", "cpu.stat");
        let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        throttled.filter(|number| *number != "0").map(str::to_owned)
    });
    show(layout, &json!({ "cpu": { "quota": 5000, "period": 100_000 } }), "`nr_throttled` of `cpu.stat`", &times);
    delete(layout, &container);
}

#[test]
fn limits_read_back_on_a_hybrid_host() {
    reads_back(Hybrid);
}

#[test]
fn limits_read_back_on_cgroup_v1() {
    reads_back(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn limits_read_back_on_cgroup_v2() {
    reads_back(V2);
}

#[test]
fn limits_take_effect_on_a_hybrid_host() {
    takes_effect(Hybrid);
}

#[test]
fn limits_take_effect_on_cgroup_v1() {
    takes_effect(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn limits_take_effect_on_cgroup_v2() {
    takes_effect(V2);
}

/// On cgroup v1 alone there is neither `cgroup.kill` nor `cgroup.freeze`.
#[test]
fn a_container_on_cgroup_v1_is_paused_and_killed() {
    let container = Container::new(|bundle| {
        bundle.live_until_term(7);
        bundle.config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
    });
    create(V1, &container).ok();
    call(V1, &container, &["start"]).ok();
    container.bundle.await_up();
    let pid = container.pid();
    call(V1, &container, &["pause"]).ok();
    assert_eq!(cgroups::value(pid, "freezer", "freezer.state"), "FROZEN");
    assert!(call(V1, &container, &["state"]).ok().contains("\"paused\""));
    call(V1, &container, &["resume"]).ok();
    assert_eq!(cgroups::value(pid, "freezer", "freezer.state"), "THAWED");
    call(V1, &container, &["pause"]).ok();
    // Its `sleep` is in no pid namespace that would end with the shell.
    V1.oci(&container.sandbox).args(["kill", &container.id, "KILL"]).run().ok();
    waiting::gone(pid);
    delete(V1, &container);
}

/// A process of a container is in all of its cgroups, whichever way it came.
#[test]
fn an_exec_is_where_the_container_is() {
    for layout in [Hybrid, V1] {
        let container = Container::new(|bundle| {
            bundle.live_until_term(7);
            bundle.config["linux"]["resources"] = json!({ "cpu": { "cpus": "0" }, "pids": { "limit": 20 } });
        });
        create(layout, &container).ok();
        call(layout, &container, &["start"]).ok();
        let cgroup = |pid: &str| {
            let script = format!("cat /proc/{pid}/cgroup");
            layout.oci(&container.sandbox).args(["exec", &container.id, "sh", "-c", &script]).run().ok()
        };
        assert_eq!(cgroup("self"), cgroup("1"));
        delete(layout, &container);
    }
}

#[test]
fn bad_limits_are_refused_by_name() {
    let mib = 1 << 20;
    let cases = [
        (json!({ "memory": { "limit": -2 } }), "linux.resources.memory.limit: must be -1"),
        (json!({ "memory": { "limit": 64 * mib, "swap": 32 * mib } }), "linux.resources.memory.swap: "),
        (json!({ "memory": { "swappiness": 101 } }), "linux.resources.memory.swappiness: must be from 0 to 100"),
        (json!({ "cpu": { "cpus": "77-78" } }), "linux.resources.cpu.cpus: write 77-78 to /sys/fs/cgroup/cpuset/"),
        (json!({ "cpu": { "cpus": "x" } }), "linux.resources.cpu.cpus: write x to /sys/fs/cgroup/cpuset/"),
        (json!({ "cpu": { "quota": 1 } }), "linux.resources.cpu.quota: write 1 to /sys/fs/cgroup/cpu/"),
        (json!({ "blockIO": { "weight": 5 } }), "linux.resources.blockIO.weight: must be from 10 to 1000"),
        (
            json!({ "hugepageLimits": [{ "pageSize": "3 MB", "limit": 1 }] }),
            "linux.resources.hugepageLimits[0].pageSize",
        ),
        (
            json!({ "unified": { "memory.high": "1" } }),
            "linux.resources.unified.memory.high: invalid configuration: the",
        ),
        (json!({ "unified": { "../x": "1" } }), "linux.resources.unified.../x: is no file of a cgroup"),
        (
            json!({ "rdma": { "mlx5": { "hcaHandles": 1 } } }),
            "linux.resources.rdma.mlx5: the host has no writable cgroup",
        ),
    ];
    for (resources, message) in cases {
        for &face in Face::all() {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            bundle.config["linux"]["resources"] = resources.clone();
            let refused = face.run(&sandbox, &bundle);
            // A foreign runtime may take some of them, or say it in other words.
            assert!(binaries::oracle() || refused.one_line_error().contains(message), "{resources}: {refused}");
        }
    }
}

/// As with every other field that is not supported.
#[test]
fn what_the_host_lacks_can_be_ignored() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: it has no such option");
        return;
    }
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.config["linux"]["resources"] = json!({ "rdma": { "mlx5": { "hcaHandles": 1 } } });
    bundle.write();
    let options = ["run", "--rm", "--ignore-unsupported", "--bundle"];
    let ran = sandbox.brood().args(options).arg(bundle.path()).run().expect(0);
    assert!(ran.stderr.contains("linux.resources.rdma.mlx5"), "{ran}");
}

/// A host on which nothing can be limited: an ordinary user's, or a container's.
#[test]
fn without_a_hierarchy_a_limit_is_refused_and_a_container_runs() {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    let script = "umount -R /sys/fs/cgroup && exec \"$@\"";
    let run = |bundle: &Bundle| {
        bundle.write();
        let wrapper = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
        let unshare = sandbox.command("unshare").args(wrapper).arg(binaries::oci()).arg("--root").arg(sandbox.root());
        unshare.args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run()
    };
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: it insists on cgroups");
        return;
    }
    run(&bundle).ok();
    bundle.config["linux"]["resources"] = json!({ "pids": { "limit": -1 } });
    run(&bundle).ok();
    bundle.config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    let refused = run(&bundle);
    assert!(
        refused.one_line_error().contains("linux.resources.pids.limit: the host has no writable cgroup"),
        "{refused}"
    );
    bundle.config["linux"]["cgroupsPath"] = json!("/x");
    bundle.config["linux"]["resources"] = json!({});
    assert!(run(&bundle).expect(1).one_line_error().contains("linux.cgroupsPath"));
    assert!(fs::read_dir(sandbox.root()).unwrap().next().is_none());
}

/// A mount that may be written shows the container's own cgroups, and of others nothing that could be written.
#[test]
fn a_writable_cgroup_mount_reaches_the_containers_own_only() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: it makes a cgroup in every hierarchy");
        return;
    }
    for own_namespace in [true, false] {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        if own_namespace {
            brood_tests::config::add_namespace(&mut bundle.config, "cgroup");
        }
        let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] });
        brood_tests::config::add_mount(&mut bundle.config, mount);
        bundle.sh(
            "cd /sys/fs/cgroup; for c in memory pids unified cpuset blkio; do mkdir $c/sub 2>/dev/null && echo $c; done; \
             cat memory/cgroup.procs | wc -l; rmdir */sub",
        );
        bundle.write();
        let ran = Hybrid.oci(&sandbox).args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run();
        // It has its own in every one of them.
        let lines: Vec<&str> = ran.stdout.lines().collect();
        let (processes, made) = lines.split_last().expect("a number at the end");
        assert_eq!(
            made,
            ["memory", "pids", "unified", "cpuset", "blkio"],
            "own cgroup namespace: {own_namespace}: {ran}"
        );
        assert!(processes.parse::<u32>().is_ok_and(|processes| processes <= 4), "{ran}");
    }
}

/// Device rules: what is not allowed cannot be opened, though its node is there.
fn devices_are_kept_away(layout: Layout) {
    // (rules, device number, whether it can be read)
    let fuse = |access: &str| json!([{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": access }]);
    let deny_all = json!({ "allow": false, "access": "rwm" });
    for (rules, number, opens) in [
        (Value::Null, "1 11", false),
        (json!([deny_all]), "1 11", false),
        (json!([deny_all]), "1 5", true),
        (json!([deny_all, { "allow": true, "type": "c", "major": 1, "access": "rw" }]), "1 11", true),
        (json!([{ "allow": true, "access": "rwm" }]), "1 11", true),
        (
            json!([{ "allow": true, "access": "rwm" }, { "allow": false, "type": "c", "major": 1, "minor": 11, "access": "r" }]),
            "1 11",
            false,
        ),
        (fuse("m"), "1 11", false),
    ] {
        let resources = json!({ "devices": rules });
        let script = format!("mknod /dev/probe c {number}; exec 3</dev/probe && echo open; :");
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh(&script);
        bundle.config["linux"]["resources"] = resources.clone();
        // Without it nobody opens the kernel's log, 1:11.
        for set in ["bounding", "effective", "permitted"] {
            bundle.config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYSLOG"));
        }
        bundle.write();
        let ran = layout.oci(&sandbox).args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run();
        assert_eq!(ran.stdout.contains("open"), opens, "{resources}: {ran}");
        assert!(opens || ran.stderr.contains("Operation not permitted"), "{resources}: {ran}");
        show(layout, &resources, &format!("open of a device {number}"), if opens { "opens" } else { &ran.stderr });
    }
}

#[test]
fn devices_are_kept_away_on_a_hybrid_host() {
    devices_are_kept_away(Hybrid);
}

#[test]
fn devices_are_kept_away_on_cgroup_v1() {
    devices_are_kept_away(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn devices_are_kept_away_on_cgroup_v2() {
    devices_are_kept_away(V2);
}

/// An exec and a host's overlay are confined as well.
#[test]
fn devices_are_kept_away_from_whatever_runs_there() {
    let sandbox = Sandbox::new();
    let script = "mknod /tmp/probe c 1 11 && cat /tmp/probe";
    let ran = sandbox.brood().args(["run", "--rm", "sh", "-c", script]).run();
    assert!(ran.stderr.contains("Operation not permitted"), "{ran}");
    let container = Container::long_lived().up();
    let ran = container.oci(&["exec", &container.id, "sh", "-c", script]).run();
    assert!(ran.stderr.contains("Operation not permitted"), "{ran}");
    container.call(&["delete", "--force"]).ok();
}
