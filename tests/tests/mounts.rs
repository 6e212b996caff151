//! Mounts beyond the plain ones: mapped ids, a tmpfs with a copy, propagation, and options that cannot be had.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use brood_tests::binaries::{self, oracle};
use brood_tests::face::in_bundle;
use brood_tests::{Bundle, Face, Sandbox, config};
use serde_json::{Value, json};

fn map(first_outside: u32) -> Value {
    json!([{ "containerID": 0, "hostID": first_outside, "size": 1000 }])
}

/// A directory of user 3 and group 4, bound to `/data`.
fn bind_data(bundle: &mut Bundle, options: &[&str]) {
    let source = bundle.path().join("data");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    chown(source.join("file"), Some(3), Some(4)).unwrap();
    let mount = json!({ "destination": "/data", "type": "bind", "source": source, "options": options });
    config::add_mount(&mut bundle.config, mount);
}

fn last_mount(bundle: &mut Bundle) -> &mut Value {
    bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()
}

/// Runs a bundle through every face, and expects the run to fail with these words.
#[track_caller]
fn refused(edit: impl Fn(&mut Bundle), words: &[&str]) {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        edit(&mut bundle);
        let output = face.run(&sandbox, &bundle);
        assert!(output.code() != 0, "{face:?}: {output}");
        for word in words.iter().filter(|_| !oracle()) {
            assert!(output.stderr.contains(word), "{face:?}: no {word:?} in {output}");
        }
    }
}

#[test]
fn a_bind_mount_with_maps_of_its_own() {
    in_bundle(
        |bundle| {
            bind_data(bundle, &["rbind"]);
            last_mount(bundle)["uidMappings"] = map(10_000);
            last_mount(bundle)["gidMappings"] = map(20_000);
        },
        "stat -c '%u %g' /data/file",
        |text| assert_eq!(text, "10003 20004\n"),
    );
}

/// A file made through the mapped mount gets the id that it has in the file system: the map works both ways.
#[test]
fn files_made_through_a_map() {
    in_bundle(
        |bundle| {
            bind_data(bundle, &["bind", "ridmap"]);
            last_mount(bundle)["uidMappings"] = map(0);
            last_mount(bundle)["gidMappings"] =
                json!([{ "containerID": 500, "hostID": 0, "size": 1 }, { "containerID": 0, "hostID": 500, "size": 1 }]);
            let mirror = json!({ "destination": "/mirror", "type": "bind",
                "source": bundle.path().join("data"), "options": ["bind"] });
            config::add_mount(&mut bundle.config, mirror);
        },
        "touch /data/new; stat -c '%u %g' /data/new /mirror/new",
        |text| assert_eq!(text, "0 0\n0 500\n"),
    );
}

#[test]
fn crun_s_form_of_maps() {
    in_bundle(
        |bundle| bind_data(bundle, &["bind", "idmap=uids=0-100-2#2-7000-10;gids=0-9000-10"]),
        "stat -c '%u %g' /data/file",
        |text| assert_eq!(text, "7001 9004\n"),
    );
}

fn in_user_namespace(bundle: &mut Bundle) {
    bundle.config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    bundle.config["linux"]["gidMappings"] = bundle.config["linux"]["uidMappings"].clone();
    config::add_namespace(&mut bundle.config, "user");
    chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
    // sysfs takes a network namespace of the same user namespace.
    config::add_namespace(&mut bundle.config, "network");
}

/// In a container with a user namespace the child could not map a mount of the host's; the planner does.
#[test]
fn the_maps_of_the_container() {
    in_bundle(
        |bundle| {
            in_user_namespace(bundle);
            bind_data(bundle, &["bind", "idmap"]);
            // What the test cannot map is nobody's in there.
            let plain = json!({ "destination": "/plain", "type": "bind",
                "source": bundle.path().join("data"), "options": ["bind"] });
            config::add_mount(&mut bundle.config, plain);
        },
        "stat -c '%u %g' /data/file /plain/file",
        |text| assert_eq!(text, "3 4\n65534 65534\n"),
    );
}

/// In a user namespace the child has no right to map what it has mounted, and asks for it.
#[test]
fn what_the_container_mounts_itself_has_maps_in_its_user_namespace() {
    in_bundle(
        |bundle| {
            in_user_namespace(bundle);
            bind_data(bundle, &["bind"]);
            fs::create_dir_all(bundle.path().join("data/inner")).unwrap();
            let inner = json!({ "destination": "/data/inner", "type": "tmpfs", "source": "tmpfs" });
            config::add_mount(&mut bundle.config, inner);
            for (option, destination) in [("idmap", "/one"), ("ridmap", "/all")] {
                let again = json!({ "destination": destination, "type": "bind",
                    "source": bundle.rootfs().join("data"), "options": ["rbind", option] });
                config::add_mount(&mut bundle.config, again);
            }
            // The kernel has these ids count from those of the file system, which is the user namespace's.
            let new = json!({ "destination": "/new", "type": "tmpfs", "source": "tmpfs", "options": ["uid=5", "gid=6"],
                "uidMappings": map(100_300), "gidMappings": map(100_400) });
            config::add_mount(&mut bundle.config, new);
        },
        "stat -c '%n %u %g' /data/file /one/file /all/file /all/inner /new",
        |text| {
            assert_eq!(text, "/data/file 65534 65534\n/one/file 3 4\n/all/file 3 4\n/all/inner 0 0\n/new 305 406\n");
        },
    );
    // procfs has no ids to map, which the launcher is told by the kernel, and the child by the launcher.
    let proc = |bundle: &mut Bundle| {
        in_user_namespace(bundle);
        let mount = json!({ "destination": "/p", "type": "bind", "source": bundle.rootfs().join("proc"),
            "options": ["rbind", "idmap"] });
        config::add_mount(&mut bundle.config, mount);
    };
    refused(proc, &["mounts[6]", "map identities: invalid argument"]);
}

