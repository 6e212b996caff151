//! Nothing that an image holds, and nobody who exchanges a directory for a link meanwhile, leads a start out of the root.
//! The advisories are those of runc, crun and youki; docs/security.md has the whole list.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use brood_tests::world::files;
use brood_tests::{Bundle, Face, Output, Racer, Sandbox, binaries, config};
use serde_json::json;

/// Starts under a race, for each face. Enough that a check and a use of the same name are seen apart: a resolver that
/// follows names loses within the first dozen.
const STARTS: usize = 60;

/// A directory of the host's with one file in it, which nobody may touch.
fn outside(sandbox: &Sandbox) -> PathBuf {
    let outside = sandbox.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "precious\n").unwrap();
    outside
}

/// Names and sizes below, with owner and mode: what a start must not change.
fn look(directory: &Path) -> Vec<String> {
    let mut seen = files(directory);
    for path in [directory.to_owned(), directory.join("precious")] {
        let metadata = fs::metadata(&path).unwrap();
        seen.push(format!("{} {} {} {:o}", path.display(), metadata.uid(), metadata.gid(), metadata.mode()));
    }
    seen
}

/// Runs one spoilt bundle through every face. Whatever comes of it, the directory outside stays as it was.
#[track_caller]
fn host_stays(spoil: impl Fn(&mut Bundle, &Path), check: impl Fn(&Output)) {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let outside = outside(&sandbox);
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        spoil(&mut bundle, &outside);
        let before = look(&outside);
        let output = face.run(&sandbox, &bundle);
        assert_eq!(look(&outside), before, "{face:?} touched the host: {output}");
        assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} left state behind");
        check(&output);
    }
}

fn replace_by_link(path: &Path, to: &Path) {
    let _ = fs::remove_dir(path);
    let _ = fs::remove_file(path);
    symlink(to, path).unwrap();
}

fn without_mount(bundle: &mut Bundle, prefix: &str) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with(prefix));
}

/// Starts again and again while `rootfs/<name>` is now a directory and now a link to the directory outside; the container
/// must find its mount where config.json puts it, and nothing may appear outside.
fn raced(name: &str, edit: impl Fn(&mut Bundle), script: &str, found: &str) {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let outside = outside(&sandbox);
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        edit(&mut bundle);
        bundle.sh(script);
        let (directory, link) = (bundle.rootfs().join(name), bundle.rootfs().join("link"));
        fs::create_dir_all(&directory).unwrap();
        symlink(&outside, &link).unwrap();
        let before = look(&outside);
        let racer = Racer::exchanging(&directory, &link);
        let mut good = 0;
        for _ in 0..STARTS {
            let output = face.run(&sandbox, &bundle);
            assert_eq!(look(&outside), before, "{face:?} touched the host: {output}");
            if output.code() == 0 {
                assert_eq!(output.stdout, found, "{face:?}");
                good += 1;
            } else {
                // A name that changed between two looks: refused, and nothing is left of it.
                output.one_line_error();
            }
            assert_eq!(sandbox.containers(), Vec::<String>::new(), "{face:?} left state behind");
        }
        racer.stop();
        eprintln!("{face:?}: {good} of {STARTS} started");
        assert!(good > 0, "{face:?}: not one of {STARTS} started");
    }
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2019-18837: a mount lands on, or its directories are made at, what a name was
/// exchanged for.
#[test]
fn a_mount_destination_exchanged_for_a_link_stays_inside() {
    let tmpfs = json!({ "destination": "/swap/deep/er", "type": "tmpfs", "source": "in-the-box" });
    // A mount that ended outside of the root is not in the table of who sits inside of it.
    let script = "grep -c in-the-box /proc/self/mountinfo";
    raced("swap", |bundle| config::add_mount(&mut bundle.config, tmpfs.clone()), script, "1\n");
}

