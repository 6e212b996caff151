//! Bind mounts: whose flags they have, where their sources come from, and what they are put on.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;

use brood_tests::binaries::oracle;
use brood_tests::face::in_bundle;
use brood_tests::{Bundle, Face, Output, Sandbox, config};
use serde_json::json;

fn bind(bundle: &mut Bundle, source: impl AsRef<std::path::Path>, destination: &str, options: &[&str]) {
    let mount = json!({ "destination": destination, "type": "bind", "source": source.as_ref(), "options": options });
    config::add_mount(&mut bundle.config, mount);
}

fn in_a_user_namespace(bundle: &mut Bundle) {
    bundle.config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    bundle.config["linux"]["gidMappings"] = bundle.config["linux"]["uidMappings"].clone();
    for kind in ["user", "network"] {
        config::add_namespace(&mut bundle.config, kind);
    }
    chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
}

/// Binds a tmpfs, mounted and then remounted on the host's side with these options, to a container, which prints the
/// flags that it finds.
fn bound(face: Face, on_host: [&str; 2], options: &[&str], users: bool) -> Output {
    let sandbox = Sandbox::new();
    let mut bundle = Bundle::busybox(&sandbox, "bundle");
    let volume = sandbox.path("volume");
    fs::create_dir(&volume).unwrap();
    bind(&mut bundle, &volume, "/volume", options);
    if users {
        in_a_user_namespace(&mut bundle);
    }
    bundle.sh("while read dev at kind flags rest; do [ $at = /volume ] && echo $flags; done < /proc/self/mounts; true");
    bundle.write();
    let script =
        "set -e; V=$1; S=$2; B=$3; shift 3; mount -t tmpfs -o $S volume $V; mount -o remount,bind,$B $V; exec \"$@\"";
    let host = sandbox.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    let host = host.arg(&volume).args(on_host);
    let id = sandbox.id("box");
    match face {
        Face::Brood => {
            let host = host.arg(brood_tests::binaries::brood()).arg("--root").arg(sandbox.root());
            host.args(["run", "--rm", "--name", &id, "--bundle"]).arg(bundle.path()).run()
        }
        Face::Oci => {
            let host = host.arg(brood_tests::binaries::oci()).arg("--root").arg(sandbox.root());
            host.args(["run", "--bundle"]).arg(bundle.path()).arg(&id).run()
        }
    }
}

/// The flags of a mount that the tests speak of, in this order.
fn flags(output: &Output) -> String {
    let known = ["ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime", "nodiratime", "relatime"];
    let found: Vec<&str> = output.stdout.trim().split(',').collect();
    known.into_iter().filter(|flag| found.contains(flag)).collect::<Vec<_>>().join(",")
}

/// The rules of runc 1.5 (its mounts_sshfs.bats): without a flag those of the source, otherwise what is named, and the mode of
/// access times only where one is named. In a user namespace what was locked stays, and is not to be taken away by name.
#[test]
fn flags_are_those_that_are_named_or_those_of_the_source() {
    if oracle() {
        eprintln!("not asked of a foreign runtime: only runc 1.2 and later has these rules");
        return;
    }
    const SOURCE: &str = "ro,noexec,nosymfollow,noatime";
    let refused = None;
    for (options, plain, users) in [
        (&["bind"][..], SOURCE, Some(SOURCE)),
        (&["rbind", "rslave"], SOURCE, Some(SOURCE)),
        (&["bind", "dev"], "noatime", Some("ro,noexec,noatime")),
        (&["bind", "nosuid", "rprivate"], "nosuid,noatime", Some("ro,nosuid,noexec,noatime")),
        (&["bind", "symfollow", "ro"], "ro,noatime", Some("ro,noexec,noatime")),
        (&["bind", "atime", "diratime"], "noatime", Some("ro,noexec,noatime")),
        (&["bind", "rw"], "noatime", refused),
        (&["bind", "nodev", "exec"], "nodev,noatime", refused),
        (&["bind", "relatime"], "relatime", refused),
        (&["bind", "strictatime"], "", refused),
        (&["bind", "nodiratime"], "nodiratime,relatime", refused),
    ] {
        for &face in Face::all() {
            let output = bound(face, ["strictatime", SOURCE], options, false).expect(0);
            assert_eq!(flags(&output), plain, "{face:?} {options:?}: {output}");
            let output = bound(face, ["strictatime", SOURCE], options, true);
            match users {
                Some(users) => assert_eq!(flags(&output.expect(0)), users, "{face:?} {options:?}"),
                None => {
                    let error = output.one_line_error();
                    assert!(
                        error.contains("mounts[6].options") && error.contains("locked"),
                        "{face:?} {options:?}: {error}"
                    );
                }
            }
        }
    }
}

/// A file system that is read-only by itself stays so, whatever is asked of the mount; nothing of it is locked.
#[test]
fn a_read_only_file_system_is_no_locked_flag() {
    for &face in Face::all().iter().filter(|_| !oracle()) {
        for users in [false, true] {
            let output = bound(face, ["ro", "rw,relatime"], &["bind", "rw", "nodev"], users).expect(0);
            assert_eq!(flags(&output), "ro,nodev,relatime", "{face:?} {users}: {output}");
        }
    }
}

