//! Containers without a mount namespace of their own: their mounts are the host's, and go with them.

use std::fs;

use brood_tests::face::in_running;
use brood_tests::{Bundle, Container, Daemon, Face, Sandbox, binaries, config, procfs, waiting};
use serde_json::json;

/// A place, and a bundle in it.
fn place() -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    without_mounts(&mut bundle);
    (sandbox, bundle)
}

fn without_mounts(bundle: &mut Bundle) {
    config::drop_namespace(&mut bundle.config, "mount");
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.config["linux"]["readonlyPaths"] = json!([]);
}

/// Whether the host has mounts of this bundle's.
fn mounted(bundle: &Bundle) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(bundle.rootfs().to_str().unwrap())
}

#[test]
fn a_container_in_the_hosts_mounts_has_its_root_and_leaves_nothing() {
    if binaries::oracle() {
        // runc leaves the mounts.
        return;
    }
    for &face in Face::all() {
        let (sandbox, mut bundle) = place();
        let log = sandbox.path("hook");
        bundle.config["hooks"]["createRuntime"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("touch {}", log.display())] }]);
        let hosts = bundle.path().display().to_string();
        let look = format!("ls -d {hosts} /etc/passwd /proc/1 2> /dev/null");
        bundle.sh(&format!("readlink /proc/self/ns/mnt; {look}; echo x > /dev/null && echo written"));
        let output = face.run(&sandbox, &bundle).ok();
        let own = procfs::namespace("mnt");
        assert_eq!(output, format!("{own}\n/etc/passwd\n/proc/1\nwritten\n"), "{face:?}");
        assert!(log.exists(), "{face:?}");
        assert!(!mounted(&bundle), "{face:?}");
        sandbox.assert_clean();
    }
}

/// The namespace's root is the host's: nobody but a chroot(2) stands between.
#[test]
fn an_exec_has_the_containers_root() {
    if binaries::oracle() {
        return;
    }
    in_running(without_mounts, |face, bundle, exec| {
        assert!(mounted(bundle), "{face:?}");
        let script = format!("cat /etc/passwd; cd /; cd ..; ls -d {} || pwd", bundle.path().display());
        let inside = exec(&[], &["sh", "-c", &script]).run();
        assert_eq!(inside.stdout, "root:x:0:0:root:/root:/bin/sh\n/\n", "{face:?}: {inside}");
    });
}

#[test]
fn a_launch_that_fails_leaves_no_mount() {
    if binaries::oracle() {
        return;
    }
    for &face in Face::all() {
        let (sandbox, mut bundle) = place();
        bundle.args(&["/nosuch"]);
        assert_ne!(face.run(&sandbox, &bundle).code(), 0, "{face:?}");
        assert!(!mounted(&bundle), "{face:?}");
        sandbox.assert_clean();
    }
}

/// The mount is found by its id: what somebody else has mounted there since stays.
#[test]
fn a_mount_that_is_not_the_containers_stays() {
    if binaries::oracle() {
        return;
    }
    let container = Container::new(|bundle| {
        without_mounts(bundle);
        bundle.live_until_term(0);
    })
    .up();
    let rootfs = container.bundle.rootfs();
    let mount = |words: &[&str]| container.sandbox.command(words[0]).args(&words[1..]).arg(&rootfs).run().ok();
    mount(&["mount", "-t", "tmpfs", "other"]);
    container.call(&["delete", "--force"]).ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let there = mounts.lines().filter(|line| line.contains(rootfs.to_str().unwrap())).count();
    mount(&["umount"]);
    mount(&["umount", "-l"]);
    assert!(mounts.contains("- tmpfs other"), "{there} mounts were left");
}

#[test]
fn a_supervisor_that_dies_leaves_the_mount_to_the_next() {
    if binaries::oracle() {
        return;
    }
    let (sandbox, mut bundle) = place();
    let daemon = Daemon::start(&sandbox, &[]);
    bundle.live_until_term(0);
    bundle.write();
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    let supervisor = daemon.supervisor();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(supervisor.pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    waiting::gone(supervisor.pid);
    assert!(mounted(&bundle));
    daemon.brood().args(["rm", "--force", &id]).run().ok();
    assert!(!mounted(&bundle));
}
