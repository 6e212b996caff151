//! What a config.json asks for is what the program inside finds: namespaces, identity, limits, caps, the state of the
//! process at its entry. Each test runs through both faces. Mounts and files are in `filesystem.rs`.

use brood_tests::face::in_bundle;
use brood_tests::procfs::{namespace, status_field};
use brood_tests::{Bundle, binaries, config};
use serde_json::{Value, json};

/// The fields of `/proc/self/status` that a script printed.
#[track_caller]
fn field(text: &str, name: &str) -> String {
    status_field(text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// Whether the test cannot be asked of the runtime that is tested in the place of ours; says so.
fn too_new_for_oracle(what: &str) -> bool {
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: Debian's runc has no {what}");
    }
    binaries::oracle()
}

fn set(pointer: &'static str, value: Value) -> impl Fn(&mut Bundle) {
    move |bundle| {
        let (parent, key) = pointer.rsplit_once('/').expect("an absolute pointer");
        bundle.config.pointer_mut(parent).expect("the parent is there")[key] = value.clone();
    }
}

#[test]
fn every_namespace_is_a_new_one() {
    let kinds =
        [("pid", "pid"), ("mount", "mnt"), ("ipc", "ipc"), ("uts", "uts"), ("network", "net"), ("cgroup", "cgroup")];
    in_bundle(
        |bundle| {
            config::add_namespace(&mut bundle.config, "network");
            config::add_namespace(&mut bundle.config, "cgroup");
        },
        "for n in pid mnt ipc uts net cgroup; do readlink /proc/self/ns/$n; done",
        |text| {
            let inside: Vec<&str> = text.lines().collect();
            for ((_, link), inside) in kinds.iter().zip(&inside) {
                assert!(inside.starts_with(link), "{text}");
                assert_ne!(*inside, namespace(link));
            }
        },
    );
}

#[test]
fn what_is_not_asked_for_is_shared() {
    in_bundle(
        |_| (),
        "for n in net user; do readlink /proc/self/ns/$n; done",
        |text| {
            let inside: Vec<&str> = text.lines().collect();
            assert_eq!(inside, [namespace("net"), namespace("user")]);
        },
    );
}

#[test]
fn user_namespace_with_mappings() {
    in_bundle(
        |bundle| {
            config::add_namespace(&mut bundle.config, "user");
            // sysfs can only be mounted by the owner of the network namespace.
            config::add_namespace(&mut bundle.config, "network");
            let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
            bundle.config["linux"]["uidMappings"] = mapping.clone();
            bundle.config["linux"]["gidMappings"] = mapping;
        },
        "id -u; readlink /proc/self/ns/user; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u /bin",
        |text| {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], "0");
            assert_ne!(lines[1], namespace("user"));
            for map in &lines[2..4] {
                assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
            }
            assert_eq!(lines[4], "65534", "what root of the host owns is nobody's inside");
        },
    );
}

#[test]
fn time_namespace_with_offsets() {
    if too_new_for_oracle("time namespaces") {
        return;
    }
    in_bundle(
        |bundle| {
            config::add_namespace(&mut bundle.config, "time");
            bundle.config["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 86_400, "nanosecs": 0 }, "boottime": { "secs": 1_000_000, "nanosecs": 0 } });
        },
        "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time",
        |text| {
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["monotonic", "86400", "0"]);
            assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["boottime", "1000000", "0"]);
            assert!(lines[2].parse::<u64>().unwrap() >= 1_000_000, "{text}");
            assert_ne!(lines[3], namespace("time"));
        },
    );
}

#[test]
fn loopback_is_up() {
    in_bundle(
        |bundle| config::add_namespace(&mut bundle.config, "network"),
        "ifconfig lo; ls /sys/class/net",
        |text| {
            assert!(text.contains("127.0.0.1") && text.contains("UP LOOPBACK RUNNING"), "{text}");
        },
    );
}

#[test]
fn host_name_and_domain_name() {
    if too_new_for_oracle("domainname") {
        return;
    }
    in_bundle(set("/domainname", json!("brood.example")), "hostname; cat /proc/sys/kernel/domainname", |text| {
        assert_eq!(text, "nest\nbrood.example\n")
    });
}

