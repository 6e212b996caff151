//! The file system that the program inside finds: mounts, devices, links, masked and read-only paths.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use brood_tests::face::in_bundle;
use brood_tests::{Bundle, Face, Sandbox, config};
use serde_json::json;

/// Adds a bind mount of a fresh directory beside the rootfs, with one file `hello` in it.
fn bind(bundle: &mut Bundle, name: &str, destination: &str, options: &[&str]) {
    let source = bundle.path().join(name);
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("hello"), "hello\n").unwrap();
    let mount = json!({ "destination": destination, "type": "bind", "source": source, "options": options });
    config::add_mount(&mut bundle.config, mount);
}

/// The mountinfo line of a mount point: its own options, and those of its super block.
#[track_caller]
fn mount_options<'a>(mountinfo: &'a str, target: &str) -> (&'a str, &'a str) {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(target));
    let line = line.unwrap_or_else(|| panic!("no mount at {target}:\n{mountinfo}"));
    (line.split(' ').nth(5).unwrap(), line.rsplit(' ').next().unwrap())
}

#[test]
fn devices_and_links() {
    in_bundle(
        |_| (),
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $d; done; \
         for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done; \
         echo lost > null; head -c 3 zero | wc -c; ls -d pts shm mqueue",
        |text| {
            let expected = "null character special file 1:3 666\nzero character special file 1:5 666\n\
                full character special file 1:7 666\nrandom character special file 1:8 666\n\
                urandom character special file 1:9 666\ntty character special file 5:0 666\n\
                fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\n\
                ptmx pts/ptmx\n3\nmqueue\npts\nshm\n";
            assert_eq!(text, expected);
        },
    );
}

#[test]
fn a_device_of_the_config() {
    in_bundle(
        |bundle| {
            bundle.config["linux"]["devices"] = json!([
                { "path": "/dev/quiet", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 },
                { "path": "/dev/deep/pipe", "type": "p", "fileMode": 0o600 },
            ]);
        },
        "stat -c '%F %t:%T %a %u %g' /dev/quiet; stat -c '%F %a' /dev/deep/pipe",
        |text| assert_eq!(text, "character special file 1:3 640 7 8\nfifo 600\n"),
    );
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    in_bundle(
        |bundle| {
            for (destination, mode, options) in [
                ("/covered", 0o3710, json!([])),
                ("/given", 0o710, json!(["mode=1750"])),
                ("/readonly", 0o711, json!(["ro"])),
            ] {
                let directory = bundle.rootfs().join(&destination[1..]);
                fs::create_dir(&directory).unwrap();
                fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
                add_tmpfs(bundle, destination, options);
            }
            add_tmpfs(bundle, "/made/below", json!([]));
        },
        "stat -c %a /covered /given /readonly /made/below",
        |text| assert_eq!(text, "3710\n1750\n711\n1777\n"),
    );
}

fn add_tmpfs(bundle: &mut Bundle, destination: &str, options: serde_json::Value) {
    let mount = json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options });
    config::add_mount(&mut bundle.config, mount);
}

#[test]
fn mounts_and_their_options() {
    in_bundle(
        |bundle| {
            let tmpfs = json!({ "destination": "/scratch", "type": "tmpfs", "source": "scratch",
                "options": ["nosuid", "nodev", "noexec", "mode=1750", "size=1m", "uid=3"] });
            config::add_mount(&mut bundle.config, tmpfs);
        },
        "cat /proc/self/mountinfo; stat -c 'scratch %a %u' /scratch",
        |text| {
            let (own, super_block) = mount_options(text, "/scratch");
            for option in ["nosuid", "nodev", "noexec"] {
                assert!(own.split(',').any(|o| o == option), "{option} in {own}");
            }
            assert!(super_block.contains("size=1024k") && super_block.contains("uid=3"), "{super_block}");
            assert!(text.contains("scratch 1750 3"), "{text}");
            assert!(mount_options(text, "/sys").0.starts_with("ro,"), "{text}");
            assert!(mount_options(text, "/dev/pts").1.contains("ptmxmode=666"), "{text}");
            for target in ["/proc", "/dev", "/dev/shm", "/dev/mqueue"] {
                mount_options(text, target);
            }
        },
    );
}

#[test]
fn bind_mounts() {
    in_bundle(
        |bundle| {
            bind(bundle, "rw", "/rw", &["rbind", "rw"]);
            bind(bundle, "ro", "/ro", &["bind", "ro", "nosuid"]);
            let file = json!({ "destination": "/etc/one-file", "type": "bind",
                "source": bundle.path().join("rw/hello"), "options": ["bind"] });
            config::add_mount(&mut bundle.config, file);
        },
        "cat /rw/hello /ro/hello /etc/one-file; echo new > /rw/new && cat /rw/new; \
         (echo no > /ro/new) 2>&1; cat /proc/self/mountinfo",
        |text| {
            assert!(text.starts_with("hello\nhello\nhello\nnew\n"), "{text}");
            assert!(text.contains("Read-only file system"), "{text}");
            assert!(mount_options(text, "/ro").0.contains("nosuid"), "{text}");
        },
    );
}

