//! `brood-oci exec`: one more process in a running container.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test exec` asks the same of runc.

use std::fs;

use brood_tests::procfs::{process, status_field};
use brood_tests::{Bundle, Cmd, Output, Sandbox, config, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// A running container on busybox.
struct Container {
    id: String,
    bundle: Bundle,
    sandbox: Sandbox,
}

impl Container {
    fn up(edit: impl Fn(&mut Bundle)) -> Self {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.live_until_term(7);
        edit(&mut bundle);
        bundle.write();
        let container = Self { id: sandbox.id("box"), bundle, sandbox };
        let id = container.id.as_str();
        container.sandbox.oci().args(["create", "--bundle"]).arg(container.bundle.path()).arg(id).run().ok();
        container.sandbox.oci().args(["start", id]).run().ok();
        container.bundle.await_up();
        container
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Cmd {
        self.sandbox.oci().arg("exec").args(options).arg(&self.id).args(command)
    }

    #[track_caller]
    fn sh(&self, options: &[&str], script: &str) -> Output {
        self.exec(options, &["sh", "-c", script]).run()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let deleted = self.sandbox.oci().args(["delete", "--force", &self.id]).run();
        assert!(deleted.code() == 0 || std::thread::panicking(), "{deleted}");
    }
}

#[test]
fn status_output_and_input_are_the_processs_own() {
    let container = Container::up(|_| {});
    let output = container.sh(&[], "echo out; echo err >&2; exit 5").expect(5);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(container.exec(&[], &["cat"]).stdin("through").run().ok(), "through");
    assert_eq!(container.sh(&[], "kill -9 $$").code(), 128 + 9);
}

#[test]
fn it_is_in_all_namespaces_of_the_container() {
    let container = Container::up(|bundle| {
        config::add_namespace(&mut bundle.config, "network");
        config::add_namespace(&mut bundle.config, "cgroup");
    });
    let script = "for n in pid net ipc uts mnt cgroup user; do readlink /proc/$1/ns/$n; done";
    let namespaces = |pid: &str| container.exec(&[], &["sh", "-c", script, "sh", pid]).run().ok();
    assert_eq!(namespaces("1"), namespaces("self"));
    let cgroup = container.sh(&[], "cat /proc/self/cgroup /proc/1/cgroup | sort | uniq -u").ok();
    assert_eq!(cgroup, "", "init and exec are in the same cgroups");
}

#[test]
fn it_enters_a_user_namespace() {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let container = Container::up(|bundle| {
        // sysfs may be mounted only by the owner of the network namespace.
        config::add_namespace(&mut bundle.config, "network");
        config::add_namespace(&mut bundle.config, "user");
        bundle.config["linux"]["uidMappings"] = mapping.clone();
        bundle.config["linux"]["gidMappings"] = mapping.clone();
        std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
        std::os::unix::fs::chown(bundle.rootfs().join("tmp"), Some(100_000), Some(100_000)).unwrap();
    });
    let output = container.sh(&[], "id -u; cat /proc/self/uid_map").ok();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
}

#[test]
fn options_change_the_process() {
    let container = Container::up(|_| {});
    let options = ["--user", "5:6", "--cwd", "/dev", "-e", "COLOUR=brown", "--additional-gids", "9", "--no-new-privs"];
    let output = container.sh(&options, "id -u; id -g; pwd; echo $COLOUR; cat /proc/self/status").ok();
    assert!(output.starts_with("5\n6\n/dev\nbrown\n"), "{output}");
    assert_eq!(status_field(&output, "NoNewPrivs").unwrap(), "1");
    assert!(status_field(&output, "Groups").unwrap().split_whitespace().any(|group| group == "9"), "{output}");
    assert_eq!(status_field(&output, "CapInh").unwrap(), "0000000000000000");
}

#[test]
fn a_process_can_come_from_a_file() {
    let container = Container::up(|_| {});
    let file = container.sandbox.path("process.json");
    let process = json!({
        "user": { "uid": 3, "gid": 4 }, "args": ["sh", "-c", "id -u; id -g; pwd"], "cwd": "/tmp",
        "env": ["PATH=/bin:/usr/bin"],
    });
    fs::write(&file, process.to_string()).unwrap();
    let output = container.exec(&["--process", file.to_str().unwrap()], &[]).run().ok();
    assert_eq!(output, "3\n4\n/tmp\n");
}

#[test]
fn detached_it_goes_on_and_its_pid_is_told() {
    let container = Container::up(|_| {});
    let file = container.sandbox.path("pid");
    container.exec(&["--detach", "--pid-file", file.to_str().unwrap()], &["sleep", "1000"]).run().ok();
    let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(process(pid).is_some_and(|process| process.cmdline.starts_with("sleep")), "{pid}");
    // It is our own orphan by now, and a pid namespace does not end before all in it are reaped.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    waiting::gone(pid);
}

#[test]
fn what_cannot_be_run_is_told_with_255() {
    let container = Container::up(|_| {});
    for command in ["no-such-program", "/etc/passwd-of-nobody"] {
        let output = container.exec(&[], &[command]).run().expect(255);
        assert!(output.stderr.contains(command), "{output}");
    }
    container.sh(&["--cwd", "relative"], "true").expect(255).one_line_error();
    container.sandbox.oci().args(["exec", "no-such-container", "true"]).run().expect(255).one_line_error();
}

#[test]
fn the_containers_seccomp_profile_holds_for_it_too() {
    let container = Container::up(|bundle| {
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }],
        });
    });
    let output = container.sh(&[], "mkdir /tmp/x; cat /proc/self/status");
    assert!(output.stderr.contains("Function not implemented"), "{output}");
    assert_eq!(status_field(&output.stdout, "Seccomp").unwrap(), "2");
}
