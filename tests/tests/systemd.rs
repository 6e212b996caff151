//! Cgroups by way of systemd, with a real one.

use brood_tests::systemd::Systemd;
use brood_tests::{Bundle, Sandbox, binaries, waiting};
use serde_json::json;

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