/// The same with a file as the destination: an empty file would be made on the host.
#[test]
fn a_file_destination_exchanged_for_a_link_stays_inside() {
    let edit = |bundle: &mut Bundle| {
        fs::write(bundle.path().join("file"), "hello\n").unwrap();
        let bind = json!({ "destination": "/swap/new", "type": "bind", "source": "file", "options": ["bind"] });
        config::add_mount(&mut bundle.config, bind);
    };
    raced("swap", edit, "grep -c 'file /.*/new ' /proc/self/mountinfo", "1\n");
}

/// CVE-2019-19921, CVE-2025-54867: the mount of /proc, while /proc is now a directory and now a link.
#[test]
fn a_proc_exchanged_for_a_link_stays_inside() {
    raced("proc", |_| (), "echo up", "up\n");
}

/// Whoever may rename the image's /proc moves the mount with it, while masks and read-only paths are put below that name:
/// they go where the mount is. The shell holds the mounted directory, whatever it is called by then.
#[test]
fn a_proc_that_is_renamed_once_mounted_stays_masked() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: others look for the masked paths by name");
        return;
    }
    let script = "cd /; until cd proc && [ -d self ] || { cd ../decoy && [ -d self ]; }; do cd ..; done 2> /dev/null
        for file in keys timer_list; do [ -c $file ] || echo $file is not masked; done
        { echo > sys/kernel/domainname; } 2> /dev/null && echo sys is writable; echo up";
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        bundle.sh(script);
        assert_eq!(face.run(&sandbox, &bundle).ok(), "up\n", "{face:?}");
        let (proc, decoy) = (bundle.rootfs().join("proc"), bundle.rootfs().join("decoy"));
        fs::create_dir(&decoy).unwrap();
        let racer = Racer::exchanging(&proc, &decoy);
        let mut good = 0;
        for _ in 0..STARTS {
            let output = face.run(&sandbox, &bundle);
            assert!(output.code() != 0 || output.stdout == "up\n", "{face:?}: {output}");
            good += usize::from(output.code() == 0);
        }
        racer.stop();
        eprintln!("{face:?}: {good} of {STARTS} started");
        assert!(good > 0, "{face:?}: not one of {STARTS} started");
    }
}

/// A masked or read-only path below a mount, by way of a link that leads out of it: it is what the link means.
#[test]
fn a_hidden_path_by_way_of_a_link_out_of_its_mount() {
    host_stays(
        |bundle, outside| {
            fs::write(bundle.rootfs().join("etc/secret"), "secret\n").unwrap();
            fs::create_dir(bundle.rootfs().join("kept")).unwrap();
            let volume = bundle.path().join("volume");
            fs::create_dir(&volume).unwrap();
            for (name, to) in [("secret", "/etc/secret"), ("kept", "../kept"), ("out", outside.to_str().unwrap())] {
                symlink(to, volume.join(name)).unwrap();
            }
            let mount = json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["bind"] });
            config::add_mount(&mut bundle.config, mount);
            for path in ["/volume/secret", "/volume/out/precious"] {
                config::push(&mut bundle.config["linux"]["maskedPaths"], json!(path));
            }
            config::push(&mut bundle.config["linux"]["readonlyPaths"], json!("/volume/kept"));
            bundle.sh("cat /etc/secret; touch /kept/new 2> /dev/null || echo kept");
        },
        |output| assert_eq!((output.code(), output.stdout.as_str()), (0, "kept\n"), "{output}"),
    );
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867: an image's /proc or /sys that is a link, wherever it
/// leads, is refused: what is masked by its name would be somewhere else.
#[test]
fn proc_and_sys_that_are_links_are_refused() {
    for name in ["proc", "sys"] {
        for inside in [true, false] {
            host_stays(
                |bundle, outside| {
                    let elsewhere = if inside { Path::new("/tmp") } else { outside };
                    replace_by_link(&bundle.rootfs().join(name), elsewhere);
                },
                |output| assert!(output.one_line_error().contains(&format!("/{name}")), "{output}"),
            );
        }
    }
}

