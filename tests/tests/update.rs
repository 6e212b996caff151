//! `update`: limits of a running container, on every layout of cgroups. Only what is given changes, and a refusal changes
//! nothing.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test update` asks the same of runc.

use brood_tests::cgroups::{self, Layout};
use brood_tests::{Container, Output, binaries, waiting};
use serde_json::{Value, json};

use Layout::{Hybrid, V1, V2};

fn limited() -> Value {
    json!({
        "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
        "pids": { "limit": 50 },
    })
}

fn up(layout: Layout, resources: &Value) -> Container {
    let container = Container::new(|bundle| {
        bundle.live_until_term(7);
        bundle.config["linux"]["resources"] = resources.clone();
    });
    let create = layout.oci(&container.sandbox).args(["create", "--bundle"]).arg(container.bundle.path());
    create.arg(&container.id).run().ok();
    layout.oci(&container.sandbox).args(["start", &container.id]).run().ok();
    container.bundle.await_up();
    container
}

fn update(layout: Layout, container: &Container, args: &[&str]) -> Output {
    layout.oci(&container.sandbox).arg("update").args(args).arg(&container.id).run()
}

fn delete(layout: Layout, container: &Container) {
    layout.oci(&container.sandbox).args(["delete", "--force", &container.id]).run().ok();
}

/// The limits that the tests are about, in the words of the layout.
fn in_force(layout: Layout, pid: i32) -> Vec<String> {
    let files: &[(&str, &str)] = if layout.is_v2() {
        &[
            ("memory", "memory.max"),
            ("memory", "memory.swap.max"),
            ("memory", "memory.low"),
            ("cpu", "cpu.weight"),
            ("cpu", "cpu.max"),
            ("pids", "pids.max"),
        ]
    } else {
        &[
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("memory", "memory.soft_limit_in_bytes"),
            ("cpu", "cpu.shares"),
            ("cpu", "cpu.cfs_quota_us"),
            ("cpu", "cpu.cfs_period_us"),
            ("pids", "pids.max"),
        ]
    };
    let value = |(controller, file): &(&str, &str)| format!("{file}={}", cgroups::value(pid, controller, file));
    files.iter().map(value).collect()
}

