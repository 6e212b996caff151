//! Terminals and the sockets that receive them.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test terminals` asks the same of runc.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use brood_tests::terminal::receive;
use brood_tests::{Bundle, Container, binaries, waiting};
use serde_json::json;

/// Reads a terminal until its last user has closed it.
fn read_all(master: OwnedFd) -> String {
    let (mut file, mut text, mut buffer) = (File::from(master), String::new(), [0; 4096]);
    // EIO is how a terminal ends.
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    text
}

fn with_terminal(bundle: &mut Bundle, script: &str) {
    bundle.sh(script);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({ "height": 31, "width": 97 });
}

/// What a process finds on its terminal: its descriptors are it (but for ls's output), it is the controlling one, with the
/// size asked for.
const LOOK: &str = "tty; stty size; ls -l /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 | grep -c /dev/pts/0; echo hello > /dev/tty; \
    test -c /dev/console && echo console";

#[test]
fn the_console_socket_receives_the_terminal() {
    let container = Container::new(|bundle| with_terminal(bundle, &format!("{LOOK}; read line; echo got $line")));
    let path = container.sandbox.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let created =
        container.oci(&["create", "--console-socket"]).arg(&path).arg("--bundle").arg(container.bundle.path());
    // In the background: runc waits for the receiver.
    let created = created.arg(&container.id).start();
    let master = receive(&listener);
    created.finish().expect(0);
    container.call(&["start"]).ok();
    File::from(master.try_clone().unwrap()).write_all(b"typed\n").unwrap();
    let text = read_all(master);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| *line != "typed").collect();
    assert_eq!(lines, ["/dev/pts/0", "31 97", "2", "hello", "console", "got typed"], "{text:?}");
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn an_exec_gets_a_terminal_of_the_containers() {
    let container = Container::long_lived().up();
    let path = container.sandbox.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let pid_file = container.sandbox.path("pid");
    let exec = container.oci(&["exec", "-d", "-t", "--console-socket"]).arg(&path).arg("--pid-file").arg(&pid_file);
    let exec = exec.args([&container.id, "sh", "-c", "tty; echo hello > /dev/tty"]).start();
    let text = read_all(receive(&listener));
    exec.finish().expect(0);
    // It is our own orphan by now, and a pid namespace does not end before all in it are reaped.
    waiting::gone(std::fs::read_to_string(&pid_file).unwrap().parse().unwrap());
    assert_eq!(text.lines().map(str::trim_end).collect::<Vec<_>>(), ["/dev/pts/0", "hello"], "{text:?}");
    container.call(&["delete", "--force"]).ok();
}

/// A foreground run carries the bytes between the caller's terminal and the container's, which follows its size.
#[test]
fn a_foreground_run_carries_the_terminal() {
    // The new size and the line come in by two ways, and either may be first.
    let script = "tty; stty size; read line; until stty size | grep '30 90'; do :; done; echo got $line; exit 5";
    let container = Container::new(|bundle| {
        with_terminal(bundle, script);
        bundle.config["process"].as_object_mut().unwrap().remove("consoleSize");
    });
    let run = container.oci(&["run", "--bundle"]).arg(container.bundle.path()).arg(&container.id);
    let (mut run, terminal) = run.start_on_terminal();
    run.output_until(|text| text.contains("24 80"));
    terminal.resize(30, 90);
    terminal.type_text("typed\n");
    let output = run.finish().expect(5);
    assert!(output.stdout.contains("30 90") && output.stdout.contains("got typed"), "{output}");
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn a_foreground_exec_carries_the_terminal() {
    let container = Container::long_lived().up();
    let exec =
        container.oci(&["exec", "-t", &container.id, "sh", "-c", "stty size; read line; echo got $line; exit 6"]);
    let (mut exec, terminal) = exec.start_on_terminal();
    exec.output_until(|text| text.contains("24 80"));
    terminal.type_text("typed\n");
    assert!(exec.finish().expect(6).stdout.contains("got typed"));
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn sockets_and_terminals_that_do_not_go_together_are_refused() {
    let container = Container::new(|bundle| bundle.sh("true"));
    let path = container.sandbox.path("console.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let create = |socket: &std::path::Path| {
        container
            .oci(&["create", "--console-socket"])
            .arg(socket)
            .arg("--bundle")
            .arg(container.bundle.path())
            .arg(&container.id)
            .run()
    };
    assert!(create(&path).expect(1).stderr.contains("cannot use console socket"));
    let mut bundle = Bundle::empty(&container.sandbox, "edited");
    bundle.config = container.bundle.config.clone();
    with_terminal(&mut bundle, "true");
    std::fs::write(container.bundle.config_path(), bundle.config.to_string()).unwrap();
    let missing = container.sandbox.path("missing.sock");
    assert!(create(&missing).expect(1).stderr.to_lowercase().contains("no such file"));
    // Without a devpts there is no terminal to be had.
    if !binaries::oracle() {
        bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "devpts");
        std::fs::write(container.bundle.config_path(), bundle.config.to_string()).unwrap();
        assert!(create(&path).expect(1).one_line_error().contains("process.terminal"));
    }
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

/// The handle that comes refers to the container's init process and tells its end.
#[test]
fn the_pidfd_socket_receives_a_handle() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: Debian's runc has no --pidfd-socket");
        return;
    }
    let container = Container::new(|bundle| bundle.live_until_term(7));
    let path = container.sandbox.path("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let create = container.oci(&["create", "--pidfd-socket"]).arg(&path).arg("--bundle").arg(container.bundle.path());
    create.arg(&container.id).run().ok();
    let pidfd = receive(&listener);
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd))).unwrap();
    let pid = container.state()["pid"].to_string();
    assert!(info.lines().any(|line| line.split_whitespace().eq(["Pid:", pid.as_str()])), "{info}");
    rustix::process::pidfd_send_signal(pidfd.as_fd(), rustix::process::Signal::KILL).unwrap();
    assert!(waiting::readable(&pidfd, Instant::now() + waiting::PATIENCE), "its end was not told");
    container.call(&["delete", "--force"]).ok();
}

/// A terminal takes no more than its program reads. Whoever carries the rest must not wait for it.
#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    let container = Container::new(|bundle| {
        bundle.live_until_term(7);
        bundle.config["process"]["terminal"] = json!(true);
    });
    let run = container.oci(&["run", "--bundle"]).arg(container.bundle.path()).arg(&container.id);
    let run = run.stdin(vec![b'x'; 1 << 20]).start();
    container.bundle.await_up();
    container.call(&["kill"]).ok();
    run.finish().expect(7);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}