/// CVE-2026-41579, CVE-2026-47766: /dev as a link to a directory of the host's: nodes, links and mounts would go there.
#[test]
fn a_dev_that_is_a_link_brings_nothing_to_the_host() {
    for mounted in [true, false] {
        host_stays(
            |bundle, outside| {
                replace_by_link(&bundle.rootfs().join("dev"), outside);
                if !mounted {
                    without_mount(bundle, "/dev");
                }
                bundle.sh("echo x > /dev/null && echo up");
            },
            |output| assert!(output.code() != 0 || output.stdout == "up\n", "{output}"),
        );
    }
}

/// The same for /dev/pts and /dev/shm in an image that brings its own /dev.
#[test]
fn links_in_place_of_mount_points_of_dev_stay_inside() {
    host_stays(
        |bundle, outside| {
            let mounts = bundle.config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/dev");
            for name in ["pts", "shm", "mqueue", "fd", "stdin", "ptmx"] {
                symlink(outside.join(name), bundle.rootfs().join("dev").join(name)).unwrap();
            }
            bundle.sh("echo up");
        },
        |output| assert!(output.code() != 0 || output.stdout == "up\n", "{output}"),
    );
}

/// CVE-2026-88265: a link in place of /dev/null is neither used nor given another owner.
#[test]
fn a_null_device_that_is_a_link_is_refused() {
    host_stays(
        |bundle, outside| {
            without_mount(bundle, "/dev");
            symlink(outside.join("precious"), bundle.rootfs().join("dev/null")).unwrap();
            bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        },
        |output| assert!(output.one_line_error().contains("/dev/null"), "{output}"),
    );
}

/// CVE-2025-31133: what masks is the device 1:3 and nothing that bears its name. Here a volume puts a file, a link and a
/// directory in its place after /dev was mounted.
#[test]
fn a_volume_in_place_of_the_null_device_masks_nothing() {
    for link in [true, false] {
        host_stays(
            |bundle, outside| {
                fs::write(bundle.rootfs().join("etc/secret"), "secret\n").unwrap();
                config::push(&mut bundle.config["linux"]["maskedPaths"], json!("/etc/secret"));
                let source = bundle.path().join("dev");
                fs::create_dir(&source).unwrap();
                if link {
                    symlink(outside.join("precious"), source.join("null")).unwrap();
                } else {
                    fs::write(source.join("null"), "decoy\n").unwrap();
                }
                let volume = json!({ "destination": "/dev", "type": "bind", "source": source, "options": ["bind"] });
                without_mount(bundle, "/dev");
                config::add_mount(&mut bundle.config, volume);
                bundle.sh("cat /etc/secret");
            },
            |output| {
                assert_ne!(output.code(), 0, "{output}");
                assert_eq!(output.stdout, "", "{output}");
            },
        );
    }
}

/// CVE-2025-31133, CVE-2025-62161: the same while /dev/null changes all the time. Whoever gets to run finds the path masked.
#[test]
fn a_null_device_exchanged_for_a_link_masks_or_is_refused() {
    for &face in Face::all() {
        let sandbox = Sandbox::new();
        let mut bundle = Bundle::busybox(&sandbox, "bundle");
        for (name, text) in [("secret", "secret\n"), ("decoy", "decoy\n")] {
            fs::write(bundle.rootfs().join("etc").join(name), text).unwrap();
        }
        config::push(&mut bundle.config["linux"]["maskedPaths"], json!("/etc/secret"));
        without_mount(&mut bundle, "/dev");
        // As the same start left it without an attacker.
        bundle.sh("cat /etc/secret");
        assert_eq!(face.run(&sandbox, &bundle).ok(), "", "{face:?}");
        let (null, link) = (bundle.rootfs().join("dev/null"), bundle.rootfs().join("dev/link"));
        symlink("/etc/decoy", &link).unwrap();
        let racer = Racer::exchanging(&null, &link);
        for _ in 0..STARTS {
            let output = face.run(&sandbox, &bundle);
            assert_eq!(output.stdout, "", "{face:?}: {output}");
        }
        racer.stop();
    }
}

