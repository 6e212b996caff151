//! What bad input gets, from both faces: one line that names the culprit, the right exit status, nothing left behind.

use std::fs;
use std::os::unix::net::UnixListener;

use brood_tests::world::files;
use brood_tests::{Bundle, Container, Daemon, Face, Sandbox, binaries, config};
use serde_json::{Value, json};

/// What a bad command gets of `brood`; every failure of `brood-oci run` is a 1, as with runc.
const FAILED: i32 = 125;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Spoils a fresh bundle, runs it through every face, and looks at the error and at what is left.
///
/// `culprit` are words that the one line must contain.
#[track_caller]
fn refused(spoil: impl Fn(&mut Bundle), code: i32, culprit: &[&str]) {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.write();
        let good = bundle.config.clone();
        spoil(&mut bundle);
        if bundle.config != good {
            bundle.write();
        }
        refused_by(face, &sandbox, &bundle, &sandbox.id("box"), code, culprit);
    }
}

#[track_caller]
fn refused_by(face: Face, sandbox: &Sandbox, bundle: &Bundle, id: &str, code: i32, culprit: &[&str]) {
    let before = files(bundle.path());
    let output = face.command(sandbox, bundle, id).run();
    let line = output.one_line_error();
    if !binaries::oracle() {
        for word in culprit {
            assert!(line.contains(word), "{face:?} does not name `{word}`: {line}");
        }
        let code = if face == Face::Oci { 1 } else { code };
        assert_eq!(output.code(), code, "{face:?}: {output}");
        assert_eq!(files(bundle.path()), before, "{face:?} changed the bundle");
    }
    assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} left state behind");
    sandbox.assert_clean();
}

/// Sets one field of the config.
fn set(pointer: &'static str, value: Value) -> impl Fn(&mut Bundle) {
    move |bundle| {
        let (parent, key) = pointer.rsplit_once('/').expect("an absolute pointer");
        bundle.config.pointer_mut(parent).expect("the parent is there")[key] = value.clone();
    }
}

#[test]
fn a_proc_that_the_image_put_elsewhere() {
    refused(
        |bundle| {
            // The mount point that was made for the bundle, or none yet.
            let _ = fs::remove_dir(bundle.rootfs().join("proc"));
            std::os::unix::fs::symlink("tmp", bundle.rootfs().join("proc")).unwrap();
        },
        FAILED,
        &["/proc (proc) must be mounted on ordinary directory"],
    );
}

#[test]
fn a_missing_bundle() {
    refused(|bundle| fs::remove_dir_all(bundle.path()).unwrap(), FAILED, &["bundle"]);
}

#[test]
fn a_missing_config() {
    refused(|bundle| fs::remove_file(bundle.config_path()).unwrap(), FAILED, &["config.json"]);
}

#[test]
fn broken_json_with_line_and_column() {
    refused(
        |bundle| bundle.write_raw(b"{\n  \"ociVersion\": \"1.0.2\",\n  \"root\": [}\n"),
        FAILED,
        &["config.json", "line 3", "column"],
    );
    refused(|bundle| bundle.write_raw(b""), FAILED, &["config.json"]);
    refused(|bundle| bundle.write_raw(b"\xff\xfe\x00"), FAILED, &["config.json"]);
    refused(|bundle| bundle.write_raw(b"[1, 2]"), FAILED, &["config.json"]);
}

#[test]
fn wrong_types() {
    refused(set("/process/cwd", json!(7)), FAILED, &["config.json", "cwd"]);
    refused(set("/process/args", json!("sh")), FAILED, &["config.json", "args"]);
    refused(set("/process/user", json!({ "uid": -1, "gid": 0 })), FAILED, &["config.json", "uid"]);
    refused(set("/mounts", json!({ "destination": "/proc" })), FAILED, &["config.json", "mounts"]);
}

#[test]
fn a_missing_rootfs() {
    refused(|bundle| fs::remove_dir_all(bundle.rootfs()).unwrap(), FAILED, &["root.path", "rootfs"]);
    refused(set("/root", json!({ "path": "bin/../elsewhere" })), FAILED, &["root.path"]);
    refused(set("/root", json!({ "path": "rootfs/bin/busybox" })), FAILED, &["root.path"]);
}

#[test]
fn an_unknown_namespace() {
    refused(|bundle| config::add_namespace(&mut bundle.config, "kitchen"), FAILED, &["namespaces", "kitchen"]);
}