#[test]
fn a_relative_source_is_below_the_bundle() {
    in_bundle(
        |bundle| {
            bind(bundle, "data", "/unused", &["bind"]);
            let relative = json!({ "destination": "/data", "type": "bind", "source": "data", "options": ["bind"] });
            config::add_mount(&mut bundle.config, relative);
        },
        "cat /data/hello",
        |text| assert_eq!(text, "hello\n"),
    );
}

#[test]
fn later_mounts_cover_earlier_ones() {
    in_bundle(
        |bundle| {
            let below = json!({ "destination": "/layer", "type": "tmpfs", "source": "below", "options": [] });
            config::add_mount(&mut bundle.config, below);
            bind(bundle, "above", "/layer", &["bind"]);
            bind(bundle, "inner", "/layer/inner", &["bind"]);
        },
        "cat /layer/hello /layer/inner/hello; grep -c ' /layer ' /proc/self/mountinfo",
        |text| assert_eq!(text, "hello\nhello\n2\n"),
    );
}

/// Mounts through links that lead out of the rootfs if they are followed on the host; `inside` prepares what they
/// lead to in the container.
fn linked_destinations(inside: impl Fn(&Bundle, &Path)) {
    for face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        let outside = sandbox.path("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
        symlink("../../../outside", bundle.rootfs().join("relative")).unwrap();
        inside(&bundle, outside.strip_prefix("/").unwrap());
        bind(&mut bundle, "a", "/absolute/a", &["bind"]);
        bind(&mut bundle, "b", "/relative/b", &["bind"]);
        bundle.sh(&format!("cat {}/a/hello /outside/b/hello", outside.display()));
        let output = face.run(&sandbox, &bundle);
        assert_eq!(output.ok(), "hello\nhello\n", "{face:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{face:?} touched the host");
    }
}

#[test]
fn a_linked_destination_stays_inside() {
    linked_destinations(|bundle, outside| {
        fs::create_dir_all(bundle.rootfs().join(outside)).unwrap();
        fs::create_dir(bundle.rootfs().join("outside")).unwrap();
    });
}

#[test]
fn what_a_linked_destination_lacks_is_made_inside() {
    linked_destinations(|_, _| ());
}

#[test]
fn masked_and_read_only_paths() {
    in_bundle(
        |bundle| {
            fs::create_dir(bundle.rootfs().join("secrets")).unwrap();
            fs::write(bundle.rootfs().join("secrets/key"), "key\n").unwrap();
            fs::write(bundle.rootfs().join("etc/secret"), "secret\n").unwrap();
            config::push(&mut bundle.config["linux"]["maskedPaths"], json!("/secrets"));
            config::push(&mut bundle.config["linux"]["maskedPaths"], json!("/etc/secret"));
            config::push(&mut bundle.config["linux"]["maskedPaths"], json!("/not/there"));
            config::push(&mut bundle.config["linux"]["readonlyPaths"], json!("/var"));
            config::push(&mut bundle.config["linux"]["readonlyPaths"], json!("/not/there"));
        },
        "ls /secrets | wc -l; cat /etc/secret | wc -c; cat /proc/keys | wc -c; \
         (touch /var/x; echo 1 > /proc/sys/kernel/printk; touch /secrets/x) 2>&1; touch /tmp/x; test ! -e /not",
        |text| {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(&lines[..3], ["0", "0", "0"]);
            assert_eq!(lines.len(), 6, "{text}");
            assert!(lines[3..].iter().all(|line| line.contains("Read-only file system")), "{text}");
        },
    );
}

#[test]
fn what_is_hidden_twice_is_mounted_over_once() {
    in_bundle(
        |bundle| {
            for (list, path) in [("maskedPaths", "/secrets"), ("readonlyPaths", "/var")] {
                fs::create_dir_all(bundle.rootfs().join(&path[1..])).unwrap();
                config::push(&mut bundle.config["linux"][list], json!(path));
                config::push(&mut bundle.config["linux"][list], json!(path));
            }
        },
        "grep -c ' /secrets ' /proc/self/mountinfo; grep -c ' /var ' /proc/self/mountinfo",
        |text| assert_eq!(text, "1\n1\n"),
    );
}

#[test]
fn a_read_only_root() {
    in_bundle(
        |bundle| bundle.config["root"]["readonly"] = json!(true),
        "touch /x 2>&1; touch /dev/shm/x && echo shm is writable",
        |text| {
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines[0].contains("Read-only file system"), "{text}");
            assert_eq!(lines[1], "shm is writable");
        },
    );
}

#[test]
fn the_hosts_root_is_out_of_sight() {
    in_bundle(
        |_| (),
        "awk '{print $5}' /proc/self/mountinfo | head -1; ls /; cd ..; cd ..; ls -d usr 2>&1; true",
        |text| {
            assert!(text.starts_with("/\n"), "{text}");
            assert!(text.ends_with("No such file or directory\n"), "{text}");
        },
    );
}

#[test]
fn mounts_do_not_propagate_to_the_host() {
    in_bundle(
        |bundle| {
            bundle.config["process"]["capabilities"] = json!({ "bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"] });
        },
        // The sandbox fails the test if this shows on the host.
        "mount -t tmpfs inside /tmp && grep -c ' /tmp ' /proc/self/mountinfo",
        |text| assert_eq!(text, "1\n"),
    );
}