/// CVE-2025-52881, CVE-2019-16884, CVE-2025-62596: a volume with the files of /proc in its place. What is written for the
/// container goes to the kernel, or the start is refused; it does not go to a file of the volume's, nor where that leads.
#[test]
fn a_fake_proc_receives_no_writes() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: each has its own answer to a volume on /proc");
        return;
    }
    host_stays(
        |bundle, outside| {
            let fake = bundle.path().join("proc");
            for directory in ["self/attr/apparmor", "thread-self", "sys/kernel", "1"] {
                fs::create_dir_all(fake.join(directory)).unwrap();
            }
            let names = ["self/oom_score_adj", "self/attr/exec", "self/attr/keycreate", "sys/kernel/msgmax"];
            for name in names.into_iter().chain(["1/oom_score_adj", "sys/kernel/domainname"]) {
                symlink(outside.join("precious"), fake.join(name)).unwrap();
            }
            let volume = json!({ "destination": "/proc", "type": "bind", "source": fake, "options": ["rbind"] });
            let real = json!({ "destination": "/real", "type": "proc", "source": "proc" });
            without_mount(bundle, "/proc");
            config::add_mount(&mut bundle.config, volume);
            config::add_mount(&mut bundle.config, real);
            bundle.config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4321" });
            bundle.config["process"]["oomScoreAdj"] = json!(321);
            bundle.sh("cat /real/self/oom_score_adj /real/sys/kernel/msgmax");
        },
        |output| assert!(output.code() != 0 || output.stdout == "321\n4321\n", "{output}"),
    );
}

/// Of the same family: the mount point of a volume, or a directory on the way to it, is a link to a file of the kernel's.
#[test]
fn a_sysctl_by_way_of_a_link_of_the_images_reaches_the_kernel() {
    host_stays(
        |bundle, outside| {
            symlink(outside, bundle.rootfs().join("etc/sys")).unwrap();
            let mount = json!({ "destination": "/etc/sys/x/y", "type": "tmpfs", "source": "tmpfs" });
            config::add_mount(&mut bundle.config, mount);
            bundle.config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4321" });
            bundle.sh("cat /proc/sys/kernel/msgmax; ls /etc/sys/");
        },
        |output| assert_eq!((output.code(), output.stdout.as_str()), (0, "4321\nx\n"), "{output}"),
    );
}

/// CVE-2025-24965 and others: links in place of every file and directory that a start may make in a rootfs.
#[test]
fn what_is_made_in_a_rootfs_stays_in_it() {
    host_stays(
        |bundle, outside| {
            for (name, to) in [("a", outside.to_owned()), ("b", PathBuf::from("../../../outside"))] {
                symlink(to, bundle.rootfs().join(name)).unwrap();
            }
            symlink("/a/made", bundle.rootfs().join("c")).unwrap();
            fs::write(bundle.path().join("file"), "hello\n").unwrap();
            for destination in ["/a/file", "/b/deep/er/file", "/c/file"] {
                let bind = json!({ "destination": destination, "type": "bind", "source": "file", "options": ["bind"] });
                config::add_mount(&mut bundle.config, bind);
            }
            bundle.config["linux"]["devices"] = json!([
                { "path": "/a/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0 },
                { "path": "/b/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 7, "gid": 7 },
            ]);
            bundle.sh("cat /a/file /b/deep/er/file /c/file; test -c /a/zero && test -c /b/zero && echo zero");
        },
        |output| assert_eq!(output.stdout, "hello\nhello\nhello\nzero\n", "{output}"),
    );
}