#[test]
fn user_groups_and_umask() {
    in_bundle(
        set("/process/user", json!({ "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5, 60_000] })),
        "cat /proc/self/status; umask",
        |text| {
            assert_eq!(field(text, "Uid"), "1000\t1000\t1000\t1000");
            assert_eq!(field(text, "Gid"), "1001\t1001\t1001\t1001");
            assert_eq!(field(text, "Groups"), "5 60000");
            assert_eq!(text.lines().last(), Some("0027"));
        },
    );
}

#[test]
fn groups_of_the_caller_are_dropped() {
    in_bundle(
        |_| (),
        "cat /proc/self/status; umask",
        |text| {
            assert_eq!(field(text, "Groups"), "");
            assert_eq!(text.lines().last(), Some("0022"), "the umask of a config that does not say one");
        },
    );
}

#[test]
fn working_directory() {
    in_bundle(set("/process/cwd", json!("/var")), "pwd; readlink /proc/self/cwd", |text| {
        assert_eq!(text, "/var\n/var\n");
    });
    // One that is missing is made, by root and in what is mounted there, whoever the program runs as.
    let missing = |bundle: &mut Bundle| {
        config::add_mount(
            &mut bundle.config,
            json!({ "destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] }),
        );
        bundle.config["root"]["readonly"] = json!(true);
        bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        set("/process/cwd", json!("/srv/jobs/one"))(bundle);
    };
    in_bundle(missing, "pwd; stat -c '%u %a %n' /srv/jobs /srv/jobs/one", |text| {
        assert_eq!(text, "/srv/jobs/one\n0 755 /srv/jobs\n0 755 /srv/jobs/one\n");
    });
}

#[test]
fn programs_are_looked_up_in_the_configs_path() {
    in_bundle(
        |bundle| {
            let rootfs = bundle.rootfs();
            std::fs::create_dir_all(rootfs.join("opt/tools")).unwrap();
            let script = rootfs.join("opt/tools/greet");
            std::fs::write(&script, "#!/bin/sh\necho \"hello $1\"\n").unwrap();
            std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            bundle.config["process"]["env"] = json!(["PATH=/nowhere:/opt/tools:/bin"]);
            bundle.args(&["greet", "you"]);
        },
        "",
        |text| assert_eq!(text, "hello you\n"),
    );
}

#[test]
fn the_environment_is_the_configs() {
    in_bundle(
        |bundle| {
            bundle.config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=two words", "HOME=/var"]);
            bundle.args(&["env"]);
        },
        "",
        |text| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["A=1", "B=two words", "HOME=/var", "PATH=/bin"]);
        },
    );
}

#[test]
fn the_last_entry_of_a_name_counts_and_an_empty_home_is_none() {
    in_bundle(
        |bundle| {
            bundle.config["process"]["env"] =
                json!(["HOME=/var", "A=1", "PATH=/nowhere", "A=2\nB=3", "HOME=", "PATH=/bin", "EMPTY="]);
            bundle.args(&["env"]);
        },
        "",
        |text| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["A=2", "B=3", "EMPTY=", "HOME=/root", "PATH=/bin"]);
        },
    );
}

#[test]
fn rlimits() {
    in_bundle(
        set(
            "/process/rlimits",
            json!([
                { "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                { "type": "RLIMIT_NPROC", "soft": 100, "hard": 200 },
            ]),
        ),
        "cat /proc/self/limits",
        |text| {
            for (name, soft, hard) in
                [("Max open files", "512", "1024"), ("Max core file size", "0", "0"), ("Max processes", "100", "200")]
            {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                let values: Vec<&str> = line.split_whitespace().take(2).collect();
                assert_eq!(values, [soft, hard], "{name}");
            }
        },
    );
}

/// Bit masks of some caps, as capabilities(7) numbers them.
const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const NET_BIND_SERVICE: u64 = 1 << 10;

fn caps(bundle: &mut Bundle) {
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "inheritable": ["CAP_NET_BIND_SERVICE"],
        "ambient": ["CAP_NET_BIND_SERVICE"],
    });
}

#[track_caller]
fn cap_sets(text: &str) -> [u64; 5] {
    ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"].map(|name| u64::from_str_radix(&field(text, name), 16).unwrap())
}

