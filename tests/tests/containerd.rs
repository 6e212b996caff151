//! containerd and its shim on the runtime under test, driven by `ctr`.
//!
//! `BROOD_OCI_UNDER_TEST=/usr/sbin/runc cargo test -p brood-tests --test containerd` asks the same of runc.

use std::fs;

use brood_tests::{Cmd, Containerd, Output, Sandbox, client, waiting};

/// The last line of a program whose output is looked at.
const END: &str = "end-of-output";

/// A program that lives until SIGTERM and then ends with status 7.
const UNTIL_TERM: [&str; 3] =
    ["/bin/sh", "-c", "trap 'exit 7' TERM; touch /tmp/up; while :; do sleep 1000 & wait; done"];

#[test]
fn run_passes_output_and_exit_status_on() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    let attached = |program: &[&str]| containerd.container("box", &["--rm"], program);
    let output = attend(&containerd, "echo out; echo err >&2", 3, attached);
    assert_eq!((output.stdout.as_str(), output.code()), ("out\n", 3), "{output}");
    assert!(output.stderr.starts_with("err\n"), "{output}");
    // ctr hands the end of its input on to nobody: a program that waits for it would never end.
    let reader = attend(&containerd, "head -n1", 0, |program| attached(program).stdin("through\n"));
    assert_eq!(reader.ok(), "through\n");
    assert_eq!(containerd.known_to_runtime(), Vec::<String>::new());
}

#[test]
fn a_program_that_is_missing_is_named() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    let output = containerd.container("box", &["--rm"], &["/no/such/program"]).run();
    assert_ne!(output.code(), 0, "{output}");
    // The shim takes the runtime's last message from its log.
    assert!(output.stderr.contains("/no/such/program"), "{output}");
    assert!(output.stderr.contains("no such file or directory"), "{output}");
}

#[test]
fn a_detached_task_takes_execs_is_listed_and_ends_at_sigterm() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    containerd.up("box", &UNTIL_TERM);
    await_up(&containerd);
    assert_eq!(containerd.state("box").as_deref(), Some("RUNNING"));

    let exec = attend(&containerd, "echo out", 5, |program| containerd.exec("box", "one", &[], program));
    assert_eq!((exec.stdout.as_str(), exec.code()), ("out\n", 5), "{exec}");
    containerd.exec("box", "two", &["--detach"], &["/bin/sleep", "1000"]).run().ok();

    // The shim asks the runtime for the processes, and knows which of them is which exec.
    let processes = containerd.run(&["task", "ps", "box"]).ok();
    assert!(processes.lines().count() >= 4 && processes.contains("two"), "init, its sleep and the exec: {processes}");

    containerd.run(&["task", "kill", "--signal", "SIGTERM", "box"]).ok();
    waiting::until("the end of the task", || (containerd.state("box").as_deref() == Some("STOPPED")).then_some(()));
    assert_eq!(deleted_with(&containerd, "box"), 7);
    containerd.run(&["container", "delete", "box"]).ok();
    assert_eq!(containerd.known_to_runtime(), Vec::<String>::new());
}

#[test]
fn a_task_that_is_killed_by_force_is_gone() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    containerd.up("box", &["/bin/sleep", "1000"]);
    containerd.exec("box", "two", &["--detach"], &["/bin/sleep", "1000"]).run().ok();
    containerd.run(&["task", "kill", "--all", "--signal", "SIGKILL", "box"]).ok();
    waiting::until("the end of the task", || (containerd.state("box").as_deref() == Some("STOPPED")).then_some(()));
    assert_eq!(deleted_with(&containerd, "box"), 137);
    assert_eq!(containerd.known_to_runtime(), Vec::<String>::new());

    containerd.run(&["container", "delete", "box"]).ok();
    containerd.up("box", &["/bin/sleep", "1000"]);
    containerd.run(&["task", "delete", "--force", "box"]);
    assert_eq!(containerd.state("box"), None);
}

#[test]
fn a_paused_task_stands_still() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    containerd.up("box", &UNTIL_TERM);
    await_up(&containerd);
    containerd.run(&["task", "pause", "box"]).ok();
    assert_eq!(containerd.state("box").as_deref(), Some("PAUSED"));
    containerd.run(&["task", "resume", "box"]).ok();
    assert_eq!(containerd.state("box").as_deref(), Some("RUNNING"));
    let alive = attend(&containerd, "echo alive", 0, |program| containerd.exec("box", "one", &[], program));
    assert_eq!(alive.ok(), "alive\n");
}

#[test]
fn a_terminal_is_the_programs() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    let (mut shell, terminal) = containerd.container("box", &["--rm", "--tty"], &["/bin/sh"]).start_on_terminal();
    shell.output_until(|text| text.contains("# "));
    // ctr sets the size once the program has been started.
    terminal.type_text("tty; until stty size | grep -x '24 80'; do usleep 5000; done; echo si''zed\n");
    shell.output_until(|text| text.contains("/dev/pts/0") && text.contains("sized\r"));
    terminal.type_text("exit 4\n");
    shell.finish().expect(4);
}

