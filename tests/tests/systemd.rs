//! Cgroups by way of systemd, with a real one.

use brood_tests::cgroups::{self, Layout};
use brood_tests::systemd::Systemd;
use brood_tests::{Bundle, Daemon, Sandbox, binaries, config, counting, waiting};
use serde_json::{Value, json};

const SLICE: &str = "brood.slice/brood-test.slice";

fn bundle(sandbox: &Sandbox) -> Bundle {
    let mut bundle = Bundle::busybox(sandbox, "bundle");
    bundle.args(&["sleep", "1000"]);
    bundle.config["linux"]["cgroupsPath"] = json!("brood-test.slice:pre:box");
    bundle.write();
    bundle
}

#[test]
fn a_container_is_a_scope_for_as_long_as_it_lives() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let mut bundle = bundle(&sandbox);
    bundle.config["annotations"] = json!({ "org.systemd.property.TimeoutStopSec": "uint64 3" });
    bundle.config["linux"]["resources"] = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] });
    bundle.write();
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    let oci = |args: &[&str]| systemd.oci(&sandbox).args(args).arg(&id).run();
    systemd.oci(&sandbox).args(["create", "--bundle"]).arg(bundle.path()).arg(&id).run().ok();
    let scope = systemd.cgroup(SLICE).join(unit);
    for (name, value) in [
        ("ActiveState", "active"),
        ("ControlGroup", "/brood.slice/brood-test.slice/pre-box.scope"),
        ("Slice", "brood-test.slice"),
        ("Delegate", "yes"),
        ("TasksAccounting", "yes"),
        ("TimeoutStopUSec", "3s"),
    ] {
        assert_eq!(systemd.property(&sandbox, unit, name), value, "{name}");
    }
    let file = |name: &str| std::fs::read_to_string(scope.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(file("cgroup.procs").lines().count(), 1, "the container's process is alone in there");
    if !binaries::oracle() {
        assert_eq!(file("hugetlb.2MB.max").trim(), (4 << 20).to_string());
    }
    oci(&["start"]).ok();
    let places = systemd.oci(&sandbox).args(["exec", &id, "cat", "/proc/self/cgroup"]).run().ok();
    assert!(places.contains("0::/"), "{places}");
    oci(&["pause"]).ok();
    assert_eq!(file("cgroup.freeze").trim(), "1");
    oci(&["resume"]).ok();
    if !binaries::oracle() {
        let limits = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 8 << 20 }] }).to_string();
        systemd.oci(&sandbox).args(["update", "--resources", "-", &id]).stdin(limits).run().ok();
        assert_eq!(file("hugetlb.2MB.max").trim(), (8 << 20).to_string());
    }
    oci(&["delete", "--force"]).ok();
    assert!(!scope.exists());
    assert_eq!(systemd.property(&sandbox, unit, "LoadState"), "not-found");
    assert!(sandbox.containers().is_empty());
}

/// Limits are properties of the unit, so that systemd does not set them back, and what `update` changes is told to it.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn limits_are_properties_and_files() {
    // systemd has the controllers that its cgroup is given.
    std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +cpuset +memory +pids").unwrap();
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let mut bundle = bundle(&sandbox);
    bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20, "reservation": 32 << 20 },
        "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0" },
        "pids": { "limit": 50 },
    });
    bundle.write();
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    systemd.oci(&sandbox).args(["run", "--detach", "--bundle"]).arg(bundle.path()).arg(&id).run().ok();
    let scope = systemd.cgroup(SLICE).join(unit);
    let look = |expected: &[(&str, &str, &str, &str)]| {
        for &(property, told, file, written) in expected {
            assert_eq!(systemd.property(&sandbox, unit, property), told, "{property}");
            let found = std::fs::read_to_string(scope.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(found.trim(), written, "{file}");
        }
    };
    look(&[
        ("MemoryMax", "67108864", "memory.max", "67108864"),
        ("MemoryLow", "33554432", "memory.low", "33554432"),
        ("CPUWeight", "100", "cpu.weight", "100"),
        ("CPUQuotaPerSecUSec", "500ms", "cpu.max", "50000 100000"),
        ("AllowedCPUs", "0", "cpuset.cpus", "0"),
        ("TasksMax", "50", "pids.max", "50"),
    ]);
    let update = ["update", "--memory", "128m", "--pids-limit", "10", "--cpu-quota", "25000", &id];
    systemd.oci(&sandbox).args(update).run().ok();
    // What is set by hand is gone with it; what the unit's properties say stays.
    systemd.command(&sandbox, "systemctl").arg("daemon-reload").run().ok();
    look(&[
        ("MemoryMax", "134217728", "memory.max", "134217728"),
        ("CPUQuotaPerSecUSec", "250ms", "cpu.max", "25000 100000"),
        ("TasksMax", "10", "pids.max", "10"),
        ("AllowedCPUs", "0", "cpuset.cpus", "0"),
    ]);
    systemd.oci(&sandbox).args(["delete", "--force", &id]).run().ok();
    assert!(!scope.exists());
}