/// A volume, a tmpfs in it, and a file of the volume's; then sources on what these have put there.
#[test]
fn a_source_may_be_what_the_container_has_mounted() {
    for users in [false, true] {
        in_bundle(
            |bundle| {
                let (rootfs, volume) = (bundle.rootfs(), bundle.path().join("volume"));
                fs::create_dir_all(volume.join("inner")).unwrap();
                fs::write(volume.join("file"), "volume\n").unwrap();
                fs::write(rootfs.join("etc/name"), "container\n").unwrap();
                symlink("/etc", volume.join("link")).unwrap();
                bind(bundle, &volume, "/volume", &["rbind"]);
                let tmpfs = json!({ "destination": "/volume/inner", "type": "tmpfs", "source": "tmpfs",
                    "options": ["mode=1750"] });
                config::add_mount(&mut bundle.config, tmpfs);
                bind(bundle, rootfs.join("volume"), "/again", &["rbind", "ro"]);
                bind(bundle, rootfs.join("volume"), "/single", &["bind"]);
                bind(bundle, rootfs.join("again/file"), "/file", &["bind"]);
                // Where a link leads is the container's business.
                bind(bundle, rootfs.join("volume/link"), "/linked", &["bind"]);
                // Nothing covers this one.
                bind(bundle, rootfs.join("etc"), "/plain", &["bind"]);
                if users {
                    in_a_user_namespace(bundle);
                }
            },
            "cat /file /again/file /single/file /linked/name /plain/name; stat -c %a /again/inner /single/inner; \
             (echo > /again/file) 2>&1; true",
            |text| {
                let expected = "volume\nvolume\nvolume\ncontainer\ncontainer\n1750\n755\nsh: can't create /again/file: \
                    Read-only file system\n";
                assert_eq!(text, expected, "users {users}");
            },
        );
    }
}

/// Some configurations name destinations by their path on the host (runc's mounts.bats, "mount order").
#[test]
fn a_destination_may_be_the_hosts_name_for_it() {
    in_bundle(
        |bundle| {
            fs::write(bundle.path().join("file"), "hello\n").unwrap();
            let destination = bundle.rootfs().join("mnt/file");
            bind(bundle, bundle.path().join("file"), destination.to_str().unwrap(), &["bind"]);
        },
        "cat /mnt/file",
        |text| assert_eq!(text, "hello\n"),
    );
}

#[test]
fn a_source_that_is_no_directory() {
    in_bundle(
        |bundle| {
            let socket = bundle.path().join("socket");
            // Closed at once; the socket stays.
            drop(UnixListener::bind(&socket).unwrap());
            let fifo = bundle.path().join("fifo");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            for (source, destination) in [("/dev/zero".as_ref(), "/dev/other"), (socket.as_path(), "/run/socket")] {
                bind(bundle, source, destination, &["bind"]);
            }
            bind(bundle, &fifo, "/fifo", &["rbind"]);
        },
        "stat -c %F /dev/other /run/socket /fifo; head -c 3 /dev/other | wc -c",
        |text| assert_eq!(text, "character special file\nsocket\nfifo\n3\n"),
    );
}

/// It would cover what is there for whoever comes in later, and not for the container's own processes.
#[test]
fn nothing_is_mounted_on_top_of_the_root() {
    for &face in Face::all() {
        for destination in ["/", "/.", "/etc/..", "/self"] {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            symlink("/", bundle.rootfs().join("self")).unwrap();
            let tmpfs = json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" });
            config::add_mount(&mut bundle.config, tmpfs);
            let output = face.run(&sandbox, &bundle);
            assert_ne!(output.code(), 0, "{face:?} {destination}: {output}");
            if !oracle() {
                let error = output.stderr.lines().last().unwrap_or_default();
                assert!(error.contains("mounts[6]") && error.contains("on top of the root"), "{output}");
            }
            assert_eq!(sandbox.containers(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_destination_that_is_a_link_is_followed_unless_it_is_not_to_be() {
    if oracle() {
        return;
    }
    for (option, link, passwd) in [("rw", "mine", "mine"), ("dest-nofollow", "mine", "the image's")] {
        in_bundle(
            |bundle| {
                fs::write(bundle.rootfs().join("etc/passwd"), "the image's\n").unwrap();
                symlink("/etc/passwd", bundle.rootfs().join("link")).unwrap();
                fs::write(bundle.path().join("file"), "mine\n").unwrap();
                bind(bundle, bundle.path().join("file"), "/link", &["bind", option]);
                // What is not there is made.
                bind(bundle, bundle.path().join("file"), "/new/file", &["bind", option]);
            },
            "cat /link /etc/passwd /new/file",
            |text| assert_eq!(text, format!("{link}\n{passwd}\nmine\n"), "{option}"),
        );
    }
}

/// crun's words for whole trees: what they ask for is the superblock's, which a bind mount cannot change.
#[test]
fn recursive_words_of_a_superblock() {
    if oracle() {
        return;
    }
    in_bundle(
        |bundle| {
            let words = ["rsync", "rdirsync", "rmand"];
            let tmpfs = json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": words });
            config::add_mount(&mut bundle.config, tmpfs);
            let all = ["rbind", "rsync", "rasync", "rdirsync", "rmand", "rnomand"];
            fs::create_dir(bundle.path().join("volume")).unwrap();
            bind(bundle, bundle.path().join("volume"), "/volume", &all);
        },
        "while read dev at kind flags rest; do case $at in /t) echo $flags;; /volume) echo there;; esac; done \
         < /proc/self/mounts",
        |text| {
            let (volume, tmpfs): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| *line == "there");
            assert_eq!((volume.len(), tmpfs.len()), (1, 1), "{text}");
            assert!(
                ["sync", "dirsync", "mand"].iter().all(|word| tmpfs[0].split(',').any(|flag| flag == *word)),
                "{text}"
            );
        },
    );
}
