//! What the host has in common with a container stays the host's: files, cgroups, sysctls, devices, sockets.
//! The advisories are those of runc, crun, containerd and cri-o; docs/security.md has the whole list.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use brood_tests::face::{in_bundle, in_running};
use brood_tests::{Bundle, Container, Daemon, Face, Sandbox, config};
use serde_json::{Value, json};

/// Runs a config that must be refused by the field's name.
#[track_caller]
fn refused(edit: impl Fn(&mut Bundle), culprit: &str) {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh("echo up");
        edit(&mut bundle);
        let output = face.run(&sandbox, &bundle);
        assert!(output.one_line_error().contains(culprit), "{face:?} does not name {culprit}: {output}");
        assert_eq!(output.stdout, "", "{face:?}");
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} left state behind");
    }
}

/// CVE-2022-0811 (GHSA-6x2m-w449-qwx7): one sysctl that says two, and names that climb out of their directory.
#[test]
fn sysctls_cannot_be_smuggled() {
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let names = [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "kernel.msgmax+kernel.core_pattern",
        "kernel.msgmax\nkernel.core_pattern",
        "net/../kernel/core_pattern",
        "net.//.kernel.core_pattern",
        "fs.mqueue.../kernel.core_pattern",
        "vm.swappiness",
        "",
        "/proc/sys/kernel/core_pattern",
        "kernel.hostname",
        "kernel.shmmax/../core_pattern",
        "net.",
    ];
    for name in names {
        refused(|bundle| bundle.config["linux"]["sysctl"] = json!({ name: "|/bin/evil" }), "linux.sysctl");
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

/// A value with a line of its own goes to the file that was named, whole.
#[test]
fn the_value_of_a_sysctl_names_no_other() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4321\nkernel.core_pattern=|/bin/evil" });
        bundle.sh("cat /proc/sys/kernel/core_pattern");
        let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let output = face.run(&sandbox, &bundle);
        assert!(output.code() != 0 || output.stdout == before, "{face:?}: {output}");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    }
}

/// GHSA-w2j5-3rcx-vx7x: the sysctl of a namespace that is the host's would be the host's.
#[test]
fn sysctls_of_the_hosts_namespaces_are_refused() {
    let cases = [
        ("network", "net.ipv4.ip_forward", "/proc/self/ns/net"),
        ("ipc", "kernel.msgmax", "/proc/self/ns/ipc"),
        ("uts", "kernel.domainname", "/proc/self/ns/uts"),
    ];
    for (kind, name, path) in cases {
        for by_path in [false, true] {
            let edit = |bundle: &mut Bundle| {
                let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != kind);
                if by_path {
                    namespaces.push(json!({ "type": kind, "path": path }));
                }
                if kind == "uts" {
                    bundle.config.as_object_mut().unwrap().remove("hostname");
                }
                bundle.config["linux"]["sysctl"] = json!({ name: "1" });
            };
            refused(edit, name);
        }
    }
}

/// CVE-2021-43784: a length that does not fit 16 bits. The text arrives whole, or the start is refused; it is not cut.
#[test]
fn texts_beyond_64_kibibytes_arrive_whole() {
    let long = "x".repeat(100_000);
    in_bundle(
        |bundle| {
            bundle.config["annotations"] = json!({ "org.example.long": long, (long.as_str()): "key" });
            config::push(&mut bundle.config["process"]["env"], json!(format!("LONG={long}")));
            for number in 0..3000 {
                config::push(&mut bundle.config["process"]["env"], json!(format!("MANY_{number}={number:050}")));
            }
        },
        "echo ${#LONG}; env | grep -c MANY_; echo $MANY_2999",
        |text| assert_eq!(text, format!("100000\n3000\n{:050}\n", 2999)),
    );
    in_running(
        |_| (),
        |face, _, exec| {
            let variable = format!("LONG={long}");
            let output = exec(&["-e", &variable], &["sh", "-c", "echo ${#LONG}"]).run().ok();
            assert_eq!(output, "100000\n", "{face:?}");
        },
    );
}

/// CVE-2021-43784, its original: mappings. The kernel takes 340; more are refused, and none is dropped to make it fit.
#[test]
fn identity_maps_beyond_64_kibibytes_are_refused() {
    let edit = |bundle: &mut Bundle| {
        config::add_namespace(&mut bundle.config, "network");
        config::add_namespace(&mut bundle.config, "user");
        let map = |number: u32| json!({ "containerID": number, "hostID": 100_000 + 2 * number, "size": 1 });
        let maps: Vec<Value> = (0..5000).map(map).collect();
        bundle.config["linux"]["uidMappings"] = json!(maps);
        bundle.config["linux"]["gidMappings"] = json!(maps);
    };
    refused(edit, "Mappings");
}

