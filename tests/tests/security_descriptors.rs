//! What a program in a container finds of us: no descriptor, no process that it could look into, no file of ours that it
//! could write. The advisories are those of runc, crun and youki; docs/security.md has the whole list.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use brood_tests::face::in_running;
use brood_tests::{Bundle, Cmd, Container, Daemon, Face, Sandbox, binaries};
use serde_json::json;

/// Descriptors of a careless caller: directories of the host's and a file, none close-on-exec.
const LEAK: &str = "exec 3</ 4</etc 5</root 7</tmp 9</etc/passwd; exec \"$@\"";

/// The same command, called by somebody who leaks descriptors.
fn leaking(sandbox: &Sandbox, program: &Path, words: &[&str]) -> Cmd {
    sandbox.command("bash").args(["-c", LEAK, "bash"]).arg(program).arg("--root").arg(sandbox.root()).args(words)
}

/// Descriptors as `ls` finds them at its entry, without the directory that it reads itself.
const LIST: [&str; 2] = ["ls", "/proc/self/fd"];
const THREE: &str = "0\n1\n2\n3\n";

/// CVE-2024-21626: a directory of the host's that stays open is a way out.
#[test]
fn descriptors_that_a_caller_leaks_do_not_arrive() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.args(&LIST);
        bundle.write();
        let (path, id) = (bundle.path().to_str().unwrap(), sandbox.id("box"));
        let output = match face {
            Face::Oci => leaking(&sandbox, &binaries::oci(), &["run", "--bundle", path, &id]),
            Face::Brood => leaking(&sandbox, &binaries::brood(), &["run", "--rm", "--name", &id, "--bundle", path]),
        };
        assert_eq!(output.run().ok(), THREE, "{face:?}");
    }
}

/// The same where creation and start are two commands, and for an exec.
#[test]
fn descriptors_that_a_caller_leaks_arrive_neither_later_nor_in_an_exec() {
    let container = Container::new(|bundle| bundle.sh("ls /proc/self/fd > /tmp/list; touch /tmp/up; sleep 1000"));
    let (path, id) = (container.bundle.path().to_str().unwrap(), container.id.as_str());
    let call = |words: &[&str]| leaking(&container.sandbox, &binaries::oci(), words).run();
    call(&["create", "--bundle", path, id]).ok();
    call(&["start", id]).ok();
    container.bundle.await_up();
    assert_eq!(fs::read_to_string(container.bundle.rootfs().join("tmp/list")).unwrap(), THREE);
    assert_eq!(call(&["exec", id, LIST[0], LIST[1]]).ok(), THREE);
    container.call(&["delete", "--force"]).ok();
}

/// CVE-2024-21626, for execs of both faces.
#[test]
fn descriptors_of_an_exec_are_the_three() {
    in_running(|_| (), |face, _, exec| assert_eq!(exec(&[], &LIST).run().ok(), THREE, "{face:?}"));
}

/// What a hook inherits it may hand on: nothing but the three, and none is a directory of the host's.
#[test]
fn descriptors_of_hooks_are_the_three() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let log = sandbox.path("hooks");
        let list = format!("ls /proc/self/fd | wc -l >> {}", log.display());
        let hook =
            |script: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }]);
        let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        for kind in kinds {
            bundle.config["hooks"][kind] = hook(&list);
        }
        bundle.config["hooks"]["startContainer"] = hook("ls /proc/self/fd | wc -l > /tmp/hook");
        bundle.sh("cat /tmp/hook");
        // Four: the three, and the directory that ls reads.
        assert_eq!(face.run(&sandbox, &bundle).ok(), "4\n", "{face:?}: startContainer");
        assert_eq!(fs::read_to_string(&log).unwrap(), "4\n".repeat(kinds.len()), "{face:?}");
    }
}

/// CVE-2024-21626: whichever descriptor of ours is a directory of the host's, it is no working directory.
#[test]
fn no_descriptor_is_a_working_directory() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.args(&["sh", "-c", "echo got in; pwd"]);
        for number in 0..48 {
            bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            let output = face.run(&sandbox, &bundle);
            assert_eq!(output.stdout, "", "{face:?}: {output}");
            if !binaries::oracle() {
                assert!(output.one_line_error().contains("process.cwd"), "{face:?}: {output}");
            }
        }
    }
}

