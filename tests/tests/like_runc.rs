//! What runc's own test suite asks of a runtime, and no other test of ours does.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test like_runc` asks the same of runc.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use brood_tests::{Bundle, Cmd, Container, Sandbox, binaries};
use serde_json::{Value, json};

/// `run` of the bundle, with options before and after the word.
fn run(container: &Container, before: &[&str], after: &[&str]) -> Cmd {
    let words = [before, &["run"], after, &["--bundle"]].concat();
    container.oci(&words).arg(container.bundle.path()).arg(&container.id)
}

fn script_without_interpreter(bundle: &Bundle) {
    let path = bundle.rootfs().join("script");
    fs::write(&path, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_carried_terminal_keeps_line_ends() {
    let container = Container::new(|bundle| {
        bundle.sh("echo one; tty; echo two");
        bundle.config["process"]["terminal"] = json!(true);
    });
    assert_eq!(run(&container, &[], &[]).run().ok(), "one\n/dev/pts/0\ntwo\n");
    let container = Container::long_lived().up();
    let output = container.oci(&["exec", "-t", &container.id, "echo", "three"]).run();
    assert_eq!(output.ok(), "three\n");
    container.call(&["delete", "--force"]).ok();
}

/// On our caller's terminal lines begin at its left edge all the same.
#[test]
fn the_callers_terminal_makes_the_line_ends() {
    let container = Container::new(|bundle| {
        bundle.sh("echo one; echo two");
        bundle.config["process"]["terminal"] = json!(true);
    });
    let (run, _terminal) = run(&container, &[], &[]).start_on_terminal();
    assert_eq!(run.finish().ok(), "one\r\ntwo\r\n");
}

#[test]
fn a_missing_interpreter_is_told_in_gos_words() {
    let container = Container::new(|bundle| {
        script_without_interpreter(bundle);
        bundle.args(&["/script"]);
    });
    let words = "exec /script: no such file or directory";
    let output = run(&container, &[], &[]).run();
    assert_ne!(output.code(), 0);
    assert!(output.stderr.contains(words), "{output}");

    let container = Container::long_lived().up();
    script_without_interpreter(&container.bundle);
    let output = container.oci(&["exec", &container.id, "/script"]).run().expect(255);
    assert!(output.one_line_error().contains(words), "{output}");
    container.call(&["delete", "--force"]).ok();
}

fn affinity(output: &str) -> &str {
    output.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a line of status").trim()
}

/// An affinity of whoever starts a container is not the container's.
#[test]
fn an_affinity_of_the_caller_is_taken_back() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: Debian's runc does not do it");
        return;
    }
    const LOOK: [&str; 3] = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = affinity(&own);
    assert_ne!(own, "0", "this test needs two CPUs");
    let on_first_cpu = |container: &Container, words: &[&str]| {
        let command = container.sandbox.command("taskset").args(["-c", "0"]).arg(binaries::oci());
        command.arg("--root").arg(container.sandbox.root()).args(words).run().ok()
    };
    let container = Container::new(|bundle| bundle.args(&LOOK));
    let bundle = container.bundle.path().to_str().unwrap();
    assert_eq!(affinity(&on_first_cpu(&container, &["run", "--bundle", bundle, &container.id])), own);

    let container = Container::long_lived().up();
    let exec = [&["exec", &container.id][..], &LOOK].concat();
    assert_eq!(affinity(&on_first_cpu(&container, &exec)), own);
    container.call(&["delete", "--force"]).ok();

    // A supervisor's zygote is its caller's child too.
    let run = container.sandbox.command("taskset").args(["-c", "0"]).arg(binaries::brood());
    let run = run.arg("--root").arg(container.sandbox.root()).args(["run", "--rm"]).args(LOOK);
    assert_eq!(affinity(&run.run().ok()), own);
}