/// CVE-2026-115521: read-only is what cannot be written after the start, under any name that leads there.
#[test]
fn what_is_read_only_cannot_be_written() {
    let script = "for f in /x /etc/passwd /data/x /proc/self/root/x /proc/1/cwd/x /proc/1/root/data/x /proc/sys/kernel/printk \
        /sys/kernel/mm/x; do (echo x > $f) 2>/dev/null && echo written $f; done; \
        mount -o remount,rw / 2>/dev/null && echo remounted; mount -o remount,rw,bind /data 2>/dev/null && echo remounted; echo end";
    let edit = |bundle: &mut Bundle| {
        fs::create_dir(bundle.path().join("data")).unwrap();
        let bind = json!({ "destination": "/data", "type": "bind", "source": "data", "options": ["bind", "ro"] });
        config::add_mount(&mut bundle.config, bind);
        bundle.config["root"]["readonly"] = json!(true);
    };
    in_bundle(edit, script, |text| assert_eq!(text, "end\n"));
}

/// CVE-2026-115521: the same where the bind's destination is a link that leads through /proc/self/fd.
#[test]
fn a_link_of_the_images_redirects_no_read_only_bind() {
    for link in ["/proc/self/fd/5", "/proc/self/root/tmp", "/proc/self/cwd"] {
        for &face in Face::all() {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            std::os::unix::fs::symlink(link, bundle.rootfs().join("data")).unwrap();
            let source = bundle.path().join("source");
            fs::create_dir(&source).unwrap();
            let bind = json!({ "destination": "/data", "type": "bind", "source": "source", "options": ["bind", "ro"] });
            config::add_mount(&mut bundle.config, bind);
            bundle.sh("(echo x > /data/x) 2>/dev/null && echo written; echo end");
            let output = face.run(&sandbox, &bundle);
            assert!(output.code() != 0 || output.stdout == "end\n", "{face:?}, {link}: {output}");
            assert_eq!(fs::read_dir(&source).unwrap().count(), 0, "{face:?}, {link}");
        }
    }
}

/// CVE-2023-25809: cgroups of the host's that are bound in read-only stay so, without a cgroup namespace.
#[test]
fn a_bound_cgroup_tree_is_read_only() {
    in_bundle(
        |bundle| {
            let bind = json!({ "destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup",
                "options": ["rbind", "ro", "nosuid", "nodev", "noexec"] });
            let recursive = json!({ "destination": "/cgroup", "type": "bind", "source": "/sys/fs/cgroup",
                "options": ["rbind", "rro"] });
            config::add_mount(&mut bundle.config, bind);
            config::add_mount(&mut bundle.config, recursive);
        },
        // The whole of the second, submounts included; of the first the mount itself.
        "mkdir /sys/fs/cgroup/brood-made 2>/dev/null && echo made; \
         for d in /cgroup /cgroup/*/; do mkdir $d/brood-made 2>/dev/null && echo made $d && rmdir $d/brood-made; done; echo end",
        |text| assert_eq!(text, "end\n"),
    );
}

/// Devices do not open in what a user namespace mounts, and an unlisted node of the image's is no way to a device.
#[test]
fn a_user_namespace_opens_no_device_of_its_own_making() {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        config::add_namespace(&mut bundle.config, "network");
        config::add_namespace(&mut bundle.config, "user");
        for list in ["uidMappings", "gidMappings"] {
            bundle.config["linux"][list] = mapping.clone();
        }
        for path in [bundle.rootfs(), bundle.rootfs().join("tmp"), bundle.rootfs().join("dev")] {
            chown(path, Some(100_000), Some(100_000)).unwrap();
        }
        bundle.sh(
            "mknod /dev/mem c 1 1 2>/dev/null && cat /dev/mem; mknod /tmp/z c 1 5 2>/dev/null && head -c 1 /tmp/z; \
            echo x > /dev/null && test -c /dev/zero && head -c 3 /dev/zero | wc -c",
        );
        let output = face.run(&sandbox, &bundle).ok();
        assert_eq!(output.trim(), "3", "{face:?}");
    }
}

/// CVE-2021-41103, CVE-2024-25621: nobody but the owner gets into what is made for containers.
#[test]
fn state_is_the_owners_alone() {
    // A caller whose umask takes nothing away.
    let open = |sandbox: &Sandbox, program: &Path| {
        sandbox.command("sh").args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(program).arg("--root").arg(sandbox.root())
    };
    let container = Container::long_lived();
    let (path, id) = (container.bundle.path(), container.id.as_str());
    open(&container.sandbox, &brood_tests::binaries::oci()).args(["create", id, "--bundle"]).arg(path).run().ok();
    container.call(&["start"]).ok();
    container.bundle.await_up();
    assert_closed(&container.sandbox.root());
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn the_daemons_state_is_the_owners_alone() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start_through(&sandbox, &["sh", "-c", "umask 0; exec \"$@\"", "sh"], &[]);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.live_until_term(0);
    bundle.write();
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    bundle.await_up();
    daemon.brood().args(["exec", "-d", &id, "sleep", "1000"]).run().ok();
    assert_closed(&sandbox.root());
    daemon.brood().args(["rm", "--force", &id]).run().ok();
}

