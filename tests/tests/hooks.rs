//! Hooks: when each runs, where, what it reads, and what its failure does (runtime-spec, config, "POSIX-platform Hooks").
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test hooks` asks the same of runc.

use std::fs;

use brood_tests::{Bundle, Container, Face, Sandbox, binaries, config, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Appends what the hook sees to a file of the test's: its name, the state, whether it is in the container's uts namespace.
fn recorder(log: &str, name: &str) -> Value {
    let script = format!("state=$(cat); echo \"{name} $(hostname) $state\" >> {log}");
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 100 })
}

/// All hooks that run with the host's files.
const HOST_KINDS: [&str; 5] = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];

fn with_recorders(bundle: &mut Bundle, log: &str) {
    for kind in HOST_KINDS {
        bundle.config["hooks"][kind] = json!([recorder(log, kind)]);
    }
    // This one is the container's own program, and its output the container's.
    let script = "state=$(cat); echo \"startContainer $(hostname) $state\" >> /tmp/hooks";
    bundle.config["hooks"]["startContainer"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    bundle.config["annotations"] = json!({ "org.example.key": "a \"quoted\" value" });
}

struct Seen {
    kind: String,
    host: String,
    state: Value,
}

fn read(text: &str) -> Vec<Seen> {
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().expect("three words").to_owned();
        let (kind, host, state) = (word(), word(), word());
        Seen { kind, host, state: serde_json::from_str(&state).expect("the state is JSON") }
    };
    text.lines().map(line).collect()
}

#[test]
fn each_kind_runs_at_its_time_in_its_place_with_the_state() {
    let own_host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let log = sandbox.path("hooks");
        with_recorders(&mut bundle, log.to_str().unwrap());
        bundle.sh("cat /tmp/hooks; echo program");
        let output = face.run(&sandbox, &bundle).expect(0);
        let inside = read(output.stdout.strip_suffix("program\n").expect("the program ran last"));
        let mut outside = read(&fs::read_to_string(&log).unwrap());
        let kinds: Vec<&str> = outside.iter().map(|seen| seen.kind.as_str()).collect();
        assert_eq!(kinds, HOST_KINDS, "{face:?}");
        outside.extend(inside);
        for Seen { kind, host, state } in &outside {
            let (status, name) = match kind.as_str() {
                "prestart" | "createRuntime" => ("creating", own_host.as_str()),
                "createContainer" => ("creating", "nest"),
                "startContainer" => ("created", "nest"),
                "poststart" => ("running", own_host.as_str()),
                _ => ("stopped", own_host.as_str()),
            };
            // runc 1.1 tells createContainer hooks another status.
            if !binaries::oracle() {
                assert_eq!(state["status"], status, "{face:?} {kind}");
            }
            // Debian's runc runs these in the host's uts namespace.
            if !binaries::oracle() || kind != "createContainer" {
                assert_eq!(host, name, "{face:?} {kind}");
            }
            assert_eq!(state["annotations"]["org.example.key"], "a \"quoted\" value", "{face:?} {kind}");
            assert_eq!(state["bundle"], bundle.path().to_str().unwrap(), "{face:?} {kind}");
            let pid = state["pid"].as_i64().unwrap_or(0);
            match kind.as_str() {
                "createContainer" if binaries::oracle() => {}
                "createContainer" | "startContainer" => assert_eq!(pid, 1, "{face:?} {kind}: as the container sees it"),
                "poststop" => assert_eq!(pid, 0, "{face:?} {kind}"),
                _ => assert!(pid > 1, "{face:?} {kind}: as the runtime sees it"),
            }
        }
        assert_eq!(outside.len(), HOST_KINDS.len() + 1, "{face:?}");
        sandbox.assert_clean();
    }
}

#[test]
fn a_created_container_has_had_its_first_hooks_and_not_its_last() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: Debian's runc runs poststart hooks at create");
        return;
    }
    let container = Container::new(|bundle| bundle.live_until_term(0));
    let mut bundle = Bundle::empty(&container.sandbox, "edited");
    bundle.config = container.bundle.config.clone();
    let log = container.sandbox.path("hooks");
    with_recorders(&mut bundle, log.to_str().unwrap());
    fs::write(container.bundle.config_path(), bundle.config.to_string()).unwrap();
    let kinds = || -> Vec<String> {
        read(&fs::read_to_string(&log).unwrap_or_default()).into_iter().map(|seen| seen.kind).collect()
    };
    container.create();
    assert_eq!(kinds(), HOST_KINDS[..3]);
    container.call(&["start"]).ok();
    assert_eq!(kinds(), HOST_KINDS[..4]);
    // What the hooks are does not depend on the bundle any more.
    fs::remove_file(container.bundle.config_path()).unwrap();
    container.call(&["delete", "--force"]).ok();
    assert_eq!(kinds(), HOST_KINDS);
}

/// Hooks that set up libraries and devices enter the mount namespace and look for the root by its path on the host, or begin
/// in it (runc's hooks_so.bats, NVIDIA's container toolkit).
#[test]
fn hooks_reach_the_root_by_its_name_and_from_their_directory() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let rootfs = bundle.rootfs();
        fs::create_dir(rootfs.join("mnt")).unwrap();
        let enter = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); exec nsenter --mount --target $pid";
        let mount = format!("{enter} mount -t tmpfs of-the-hook {}/mnt", rootfs.display());
        let path = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        bundle.config["hooks"]["createRuntime"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", mount], "env": path }]);
        bundle.config["hooks"]["createContainer"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", "pwd > mnt/directory"], "env": path }]);
        bundle.sh("grep -c of-the-hook /proc/self/mounts; cat /mnt/directory");
        let output = face.run(&sandbox, &bundle).ok();
        assert_eq!(output, format!("1\n{}\n", rootfs.display()), "{face:?}");
        assert_eq!(fs::read_dir(rootfs.join("mnt")).unwrap().count(), 0, "{face:?}: the host's has nothing of it");
    }
}

/// `poststop` hooks run even for a container that came to nothing, if its first hooks have run.
#[test]
fn a_failing_hook_ends_the_container_and_is_named() {
    for &face in Face::all() {
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            let good = json!({ "path": "/bin/true" });
            let failing = json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo bad luck >&2; exit 3"] });
            bundle.config["hooks"][kind] = json!([good, failing]);
            bundle.sh("sleep 1000");
            let output = face.run(&sandbox, &bundle);
            assert_ne!(output.code(), 0, "{face:?} {kind}");
            if !binaries::oracle() {
                assert!(output.stderr.contains(kind), "{face:?} does not name {kind}: {}", output.stderr);
                assert!(output.stderr.contains("exit status 3"), "{face:?} {kind}: {}", output.stderr);
                assert!(output.stderr.contains("stderr: bad luck"), "{face:?} {kind}: {}", output.stderr);
            }
            assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} {kind} left state behind");
            sandbox.assert_clean();
        }
    }
}

#[test]
fn a_failing_poststop_hook_is_a_warning() {
    let container = Container::new(|bundle| {
        let failing = json!({ "path": "/bin/false" });
        bundle.config["hooks"]["poststop"] = json!([failing]);
    });
    let run = container.oci(&["run", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run().expect(0);
    assert!(run.stderr.contains(if binaries::oracle() { "error running hook" } else { "poststop" }), "{run}");
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    for &face in Face::all() {
        for kind in ["createRuntime", "createContainer"] {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            bundle.config["hooks"][kind] = json!([{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }]);
            let output = face.run(&sandbox, &bundle);
            assert_ne!(output.code(), 0, "{face:?} {kind}");
            if !binaries::oracle() {
                assert!(output.stderr.contains("timeout"), "{face:?} {kind}: {}", output.stderr);
            }
            sandbox.assert_clean();
        }
    }
}

/// While a startContainer hook (a program of the image) runs, and while a container waits for `start`, whoever has
/// CAP_SYS_PTRACE in it may look into its init process, in which there must be no way to the host: no directory at all.
#[test]
fn the_process_that_waits_has_no_directory_of_the_hosts() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        for set in ["bounding", "effective", "permitted"] {
            bundle.config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
        }
        let look =
            "for fd in /proc/1/fd/*; do test -d $fd/ && readlink $fd; done > /tmp/found; ls /proc/1/fd > /tmp/all";
        bundle.config["hooks"]["startContainer"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", look], "env": ["PATH=/bin"] }]);
        bundle.sh("wc -l < /tmp/all; cat /tmp/found");
        let output = face.run(&sandbox, &bundle).expect(0).stdout;
        let (count, found) = output.split_once('\n').unwrap();
        assert!(count.trim().parse::<u32>().unwrap() >= 3, "{face:?}: nothing was looked at: {output}");
        assert_eq!(found, "", "{face:?}");
        sandbox.assert_clean();
    }
}

/// The runtime that dies while its hook runs leaves a child that ends, and no container that hangs for ever.
#[test]
fn a_runtime_that_dies_in_a_hook_takes_the_container_along() {
    let container = Container::new(|bundle| bundle.sh("sleep 1000"));
    let mut bundle = Bundle::empty(&container.sandbox, "edited");
    bundle.config = container.bundle.config.clone();
    let mark = container.sandbox.path("hook-pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", mark.display());
    bundle.config["hooks"]["createRuntime"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    fs::write(container.bundle.config_path(), bundle.config.to_string()).unwrap();
    let create = container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id).start();
    let hook: i32 = waiting::until("the hook", || fs::read_to_string(&mark).ok()?.trim().parse().ok());
    create.signal(Signal::KILL);
    create.finish();
    kill_process(Pid::from_raw(hook).unwrap(), Signal::KILL).unwrap();
    waiting::gone(hook);
    waiting::until("the end of the child", || (container.state()["status"] == "stopped").then_some(()));
    container.call(&["delete", "--force"]).ok();
}

/// What the first hooks made (a network, say) must be taken down again.
#[test]
fn poststop_hooks_follow_a_launch_that_fails_after_its_first_hooks() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let log = sandbox.path("hooks");
        for kind in ["createRuntime", "poststop"] {
            bundle.config["hooks"][kind] = json!([recorder(log.to_str().unwrap(), kind)]);
        }
        bundle.args(&["/no/such/program"]);
        assert_ne!(face.run(&sandbox, &bundle).code(), 0);
        let kinds: Vec<String> = read(&fs::read_to_string(&log).unwrap()).into_iter().map(|seen| seen.kind).collect();
        assert_eq!(kinds, ["createRuntime", "poststop"], "{face:?}");
        sandbox.assert_clean();
    }
}

/// What a hook reads and says is in files of memory, for which a limit on the size of files counts too.
#[test]
fn hooks_run_before_a_limit_on_the_size_of_files() {
    for &face in Face::all() {
        for own_users in [false, true] {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            if own_users {
                config::add_user_namespace(&mut bundle.config);
                // Whose owner may mount /sys.
                config::add_namespace(&mut bundle.config, "network");
            }
            let limits = json!([{ "type": "RLIMIT_FSIZE", "soft": 0, "hard": 0 }]);
            bundle.config["process"]["rlimits"] = limits;
            bundle.config["hooks"]["createContainer"] = json!([{ "path": "/bin/true" }]);
            bundle.config["hooks"]["startContainer"] =
                json!([{ "path": "/bin/grep", "args": ["grep", "-q", "ociVersion"] }]);
            bundle.sh("ulimit -f; trap '' XFSZ; echo x > /tmp/file || echo no room");
            let output = face.run(&sandbox, &bundle);
            assert_eq!(output.stdout, "0\nno room\n", "{face:?} {own_users}: {output}");
            sandbox.assert_clean();
        }
    }
}

/// Profiles of engines answer clone3(2) with ENOSYS, and without no_new_privs the filter is there before the hook.
#[test]
fn a_hook_runs_under_a_filter_that_hides_clone3() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.config["process"]["noNewPrivileges"] = json!(false);
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }],
        });
        bundle.config["hooks"]["startContainer"] = json!([{ "path": "/bin/touch", "args": ["touch", "/tmp/hooked"] }]);
        bundle.sh("test -e /tmp/hooked && echo hooked");
        assert_eq!(face.run(&sandbox, &bundle).ok(), "hooked\n", "{face:?}");
        sandbox.assert_clean();
    }
}
