//! `brood run` without a daemon: the first README command, what goes in and what comes out.

use std::fs;
use std::path::Path;

use brood_tests::{Bundle, Cmd, Daemon, Sandbox};

/// `brood run ARGS...` on the default bundle: the host's root below a throw-away layer.
fn run(sandbox: &Sandbox, args: &[&str]) -> Cmd {
    sandbox.brood().arg("run").args(args)
}

/// A shell script on the default bundle.
fn sh(sandbox: &Sandbox, script: &str) -> Cmd {
    run(sandbox, &["--", "sh", "-c", script])
}

#[test]
fn says_hello() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, &["--", "echo", "hello"]).run().expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("hello\n", ""));
}

#[test]
fn the_dashes_are_optional() {
    let sandbox = Sandbox::new();
    assert_eq!(run(&sandbox, &["echo", "-n", "hello"]).run().ok(), "hello");
}

#[test]
fn takes_its_root_from_the_environment() {
    let sandbox = Sandbox::new();
    let brood = brood_tests::binaries::brood();
    let output = sandbox.command(brood).env("BROOD_ROOT", sandbox.root()).args(["run", "--", "echo", "hello"]).run();
    assert_eq!(output.ok(), "hello\n");
}

#[test]
fn exit_status_is_the_containers() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 7, 255] {
        sh(&sandbox, &format!("exit {code}")).run().expect(code);
    }
}

#[test]
fn death_by_signal_is_128_and_the_number() {
    let sandbox = Sandbox::new();
    // The init of a pid namespace is immune to its own signals: another process has to be the one that dies, or
    // the kernel has to send it.
    sh(&sandbox, "sh -c 'kill -TERM $$'; exit $?").run().expect(128 + 15);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.sh("kill -KILL $$");
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    bundle.write();
    run(&sandbox, &["--name", &sandbox.id("box"), "--bundle", bundle.path().to_str().unwrap()]).run().expect(128 + 9);
}

#[test]
fn a_program_that_cannot_be_run() {
    let sandbox = Sandbox::new();
    let missing = run(&sandbox, &["--", "no-such-program-anywhere"]).run().expect(127);
    assert!(missing.one_line_error().contains("no-such-program-anywhere"), "{missing}");
    let not_executable = run(&sandbox, &["--", "/etc/passwd"]).run().expect(126);
    assert!(not_executable.one_line_error().contains("/etc/passwd"), "{not_executable}");
    let directory = run(&sandbox, &["--", "/etc"]).run().expect(126);
    assert!(directory.one_line_error().contains("/etc"), "{directory}");
}

#[test]
fn the_host_stays_as_it_was() {
    let sandbox = Sandbox::new();
    let marks: Vec<String> =
        ["/etc", "/usr/bin", "/var/lib", "/root"].iter().map(|d| format!("{d}/{}", sandbox.token())).collect();
    let passwd = fs::read("/etc/passwd").unwrap();
    let script = format!("echo gone > /etc/passwd && touch {0} && ls {0} && rm /bin/true", marks.join(" "));
    let output = sh(&sandbox, &script).run().ok();
    assert_eq!(output.lines().count(), marks.len(), "the files are there inside: {output}");
    for mark in &marks {
        assert!(!Path::new(mark).exists(), "{mark} came through to the host");
    }
    assert_eq!(fs::read("/etc/passwd").unwrap(), passwd);
    assert!(Path::new("/bin/true").exists());
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn containers_do_not_see_each_others_files() {
    let sandbox = Sandbox::new();
    sh(&sandbox, "touch /etc/first").run().ok();
    sh(&sandbox, "test ! -e /etc/first").run().ok();
}

#[test]
fn stdin_is_passed_on_with_i() {
    let sandbox = Sandbox::new();
    let with = run(&sandbox, &["-i", "--", "cat"]).stdin("some words").run().ok();
    assert_eq!(with, "some words");
    let without = run(&sandbox, &["--", "cat"]).stdin("some words").run().ok();
    assert_eq!(without, "");
}

#[test]
fn outputs_stay_apart() {
    let sandbox = Sandbox::new();
    let output = sh(&sandbox, "echo one; echo two >&2").run().expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\n", "two\n"));
}

#[test]
fn a_mebibyte_arrives_whole() {
    let sandbox = Sandbox::new();
    let output = sh(&sandbox, "yes 0123456789abcde | head -c 1048576").run().ok();
    assert_eq!(output.len(), 1 << 20);
    assert!(output.lines().all(|line| line == "0123456789abcde"));
}

#[test]
fn a_mebibyte_goes_through() {
    let sandbox = Sandbox::new();
    let input: String = (0..1 << 17).map(|n| format!("{:07}\n", n % 10_000_000)).collect();
    let output = run(&sandbox, &["-i", "--", "cat"]).stdin(input.clone()).run().ok();
    assert!(output == input, "{} bytes became {}", input.len(), output.len());
}

#[test]
fn environment_directory_and_user() {
    let sandbox = Sandbox::new();
    let script = "echo $GREETING; pwd; id -u; id -g; hostname";
    let output =
        run(&sandbox, &["-e", "GREETING=hi there", "-w", "/usr", "-u", "65534:65533", "--", "sh", "-c", script]);
    let output = output.run().ok();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..4], ["hi there", "/usr", "65534", "65533"]);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(lines[4], host.trim(), "a uts namespace of its own");
}