#[test]
fn a_namespace_named_twice() {
    refused(|bundle| config::add_namespace(&mut bundle.config, "pid"), FAILED, &["namespaces", "pid"]);
}

#[test]
fn args_that_cannot_be() {
    refused(set("/process/args", json!([])), FAILED, &["process.args"]);
    refused(set("/process/args", json!(["sh", "-c", "nul\0"])), FAILED, &["process.args[2]"]);
    refused(set("/process/args", json!([""])), FAILED, &["process.args[0]"]);
}

#[test]
fn env_with_a_nul() {
    refused(set("/process/env", json!(["PATH=/bin", "A=\0"])), FAILED, &["process.env[1]"]);
}

#[test]
fn a_working_directory_that_cannot_be() {
    refused(set("/process/cwd", json!("relative")), FAILED, &["process.cwd"]);
    refused(set("/process/cwd", json!("")), FAILED, &["process.cwd"]);
    refused(set("/process/cwd", json!("/etc/passwd")), FAILED, &["process.cwd", "/etc/passwd"]);
    refused(set("/process/cwd", json!("/bin/busybox/below")), FAILED, &["process.cwd", "/bin/busybox/below"]);
}

#[test]
fn a_working_directory_outside_of_the_root() {
    // CVE-2024-21626: a descriptor of the host's as the way out.
    refused(set("/process/cwd", json!("/proc/self/fd/7")), FAILED, &["process.cwd"]);
}

#[test]
fn a_program_that_is_not_executable() {
    refused(|bundle| bundle.args(&["/etc/passwd"]), NOT_EXECUTABLE, &["/etc/passwd"]);
    refused(|bundle| bundle.args(&["/bin"]), NOT_EXECUTABLE, &["/bin"]);
}

#[test]
fn a_program_that_is_not_there() {
    refused(|bundle| bundle.args(&["no-such-program"]), NOT_FOUND, &["no-such-program"]);
    refused(|bundle| bundle.args(&["/bin/no-such-program"]), NOT_FOUND, &["/bin/no-such-program"]);
}

#[test]
fn a_mount_that_fails() {
    let mount = |mount: Value| move |bundle: &mut Bundle| config::add_mount(&mut bundle.config, mount.clone());
    let no_source = json!({ "destination": "/data", "type": "bind", "source": "/no/such/source", "options": ["bind"] });
    refused(mount(no_source), FAILED, &["mounts[6]", "/no/such/source"]);
    let no_type = json!({ "destination": "/data", "type": "no-such-fs", "source": "none" });
    refused(mount(no_type), FAILED, &["mounts[6]", "no-such-fs"]);
    if !binaries::oracle() {
        let no_target = json!({ "destination": "", "type": "tmpfs", "source": "tmpfs" });
        refused(mount(no_target), FAILED, &["mounts[6]", "destination"]);
    }
    let bad_option = json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["size=lots"] });
    refused(mount(bad_option), FAILED, &["mounts[6]"]);
}

#[test]
fn a_namespace_path_that_is_no_namespace() {
    let uts = |path: &'static str| {
        move |bundle: &mut Bundle| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                bundle.path().join("fifo"),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
            let fifo = bundle.path().join("fifo");
            let path = if path == "fifo" { fifo.to_str().unwrap().to_owned() } else { path.to_owned() };
            let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
            let uts = namespaces.iter_mut().find(|namespace| namespace["type"] == "uts").unwrap();
            uts["path"] = json!(path);
        }
    };
    // A FIFO blocks whoever opens it; the other is a namespace, of another kind.
    for path in ["fifo", "/proc/self/ns/net", "/no/such/namespace"] {
        refused(uts(path), FAILED, &["linux.namespaces["]);
    }
}

#[test]
fn a_label_without_its_security_module_is_refused_by_name() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: it has these");
        return;
    }
    let cases = [
        ("/process/apparmorProfile", json!("strict"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("system_u:system_r:container_t:s0"), "process.selinuxLabel"),
    ];
    for (pointer, value, field) in cases {
        refused(set(pointer, value), FAILED, &[field]);
    }
}

/// Only whoever stays can carry a terminal's bytes.
#[test]
fn a_terminal_without_a_console() {
    let container = Container::new(set("/process/terminal", json!(true)));
    let created = container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run();
    assert!(created.expect(1).one_line_error().contains("without setting console socket"));
    let detached = container.oci(&["run", "-d", "--bundle"]).arg(container.bundle.path()).arg(&container.id).run();
    assert!(detached.expect(1).one_line_error().contains("without setting console socket"));
    assert_eq!(container.sandbox.containers(), Vec::<String>::new());
}