#[test]
fn five_cap_sets_of_an_ordinary_user() {
    in_bundle(
        |bundle| {
            caps(bundle);
            bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            bundle.args(&["cat", "/proc/self/status"]);
        },
        "",
        |text| {
            // After execve only ambient caps are left to a user that is not root: capabilities(7).
            let bounding = CHOWN | KILL | NET_BIND_SERVICE;
            let ambient = NET_BIND_SERVICE;
            assert_eq!(cap_sets(text), [bounding, ambient, ambient, ambient, ambient]);
        },
    );
}

#[test]
fn five_cap_sets_of_root() {
    in_bundle(
        |bundle| {
            caps(bundle);
            bundle.config["process"]["noNewPrivileges"] = json!(false);
            bundle.args(&["cat", "/proc/self/status"]);
        },
        "",
        |text| {
            // execve by root gives all that is in the bounding set: capabilities(7).
            let all = CHOWN | KILL | NET_BIND_SERVICE;
            assert_eq!(cap_sets(text), [all, all, all, NET_BIND_SERVICE, NET_BIND_SERVICE]);
        },
    );
}

#[test]
fn no_caps_at_all() {
    in_bundle(
        |bundle| {
            bundle.config["process"]["capabilities"] = json!({});
            bundle.args(&["cat", "/proc/self/status"]);
        },
        "",
        |text| assert_eq!(cap_sets(text), [0; 5]),
    );
}

#[test]
fn no_new_privileges() {
    for (asked, seen) in [(true, "1"), (false, "0")] {
        in_bundle(set("/process/noNewPrivileges", json!(asked)), "cat /proc/self/status", |text| {
            assert_eq!(field(text, "NoNewPrivs"), seen);
        });
    }
}

#[test]
fn oom_score_adjustment() {
    in_bundle(set("/process/oomScoreAdj", json!(321)), "cat /proc/self/oom_score_adj", |text| {
        assert_eq!(text, "321\n")
    });
}

#[test]
fn descriptors_at_entry_are_the_three() {
    in_bundle(
        |bundle| bundle.args(&["ls", "/proc/self/fd"]),
        "",
        // 3 is the directory that ls itself has open.
        |text| assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]),
    );
}

/// Signals 32 and 33 belong to libc, which lets nobody set them: they may come from whoever started the test.
const LIBC_SIGNALS: u64 = 0b11 << 31;

#[test]
fn signals_at_entry_are_as_new() {
    in_bundle(
        |bundle| bundle.args(&["cat", "/proc/self/status"]),
        "",
        |text| {
            for name in ["SigIgn", "SigBlk", "SigPnd", "SigCgt"] {
                let signals = u64::from_str_radix(&field(text, name), 16).unwrap();
                assert_eq!(signals & !LIBC_SIGNALS, 0, "{name} in\n{text}");
            }
        },
    );
}

#[test]
fn is_leader_of_a_session_of_its_own() {
    in_bundle(
        // pid, parent, group, session.
        |_| (),
        "cut -d' ' -f1,4-6 /proc/$$/stat",
        |text| assert_eq!(text, "1 0 1 1\n"),
    );
}

#[test]
fn a_seccomp_profile_may_forbid_what_the_set_up_needs() {
    // Older profiles know none of these, and answer as a kernel that does not either.
    let calls = ["close_range", "fsopen", "fsconfig", "fspick", "openat2", "open_tree", "move_mount", "mount_setattr"];
    for no_new_privileges in [true, false] {
        let edit = |bundle: &mut Bundle| {
            bundle.config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }],
            });
            bundle.config["process"]["noNewPrivileges"] = no_new_privileges.into();
        };
        // The descriptors: 0, 1, 2 and the one that ls reads.
        in_bundle(edit, "ls /proc/self/fd | wc -l", |text| assert_eq!(text, "4\n"));
    }
}

#[test]
fn a_seccomp_profile_holds_for_the_program() {
    // With no_new_privs the filter is installed last, without it while there is a privilege for that.
    for no_new_privileges in [true, false] {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
                { "names": ["no_such_call"], "action": "SCMP_ACT_ERRNO" },
            ],
        });
        let edit = |bundle: &mut Bundle| {
            bundle.config["linux"]["seccomp"] = profile.clone();
            bundle.config["process"]["noNewPrivileges"] = no_new_privileges.into();
        };
        let script = "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status";
        in_bundle(edit, script, |output| {
            assert!(output.contains("Function not implemented"), "{output}");
            assert_eq!(status_field(output, "Seccomp").unwrap(), "2");
        });
    }
}
