//! Checkpoint and restore, as far as they go without CRIU: a program in its place says what the test wants to hear. What
//! the real one does is in `guest_checkpoint.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use brood_tests::{Bundle, Cmd, Container, Daemon, Sandbox, config, procfs};

/// A folder for PATH with the usual programs and a `criu` of this script, which has the connection as descriptor 3.
fn path_with(container: &Container, criu: Option<&str>) -> String {
    let folder = container.sandbox.path("bin");
    fs::create_dir_all(&folder).unwrap();
    if let Some(script) = criu {
        let file = folder.join("criu");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// The answer to VERSION, `type: VERSION, success, version { major, minor }`, once that was asked.
fn version(major: u8, minor: u8) -> String {
    let answer = format!(r"\010\012\020\001\122\004\010\{major:03o}\020\{minor:03o}");
    format!("/usr/bin/dd bs=64k count=1 status=none <&3 > /dev/null; printf '{answer}' >&3")
}

/// The same, and a failure of what comes next: `type, success: false, cr_errno, cr_errmsg`.
fn failing(kind: u8, errno: u8) -> String {
    let message = r"\112\005first";
    let answer = format!(r"\010\{kind:03o}\020\000\070\{errno:03o}{message}");
    format!("{}\n/usr/bin/dd bs=64k count=1 status=none <&3 > /dev/null; printf '{answer}' >&3; exit 1", version(3, 17))
}

const DUMP: u8 = 1;
const RESTORE: u8 = 2;

fn images(container: &Container) -> PathBuf {
    container.sandbox.path("images")
}

fn checkpoint(container: &Container, criu: Option<&str>, options: &[&str]) -> Cmd {
    let command =
        container.oci(&["checkpoint", "--image-path"]).arg(images(container)).args(options).arg(&container.id);
    command.env("PATH", path_with(container, criu))
}

fn restore(container: &Container, criu: Option<&str>, options: &[&str]) -> Cmd {
    let command = container.oci(&["restore", "-d", "--image-path"]).arg(images(container)).arg("-b");
    let command = command.arg(container.bundle.path()).args(options).arg(&container.id);
    command.env("PATH", path_with(container, criu))
}

/// A directory that looks as if something had been checkpointed into it.
fn some_images(container: &Container) {
    fs::create_dir_all(images(container)).unwrap();
    fs::write(images(container).join("descriptors.json"), r#"["/dev/null", "pipe:[1]", "pipe:[2]"]"#).unwrap();
}

#[track_caller]
fn refusal(command: Cmd) -> String {
    let output = command.run().expect(1);
    let line = output.one_line_error();
    let message = line.split_once("msg=\"").expect("a message").1.strip_suffix('"').expect("its end");
    message.replace("\\\"", "\"")
}

fn up() -> Container {
    Container::long_lived().up()
}

fn away(container: &Container) {
    assert_eq!(container.status(), "running", "whatever failed, it goes on");
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn without_criu_one_line_names_it() {
    let container = up();
    let wanted = "criu: not found along PATH: checkpoint and restore need CRIU 3.15 or newer";
    assert_eq!(refusal(checkpoint(&container, None, &[])), wanted);
    assert!(!images(&container).exists());
    away(&container);
    some_images(&container);
    assert_eq!(refusal(restore(&container, None, &[])), wanted);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn an_old_criu_is_refused_with_both_versions() {
    let container = up();
    let old = version(2, 12);
    let wanted = "criu 2.12 is too old: this needs 3.15 or newer";
    assert_eq!(refusal(checkpoint(&container, Some(&old), &[])), wanted);
    let wanted = "criu 3.15 is too old: --network-lock needs 3.16 or newer";
    assert_eq!(refusal(checkpoint(&container, Some(&version(3, 15)), &["--network-lock", "skip"])), wanted);
    away(&container);
    some_images(&container);
    let wanted = "criu 3.15 is too old: --lsm-profile and --lsm-mount-context needs 3.16 or newer";
    let profile = ["--lsm-profile", "apparmor:x"];
    assert_eq!(refusal(restore(&container, Some(&version(3, 15)), &profile)), wanted);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

/// The end of the log is part of the message, and CRIU's code, and what it said first.
#[test]
fn a_failure_of_criu_is_passed_on_with_the_end_of_its_log() {
    let container = up();
    some_images(&container);
    let (dump, restored) = (images(&container).join("dump.log"), images(&container).join("restore.log"));
    fs::write(&dump, "(0.1) fine\n(0.2) Error (criu/x.c:1): cannot\n(0.3) Error (criu/y.c:2): Dumping FAILED.\n")
        .unwrap();
    let wanted = format!(
        "criu failed: type dump: no such process: first: (0.2) Error (criu/x.c:1): cannot: (0.3) Error (criu/y.c:2): \
         Dumping FAILED. (log file {})",
        dump.display()
    );
    assert_eq!(refusal(checkpoint(&container, Some(&failing(DUMP, 3)), &[])), wanted);
    away(&container);
    let wanted = format!("criu failed: type restore: first (log file {})", restored.display());
    assert_eq!(refusal(restore(&container, Some(&failing(RESTORE, 0)), &[])), wanted);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn a_criu_that_ends_or_talks_nonsense_is_an_error_too() {
    let container = up();
    let ended = refusal(checkpoint(&container, Some("echo 'Error: no luck' >&2; exit 7"), &[]));
    assert_eq!(ended, "criu: unexpected answer: end of file (exit status: 7): Error: no luck");
    let nonsense = refusal(checkpoint(&container, Some("printf nonsense >&3; exec /usr/bin/sleep 0"), &[]));
    assert!(nonsense.starts_with("criu: unexpected answer: "), "{nonsense}");
    away(&container);
}

/// This kernel may be newer than the CRIU that is installed; whatever that does is passed on, and the container goes on.
#[test]
fn the_installed_criu_fails_in_one_line_or_not_at_all() {
    let container = up();
    let command = container.oci(&["checkpoint", "--leave-running", "--image-path"]).arg(images(&container));
    let output = command.arg(&container.id).run();
    if output.code() != 0 {
        assert!(output.one_line_error().contains("criu"), "{output}");
    }
    away(&container);
}

#[test]
fn what_cannot_be_checkpointed_or_restored_is_refused_before_criu_is_asked() {
    let container = Container::long_lived();
    let no = |command: Cmd| refusal(command);
    assert!(no(checkpoint(&container, None, &[])).starts_with("container does not exist"));
    container.create();
    assert_eq!(no(checkpoint(&container, None, &[])), "container cannot be checkpointed in created state");
    some_images(&container);
    assert!(no(restore(&container, None, &[])).contains("container with given ID already exists"));
    container.end();
    assert_eq!(no(checkpoint(&container, None, &[])), "container cannot be checkpointed in stopped state");
    container.call(&["delete"]).ok();
    assert_eq!(
        no(restore(&container, None, &["--console-socket", "/x"])),
        "cannot use console socket if brood-oci will not detach or allocate tty"
    );
    fs::remove_dir_all(images(&container)).unwrap();
    let missing = format!("--image-path {}: no such file or directory", images(&container).display());
    assert_eq!(no(restore(&container, None, &[])), missing);
    assert!(!images(&container).exists());
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn paths_and_options_are_checked() {
    let container = up();
    let criu = version(3, 17);
    let no = |options: &[&str]| refusal(checkpoint(&container, Some(&criu), options));
    assert_eq!(no(&["--parent-path", "/x"]), "--parent-path /x: must be relative");
    assert!(no(&["--parent-path", "../none"]).ends_with("none: no such file or directory"));
    assert!(no(&["--page-server", "nowhere"]).contains("use --page-server ADDRESS:PORT"));
    assert!(no(&["--page-server", "host:99999"]).contains("invalid port number"));
    assert!(no(&["--manage-cgroups-mode", "some"]).contains("some"));
    assert!(no(&["--empty-ns", "pid"]).contains("pid"));
    assert!(no(&["--status-fd", "77"]).starts_with("--status-fd 77: "));
    let work = container.sandbox.path("work");
    fs::create_dir(&work).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", work.join("dump.log")).unwrap();
    assert!(no(&["--work-path", work.to_str().unwrap()]).ends_with("dump.log: not a regular file of its own"));
    away(&container);
}

/// An annotation may have come with an image, and CRIU's configuration can name programs to run.
#[test]
fn a_configuration_of_criu_is_roots_alone() {
    let config = |container: &Container| container.sandbox.path("criu.conf");
    let sandboxed = Container::new(|bundle| {
        bundle.live_until_term(7);
        let file = bundle.path().with_file_name("criu.conf");
        bundle.config["annotations"] = serde_json::json!({ "org.criu.config": file });
    });
    let container = sandboxed.up();
    fs::write(config(&container), "action-script /tmp/evil\n").unwrap();
    fs::set_permissions(config(&container), fs::Permissions::from_mode(0o666)).unwrap();
    let message = refusal(checkpoint(&container, Some(&version(3, 17)), &[]));
    assert!(message.starts_with("config.json: annotations.org.criu.config: "), "{message}");
    assert!(message.ends_with("must belong to root and be writable by nobody else"), "{message}");
    away(&container);
}

/// CRIU would take all mounts of the host for the container's.
#[test]
fn a_container_in_the_hosts_mounts_is_refused() {
    let container = Container::new(|bundle| {
        bundle.live_until_term(7);
        config::drop_namespace(&mut bundle.config, "mount");
        for paths in ["maskedPaths", "readonlyPaths"] {
            bundle.config["linux"][paths] = serde_json::json!([]);
        }
    });
    let wanted = "config.json: linux.namespaces: checkpoint and restore need a mount namespace of the container's own";
    container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run().ok();
    container.call(&["start"]).ok();
    container.bundle.await_up();
    assert_eq!(refusal(checkpoint(&container, Some(&version(3, 17)), &[])), wanted);
    away(&container);
    assert_eq!(refusal(restore(&container, Some(&version(3, 17)), &[])), wanted);
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

/// CRIU can name no file that is in none of the container's mounts.
#[test]
fn the_null_device_among_the_standard_descriptors_is_the_containers_own() {
    let container = up();
    let host = fs::metadata("/dev/null").unwrap();
    let own = fs::metadata(format!("/proc/{}/fd/0", container.pid())).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(own.rdev(), host.rdev());
    assert_ne!(own.dev(), host.dev(), "descriptor 0 is of another file system than the host's /dev");
    assert!(
        procfs::descriptors(container.pid())
            .iter()
            .any(|(number, path)| *number == 0 && Path::new(path) == Path::new("/dev/null"))
    );
    away(&container);
}

#[test]
fn the_daemon_refuses_wrong_names_places_and_states() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.live_until_term(0);
    bundle.write();
    let id = sandbox.id("box");
    let no = |args: &[&str]| daemon.brood().args(args).run().expect(125).one_line_error().to_owned();
    daemon.brood().args(["create", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    assert!(no(&["checkpoint", "create", &id, "first"]).ends_with("it is created"));
    daemon.brood().args(["start", &id]).run().ok();
    bundle.await_up();
    assert!(no(&["checkpoint", "create", &id, "../first"]).contains("brood: checkpoint ../first: "));
    assert!(no(&["checkpoint", "create", "--checkpoint-dir", "/proc/nowhere", &id, "first"]).contains("/proc/nowhere"));
    assert!(no(&["checkpoint", "rm", &id, "first"]).ends_with("checkpoint.json: no such file or directory"));
    assert_eq!(daemon.brood().args(["checkpoint", "list", &id]).run().ok(), "NAME  TCP  UNIX SOCKETS  SHELL\n");
    assert!(!bundle.path().join("checkpoints/first").exists());
    let restore = ["restore", "--name", "other", "--bundle", bundle.path().to_str().unwrap(), "first"];
    assert!(no(&restore).ends_with("checkpoint.json: no such file or directory"));
    assert_eq!(sandbox.containers(), [id.as_str()]);
    daemon.brood().args(["rm", "--force", &id]).run().ok();
}