#[test]
fn the_callers_environment_stays_outside() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, &["--", "env"]).env("SECRET", "x").run().ok();
    assert!(!output.contains("SECRET"), "{output}");
    assert!(output.lines().any(|line| line.starts_with("PATH=/")), "{output}");
}

#[test]
fn read_only_means_no_writing() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, &["--read-only", "--", "sh", "-c", "touch /etc/x"]).run();
    assert_ne!(output.code(), 0, "{output}");
    assert!(output.stderr.contains("Read-only"), "{output}");
}

#[test]
fn a_rootfs_of_ones_own() {
    let sandbox = Sandbox::new();
    let bundle = Bundle::busybox(&sandbox, "bundle");
    let rootfs = bundle.rootfs();
    let output = run(&sandbox, &["--rootfs", rootfs.to_str().unwrap(), "--", "ls", "/"]).run().ok();
    assert!(output.lines().any(|name| name == "bin") && !output.contains("usr"), "{output}");
}

#[test]
fn volumes_read_write_and_read_only() {
    let sandbox = Sandbox::new();
    let shared = sandbox.path("shared");
    fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/mnt", shared.display());
    run(&sandbox, &["-v", &volume, "--", "sh", "-c", "echo kept > /mnt/file"]).run().ok();
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "kept\n");
    let output = run(&sandbox, &["-v", &format!("{volume}:ro"), "--", "sh", "-c", "echo no > /mnt/file"]).run();
    assert!(output.code() != 0 && output.stderr.contains("Read-only"), "{output}");
}

#[test]
fn is_process_one_and_alone() {
    let sandbox = Sandbox::new();
    let output = sh(&sandbox, "echo $$; ls -d /proc/[0-9]* | wc -l").run().ok();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "1");
    // The shell, ls, wc: nothing of the host.
    assert!(lines[1].trim().parse::<u32>().unwrap() <= 4, "{output}");
}

#[test]
fn a_signal_to_brood_reaches_the_container() {
    let sandbox = Sandbox::new();
    let mut running = sh(&sandbox, "trap 'echo caught; exit 9' TERM; sleep 60 & echo ready; wait").start();
    running.output_until(|text| text.contains("ready"));
    running.signal(rustix::process::Signal::TERM);
    let output = running.finish().expect(9);
    assert_eq!(output.stdout, "ready\ncaught\n");
}

#[test]
fn a_terminal_is_given() {
    let sandbox = Sandbox::new();
    let output = sandbox.brood().args(["run", "-t", "--", "sh", "-c", "tty; exit 5"]).run().expect(5);
    assert!(output.stdout.contains("/dev/pts/0\r\n"), "{output}");
    let refused = sandbox.brood().args(["run", "-t", "-d", "--", "true"]).run().expect(125);
    refused.one_line_error();
}

/// SIGWINCH: the container's terminal follows the size of the caller's, with a daemon and without one.
#[test]
fn a_terminal_follows_the_size_of_the_callers() {
    for with_daemon in [false, true] {
        let sandbox = Sandbox::new();
        let _daemon = with_daemon.then(|| Daemon::start(&sandbox, &[]));
        let script = "trap 'stty size' WINCH; stty size; while :; do read line && exit 5; done";
        let (mut run, terminal) =
            sandbox.brood().args(["run", "--rm", "-t", "--", "sh", "-c", script]).start_on_terminal();
        run.output_until(|text| text.contains("24 80"));
        terminal.resize(30, 90);
        run.output_until(|text| text.contains("30 90"));
        terminal.resize(31, 91);
        run.output_until(|text| text.contains("31 91"));
        terminal.type_text("typed\n");
        run.finish().expect(5);
    }
}