/// A property of the unit, what it is told to be, the cgroup v1 hierarchy, the file, and what is written in it; the name of the
/// property is empty for what systemd has none for.
type V1Limit<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

/// Sees both of each limit, and that the container's process is alone in there.
#[track_caller]
fn look_v1(systemd: &Systemd, sandbox: &Sandbox, unit: &str, expected: &[V1Limit<'_>]) {
    for &(property, told, hierarchy, file, written) in expected {
        if !property.is_empty() {
            assert_eq!(systemd.property(sandbox, unit, property), told, "{property}");
        }
        let path = systemd.v1_cgroup(hierarchy, &format!("{SLICE}/{unit}")).join(file);
        let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(found.trim(), written, "{file}");
        let procs = std::fs::read_to_string(path.with_file_name("cgroup.procs")).unwrap();
        assert_eq!(procs.lines().count(), 1, "the container's process is alone in {}", path.display());
    }
}

/// The same on cgroup v1, whose properties have other names; cpusets and devices are none of systemd's there.
fn limits_are_properties_and_files_of_v1(layout: Layout) {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start_on(&sandbox, layout);
    let mut bundle = bundle(&sandbox);
    bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20, "reservation": 32 << 20 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" },
        "pids": { "limit": 50 },
    });
    bundle.write();
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    systemd.oci(&sandbox).args(["run", "--detach", "--bundle"]).arg(bundle.path()).arg(&id).run().ok();
    let place = format!("{SLICE}/{unit}");
    assert_eq!(systemd.property(&sandbox, unit, "ControlGroup"), format!("/{place}"));
    let look = |expected: &[V1Limit<'_>]| look_v1(&systemd, &sandbox, unit, expected);
    look(&[
        ("MemoryLimit", "67108864", "memory", "memory.limit_in_bytes", "67108864"),
        ("", "", "memory", "memory.soft_limit_in_bytes", "33554432"),
        ("CPUShares", "512", "cpu", "cpu.shares", "512"),
        ("CPUQuotaPerSecUSec", "500ms", "cpu", "cpu.cfs_quota_us", "50000"),
        ("", "", "cpuset", "cpuset.cpus", "0"),
        ("TasksMax", "50", "pids", "pids.max", "50"),
    ]);
    let update = ["update", "--memory", "128m", "--pids-limit", "20", "--cpu-quota", "25000", &id];
    systemd.oci(&sandbox).args(update).run().ok();
    // What is set by hand is gone with it; what the unit's properties say stays.
    systemd.command(&sandbox, "systemctl").arg("daemon-reload").run().ok();
    look(&[
        ("MemoryLimit", "134217728", "memory", "memory.limit_in_bytes", "134217728"),
        ("CPUQuotaPerSecUSec", "250ms", "cpu", "cpu.cfs_quota_us", "25000"),
        ("CPUShares", "512", "cpu", "cpu.shares", "512"),
        ("TasksMax", "20", "pids", "pids.max", "20"),
        ("", "", "cpuset", "cpuset.cpus", "0"),
    ]);
    let oci = |args: &[&str]| systemd.oci(&sandbox).args(args).arg(&id).run();
    oci(&["pause"]).ok();
    assert!(oci(&["state"]).ok().contains("\"paused\""));
    oci(&["resume"]).ok();
    systemd.oci(&sandbox).args(["exec", &id, "true"]).run().ok();
    oci(&["delete", "--force"]).ok();
    for (mount_point, _) in cgroups::v1_hierarchies() {
        let hierarchy = mount_point.file_name().unwrap().to_str().unwrap();
        let left = systemd.v1_cgroup(hierarchy, &place);
        assert!(!left.exists(), "{}", left.display());
    }
    assert_eq!(systemd.property(&sandbox, unit, "LoadState"), "not-found");
}