/// The directory itself lets nobody else in, and nothing below is for others to write, whoever opens the directory one day.
#[track_caller]
fn assert_closed(root: &Path) {
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(root), 0o700, "{}", root.display());
    let mut directories = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let others = mode(&path) & 0o7022;
            assert!(others == 0 || path.is_symlink(), "{}: {:o}", path.display(), mode(&path));
            seen += 1;
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            }
        }
    }
    assert!(seen > 3, "nothing was made below {}", root.display());
}

/// CVE-2020-15257: a container in the host's network namespace finds no socket of ours that is reached without a path.
#[test]
fn no_socket_of_ours_is_abstract() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &[]);
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.live_until_term(0);
    bundle.write();
    let id = sandbox.id("box");
    daemon.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
    bundle.await_up();
    let sockets = daemon.brood().args(["exec", &id, "cat", "/proc/net/unix"]).run().ok();
    assert!(sockets.contains(sandbox.token()), "it is the host's network namespace, which has the daemon's socket");
    let abstract_ones: Vec<&str> =
        sockets.lines().filter(|line| line.contains(" @") && line.contains("brood")).collect();
    assert_eq!(abstract_ones, Vec::<&str>::new());
    let inside = daemon.brood().args(["exec", &id, "ls"]).arg(sandbox.root()).run();
    assert_ne!(inside.code(), 0, "the socket's directory is not in the container: {inside}");
    daemon.brood().args(["rm", "--force", &id]).run().ok();
}

/// GHSA-7ww5-4wqc-m92c (CVE-2020-8694): the energy meter is masked in every config that we write.
#[test]
fn the_default_configs_mask_the_energy_meter() {
    const METER: &str = "/sys/devices/virtual/powercap";
    let sandbox = Sandbox::new();
    let directory = sandbox.path("spec");
    fs::create_dir(&directory).unwrap();
    sandbox.oci().arg("spec").current_dir(&directory).run().ok();
    let text = fs::read_to_string(directory.join("config.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert!(written["linux"]["maskedPaths"].as_array().unwrap().contains(&json!(METER)), "{written:#}");
    // What `brood run` uses without a bundle: empty, or not there on this machine.
    let script = format!("ls -A {METER} 2>/dev/null | wc -l; cat /proc/interrupts /proc/keys 2>/dev/null | wc -c");
    let output = sandbox.brood().args(["run", "--rm", "--", "sh", "-c", &script]).run().ok();
    assert_eq!(output, "0\n0\n");
}

/// What is seen below the root of a process's mount namespace when that root is taken away, with what it holds.
#[expect(deprecated, reason = "its other form is unsafe for what may be done with descriptors, which stay shared here")]
fn below_the_root_of(pid: i64) -> Vec<(String, usize)> {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare};
    let mounts = open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let look = std::thread::spawn(move || {
        unshare(UnshareFlags::FS).unwrap();
        let enter = || move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)).unwrap();
        enter();
        assert!(Path::new("/bin").exists());
        rustix::mount::unmount("/", rustix::mount::UnmountFlags::DETACH).unwrap();
        enter();
        assert!(!Path::new("/bin").exists(), "the root is still there");
        let entries = fs::read_dir("/").unwrap().map(|entry| entry.unwrap());
        let held = |entry: &fs::DirEntry| fs::read_dir(entry.path()).map_or(0, Iterator::count);
        let found = entries.map(|entry| (entry.file_name().into_string().unwrap(), held(&entry))).collect();
        // Of a zygote's root, which all its containers have in common.
        if Path::new("/lower").exists() {
            assert_eq!(fs::write("/new", "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        found
    });
    look.join().unwrap()
}

/// A container's root covers that of the process that cloned it. Whoever takes it away finds empty directories there: no
/// file of the host's, no /proc of its. A container that could do so itself does not even have those.
#[test]
fn below_a_containers_root_is_nothing() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    for may_mount in [false, true] {
        let mut bundle = Bundle::busybox(&sandbox, &format!("bundle-{may_mount}"));
        bundle.args(&["sleep", "1000"]);
        if may_mount {
            for set in ["bounding", "permitted", "effective"] {
                bundle.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
            }
        }
        bundle.write();
        let id = sandbox.id(&format!("box-{may_mount}"));
        daemon.brood().args(["run", "-d", "--name", &id, "--bundle"]).arg(bundle.path()).run().ok();
        let states = daemon.brood().args(["list", "--format", "json"]).run().ok();
        let states: Vec<Value> = serde_json::from_str(&states).unwrap();
        let state = states.iter().find(|state| state["id"] == id.as_str()).unwrap();
        let below = below_the_root_of(state["pid"].as_i64().unwrap());
        let of_zygote = below.iter().any(|(name, _)| name == "lower");
        assert_eq!(of_zygote, !may_mount, "{below:?}");
        assert!(may_mount || below.iter().all(|(_, held)| *held == 0), "{below:?}");
        daemon.brood().args(["rm", "--force", &id]).run().ok();
    }
}