/// The same for execs, also by way of a link of the image's and of the descriptors of the init process.
#[test]
fn no_descriptor_is_the_working_directory_of_an_exec() {
    in_running(
        |bundle| std::os::unix::fs::symlink("/proc/self/fd/8", bundle.rootfs().join("way-out")).unwrap(),
        |face, _, exec| {
            let numbers = (0..32).map(|number| format!("/proc/self/fd/{number}"));
            let others = ["/proc/1/fd/0", "/way-out", "/proc/self/fd/3/../..", "/proc/thread-self/fd/5"];
            for cwd in numbers.chain(others.map(str::to_owned)) {
                let output = exec(&["--cwd", &cwd], &["sh", "-c", "echo got in; pwd"]).run();
                assert_ne!(output.code(), 0, "{face:?}, {cwd}: {output}");
                assert_eq!(output.stdout, "", "{face:?}, {cwd}: {output}");
            }
        },
    );
}

/// A script in the container that, until `/tmp/stop` is there, looks into every process but itself and init that is not the
/// container's own program, in ways that need the right to trace it, and opens for writing what it executes.
const HAMMER: &str = "touch /tmp/up
while [ ! -e /tmp/stop ]; do
  for p in /proc/[0-9]*; do
    [ $p = /proc/1 ] && continue
    for f in $p/fd/*; do
      t=$(readlink $f) || continue
      case $t in pipe:*|/dev/null|socket:*|/proc/*) ;; *) echo \"fd $f $t\" >> /tmp/found;; esac
    done
    exe=$(readlink $p/exe) || continue
    case $exe in /bin/*) ;; *) echo \"exe $p $exe\" >> /tmp/found; : >> $p/exe && echo \"written $p\" >> /tmp/found;; esac
  done
  echo round >> /tmp/rounds
done";

/// CVE-2016-9962, CVE-2019-5736: of a process that joins, root in the container sees neither descriptors nor executable until
/// it has become the container's program.
#[test]
fn a_joining_process_cannot_be_looked_into() {
    in_running(
        |bundle| {
            bundle.sh(HAMMER);
            // With no less than the joining process has at the end, so that only what it is before that protects it.
            bundle.config["process"]["noNewPrivileges"] = json!(false);
        },
        |face, bundle, exec| {
            for _ in 0..100 {
                exec(&[], &["true"]).run().ok();
            }
            fs::write(bundle.rootfs().join("tmp/stop"), "").unwrap();
            let found = fs::read_to_string(bundle.rootfs().join("tmp/found")).unwrap_or_default();
            assert_eq!(found, "", "{face:?}");
            let rounds = fs::read_to_string(bundle.rootfs().join("tmp/rounds")).unwrap();
            assert!(rounds.lines().count() > 20, "{face:?}: hardly anybody looked");
        },
    );
}

/// CVE-2019-5736: a program that is a script whose interpreter is `/proc/self/exe` executes us, with the image's libraries.
/// Through init and exec; whatever comes of it, our binaries stay as they are.
#[test]
fn our_own_executable_is_no_interpreter() {
    let script = |bundle: &mut Bundle| {
        let path = bundle.rootfs().join("bin/evil");
        fs::write(&path, "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let binaries = [binaries::oci(), binaries::brood()];
    let look = || binaries.each_ref().map(|path| fs::read(path).unwrap());
    let before = look();
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        script(&mut bundle);
        bundle.args(&["/bin/evil"]);
        let output = face.run(&sandbox, &bundle);
        assert_ne!(output.code(), 0, "{face:?}: {output}");
    }
    in_running(script, |face, _, exec| {
        let output = exec(&[], &["/bin/evil"]).run();
        assert_ne!(output.code(), 0, "{face:?}: {output}");
    });
    assert!(look() == before, "a binary of ours has changed");
}

/// CVE-2019-5736: what our processes execute cannot be opened for writing, by root on the host itself even: a zygote's, a
/// supervisor's, and that of a container that waits for its start.
#[test]
fn executables_of_ours_cannot_be_written() {
    let container = Container::long_lived();
    container.create();
    let mut pids = vec![container.pid()];
    let daemon = Daemon::start(&container.sandbox, &[]);
    pids.extend(daemon.family().iter().map(|process| process.pid));
    assert!(pids.len() > 3, "keeper, supervisor and zygotes: {pids:?}");
    for pid in pids {
        let exe = format!("/proc/{pid}/exe");
        // A sealed memory file or a read-only mount; that a running file is "busy" would be no protection: the attacker
        // waits for its end with a descriptor in hand.
        let link = fs::read_link(&exe).unwrap();
        let opened = fs::OpenOptions::new().write(true).open(&exe);
        assert!(opened.is_err(), "{} was opened for writing", link.display());
        let disk = [binaries::oci(), binaries::brood()];
        assert!(!disk.contains(&link) || binaries::oracle(), "process {pid} runs the file on disk");
    }
    // As long as it lives the daemon is the one that deletes in its root.
    drop(daemon);
    container.call(&["delete", "--force"]).ok();
}