#[test]
fn limits_are_properties_and_files_on_cgroup_v1() {
    limits_are_properties_and_files_of_v1(Layout::V1);
}

#[test]
fn limits_are_properties_and_files_on_a_hybrid_host() {
    limits_are_properties_and_files_of_v1(Layout::Hybrid);
}

/// CRIU puts the processes back into a scope that is made for them, with the limits that config.json says then.
#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_restored_container_is_a_scope_again() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let mut bundle = bundle(&sandbox);
    bundle.sh(counting::PROGRAM);
    config::add_namespace(&mut bundle.config, "network");
    bundle.config["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
    bundle.write();
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    let counted_to = |least: u64| counting::counted_to(&bundle, least);
    let scope = systemd.cgroup(SLICE).join(unit);
    let invocation = || systemd.property(&sandbox, unit, "InvocationID");
    let images = sandbox.path("images");
    systemd.oci(&sandbox).args(["run", "--detach", "--bundle"]).arg(bundle.path()).arg(&id).run().ok();
    counted_to(2);
    let first = invocation();
    systemd.oci(&sandbox).args(["checkpoint", "--image-path"]).arg(&images).arg(&id).run().ok();
    assert!(!scope.exists() && sandbox.containers().is_empty());

    let before = counting::count(&bundle).unwrap();
    let restore = systemd.oci(&sandbox).args(["restore", "--detach", "--image-path"]).arg(&images);
    restore.arg("--bundle").arg(bundle.path()).arg(&id).run().ok();
    let after = counted_to(before + 2);
    assert!(after < before + 1000, "{before}, then {after}: it has begun anew");
    assert_ne!(invocation(), first);
    assert_eq!(systemd.property(&sandbox, unit, "TasksMax"), "50");
    assert_eq!(std::fs::read_to_string(scope.join("pids.max")).unwrap().trim(), "50");
    let procs = std::fs::read_to_string(scope.join("cgroup.procs")).unwrap();
    assert!(procs.lines().count() >= 1, "its processes are in there");
    assert_eq!(systemd.property(&sandbox, unit, "ActiveState"), "active");
    systemd.oci(&sandbox).args(["delete", "--force", &id]).run().ok();
    assert!(!scope.exists());
}

/// A unit belongs to the container that made it: a second one is refused, and undone without it.
#[test]
fn a_unit_that_is_there_is_left_alone() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let bundle = bundle(&sandbox);
    let (first, second) = (sandbox.id("first"), sandbox.id("second"));
    let create = |id: &str| systemd.oci(&sandbox).args(["create", "--bundle"]).arg(bundle.path()).arg(id).run();
    create(&first).ok();
    let refused = create(&second);
    assert_ne!(refused.code(), 0, "{refused}");
    if !binaries::oracle() {
        assert!(refused.one_line_error().contains("Unit pre-box.scope was already loaded"), "{refused}");
    }
    assert_eq!(sandbox.containers(), std::slice::from_ref(&first));
    assert_eq!(systemd.property(&sandbox, "pre-box.scope", "ActiveState"), "active");
    // Nobody keeps it when the container has ended.
    systemd.oci(&sandbox).args(["kill", &first, "KILL"]).run().ok();
    waiting::until("the scope to end", || {
        (systemd.property(&sandbox, "pre-box.scope", "ActiveState") == "inactive").then_some(())
    });
    systemd.oci(&sandbox).args(["delete", &first]).run().ok();
    create(&second).ok();
    systemd.oci(&sandbox).args(["delete", "--force", &second]).run().ok();
}