#[test]
fn ids_that_are_none() {
    let long = "x".repeat(256);
    for id in ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\nb", "ä", "a:b", "-a", &long] {
        for &face in Face::all() {
            // The option parsers of foreign runtimes have views of their own about "-a", and about length.
            if binaries::oracle() && (id == "-a" || id.len() > 255 || id.starts_with(".h")) {
                continue;
            }
            let sandbox = Sandbox::new();
            let bundle = Bundle::busybox(&sandbox, "bundle");
            bundle.write();
            let output = face.command(&sandbox, &bundle, id).run();
            assert_ne!(output.code(), 0, "{face:?} took {id:?}");
            assert!(!output.stderr.is_empty(), "{face:?} said nothing of {id:?}");
            assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?}, {id:?}");
        }
    }
}

#[test]
fn ids_that_are_unusual_and_good() {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.args(&["true"]);
        bundle.write();
        for name in ["A_b+c.d-e", "0", "_x"] {
            face.command(&sandbox, &bundle, &sandbox.id(name)).run().ok();
        }
    }
}

#[test]
fn the_daemon_says_the_same_and_goes_on() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let supervisor = daemon.supervisor();
    type Spoil = fn(&mut Bundle);
    let cases: [(Spoil, i32, &str); 7] = [
        (|bundle| fs::remove_dir_all(bundle.path()).unwrap(), FAILED, "bundle"),
        (|bundle| bundle.write_raw(b"{"), FAILED, "line 1"),
        (|bundle| fs::remove_dir_all(bundle.rootfs()).unwrap(), FAILED, "rootfs"),
        (|bundle| set("/process/args", json!([]))(bundle), FAILED, "process.args"),
        (|bundle| set("/process/cwd", json!("/etc/passwd"))(bundle), FAILED, "process.cwd"),
        (|bundle| bundle.args(&["/etc/passwd"]), NOT_EXECUTABLE, "/etc/passwd"),
        (|bundle| bundle.args(&["no-such-program"]), NOT_FOUND, "no-such-program"),
    ];
    for (number, (spoil, code, culprit)) in cases.into_iter().enumerate() {
        let mut bundle = Bundle::busybox(&sandbox, &format!("bundle{number}"));
        bundle.write();
        let good = bundle.config.clone();
        spoil(&mut bundle);
        if bundle.config != good {
            bundle.write();
        }
        let id = sandbox.id("box");
        let output =
            daemon.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().expect(code);
        assert!(output.one_line_error().contains(culprit), "{output}");
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{output}");
    }
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--", "true"]).run().ok();
    let taken = daemon.brood().args(["run", "-d", "--name", &id, "--", "true"]).run().expect(FAILED);
    assert!(taken.one_line_error().contains(&id), "{taken}");
    assert_eq!(daemon.supervisor().pid, supervisor.pid, "the same supervisor");
}

#[test]
fn a_host_without_a_daemon() {
    let sandbox = Sandbox::new();
    let nobody = format!("unix://{}", sandbox.path("nobody.sock").display());
    // A socket that nobody listens on any more.
    let dead = sandbox.path("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let dead = format!("unix://{}", dead.display());
    for host in [nobody.as_str(), &dead, "tcp://127.0.0.1:1", "unix://", "nonsense"] {
        for command in [&["list"][..], &["version"], &["run", "--", "true"]] {
            let output = sandbox.brood().args(["--host", host]).args(command).run().expect(FAILED);
            output.one_line_error();
        }
    }
    assert_eq!(sandbox.containers(), Vec::<String>::new());
}

#[test]
fn command_lines_that_make_no_sense() {
    let sandbox = Sandbox::new();
    for line in [&["no-such-command"][..], &["run", "--no-such-option", "--", "true"], &["run"], &["wait"]] {
        let output = sandbox.brood().args(line).run();
        assert!(![0, 126, 127].contains(&output.code()), "{output}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{output}");
    }
    for line in [&["no-such-command"][..], &["state"], &["state", "a", "b"], &["create"], &["kill"]] {
        let output = sandbox.oci().args(line).run();
        assert_ne!(output.code(), 0, "{output}");
    }
}