fn only_what_is_given_changes(layout: Layout) {
    let container = up(layout, &limited());
    let pid = container.pid();
    // Arguments, and what is different afterwards on v1 and on v2.
    let steps: &[(&[&str], &[&str], &[&str])] = &[
        (&["--cpu-quota", "20000"], &["cpu.cfs_quota_us=20000"], &["cpu.max=20000 100000"]),
        (&["--cpu-period", "50000"], &["cpu.cfs_period_us=50000"], &["cpu.max=20000 50000"]),
        (&["--cpu-quota", "-1"], &["cpu.cfs_quota_us=-1"], &["cpu.max=max 50000"]),
        (&["--cpu-period", "100000"], &["cpu.cfs_period_us=100000"], &["cpu.max=max 100000"]),
        (&["--cpu-share", "1024"], &["cpu.shares=1024"], &["cpu.weight=100"]),
        (&["--memory", "80m"], &["memory.limit_in_bytes=83886080"], &["memory.max=83886080"]),
        (&["--memory-reservation", "16MiB"], &["memory.soft_limit_in_bytes=16777216"], &["memory.low=16777216"]),
        // Both above what swap was limited to, and back: whichever has to go first.
        (
            &["--memory", "200m", "--memory-swap", "300m"],
            &["memory.limit_in_bytes=209715200", "memory.memsw.limit_in_bytes=314572800"],
            &["memory.max=209715200", "memory.swap.max=104857600"],
        ),
        (
            &["--memory", "50m", "--memory-swap", "60m"],
            &["memory.limit_in_bytes=52428800", "memory.memsw.limit_in_bytes=62914560"],
            &["memory.max=52428800", "memory.swap.max=10485760"],
        ),
        (&["--pids-limit", "30"], &["pids.max=30"], &["pids.max=30"]),
        (&["--pids-limit", "-1"], &["pids.max=max"], &["pids.max=max"]),
        (&["--memory", ""], &[], &[]),
        (&[], &[], &[]),
    ];
    for (args, v1, v2) in steps {
        let mut expected = in_force(layout, pid);
        for change in if layout.is_v2() { *v2 } else { *v1 } {
            let name = change.split_once('=').unwrap().0;
            let at = expected.iter().position(|value| value.split_once('=').unwrap().0 == name);
            expected[at.unwrap()] = (*change).to_owned();
        }
        update(layout, &container, args).ok();
        assert_eq!(in_force(layout, pid), expected, "{args:?}");
    }
    if !binaries::oracle() {
        // Newer than Debian's runc.
        update(layout, &container, &["--pids-limit", "0"]).ok();
        assert_eq!(cgroups::value(pid, "pids", "pids.max"), "1");
        update(layout, &container, &["--pids-limit", "9"]).ok();
        update(layout, &container, &["--cpu-quota", "20000", "--cpu-burst", "10000"]).ok();
        let burst = if layout.is_v2() { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
        assert_eq!(cgroups::value(pid, "cpu", burst), "10000");
        update(layout, &container, &["--cpu-idle", "1"]).ok();
        assert_eq!(cgroups::value(pid, "cpu", "cpu.idle"), "1");
        update(layout, &container, &["--cpu-period", "20000", "--cpu-quota", "10000"]).ok();
        assert_eq!(cgroups::value(pid, "cpu", "cpu.idle"), "1", "what was not given");
    }
    delete(layout, &container);
}

#[test]
fn only_what_is_given_changes_on_a_hybrid_host() {
    only_what_is_given_changes(Hybrid);
}

#[test]
fn only_what_is_given_changes_on_cgroup_v1() {
    only_what_is_given_changes(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn only_what_is_given_changes_on_cgroup_v2() {
    only_what_is_given_changes(V2);
}

fn a_refusal_changes_nothing(layout: Layout) {
    let container = up(layout, &limited());
    let before = in_force(layout, container.pid());
    let (quota, idle) = if layout.is_v2() { ("cpu.max", "cpu.idle") } else { ("cpu.cfs_quota_us", "cpu.idle") };
    let cases: Vec<(Vec<&str>, Vec<&str>)> = vec![
        // Written after others, and refused by the kernel: those go back.
        (vec!["--cpu-quota", "20000", "--memory", "70m", "--cpu-idle", "7"], vec!["linux.resources.cpu.idle: ", idle]),
        (vec!["--pids-limit", "20", "--cpu-quota", "1"], vec!["linux.resources.cpu.quota: ", quota]),
        (vec!["--cpu-share", "700", "--cpuset-cpus", "77"], vec!["linux.resources.cpu.cpus: ", "cpuset.cpus"]),
        (vec!["--cpuset-cpus", "0-"], vec!["linux.resources.cpu.cpus: ", "cpuset.cpus"]),
        (vec!["--memory", "40m", "--memory-swap", "30m"], vec!["linux.resources.memory."]),
        (vec!["--pids-limit", "20", "--blkio-weight", "5"], vec!["linux.resources.blockIO.weight: must be from 10 to"]),
        // Not to be understood.
        (vec!["--memory", "-2"], vec!["invalid value for memory: "]),
        (vec!["--memory", "1x"], vec!["invalid value for memory"]),
        (vec!["--memory-swap", "9999999p"], vec!["invalid value for memory-swap"]),
        (vec!["--pids-limit", "9223372036854775808"], vec!["invalid value for pids-limit"]),
        (vec!["--cpu-period", "-5"], vec!["invalid value for cpu-period"]),
        (vec!["--cpu-quota", "1e3"], vec!["invalid value for cpu-quota"]),
        (vec!["--blkio-weight", "70000"], vec!["invalid value for blkio-weight"]),
        (vec!["--cpu-shares", "5"], vec!["--cpu-shares"]),
        (vec!["--resources", "/nonesuch"], vec!["/nonesuch"]),
        // No machine of ours has resctrl.
        (vec!["--pids-limit", "20", "--l3-cache-schema", "L3:0=f"], vec!["l3 cache schema is not enabled"]),
        (vec!["--mem-bw-schema", "MB:0=50"], vec!["memory bandwidth schema is not enabled"]),
    ];
    for (args, message) in cases {
        let refused = update(layout, &container, &args);
        assert_eq!(in_force(layout, container.pid()), before, "{refused}");
        let line = refused.one_line_error();
        assert!(message.iter().all(|part| line.contains(part)), "{message:?}: {refused}");
    }
    let mut documents = vec![
        (
            r#"{"memory":{"limit":1024,"checkBeforeUpdate":true}}"#,
            "linux.resources.memory.limit: rejecting memory limit",
        ),
        (r#"{"memory":{"limit":-7}}"#, "linux.resources.memory.limit: must be -1"),
        (r#"{"memory":{"limit":"1m"}}"#, "linux.resources.memory.limit: invalid type"),
        (r#"{"memory":{"limit":99999999999999999999}}"#, "linux.resources.memory.limit: invalid"),
        (r#"{"cpu":{"shares":-1}}"#, "linux.resources.cpu.shares: invalid"),
        (
            r#"{"pids":{"limit":9},"unified":{"a/../pids.max":"1"}}"#,
            "linux.resources.unified.a/../pids.max: is no file",
        ),
        ("[]", "not a JSON object"),
        ("{", "line 1"),
        ("", "line 1"),
    ];
    if !layout.is_v2() {
        // The kernel's own refusal; on v2 it would kill instead.
        documents
            .push((r#"{"pids":{"limit":9},"memory":{"limit":4096}}"#, "linux.resources.memory.limit: write 4096 to"));
        documents.push((
            r#"{"unified":{"memory.high":"1"}}"#,
            "unified.memory.high: invalid configuration: the controller is not on cgroup v2",
        ));
    }
    for (document, message) in documents {
        let update = layout.oci(&container.sandbox).args(["update", "-r", "-", &container.id]);
        let refused = update.stdin(document).run();
        assert_eq!(in_force(layout, container.pid()), before, "{document}: {refused}");
        assert!(refused.one_line_error().contains(message), "{document}: {refused}");
    }
    delete(layout, &container);
}

#[test]
fn a_refusal_changes_nothing_on_a_hybrid_host() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc leaves what it wrote before");
        return;
    }
    a_refusal_changes_nothing(Hybrid);
}

#[test]
fn a_refusal_changes_nothing_on_cgroup_v1() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc leaves what it wrote before");
        return;
    }
    a_refusal_changes_nothing(V1);
}

#[test]
#[ignore = "runs in the guest: tests/guest/run"]
fn a_refusal_changes_nothing_on_cgroup_v2() {
    a_refusal_changes_nothing(V2);
}

#[test]
fn a_document_changes_what_it_names() {
    let container = up(Hybrid, &limited());
    let pid = container.pid();
    let file = container.sandbox.path("resources.json");
    // Rules for devices and an empty object say nothing here; options beside a document are ignored.
    let document = json!({ "memory": { "limit": 70 << 20 }, "pids": {}, "devices": [{ "allow": false }], "other": 1 });
    std::fs::write(&file, document.to_string()).unwrap();
    let mut expected = in_force(Hybrid, pid);
    expected[0] = format!("memory.limit_in_bytes={}", 70 << 20);
    let args = ["update", "--pids-limit", "7", "--resources"];
    let refused_by_old = binaries::oracle();
    container.oci(&args).arg(&file).arg(&container.id).run().ok();
    if !refused_by_old {
        assert_eq!(in_force(Hybrid, pid), expected);
    }
    let stdin = json!({ "cpu": { "quota": 20_000 }, "pids": { "limit": 60 } }).to_string();
    container.oci(&["update", "-r", "-", &container.id]).stdin(stdin).run().ok();
    assert_eq!(cgroups::value(pid, "cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(cgroups::value(pid, "pids", "pids.max"), "60");
    delete(Hybrid, &container);
}

/// On cgroup v1 a container has directories only where it needs them: it gets another one, with all of its processes.
#[test]
fn a_limit_on_another_controller_takes_all_processes_along() {
    for layout in [Hybrid, V1] {
        let container = up(layout, &json!({}));
        let pid = container.pid();
        let exec = |args: &[&str]| layout.oci(&container.sandbox).args(["exec", &container.id]).args(args).run().ok();
        update(layout, &container, &["--cpuset-cpus", "0", "--cpu-quota", "20000"]).ok();
        assert_eq!(cgroups::value(pid, "cpuset", "cpuset.cpus"), "0");
        assert_eq!(cgroups::value(pid, "cpu", "cpu.cfs_quota_us"), "20000");
        let places =
            exec(&["sh", "-c", "cat /proc/1/cgroup; echo; cat /proc/self/cgroup; echo; cat /proc/[2-9]/cgroup"]);
        let places: Vec<&str> = places.split("\n\n").collect();
        assert_eq!(places[0], places[1], "an exec");
        assert_eq!(
            places[2].lines().collect::<Vec<_>>()[..places[0].lines().count()],
            places[0].lines().collect::<Vec<_>>()
        );
        let directory = cgroups::directory(pid, "cpuset");
        delete(layout, &container);
        assert!(!directory.exists(), "{}", directory.display());
    }
}

/// What is refused makes no directory either.
#[test]
fn a_refused_limit_on_another_controller_leaves_no_directory() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: it makes a cgroup in every hierarchy");
        return;
    }
    let container = up(Hybrid, &json!({}));
    let before = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    let refused = update(Hybrid, &container, &["--cpu-quota", "20000", "--cpuset-cpus", "77"]);
    assert!(refused.one_line_error().contains("linux.resources.cpu.cpus"), "{refused}");
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap(), before);
    let memory = cgroups::directory(container.pid(), "memory");
    let name = memory.file_name().unwrap();
    for controller in ["cpu", "cpuset"] {
        let base = std::path::Path::new("/sys/fs/cgroup").join(controller);
        assert!(!base.join(name).exists(), "{}", base.display());
    }
    delete(Hybrid, &container);
}

#[test]
fn a_paused_container_stays_so_and_a_stopped_one_is_refused() {
    for layout in [Hybrid, V1] {
        let container = up(layout, &limited());
        let oci = |args: &[&str]| layout.oci(&container.sandbox).args(args).arg(&container.id).run();
        oci(&["pause"]).ok();
        update(layout, &container, &["--pids-limit", "30"]).ok();
        assert!(oci(&["state"]).ok().contains("\"paused\""));
        oci(&["resume"]).ok();
        assert!(oci(&["state"]).ok().contains("\"running\""));
        let pid = container.pid();
        layout.oci(&container.sandbox).args(["kill", &container.id, "KILL"]).run().ok();
        waiting::gone(pid);
        let stopped = oci(&["update", "--pids-limit", "30"]);
        assert!(stopped.one_line_error().contains("container not running"), "{stopped}");
        delete(layout, &container);
        assert!(oci(&["update", "--pids-limit", "30"]).one_line_error().contains("does not exist"));
    }
}

/// A hierarchy that may only be read, in a mount namespace of its own.
#[test]
fn a_read_only_hierarchy_is_named() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: its words are others");
        return;
    }
    let container = up(Hybrid, &limited());
    let before = in_force(Hybrid, container.pid());
    let read_only = |command: &[&str]| {
        let script = "mount -o remount,ro,bind /sys/fs/cgroup/memory && exec \"$@\"";
        let wrapper = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
        let unshare = container.sandbox.command("unshare").args(wrapper).arg(binaries::oci());
        unshare.arg("--root").arg(container.sandbox.root()).args(command).run()
    };
    let refused = read_only(&["update", "--pids-limit", "30", "--memory", "70m", &container.id]);
    let line = refused.one_line_error();
    assert!(line.contains("linux.resources.memory.limit: the host has no writable cgroup hierarchy"), "{refused}");
    assert_eq!(in_force(Hybrid, container.pid()), before);
    let id = container.sandbox.id("second");
    let bundle = container.bundle.path().display().to_string();
    let refused = read_only(&["run", "--bundle", &bundle, &id]);
    assert!(refused.one_line_error().contains("linux.resources.memory."), "{refused}");
    assert_eq!(container.sandbox.containers(), std::slice::from_ref(&container.id), "nothing half made");
    delete(Hybrid, &container);
}
