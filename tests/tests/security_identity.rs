//! Who a program in a container is: no more than was asked for, whatever the image says and however odd the number.
//! The advisories are those of runc, crun, youki and containerd; docs/security.md has the whole list.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use brood_tests::face::in_running;
use brood_tests::procfs::status_field;
use brood_tests::{Bundle, Daemon, Face, Sandbox, binaries};
use serde_json::{Value, json};

/// Real, effective, saved and file system id, all the same.
fn four(id: &str) -> String {
    [id; 4].join("\t")
}

fn user(bundle: &mut Bundle, user: Value) {
    bundle.config["process"]["user"] = user;
}

/// CVE-2016-3697: a line of the image's passwd whose *name* is the number.
fn lying_passwd(bundle: &mut Bundle) {
    let lines = "1000:x:0:0::/root:/bin/sh\n2147483648:x:0:0::/root:/bin/sh\n-1:x:0:0::/root:/bin/sh\n";
    fs::write(bundle.rootfs().join("etc/passwd"), lines).unwrap();
    fs::write(bundle.rootfs().join("etc/group"), "1000:x:0:\n100:x:0:1000\n").unwrap();
}

/// CVE-2016-3697, CVE-2024-40635, CVE-2026-46680: a number is that number, to the last one that there is.
#[test]
fn a_user_is_the_number_that_was_asked_for() {
    for id in ["1000", "2147483647", "2147483648", "4294967294"] {
        let number: u32 = id.parse().unwrap();
        for &face in Face::all() {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            lying_passwd(&mut bundle);
            user(&mut bundle, json!({ "uid": number, "gid": number, "additionalGids": [100] }));
            bundle.args(&["cat", "/proc/self/status"]);
            let text = face.run(&sandbox, &bundle).ok();
            assert_eq!(status_field(&text, "Uid").unwrap(), four(id), "{face:?}");
            assert_eq!(status_field(&text, "Gid").unwrap(), four(id), "{face:?}");
            assert_eq!(status_field(&text, "Groups").unwrap(), "100", "{face:?}");
            assert_eq!(status_field(&text, "CapEff").unwrap(), "0000000000000000", "{face:?}");
        }
    }
}

/// CVE-2024-40635, CVE-2026-46680: no number wraps around to root, or to "as it is".
#[test]
fn users_that_are_no_number_of_32_bits_are_refused() {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: runc takes 4294967295");
        return;
    }
    for id in [json!(-1), json!(4_294_967_295_u64), json!(4_294_967_296_u64), json!("0"), json!(1.5), json!(1e30)] {
        for field in ["uid", "gid"] {
            for &face in Face::all() {
                let sandbox = Sandbox::new();
                let mut bundle = Bundle::busybox(&sandbox, "bundle");
                bundle.config["process"]["user"][field] = id.clone();
                bundle.args(&["id"]);
                let output = face.run(&sandbox, &bundle);
                assert!(output.one_line_error().contains(field), "{face:?}, {id}: {output}");
                assert_eq!(output.stdout, "", "{face:?}, {id}");
            }
        }
    }
}

/// The same on the command line of `brood run` (the table for `brood-oci exec` is in words.rs).
#[test]
fn users_of_the_command_line_are_refused_alike() {
    let sandbox = Sandbox::new();
    let bundle = Bundle::busybox(&sandbox, "bundle");
    for wrong in
        ["-1", "4294967295", "4294967296", "+1", "1:-1", "1:4294967295", "1:+1", "0x0", " 1", "1 ", "1:", ":1", ""]
    {
        let option = format!("--user={wrong}");
        let rootfs = bundle.rootfs();
        let run = sandbox.brood().args(["run", "--rm", &option, "--rootfs"]).arg(&rootfs).args(["--", "id"]).run();
        assert_ne!(run.code(), 0, "{wrong:?}: {run}");
        assert_eq!(run.stdout, "", "{wrong:?}");
    }
}

/// CVE-2026-30892 for the execs of a daemon, CVE-2016-3697 for those of both faces.
#[test]
fn a_user_of_an_exec_is_the_number_that_was_asked_for() {
    in_running(lying_passwd, |face, _, exec| {
        for (asked, uid, gid) in
            [("1000", "1000", "0"), ("1000:100", "1000", "100"), ("2147483648:1", "2147483648", "1")]
        {
            let text = exec(&["--user", asked], &["cat", "/proc/self/status"]).run().ok();
            assert_eq!(status_field(&text, "Uid").unwrap(), four(uid), "{face:?}, {asked}");
            assert_eq!(status_field(&text, "Gid").unwrap(), four(gid), "{face:?}, {asked}");
        }
        for wrong in ["root", "4294967295", "4294967296", "+1", "1:4294967295", "0x0", " 1", "1:", ":1"] {
            let output = exec(&["--user", wrong], &["id"]).run();
            assert_ne!(output.code(), 0, "{face:?}, {wrong:?}: {output}");
            assert_eq!(output.stdout, "", "{face:?}, {wrong:?}");
        }
    });
}

/// The two sets that outlive an execve(2) of another user's.
#[track_caller]
fn nothing_is_inherited(text: &str, what: &str) {
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status_field(text, set).unwrap(), "0000000000000000", "{set} of {what}");
    }
}

