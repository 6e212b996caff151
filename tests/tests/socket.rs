//! The daemon's door: who finds it, who is let in, and that there is only one.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use brood_tests::{Daemon, Sandbox, binaries};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn socket_and_directory_are_the_owners_alone() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    assert_eq!(mode(&daemon.socket()), 0o600);
    assert_eq!(mode(&sandbox.root()), 0o700);
}

#[test]
fn a_foreign_user_is_refused() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    // Every door but the last is opened, so that it is the check of the peer that refuses.
    fs::set_permissions(sandbox.root(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.socket(), Permissions::from_mode(0o666)).unwrap();
    let brood = sandbox.path("brood");
    fs::copy(binaries::brood(), &brood).unwrap();
    fs::set_permissions(&brood, Permissions::from_mode(0o755)).unwrap();

    let host = format!("unix://{}", daemon.socket().display());
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let stranger = || sandbox.command("setpriv").args(nobody).arg(&brood).args(["--host", &host]);
    for command in [&["list"][..], &["version"], &["run", "--", "true"]] {
        stranger().args(command).run().expect(125).one_line_error();
    }
    let log = daemon.log();
    assert!(log.contains("65534"), "the refusal is logged with the uid:\n{log}");
    daemon.brood().arg("list").run().ok();
}

#[test]
fn noise_on_the_socket_harms_nobody() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let supervisor = daemon.supervisor();
    for noise in [&b""[..], b"\0", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096]] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        // The daemon may hang up before it has read all.
        let _ = stream.write_all(noise);
    }
    daemon.brood().arg("list").run().ok();
    assert_eq!(daemon.supervisor().pid, supervisor.pid, "the same supervisor");
}

#[test]
fn a_second_daemon_is_refused() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let second = sandbox.brood().arg("daemon").run().expect(125);
    assert!(second.stderr.contains("brood.sock") || second.stderr.contains("already"), "{second}");
    daemon.brood().arg("list").run().ok();
}

#[test]
fn a_dead_daemons_socket_is_no_obstacle() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.root()).unwrap();
    fs::set_permissions(sandbox.root(), Permissions::from_mode(0o700)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(sandbox.root().join("brood.sock")).unwrap());
    let daemon = Daemon::start(&sandbox, &[]);
    daemon.brood().arg("list").run().ok();
}

#[test]
fn version_tells_of_both_sides() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let text = daemon.brood().arg("version").run().ok();
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
}

#[test]
fn a_plain_brood_finds_the_daemon_of_its_root() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    sandbox.brood().args(["run", "-d", "--name", &sandbox.id("box"), "--", "true"]).run().ok();
    sandbox.brood().args(["wait", &sandbox.id("box")]).run().expect(0);
    let names = daemon.brood().args(["list", "-q"]).run().ok();
    assert_eq!(names, format!("{}\n", sandbox.id("box")));
    sandbox.brood().args(["rm", &sandbox.id("box")]).run().ok();
}

#[test]
fn completions_for_shells() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let text = sandbox.brood().args(["completions", shell]).run().ok();
        assert!(text.contains("brood") && text.contains("daemon"), "{shell}");
    }
}
