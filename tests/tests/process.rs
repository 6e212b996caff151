//! Attributes of the process and of its namespaces: what the kernel says about them from inside.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test process` asks the same of runc, as far as Debian's knows them.

use std::fs;

use brood_tests::face::in_bundle;
use brood_tests::{Bundle, Cmd, Container, Face, Sandbox, binaries, config, procfs};
use serde_json::{Value, json};

fn set(pointer: &'static str, value: Value) -> impl Fn(&mut Bundle) {
    move |bundle| {
        let (parent, key) = pointer.rsplit_once('/').expect("an absolute pointer");
        bundle.config.pointer_mut(parent).expect("the parent is there")[key] = value.clone();
    }
}

/// Debian's runc is 1.1.5.
fn unknown_to_oracle(what: &str) -> bool {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: Debian's runc does not know {what}");
    }
    binaries::oracle()
}

#[test]
fn sysctls_of_own_namespaces() {
    let sysctls = json!({
        "net.ipv4.ip_forward": "1", "net.ipv4.conf.lo.rp_filter": "2", "kernel.msgmax": "4096", "fs.mqueue.msg_max": "17",
        "kernel.domainname": "example.org",
    });
    let edit = |bundle: &mut Bundle| {
        config::add_namespace(&mut bundle.config, "network");
        bundle.config["linux"]["sysctl"] = sysctls.clone();
    };
    let files = "net/ipv4/ip_forward net/ipv4/conf/lo/rp_filter kernel/msgmax fs/mqueue/msg_max kernel/domainname";
    in_bundle(edit, &format!("cd /proc/sys && cat {files}"), |text| {
        assert_eq!(text, "1\n2\n4096\n17\nexample.org\n");
    });
    // The host's own are what they were.
    assert_ne!(fs::read_to_string("/proc/sys/fs/mqueue/msg_max").unwrap().trim(), "17");
}

#[test]
fn scheduling_and_io_priority() {
    if unknown_to_oracle("them") {
        return;
    }
    let edit = |bundle: &mut Bundle| {
        bundle.config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 7 });
        bundle.config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    };
    // Fields 19 (nice) and 41 (policy) of proc_pid_stat(5).
    in_bundle(edit, "set -- $(cat /proc/self/stat); shift 18; echo $1; shift 22; echo $1; ionice -p $$", |text| {
        assert_eq!(text, "7\n3\nbest-effort: prio 6\n");
    });
}

#[test]
fn personality_and_memory_policy() {
    if unknown_to_oracle("memoryPolicy") {
        return;
    }
    let edit = |bundle: &mut Bundle| {
        bundle.config["linux"]["personality"] = json!({ "domain": "LINUX32" });
        bundle.config["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    };
    in_bundle(edit, "cat /proc/self/personality; uname -m; grep -m 1 -o 'bind:0' /proc/self/numa_maps", |text| {
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[2]), ("00000008", "bind:0"), "{text}");
        assert_ne!(lines[1], "x86_64", "a 64-bit name under a 32-bit personality");
    });
}

#[test]
fn an_exec_has_its_cpus_and_the_containers_personality() {
    if unknown_to_oracle("execCPUAffinity") {
        return;
    }
    let container = Container::new(|bundle| {
        bundle.live_until_term(0);
        bundle.config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    })
    .up();
    let file = container.sandbox.path("process.json");
    let mut process = container.bundle.config["process"].clone();
    process["execCPUAffinity"] = json!({ "initial": "0-1", "final": "0" });
    process["args"] = json!(["sh", "-c", "cat /proc/self/personality; grep Cpus_allowed_list /proc/self/status"]);
    fs::write(&file, process.to_string()).unwrap();
    let output = container.oci(&["exec", "--process", file.to_str().unwrap(), &container.id]).run().ok();
    assert_eq!(output, "00000008\nCpus_allowed_list:\t0\n");
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn the_session_keyring_is_a_new_one_unless_the_callers_is_wanted() {
    // Named after the container; the list has those of others too.
    let keyrings = |options: &[&str]| {
        let container = Container::new(|bundle| {
            bundle.config["linux"]["maskedPaths"] = json!([]);
            bundle.sh("cat /proc/keys");
        });
        let words = [&["run"], options, &["--bundle"]].concat();
        let run = container.oci(&words).arg(container.bundle.path()).arg(&container.id).run().ok();
        run.lines().filter(|line| line.contains(&format!("_ses.{}:", container.id))).count()
    };
    assert_eq!(keyrings(&[]), 1);
    assert_eq!(keyrings(&["--no-new-keyring"]), 0);
}

#[test]
fn a_root_without_pivot() {
    let container = Container::new(|bundle| bundle.sh("ls -d /proc/1/root/bin/busybox; pwd"));
    let run = container.oci(&["run", "--no-pivot", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run();
    assert_eq!(run.ok(), "/proc/1/root/bin/busybox\n/\n");
}

/// Joining by path: what `podman run --pid container:...` and Kubernetes' pods do.
#[test]
fn a_time_namespace_can_be_joined() {
    if unknown_to_oracle("time namespaces") {
        return;
    }
    let container = Container::new(|bundle| {
        bundle.live_until_term(0);
        config::add_namespace(&mut bundle.config, "time");
        bundle.config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000_000 } });
    })
    .up();
    let pid = container.state()["pid"].as_i64().unwrap();
    let path = format!("/proc/{pid}/ns/time");
    for &face in Face::all() {
        let mut bundle = Bundle::busybox(&container.sandbox, &format!("{face:?}"));
        config::add_namespace(&mut bundle.config, "time");
        let last = bundle.config["linux"]["namespaces"].as_array_mut().unwrap().last_mut().unwrap();
        last["path"] = json!(path);
        bundle.sh("cut -d . -f 1 /proc/uptime");
        bundle.write();
        let uptime = face.command(&container.sandbox, &bundle, &format!("{}-joins", container.id)).run().ok();
        assert!(uptime.trim().parse::<u64>().unwrap() > 1_000_000_000, "{face:?}: {uptime}");
    }
    container.call(&["delete", "--force"]).ok();
}