#[test]
fn a_new_file_system_with_maps() {
    in_bundle(
        |bundle| {
            let mount = json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs",
                "options": ["uid=5", "gid=6"], "uidMappings": map(300), "gidMappings": map(400) });
            config::add_mount(&mut bundle.config, mount);
        },
        "stat -c '%u %g' /t",
        |text| assert_eq!(text, "305 406\n"),
    );
}

#[test]
fn maps_that_cannot_be() {
    let half = |bundle: &mut Bundle| {
        bind_data(bundle, &["bind"]);
        last_mount(bundle)["uidMappings"] = map(0);
    };
    refused(half, &["mounts[6].gidMappings", "both uid and gid mappings"]);
    refused(|bundle| bind_data(bundle, &["bind", "idmap"]), &["mounts[6].options", "uidMappings"]);
    refused(|bundle| bind_data(bundle, &["bind", "idmap=uids=0-1"]), &["mounts[6].options", "ID-ID-COUNT"]);
    let proc = |bundle: &mut Bundle| {
        let mount = json!({ "destination": "/p", "type": "bind", "source": "/proc", "options": ["bind"],
            "uidMappings": map(1), "gidMappings": map(1) });
        config::add_mount(&mut bundle.config, mount);
    };
    refused(proc, &["mounts[6]", "cannot have its ids mapped"]);
}