/// After the end of its unit another one may take the name: that is none of the container's.
#[test]
fn a_unit_that_took_the_name_later_is_left_alone() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let bundle = bundle(&sandbox);
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    systemd.oci(&sandbox).args(["create", "--bundle"]).arg(bundle.path()).arg(&id).run().ok();
    systemd.oci(&sandbox).args(["kill", &id, "KILL"]).run().ok();
    waiting::until("the scope to end", || {
        (systemd.property(&sandbox, unit, "ActiveState") == "inactive").then_some(())
    });
    let options = ["--scope", "--unit=pre-box", "--slice=brood-test.slice", "sleep", "1000"];
    let other = systemd.command(&sandbox, "systemd-run").args(options).start();
    waiting::until("the other's scope", || (systemd.property(&sandbox, unit, "ActiveState") == "active").then_some(()));
    // A foreign runtime would take it for the container's.
    if !binaries::oracle() {
        systemd.oci(&sandbox).args(["kill", "--all", &id, "KILL"]).run().ok();
        systemd.oci(&sandbox).args(["delete", &id]).run().ok();
        assert!(sandbox.containers().is_empty());
        assert_eq!(systemd.property(&sandbox, unit, "ActiveState"), "active");
        let procs = std::fs::read_to_string(systemd.cgroup(SLICE).join(unit).join("cgroup.procs")).unwrap();
        assert_eq!(procs.lines().count(), 1, "its process lives");
    }
    systemd.command(&sandbox, "systemctl").args(["stop", unit]).run().ok();
    drop(other);
}

/// What fails on the way leaves no unit, and what cannot be asked for is told in one line.
#[test]
fn a_launch_that_fails_leaves_no_unit() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let annotation = |name: &str, value: &str| json!({ format!("org.systemd.property.{name}"): value });
    for (at, value, words) in [
        ("/process/args", json!(["/nowhere"]), "/nowhere"),
        ("/linux/cgroupsPath", json!("/a/b"), "linux.cgroupsPath: expected cgroupsPath to be of format"),
        ("/linux/cgroupsPath", json!("a--b.slice:c:d"), "invalid slice name:"),
        ("/annotations", annotation("NoSuchThing", "5"), "Cannot set property NoSuchThing, or unknown property."),
        ("/annotations", annotation("TasksMax", "many"), "annotation org.systemd.property.TasksMax:"),
        ("/annotations", annotation("tasks", "5"), "annotation org.systemd.property.tasks: is no name of a property"),
    ] {
        let mut bundle = Bundle::busybox(&sandbox, &format!("bundle{}", words.len()));
        bundle.config["linux"]["cgroupsPath"] = json!("brood-test.slice:pre:box");
        bundle.config["annotations"] = json!({});
        *bundle.config.pointer_mut(at).expect("a field") = value;
        bundle.write();
        let output = systemd.oci(&sandbox).args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run();
        assert_ne!(output.code(), 0, "{words}: {output}");
        if !binaries::oracle() {
            assert!(output.one_line_error().contains(words), "{words}: {output}");
        }
        assert_eq!(systemd.property(&sandbox, "pre-box.scope", "ActiveState"), "inactive", "{words}");
        assert!(!systemd.cgroup(SLICE).join("pre-box.scope").exists(), "{words}");
        assert!(sandbox.containers().is_empty(), "{words}");
    }
}