/// The descriptors that the program finds, by `ls`, whose own is the last.
const LIST: &str = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -c kept; cat <&3; cat <&4";

/// `sh -c SCRIPT`, with the runtime's command in "$@".
fn through_shell(container: &Container, script: &str, words: &[&str]) -> Cmd {
    let oci = binaries::oci();
    container
        .sandbox
        .command("/bin/bash")
        .args(["-c", script, "bash"])
        .arg(oci)
        .arg("--root")
        .arg(container.sandbox.root())
        .args(words)
}

#[test]
fn preserved_descriptors_arrive_at_their_numbers() {
    let container = Container::new(|bundle| bundle.sh(LIST));
    for (name, text) in [("kept-3", "three\n"), ("kept-4", "four\n")] {
        fs::write(container.sandbox.path(name), text).unwrap();
    }
    let (three, four) = (container.sandbox.path("kept-3"), container.sandbox.path("kept-4"));
    let script = format!("exec 3<{} 4<{} 5</dev/null; exec \"$@\"", three.display(), four.display());
    let bundle = container.bundle.path().to_str().unwrap();
    let words = ["run", "--preserve-fds", "2", "--bundle", bundle, &container.id];
    assert_eq!(through_shell(&container, &script, &words).run().ok(), "2\nthree\nfour\n");
    // The last ones may be missing; a gap may not.
    if !binaries::oracle() {
        let script = format!("exec 3<{} 4<&-; exec \"$@\"", three.display());
        let output = through_shell(&container, &script, &words).run();
        assert!(output.stdout.starts_with("1\nthree\n"), "{output}");
        let script = format!("exec 3<&- 4<{}; exec \"$@\"", four.display());
        let output = through_shell(&container, &script, &words).run().expect(1);
        assert!(output.one_line_error().contains("--preserve-fds: descriptor 3"), "{output}");
    }
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn an_exec_preserves_descriptors_too() {
    let container = Container::long_lived().up();
    fs::write(container.sandbox.path("kept"), "three\n").unwrap();
    let script = format!("exec 3<{}; exec \"$@\"", container.sandbox.path("kept").display());
    let words = ["exec", "--preserve-fds", "1", &container.id, "sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"];
    // 0 to 3, and the directory that ls reads.
    assert_eq!(through_shell(&container, &script, &words).run().ok(), "three\n5\n");
    container.call(&["delete", "--force"]).ok();
}

/// sd_listen_fds(3): the descriptors come without being asked for, and the environment says so.
#[test]
fn socket_activation_is_passed_on() {
    let container = Container::new(|bundle| bundle.sh("cat <&3; echo $LISTEN_FDS $LISTEN_PID"));
    fs::write(container.sandbox.path("kept"), "three\n").unwrap();
    let kept = container.sandbox.path("kept");
    let script = format!("exec 3<{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"", kept.display());
    let bundle = container.bundle.path().to_str().unwrap();
    let words = ["run", "--bundle", bundle, &container.id];
    assert_eq!(through_shell(&container, &script, &words).run().ok(), "three\n1 1\n");
}

#[test]
fn a_label_of_a_module_that_is_not_there_is_refused() {
    if binaries::oracle() || procfs::process(1).is_none() {
        return;
    }
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        set("/process/apparmorProfile", json!("no-such-profile"))(&mut bundle);
        let output = face.run(&sandbox, &bundle);
        assert_ne!(output.code(), 0);
        let reason = if enabled { "no-such-profile" } else { "AppArmor is not enabled on this machine" };
        assert!(output.stderr.contains("process.apparmorProfile") && output.stderr.contains(reason), "{output}");
        sandbox.assert_clean();
    }
}