/// CVE-2022-24769, CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: nothing is inheritable or ambient unless config.json says
/// so, and an exec has nothing beyond the container's bounding set, though the caller has all.
#[test]
fn inheritable_and_ambient_caps_are_empty() {
    for id in [0, 1000] {
        for &face in Face::all() {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            user(&mut bundle, json!({ "uid": id, "gid": id }));
            bundle.args(&["cat", "/proc/self/status"]);
            nothing_is_inherited(&face.run(&sandbox, &bundle).ok(), &format!("{face:?}"));
        }
        in_running(
            |bundle| user(bundle, json!({ "uid": id, "gid": id })),
            |face, _, exec| {
                let init = exec(&[], &["cat", "/proc/1/status"]).run().ok();
                let bounding = status_field(&init, "CapBnd").unwrap();
                for options in [&[][..], &["--user", "7:7"], &["--user", "0"]] {
                    let text = exec(options, &["cat", "/proc/self/status"]).run().ok();
                    nothing_is_inherited(&text, &format!("{face:?} exec {options:?}"));
                    assert_eq!(status_field(&text, "CapBnd").unwrap(), bounding, "{face:?} {options:?}");
                }
                let text = exec(&["--cap", "CAP_SYS_TIME"], &["cat", "/proc/self/status"]).run().ok();
                nothing_is_inherited(&text, &format!("{face:?} exec with a cap more"));
            },
        );
    }
}

/// CVE-2023-25173: the groups of config.json, in execs too; and none of the caller's or of the image's.
#[test]
fn supplementary_groups_are_those_of_the_config() {
    let edit = |bundle: &mut Bundle| {
        lying_passwd(bundle);
        user(bundle, json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 60_000] }));
    };
    in_running(edit, |face, _, exec| {
        for pid in ["1", "self"] {
            let text = exec(&[], &["cat", &format!("/proc/{pid}/status")]).run().ok();
            assert_eq!(status_field(&text, "Groups").unwrap(), "5 60000", "{face:?}, {pid}");
        }
    });
}

/// CVE-2026-47262: the image's passwd and group are read to a bound, and not at all when they are no files.
#[test]
fn huge_and_endless_user_databases_are_not_read() {
    type Spoil = fn(&std::path::Path);
    let sparse: Spoil = |path| File::create(path).unwrap().set_len(1 << 30).unwrap();
    let endless: Spoil = |path| {
        fs::remove_file(path).unwrap();
        symlink("/dev/zero", path).unwrap();
    };
    let fifo: Spoil = |path| {
        fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    for spoil in [sparse, endless, fifo] {
        let edit = |bundle: &mut Bundle| {
            for name in ["passwd", "group"] {
                spoil(&bundle.rootfs().join("etc").join(name));
            }
            // A node of the rootfs's own: /dev is a mount in the container, not where passwd is read.
            let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
            let zero = bundle.rootfs().join("dev/zero");
            rustix::fs::mknodat(rustix::fs::CWD, &zero, kind, mode, rustix::fs::makedev(1, 5)).unwrap();
            user(bundle, json!({ "uid": 0, "gid": 0, "additionalGids": [5] }));
        };
        // 64 MiB of address space more than a start takes, and a 1 GiB file does not fit.
        in_running(edit, |face, _, exec| {
            assert_eq!(exec(&["--user", "7:8"], &["true"]).run().ok(), "", "{face:?}");
        });
        for &face in Face::all() {
            let sandbox = Sandbox::new();
            let mut bundle = Bundle::busybox(&sandbox, "bundle");
            edit(&mut bundle);
            bundle.sh("echo $HOME");
            bundle.write();
            let limited = |program: std::path::PathBuf| {
                sandbox.command("prlimit").arg("--data=300000000").arg(program).arg("--root").arg(sandbox.root())
            };
            let id = sandbox.id("box");
            let output = match face {
                Face::Oci => limited(binaries::oci()).args(["run", &id, "--bundle"]).arg(bundle.path()).run(),
                Face::Brood => {
                    limited(binaries::brood()).args(["run", "--rm", "--name", &id, "--bundle"]).arg(bundle.path()).run()
                }
            };
            assert!(output.expect(0).stdout.starts_with('/'), "{face:?}");
        }
    }
}

/// CVE-2021-21334: the environments of containers that one zygote started one after the other, and side by side, are their
/// own, and nothing of the daemon's is in them.
#[test]
fn environments_do_not_mix() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::start(&sandbox, &["--zygotes", "1"]);
    let bundles: Vec<(String, Bundle)> = (0..100)
        .map(|number| {
            let mut bundle = Bundle::empty(&sandbox, &format!("bundle{number}"));
            fs::copy("/bin/busybox", bundle.rootfs().join("bin/busybox")).unwrap();
            bundle.args(&["busybox", "dd", "if=/proc/self/environ", "of=/tmp/env"]);
            // The shorter ones after the longer ones: what was there before would show behind them.
            let secret = format!("SECRET_{number}={}", number.to_string().repeat(200 - 2 * number));
            bundle.config["process"]["env"] = json!(["PATH=/bin", secret]);
            bundle.write();
            (secret, bundle)
        })
        .collect();
    std::thread::scope(|scope| {
        for part in bundles.chunks(25) {
            let daemon = &daemon;
            scope.spawn(move || {
                for (_, bundle) in part {
                    daemon.brood().args(["run", "--rm", "--bundle"]).arg(bundle.path()).run().ok();
                }
            });
        }
    });
    for (secret, bundle) in &bundles {
        let text = fs::read_to_string(bundle.rootfs().join("tmp/env")).unwrap();
        let entries: Vec<&str> = text.split_terminator('\0').collect();
        assert_eq!(entries, ["PATH=/bin", secret, "HOME=/root"]);
    }
}