#[test]
fn an_exec_gets_a_terminal_too() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    containerd.up("box", &UNTIL_TERM);
    let (mut shell, terminal) = containerd.exec("box", "one", &["--tty"], &["/bin/sh"]).start_on_terminal();
    shell.output_until(|text| text.contains("# "));
    terminal.type_text("test -t 0 -a -t 1 -a -t 2 && echo all''three; exit 6\n");
    let output = shell.finish().expect(6);
    assert!(output.stdout.contains("allthree"), "{output}");
}

#[test]
fn caps_seccomp_mounts_users_and_variables_reach_the_program() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    let directory = sandbox.path("shared");
    fs::create_dir(&directory).expect("our directory");
    fs::write(directory.join("file"), "here\n").expect("our directory");
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:ro", directory.display());
    let options =
        ["--rm", "--mount", &mount, "--env", "COLOUR=red", "--cwd", "/tmp", "--seccomp", "--cap-drop", "CAP_CHOWN"];
    let script = "cat /mnt/file; touch /mnt/x 2>/dev/null || echo refused; echo $COLOUR; pwd; grep -w Seccomp: /proc/self/status; \
                  chown 1 /tmp 2>/dev/null || echo unable";
    let printed = attend(&containerd, script, 0, |program| containerd.container("box", &options, program)).ok();
    assert_eq!(printed, "here\nrefused\nred\n/tmp\nSeccomp:\t2\nunable\n");
}

#[test]
fn a_read_only_root_is_read_only() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    let script = "touch /etc/x 2>&1; touch /run/x && echo written";
    let options = ["--rm", "--read-only"];
    let printed = attend(&containerd, script, 0, |program| containerd.container("box", &options, program)).ok();
    assert!(printed.contains("Read-only file system") && printed.contains("written"), "{printed}");
}

#[test]
fn ten_tasks_run_side_by_side() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    let started: Vec<_> = (0..10)
        .map(|n| {
            let script = format!("echo {n} > /tmp/{n}; exit {n}");
            containerd.container(&format!("box{n}"), &["--rm"], &["/bin/sh", "-c", &script]).start()
        })
        .collect();
    for (n, running) in started.into_iter().enumerate() {
        running.finish().expect(i32::try_from(n).expect("small"));
        let written = fs::read_to_string(containerd.rootfs().join(format!("tmp/{n}"))).expect("written by the program");
        assert_eq!(written, format!("{n}\n"));
    }
    assert_eq!(containerd.known_to_runtime(), Vec::<String>::new());
}

#[test]
fn an_imported_image_runs_on_a_snapshot() {
    let sandbox = Sandbox::new();
    let containerd = Containerd::start(&sandbox);
    client::insist("umoci", "umoci");
    client::insist("skopeo", "skopeo");
    let (layout, archive) = (sandbox.path("layout"), sandbox.path("nest.tar"));
    let image = format!("{}:nest", layout.display());
    let umoci = |arguments: &[&str]| sandbox.command("umoci").args(arguments).run().ok();
    umoci(&["init", "--layout", &layout.display().to_string()]);
    umoci(&["new", "--image", &image]);
    umoci(&["insert", "--image", &image, &containerd.rootfs().display().to_string(), "/"]);
    let copy = ["--insecure-policy", "--tmpdir", &sandbox.path("").display().to_string(), "copy", "--quiet"]
        .map(str::to_owned);
    let (source, target) = (format!("oci:{image}"), format!("docker-archive:{}:nest:latest", archive.display()));
    sandbox.command("skopeo").args(copy).args([source, target]).run().ok();
    containerd.ctr(&["image", "import"]).arg(&archive).run().ok();
    let name = "docker.io/library/nest:latest";
    let script = ["/bin/sh", "-c", "test ! -e /mark && echo inside > /mark && grep -qx inside /mark"];
    containerd.container_of(name, "box", &["--rm"], &script).run().expect(0);
    containerd.container_of(name, "box", &["--rm"], &["/bin/test", "-e", "/mark"]).run().expect(1);
}

/// Runs a script through an attached `ctr`, to its end with status `code`, and gives what `ctr` printed.
///
/// The script stays until its output has arrived: `ctr` does not wait for what is still in the pipes when a task ends,
/// with any runtime.
#[track_caller]
fn attend(containerd: &Containerd<'_>, script: &str, code: i32, command: impl FnOnce(&[&str]) -> Cmd) -> Output {
    let go = containerd.rootfs().join("tmp/go");
    let _ = fs::remove_file(&go);
    let script = format!("{script}; echo {END}; until test -e /tmp/go; do usleep 1000; done; exit {code}");
    let mut running = command(&["/bin/sh", "-c", &script]).start();
    running.output_until(|text| text.contains(END));
    fs::write(&go, "").expect("our directory");
    let mut output = running.finish();
    output.stdout = output.stdout.replace(&format!("{END}\n"), "");
    output
}

/// Deletes a task that has ended, and gives its exit status.
#[track_caller]
fn deleted_with(containerd: &Containerd<'_>, id: &str) -> i32 {
    let output = containerd.run(&["task", "delete", id]).expect(0);
    let (_, code) = output.stderr.rsplit_once("exit code ").unwrap_or_else(|| panic!("no exit code in {output}"));
    code.trim_end().trim_end_matches('"').parse().expect("a number")
}

fn await_up(containerd: &Containerd<'_>) {
    let mark = containerd.rootfs().join("tmp/up");
    waiting::until("the program in the container", || mark.exists().then_some(()));
}