/// By way of the daemon: a whole life, with limits, and the crash of a supervisor in it.
#[test]
fn the_daemons_containers_are_scopes_too() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start(&sandbox);
    let bundle = bundle(&sandbox);
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    let wrapper = systemd.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let daemon = Daemon::start_through(&sandbox, &wrapper, &["--cgroup-manager", "systemd"]);
    let brood = |args: &[&str]| daemon.brood().args(args);
    let status = || {
        let state: Value = serde_json::from_str(&brood(&["state", &id]).run().ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    };
    brood(&["create", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    let scope = systemd.cgroup(SLICE).join(unit);
    let members = || std::fs::read_to_string(scope.join("cgroup.procs")).unwrap().lines().count();
    assert_eq!(systemd.property(&sandbox, unit, "ActiveState"), "active");
    waiting::until("the container's process to be alone in there", || (members() == 1).then_some(()));
    brood(&["start", &id]).run().ok();

    let supervisor = daemon.supervisor();
    let killed = rustix::process::Pid::from_raw(supervisor.pid).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    waiting::gone(supervisor.pid);
    assert_ne!(daemon.supervisor().pid, supervisor.pid);
    assert_eq!(status(), "running");
    brood(&["pause", &id]).run().ok();
    assert_eq!(std::fs::read_to_string(scope.join("cgroup.freeze")).unwrap().trim(), "1");
    brood(&["resume", &id]).run().ok();
    brood(&["exec", &id, "true"]).run().ok();

    // Another one of that name is refused, and undone without it.
    let other = sandbox.id("other");
    let refused = brood(&["create", "--name", &other, "--bundle"]).arg(bundle.path()).run();
    assert!(refused.one_line_error().contains("Unit pre-box.scope was already loaded"), "{refused}");
    assert_eq!((status().as_str(), members()), ("running", 1));

    brood(&["rm", "--force", &id]).run().ok();
    assert!(!scope.exists());
    assert_eq!(systemd.property(&sandbox, unit, "LoadState"), "not-found");
    assert!(sandbox.containers().is_empty());
}

/// By way of the daemon, limits are properties and files as well, before and after they are changed.
#[test]
fn limits_through_the_daemon_are_properties_and_files() {
    let sandbox = Sandbox::new();
    let systemd = Systemd::start_on(&sandbox, Layout::V1);
    let mut bundle = bundle(&sandbox);
    bundle.config["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
    bundle.write();
    let (id, unit) = (sandbox.id("box"), "pre-box.scope");
    let wrapper = systemd.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let daemon = Daemon::start_through(&sandbox, &wrapper, &["--cgroup-manager", "systemd"]);
    let brood = |args: &[&str]| daemon.brood().args(args);
    let look = |expected: &[V1Limit<'_>]| look_v1(&systemd, &sandbox, unit, expected);
    brood(&["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    look(&[
        ("MemoryLimit", "67108864", "memory", "memory.limit_in_bytes", "67108864"),
        ("TasksMax", "50", "pids", "pids.max", "50"),
    ]);
    brood(&["update", "--memory", "128m", "--pids-limit", "20", "--cpu-shares", "512", &id]).run().ok();
    // What is set by hand is gone with it.
    systemd.command(&sandbox, "systemctl").arg("daemon-reload").run().ok();
    look(&[
        ("MemoryLimit", "134217728", "memory", "memory.limit_in_bytes", "134217728"),
        ("TasksMax", "20", "pids", "pids.max", "20"),
        ("CPUShares", "512", "cpu", "cpu.shares", "512"),
    ]);
    brood(&["rm", "--force", &id]).run().ok();
    assert_eq!(systemd.property(&sandbox, unit, "LoadState"), "not-found");
}

/// What a daemon needs is asked for before it goes to work.
#[test]
fn a_daemon_without_systemd_says_so() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs none /run && exec \"$@\"";
    let alone = sandbox.command("unshare").args(["--mount", "sh", "-c", script, "sh"]).arg(binaries::brood());
    let alone = alone.arg("--root").arg(sandbox.root());
    let refused = alone.args(["daemon", "--cgroup-manager", "systemd"]).run().expect(125);
    let expected = "--cgroup-manager systemd: systemd is not running: /run/systemd/private: no such file or directory";
    assert!(refused.one_line_error().contains(expected), "{refused}");
}