#[test]
fn a_tmpfs_with_a_copy_of_what_it_covers() {
    in_bundle(
        |bundle| {
            let below = bundle.rootfs().join("var");
            fs::create_dir_all(below.join("a/b/c")).unwrap();
            fs::write(below.join("a/b/c/file"), "deep\n").unwrap();
            fs::set_permissions(below.join("a/b/c/file"), fs::Permissions::from_mode(0o4751)).unwrap();
            chown(below.join("a/b/c/file"), Some(11), Some(12)).unwrap();
            fs::set_permissions(below.join("a/b/c/file"), fs::Permissions::from_mode(0o4751)).unwrap();
            fs::set_permissions(below.join("a/b"), fs::Permissions::from_mode(0o2710)).unwrap();
            fs::write(below.join("large"), vec![7u8; 3 << 20]).unwrap();
            fs::File::open(below.join("large")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            for number in 0..200 {
                fs::write(below.join(format!("a-rather-long-name-of-a-file-{number}")), "").unwrap();
            }
            symlink("/etc/passwd", below.join("link")).unwrap();
            let mount = json!({ "destination": "/var", "type": "tmpfs", "source": "tmpfs",
                "options": ["tmpcopyup", "ro", "nosuid"] });
            config::add_mount(&mut bundle.config, mount);
        },
        "cd /var; stat -f -c %T .; cat a/b/c/file; stat -c '%a %u %g' a/b/c/file a/b; wc -c < large; \
         stat -c %Y large; readlink link; ls | wc -l; (touch new) 2>&1; true",
        |text| {
            let expected = "tmpfs\ndeep\n4751 11 12\n2710 0 0\n3145728\n0\n/etc/passwd\n203\n\
                touch: new: Read-only file system\n";
            assert_eq!(text, expected);
        },
    );
}

/// What is written to the copy does not come back.
#[test]
fn a_copy_is_a_copy() {
    let sandbox = Sandbox::new();
    for face in Face::all() {
        let mut bundle = Bundle::busybox(&sandbox, &format!("{face:?}"));
        fs::write(bundle.rootfs().join("var/kept"), "image\n").unwrap();
        let mount = json!({ "destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] });
        config::add_mount(&mut bundle.config, mount);
        bundle.sh("echo changed > /var/kept; rm /var/kept; touch /var/new");
        face.run(&sandbox, &bundle).expect(0);
        assert_eq!(fs::read_to_string(bundle.rootfs().join("var/kept")).unwrap(), "image\n");
        assert!(!bundle.rootfs().join("var/new").exists());
    }
}

#[test]
fn options_that_cannot_be() {
    if !oracle() {
        refused(|bundle| bind_data(bundle, &["bind", "mode=755"]), &["mounts[6].options", "filesystem-specific"]);
        refused(|bundle| bind_data(bundle, &["bind", "tmpcopyup"]), &["mounts[6].options", "tmpcopyup"]);
    }
    let label = |bundle: &mut Bundle| bundle.config["linux"]["mountLabel"] = json!("system_u:object_r:x_t:s0");
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() && !oracle() {
        refused(label, &["linux.mountLabel", "SELinux is not enabled on this machine"]);
    }
}

/// CVE-2026-115521: what the configuration calls read-only is, however many names lead there.
#[test]
fn read_only_is_proven_by_writing() {
    in_bundle(
        |bundle| {
            bundle.config["root"]["readonly"] = json!(true);
            fs::create_dir_all(bundle.rootfs().join("data/below")).unwrap();
            fs::create_dir_all(bundle.path().join("data/below")).unwrap();
            bind_data(bundle, &["rbind", "rro"]);
            fs::create_dir_all(bundle.rootfs().join("again")).unwrap();
        },
        "for f in /root/x /data/x /data/below/x /proc/self/root/data/x /proc/self/cwd/etc/x; do \
         (echo > $f) 2>/dev/null && echo wrote $f; done; true",
        |text| assert_eq!(text, ""),
    );
}

#[test]
fn a_source_that_is_a_link() {
    if oracle() {
        return;
    }
    in_bundle(
        |bundle| {
            symlink("bundle-says", bundle.path().join("link")).unwrap();
            let mount = json!({ "destination": "/etc/copied", "type": "bind",
                "source": bundle.path().join("link"), "options": ["bind", "copy-symlink"] });
            config::add_mount(&mut bundle.config, mount);
        },
        "readlink /etc/copied",
        |text| assert_eq!(text, "bundle-says\n"),
    );
}

/// Runs a container in a mount namespace of the test's own, with a volume that is a shared mount there. Says whether a mount
/// made by the container came to the host's side, and one made on the host's side to the container. The two sides wait for
/// each other at FIFOs.
#[track_caller]
fn propagates(rootfs_propagation: &str, options: &[&str]) -> (bool, bool) {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    bundle.config["linux"]["rootfsPropagation"] = json!(rootfs_propagation);
    let volume = sandbox.path("volume");
    for part in ["from-host", "from-container"] {
        fs::create_dir_all(volume.join(part)).unwrap();
    }
    let mount = json!({ "destination": "/volume", "type": "bind", "source": volume, "options": options });
    config::add_mount(&mut bundle.config, mount);
    for set in ["bounding", "effective", "permitted"] {
        config::push(&mut bundle.config["process"]["capabilities"][set], json!("CAP_SYS_ADMIN"));
    }
    bundle.sh("mount -t tmpfs inside /volume/from-container && touch /volume/from-container/seen; \
         echo > /volume/ready; read word < /volume/go; test -e /volume/from-host/seen && echo host to container; true");
    bundle.write();
    let script = "set -e; V=$1; shift; mount --make-rprivate /; mount --bind $V $V; mount --make-shared $V; cd /
        mkfifo $V/ready $V/go
        \"$@\" & run=$!
        read word < $V/ready
        test -e $V/from-container/seen && echo container to host
        mount -t tmpfs outside $V/from-host; touch $V/from-host/seen
        echo > $V/go
        wait $run";
    let command = sandbox.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    let command = command.arg(&volume).arg(binaries::oci()).arg("--root").arg(sandbox.root());
    let output = command.args(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("box")).run().expect(0);
    (output.stdout.contains("container to host"), output.stdout.contains("host to container"))
}

#[test]
fn propagation_of_the_root_holds_for_binds_without_their_own() {
    assert_eq!(propagates("rprivate", &["rbind"]), (false, false));
    assert_eq!(propagates("rslave", &["rbind"]), (false, true));
    assert_eq!(propagates("rshared", &["rbind"]), (true, true));
    // Without a word about it, as with runc.
    assert_eq!(propagates("", &["rbind"]), (false, true));
    assert_eq!(propagates("", &["rbind", "rprivate"]), (false, false));
}

#[test]
fn propagation_of_a_bind_mount() {
    assert_eq!(propagates("rslave", &["rbind", "rprivate"]), (false, false));
    assert_eq!(propagates("rslave", &["rbind", "rslave"]), (false, true));
    assert_eq!(propagates("rshared", &["rbind", "rshared"]), (true, true));
    assert_eq!(propagates("rshared", &["rbind", "rslave"]), (false, true));
}

/// The root mount itself, as mountinfo tells it.
#[test]
fn propagation_of_the_root() {
    for (kind, shown) in [("shared", true), ("private", false), ("slave", false)] {
        in_bundle(
            |bundle| bundle.config["linux"]["rootfsPropagation"] = json!(kind),
            "while read id parent dev root at rest; do \
             [ $at = / ] && echo root $rest; done < /proc/self/mountinfo; true",
            |text| {
                let line = text.lines().find(|line| line.starts_with("root ")).unwrap_or_default();
                assert_eq!(line.contains(" shared:"), shown, "{kind}: {text}");
            },
        );
    }
}