#[test]
fn debug_messages_go_to_standard_error_or_the_log() {
    let container = Container::new(|bundle| bundle.sh("exit 3"));
    let output = run(&container, &["--debug"], &[]).run().expect(3);
    assert!(output.stderr.contains("level=debug"), "{output}");
    if !binaries::oracle() {
        for words in ["steps: ", "working directory", "cloned", "runs its program", "ended with status 3"] {
            assert!(output.stderr.contains(words), "{words}: {output}");
        }
    }
    let log = container.sandbox.path("log");
    for (format, expected) in [("text", "level=debug"), ("json", "\"level\":\"debug\"")] {
        let log_options = ["--debug", "--log", log.to_str().unwrap(), "--log-format", format];
        let output = run(&container, &log_options, &[]).run().expect(3);
        assert_eq!(output.stderr, "", "{format}");
        assert!(fs::read_to_string(&log).unwrap().contains(expected), "{format}");
    }
}

#[test]
fn the_flags_of_a_filter_are_a_debug_message() {
    for (flags, number) in [(json!([]), 0), (json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), 6)] {
        let container = Container::new(|bundle| {
            bundle.sh("true");
            bundle.config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "flags": flags,
                "syscalls": [{ "names": ["reboot"], "action": "SCMP_ACT_ERRNO" }],
            });
        });
        let output = run(&container, &["--debug"], &[]).run().expect(0);
        assert!(output.stderr.contains(&format!("seccomp filter flags: {number}\"")), "{output}");
    }
}

#[test]
fn a_process_without_a_user_is_roots() {
    let container = Container::long_lived().up();
    let file = container.sandbox.path("process.json");
    fs::write(&file, json!({ "args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin"] }).to_string()).unwrap();
    let output = container.oci(&["exec", "--process", file.to_str().unwrap(), &container.id]).run().expect(0);
    assert_eq!((&*output.stdout, &*output.stderr), ("0\n", ""));
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn a_list_makes_no_directory() {
    let sandbox = Sandbox::new();
    let missing = sandbox.path("no-such-root");
    let output = sandbox.command(binaries::oci()).arg("--root").arg(&missing).arg("list").run().expect(1);
    assert!(output.one_line_error().contains("no such file or directory"), "{output}");
    assert!(!missing.exists());
}

#[test]
fn a_template_has_a_cgroup_namespace_on_cgroup_v2_alone() {
    let sandbox = Sandbox::new();
    sandbox.oci().arg("spec").arg("--bundle").arg(sandbox.path("")).run().ok();
    let text = fs::read_to_string(sandbox.path("config.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let namespaces = document["linux"]["namespaces"].as_array().unwrap();
    let has = namespaces.iter().any(|namespace| namespace["type"] == "cgroup");
    assert_eq!(has, fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok(), "{text}");
}

#[test]
fn a_start_container_hook_has_the_environment_and_the_filter_of_the_program() {
    let hook = |script: &str| json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    let container = Container::new(|bundle| {
        bundle.sh("echo ran");
        bundle.config["process"]["env"].as_array_mut().unwrap().push(json!("COLOUR=brown"));
        bundle.config["hooks"] = hook("test $COLOUR = brown");
    });
    assert_eq!(run(&container, &[], &[]).run().ok(), "ran\n");

    for no_new_privileges in [false, true] {
        let container = Container::new(|bundle| {
            bundle.sh("echo ran");
            bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            bundle.config["hooks"] = hook("mkdir /tmp/made");
            bundle.config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }],
            });
        });
        let output = run(&container, &[], &[]).run();
        assert_ne!(output.code(), 0);
        assert_eq!(output.stdout, "", "the program ran");
        assert!(output.stderr.contains("error running startContainer hook #0:"), "{output}");
    }
}

/// While the host's /proc is in the mount namespace, the kernel would let a user namespace mount a whole one.
#[test]
fn without_pivot_the_hosts_proc_is_out_of_reach() {
    let container = Container::new(|bundle| {
        bundle.args(&["unshare", "-mrpf", "mount", "-t", "proc", "none", "/proc"]);
        for set in ["bounding", "permitted", "effective"] {
            bundle.config["process"]["capabilities"][set] = json!(["CAP_SETFCAP"]);
        }
        bundle.config["linux"]["maskedPaths"] = json!(["/proc/acpi", "/proc/kcore"]);
        bundle.config["linux"]["readonlyPaths"] = json!(["/proc/bus", "/proc/sys"]);
    });
    let output = run(&container, &[], &["--no-pivot"]).run();
    assert_ne!(output.code(), 0, "{output}");
    assert!(output.stderr.contains("ermission denied") || output.stderr.contains("not permitted"), "{output}");
}
