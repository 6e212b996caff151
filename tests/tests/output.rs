//! What the OCI runtime command prints for others to read: list, state, spec, features, version.
//!
//! `BROOD_OCI_UNDER_TEST=runc cargo test -p brood-tests --test output` asks the same of runc.

use std::fs;

use brood_tests::{Container, Sandbox, binaries};
use serde_json::{Value, json};

/// The keys of a JSON object in the order in which they stand in its text, which has one level.
fn keys(text: &str) -> Vec<&str> {
    let words: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
    let after: Vec<&str> = text.split('"').skip(2).step_by(2).collect();
    words.into_iter().zip(after).filter(|(_, after)| after.starts_with(':')).map(|(word, _)| word).collect()
}

#[test]
fn state_and_list_have_runcs_fields() {
    let container = Container::long_lived();
    container.create();
    let expected = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"];
    let state = container.call(&["state"]).ok();
    let listed = container.oci(&["list", "--format=json"]).run().ok();
    assert_eq!(keys(&state), expected, "{state}");
    assert_eq!(keys(&listed), expected, "{listed}");
    let state = container.state();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    for (field, value) in listed[0].as_object().unwrap() {
        // runc's `state` leaves the owner empty.
        if !(binaries::oracle() && field == "owner") {
            assert_eq!(value, &state[field], "{field}");
        }
    }
    assert_eq!(listed[0]["owner"], "root");
    assert_eq!(listed[0]["rootfs"], json!(container.bundle.rootfs()));
    if !binaries::oracle() {
        // runc names the version that it follows itself.
        assert_eq!(state["ociVersion"], container.bundle.config["ociVersion"]);
    }
    let created = state["created"].as_str().unwrap();
    assert!(created.len() > 20 && created.as_bytes()[10] == b'T' && created.ends_with('Z'), "{created}");
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn annotations_stand_before_the_owner() {
    let container = Container::new(|bundle| {
        bundle.live_until_term(0);
        bundle.config["annotations"] = json!({ "a": "b" });
    });
    container.create();
    let state = container.call(&["state"]).ok();
    assert_eq!(keys(&state)[6..], ["created", "annotations", "a", "owner"], "{state}");
    container.call(&["delete", "--force"]).ok();
}

#[test]
fn columns_are_as_wide_as_runcs() {
    let container = Container::long_lived();
    let ids = ["a", "a-name-that-is-a-good-deal-longer-than-the-least-width"].map(|name| container.sandbox.id(name));
    for id in &ids {
        container.oci(&["create", "--bundle"]).arg(container.bundle.path()).arg(id).run().ok();
    }
    let table = container.oci(&["list", "-f", "table"]).run().ok();
    let lines: Vec<&str> = table.lines().collect();
    let starts = |line: &str| -> Vec<usize> {
        let bytes = line.as_bytes();
        (0..line.len()).filter(|&at| bytes[at] != b' ' && (at == 0 || bytes[at - 1] == b' ')).collect()
    };
    let longest = ids[1].len().max(ids[0].len());
    let bundle = container.bundle.path().to_str().unwrap().len();
    let columns = starts(lines[0]);
    assert_eq!(columns[..3], [0, longest + 3, longest + 15], "{table}");
    assert_eq!(columns[3..5], [longest + 27, longest + 27 + bundle + 3], "{table}");
    for line in &lines[1..] {
        assert_eq!(starts(line), columns, "{table}");
        assert!(line.ends_with("root"), "{table}");
    }
    for id in &ids {
        container.oci(&["delete", "--force", id]).run().ok();
    }
}

#[test]
fn the_template_is_runcs() {
    let sandbox = Sandbox::new();
    let spec = |name: &str, more: &[&str]| -> Value {
        let directory = sandbox.path(name);
        fs::create_dir(&directory).unwrap();
        sandbox.oci().args(["spec", "-b"]).arg(&directory).args(more).run().ok();
        serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap()
    };
    let plain = spec("plain", &[]);
    assert_eq!(plain["process"]["terminal"], true);
    assert_eq!(plain["process"]["args"], json!(["sh"]));
    assert_eq!(plain["process"]["noNewPrivileges"], true);
    assert_eq!(plain["root"], json!({ "path": "rootfs", "readonly": true }));
    assert_eq!(plain["process"]["rlimits"], json!([{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }]));
    assert_eq!(plain["linux"]["resources"]["devices"], json!([{ "allow": false, "access": "rwm" }]));
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(plain["process"]["capabilities"][set], caps);
    }
    let destinations: Vec<&str> =
        plain["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(destinations, ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]);

    let rootless = spec("rootless", &["--rootless"]);
    assert_eq!(rootless["linux"]["uidMappings"], json!([{ "containerID": 0, "hostID": 0, "size": 1 }]));
    let kinds: Vec<&str> = rootless["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|namespace| namespace["type"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"user") && !kinds.contains(&"network"), "{kinds:?}");
    assert!(rootless["linux"]["resources"].is_null());
    if !binaries::oracle() {
        // crun's option.
        sandbox.oci().args(["spec", "--bundle"]).arg(sandbox.path("plain")).args(["-f", "other.json"]).run().ok();
        assert!(sandbox.path("plain/other.json").is_file());
    }
}

#[test]
fn features_have_the_specifications_fields() {
    let sandbox = Sandbox::new();
    let features: Value = serde_json::from_str(&sandbox.oci().arg("features").run().ok()).unwrap();
    let linux = &features["linux"];
    for (list, word) in [
        (&linux["capabilities"], "CAP_SYS_ADMIN"),
        (&linux["namespaces"], "cgroup"),
        (&linux["seccomp"]["actions"], "SCMP_ACT_KILL_PROCESS"),
        (&linux["seccomp"]["operators"], "SCMP_CMP_GE"),
        (&linux["seccomp"]["archs"], "SCMP_ARCH_X86_64"),
        (&features["mountOptions"], "rnosuid"),
    ] {
        assert!(list.as_array().is_some_and(|list| list.contains(&json!(word))), "{word}: {list}");
    }
    for kind in ["v1", "v2"] {
        assert_eq!(linux["cgroup"][kind], true, "{kind}");
    }
    for kind in ["systemd", "systemdUser"] {
        assert!(linux["cgroup"][kind].is_boolean(), "{kind}");
    }
    for part in ["seccomp", "apparmor", "selinux"] {
        assert!(linux[part]["enabled"].is_boolean(), "{part}");
    }
    if binaries::oracle() {
        eprintln!("not asked of a foreign runtime: fields younger than Debian's runc 1.1.5");
        return;
    }
    assert_eq!(features["ociVersionMax"], "1.3.0");
    assert!(features["hooks"].is_array() && features["potentiallyUnsafeConfigAnnotations"].is_array());
    for flags in ["knownFlags", "supportedFlags"] {
        assert!(linux["seccomp"][flags].as_array().is_some_and(|list| !list.is_empty()), "{flags}");
    }
    for pointer in ["/intelRdt/enabled", "/mountExtensions/idmap/enabled", "/netDevices/enabled"] {
        assert!(linux.pointer(pointer).is_some_and(Value::is_boolean), "{pointer}");
    }
    assert!(linux["memoryPolicy"]["modes"].is_array() && linux["memoryPolicy"]["flags"].is_array());
}

#[test]
fn the_version_is_told_in_runcs_lines() {
    let sandbox = Sandbox::new();
    for flag in ["-v", "--version"] {
        let text = sandbox.oci().arg(flag).run().ok();
        let lines: Vec<&str> = text.lines().collect();
        let (name, version) = lines[0].split_once(" version ").expect("NAME version X");
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{text}");
        assert!(lines.iter().any(|line| line.starts_with("spec: 1.")), "{text}");
        if !binaries::oracle() {
            assert_eq!((name, lines.len()), ("brood-oci", 3));
            assert!(lines[1].starts_with("commit: ") && lines[2] == "spec: 1.3.0", "{text}");
        }
    }
    let help = sandbox.oci().arg("-h").run().ok();
    for command in ["create", "exec", "features", "kill", "pause", "ps", "resume"] {
        assert!(help.contains(command), "{help}");
    }
}

/// A link `runc` to it answers as scripts around that expect.
#[test]
fn it_calls_itself_what_it_is_called() {
    if binaries::oracle() {
        return;
    }
    let sandbox = Sandbox::new();
    let link = sandbox.path("runc");
    std::os::unix::fs::symlink(binaries::oci(), &link).unwrap();
    let said = |args: &[&str]| sandbox.command(&link).arg("--root").arg(sandbox.root()).args(args).run();
    assert!(said(&["--version"]).ok().starts_with("runc version 0."));
    for (command, first) in
        [(&["-h"][..], "runc - Open Container Initiative runtime"), (&["kill", "--help"], "runc kill - ")]
    {
        let help = said(command).ok();
        let mut lines = help.lines();
        assert_eq!(lines.next(), Some("NAME:"), "{help}");
        assert!(lines.next().unwrap().trim().starts_with(first), "{help}");
    }
    let wrong = said(&["foo", "-h"]).expect(1);
    assert!(wrong.one_line_error().contains("No help topic for 'foo'"), "{wrong}");
    // After the exec from a sealed copy, too.
    let missing = said(&["run", "--bundle", "/nowhere", &sandbox.id("box")]).expect(1);
    assert!(missing.one_line_error().contains("runc run failed: bundle /nowhere"), "{missing}");
}
