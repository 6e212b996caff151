//! Wrong files, and the one line that each is answered with.

use super::*;

/// Name, change to the minimal file, what the message says after `config.json: `.
type Case = (&'static str, Value, &'static str);

fn assert_refused(cases: &[Case]) {
    for (name, patch, expected) in cases {
        let raw = patched(patch);
        let message = match check(&raw, LoadOptions::default()) {
            Ok(_) => panic!("{name}: accepted"),
            Err(error) => error.to_string(),
        };
        assert!(!message.contains(char::is_control), "{name}: not one line: {message:?}");
        let expected = format!("config.json: {expected}");
        assert!(message.starts_with(&expected), "{name}:\n     got {message}\nexpected {expected}");
    }
}

pub(super) fn linux(patch: &Value) -> Value {
    json!({ "linux": patch })
}

pub(super) fn process(patch: &Value) -> Value {
    json!({ "process": patch })
}

pub(super) fn mount(mount: &Value) -> Value {
    json!({ "mounts": [mount] })
}

/// Both maps the same, in a new user namespace.
fn mappings(list: &Value) -> Value {
    json!({ "linux": {
        "namespaces": [{ "type": "mount" }, { "type": "user" }], "uidMappings": list, "gidMappings": list
    } })
}

fn device(path: &str, kind: &str, major: i64, minor: i64) -> Value {
    json!({ "linux": { "devices": [{ "path": path, "type": kind, "major": major, "minor": minor }] } })
}

#[test]
fn text_that_is_not_a_config() {
    let deep = "{\"x\": ".to_owned() + &"[".repeat(200);
    for (text, expected) in [
        ("", "line 1, column 1: the file is empty"),
        (" \n\t", "line 1, column 1: the file is empty"),
        ("{", "line 1, column 1: EOF while parsing an object"),
        ("{\n\"a\": 1,\n}", "line 3, column 1: trailing comma"),
        ("{\n  \"a\" 1\n}", "line 2, column 7: expected `:`"),
        ("{} {}", "line 1, column 4: trailing characters"),
        ("{\"a\": \"\u{1}\"}", "line 1, column 8: control character"),
        ("[]", "line 1, column 1: expected a JSON object, found an array"),
        ("null", "line 1, column 1: expected a JSON object, found null"),
        ("hello", "line 1, column 1: expected value"),
        ("{\"ociVersion\": 1}", "ociVersion: invalid type: integer `1`, expected a string (line 1, column 16)"),
        ("{\"ociVersion\": \"1.0.0\",\n\"ociVersion\": \"1.0.0\"}", "ociVersion: there twice (line 2, column 12)"),
        (
            "{\"process\": {\"user\": {}, \"cwd\": \"/\",\n\"cwd\": \"/\"}}",
            "process.cwd: there twice (line 2, column 5)",
        ),
        (&deep, "line 1, column 133: recursion limit exceeded"),
    ] {
        let message = check(text.as_bytes(), LoadOptions::default()).unwrap_err().to_string();
        assert!(!message.contains(char::is_control), "not one line: {message:?}");
        let expected = format!("config.json: {expected}");
        assert!(message.starts_with(&expected), "{text:?}:\n     got {message}\nexpected {expected}");
    }
}

#[test]
fn fields_of_the_wrong_type() {
    assert_refused(&[
        (
            "args",
            process(&json!({ "args": ["a", 1] })),
            "process.args[1]: invalid type: integer `1`, expected a string",
        ),
        (
            "args string",
            process(&json!({ "args": "sh" })),
            "process.args: invalid type: string \"sh\", expected a sequence",
        ),
        ("no cwd", process(&json!({ "cwd": null })), "process.cwd: missing"),
        ("process", json!({ "process": "sh" }), "process: invalid type: string \"sh\""),
        (
            "uid",
            process(&json!({ "user": { "uid": -1 } })),
            "process.user.uid: invalid value: integer `-1`, expected u32",
        ),
        (
            "rlimit",
            process(&json!({ "rlimits": [{ "type": "RLIMIT_X" }] })),
            "process.rlimits[0].type: unknown variant `RLIMIT_X`",
        ),
        ("rlimit no type", process(&json!({ "rlimits": [{ "soft": 1 }] })), "process.rlimits[0].type: missing"),
        (
            "control character",
            process(&json!({ "rlimits": [{ "type": "A\nB" }] })),
            "process.rlimits[0].type: unknown variant `A\\nB`",
        ),
        (
            "capability",
            process(&json!({ "capabilities": { "bounding": [7] } })),
            "process.capabilities.bounding[0]: invalid type",
        ),
        ("flat capability", process(&json!({ "capabilities": [7] })), "process.capabilities.bounding[0]: invalid type"),
        (
            "namespace",
            linux(&json!({ "namespaces": [{ "type": "net" }] })),
            "linux.namespaces[0].type: unknown variant `net`",
        ),
        (
            "seccomp action",
            linux(&json!({ "seccomp": { "defaultAction": "ALLOW" } })),
            "linux.seccomp.defaultAction: unknown variant `ALLOW`",
        ),
        (
            "seccomp none",
            linux(&json!({ "seccomp": { "syscalls": [{}] } })),
            "linux.seccomp.syscalls[0].names: missing",
        ),
        ("device type", device("/dev/x", "x", 1, 1), "linux.devices[0].type: unknown variant `x`"),
        ("destination", mount(&json!({ "type": "tmpfs" })), "mounts[0].destination: missing"),
        (
            "null in a list",
            process(&json!({ "args": ["a", null] })),
            "process.args[1]: invalid type: null, expected a string",
        ),
    ]);
}

#[test]
fn version_root_and_process() {
    assert_refused(&[
        ("no version", json!({ "ociVersion": null }), "ociVersion: missing"),
        ("version 2", json!({ "ociVersion": "2.0.0" }), "ociVersion: 2.0.0 is not supported, 0.x and 1.x are"),
        ("version words", json!({ "ociVersion": "new" }), "ociVersion: must be MAJOR.MINOR.PATCH, not \"new\""),
        ("version short", json!({ "ociVersion": "1.0" }), "ociVersion: must be MAJOR.MINOR.PATCH, not \"1.0\""),
        ("no root", json!({ "root": null }), "root: missing"),
        ("no root path", json!({ "root": { "path": "" } }), "root.path: must not be empty"),
        ("NUL in root path", json!({ "root": { "path": "a\0" } }), "root.path: must not contain a NUL character"),
        ("no process", json!({ "process": null }), "process: missing"),
        ("no args", process(&json!({ "args": [] })), "process.args: must not be empty"),
        ("null args", process(&json!({ "args": null })), "process.args: must not be empty"),
        ("empty program", process(&json!({ "args": ["", "x"] })), "process.args[0]: must not be empty"),
        (
            "NUL in args",
            process(&json!({ "args": ["a", "b\0c"] })),
            "process.args[1]: must not contain a NUL character",
        ),
        ("NUL in env", process(&json!({ "env": ["A=\0"] })), "process.env[0]: must not contain a NUL character"),
        ("env without name", process(&json!({ "env": ["A=b", "=x"] })), "process.env[1]: no name before = in \"=x\""),
        ("relative cwd", process(&json!({ "cwd": "foo" })), "process.cwd: must be an absolute path, not \"foo\""),
        (
            "cwd with newline",
            process(&json!({ "cwd": "a\nb" })),
            "process.cwd: must be an absolute path, not \"a\\nb\"",
        ),
        ("empty cwd", process(&json!({ "cwd": "" })), "process.cwd: must not be empty"),
        ("NUL in cwd", process(&json!({ "cwd": "/\0" })), "process.cwd: must not contain a NUL character"),
        ("uid -1", process(&json!({ "user": { "uid": u32::MAX } })), "process.user.uid: 4294967295 stands for no id"),
        ("gid -1", process(&json!({ "user": { "gid": u32::MAX } })), "process.user.gid: 4294967295 stands for no id"),
        (
            "group -1",
            process(&json!({ "user": { "additionalGids": [1, u32::MAX] } })),
            "process.user.additionalGids[1]: 4294967295",
        ),
        (
            "umask",
            process(&json!({ "user": { "umask": 512 } })),
            "process.user.umask: must be at most 511 (0777), not 512 (01000)",
        ),
        (
            "oom low",
            process(&json!({ "oomScoreAdj": -1001 })),
            "process.oomScoreAdj: must be within -1000 and 1000, not -1001",
        ),
        (
            "oom high",
            process(&json!({ "oomScoreAdj": 1001 })),
            "process.oomScoreAdj: must be within -1000 and 1000, not 1001",
        ),
        (
            "rlimit twice",
            process(
                &json!({ "rlimits": [{ "type": "RLIMIT_CORE" }, { "type": "RLIMIT_CPU" }, { "type": "RLIMIT_CORE" }] }),
            ),
            "process.rlimits[2].type: RLIMIT_CORE is there twice",
        ),
        (
            "soft above hard",
            process(&json!({ "rlimits": [{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }] })),
            "process.rlimits[0].soft: 2 is above the hard limit of RLIMIT_CORE, 1",
        ),
        ("NUL in hostname", json!({ "hostname": "a\0" }), "hostname: must not contain a NUL character"),
        ("long hostname", json!({ "hostname": "x".repeat(65) }), "hostname: 65 bytes long, the kernel takes 64"),
        (
            "hostname",
            json!({ "hostname": "h", "linux": { "namespaces": [{ "type": "mount" }] } }),
            "hostname: needs a uts namespace",
        ),
        (
            "domainname",
            json!({ "domainname": "d", "linux": { "namespaces": [{ "type": "mount" }] } }),
            "domainname: needs a uts",
        ),
    ]);
}

#[test]
fn mounts_and_devices() {
    assert_refused(&[
        ("no destination", mount(&json!({ "destination": "" })), "mounts[0].destination: must not be empty"),
        (
            "NUL in destination",
            mount(&json!({ "destination": "/a\0" })),
            "mounts[0].destination: must not contain a NUL",
        ),
        (
            "NUL in source",
            mount(&json!({ "destination": "/a", "source": "\0" })),
            "mounts[0].source: must not contain a NUL",
        ),
        ("NUL in type", mount(&json!({ "destination": "/a", "type": "\0" })), "mounts[0].type: must not contain a NUL"),
        (
            "NUL in option",
            mount(&json!({ "destination": "/a", "options": ["ro", "\0"] })),
            "mounts[0].options[1]: must not contain",
        ),
        (
            "bind type",
            mount(&json!({ "destination": "/a", "type": "bind" })),
            "mounts[0].source: missing, and this is a bind mount",
        ),
        ("bind option", mount(&json!({ "destination": "/a", "options": ["rbind"] })), "mounts[0].source: missing"),
        (
            "bind empty",
            mount(&json!({ "destination": "/a", "options": ["bind"], "source": "" })),
            "mounts[0].source: missing",
        ),
        ("device path", device("dev/x", "c", 1, 1), "linux.devices[0].path: must be an absolute path, not \"dev/x\""),
        ("device no path", device("", "c", 1, 1), "linux.devices[0].path: must not be empty"),
        ("device any", device("/dev/x", "a", 1, 1), "linux.devices[0].type: must be c, b, u or p, not a"),
        ("device major", device("/dev/x", "c", 4096, 1), "linux.devices[0].major: must be within 0 and 4095, not 4096"),
        ("device minor", device("/dev/x", "b", 1, -1), "linux.devices[0].minor: must be within 0 and 1048575, not -1"),
    ]);
}

#[test]
fn namespaces_and_mappings() {
    let one = json!({ "containerID": 0, "hostID": 0, "size": 1 });
    let twice = json!([{ "type": "mount" }, { "type": "pid" }, { "type": "mount" }]);
    let many: Vec<Value> = (0..341).map(|i| json!({ "containerID": i, "hostID": i, "size": 1 })).collect();
    assert_refused(&[
        ("no linux", json!({ "linux": null }), "linux.namespaces: a mount namespace is required"),
        (
            "no mount namespace",
            linux(&json!({ "namespaces": [{ "type": "pid" }] })),
            "linux.namespaces: a mount namespace is required",
        ),
        ("twice", linux(&json!({ "namespaces": twice })), "linux.namespaces[2].type: mount is there twice"),
        (
            "relative path",
            linux(&json!({ "namespaces": [{ "type": "mount" }, { "type": "network", "path": "x" }] })),
            "linux.namespaces[1].path: must be an absolute path, not \"x\"",
        ),
        ("mappings alone", linux(&json!({ "uidMappings": [one] })), "linux.uidMappings: needs a user namespace"),
        ("gid mappings alone", linux(&json!({ "gidMappings": [one] })), "linux.gidMappings: needs a user namespace"),
        ("user namespace alone", mappings(&json!([])), "linux.uidMappings: missing, and there is a new user namespace"),
        (
            "size 0",
            mappings(&json!([{ "containerID": 0, "hostID": 0, "size": 0 }])),
            "linux.uidMappings[0].size: must not be 0",
        ),
        (
            "host overflow",
            mappings(&json!([{ "containerID": 0, "hostID": u32::MAX, "size": 1 }])),
            "linux.uidMappings[0].hostID: 4294967295 and size 1 go beyond the largest id",
        ),
        (
            "container overflow",
            mappings(&json!([{ "containerID": 2, "hostID": 0, "size": u32::MAX - 1 }])),
            "linux.uidMappings[0].containerID: 2 and size 4294967294 go beyond the largest id",
        ),
        (
            "container overlap",
            mappings(
                &json!([{ "containerID": 5, "hostID": 0, "size": 5 }, { "containerID": 0, "hostID": 9, "size": 6 }]),
            ),
            "linux.uidMappings[1].containerID: the range overlaps that of linux.uidMappings[0]",
        ),
        (
            "host overlap",
            mappings(
                &json!([{ "containerID": 0, "hostID": 0, "size": 5 }, { "containerID": 5, "hostID": 4, "size": 1 }]),
            ),
            "linux.uidMappings[1].hostID: the range overlaps that of linux.uidMappings[0]",
        ),
        ("too many", mappings(&json!(many)), "linux.uidMappings: 341 entries, the kernel takes 340"),
    ]);
}

#[test]
fn other_parts_of_linux() {
    let time = json!([{ "type": "mount" }, { "type": "time" }]);
    assert_refused(&[
        (
            "masked",
            linux(&json!({ "maskedPaths": ["/a", "b"] })),
            "linux.maskedPaths[1]: must be an absolute path, not \"b\"",
        ),
        ("readonly", linux(&json!({ "readonlyPaths": [""] })), "linux.readonlyPaths[0]: must not be empty"),
        ("NUL in masked", linux(&json!({ "maskedPaths": ["/\0"] })), "linux.maskedPaths[0]: must not contain a NUL"),
        (
            "offsets alone",
            linux(&json!({ "timeOffsets": { "boottime": { "secs": 1 } } })),
            "linux.timeOffsets: needs a time namespace",
        ),
        (
            "clock",
            linux(&json!({ "namespaces": time, "timeOffsets": { "real": { "secs": 1 } } })),
            "linux.timeOffsets: the clock must be boottime or monotonic, not \"real\"",
        ),
        (
            "nanosecs",
            linux(&json!({ "namespaces": time, "timeOffsets": { "boottime": { "nanosecs": 1_000_000_000 } } })),
            "linux.timeOffsets.boottime.nanosecs: must be below 1000000000, not 1000000000",
        ),
        ("cgroup NUL", linux(&json!({ "cgroupsPath": "/a\0" })), "linux.cgroupsPath: must not contain a NUL"),
        (
            "cgroup climbs",
            linux(&json!({ "cgroupsPath": "/a/../../b" })),
            "linux.cgroupsPath: must not have a .. component",
        ),
        (
            "propagation",
            linux(&json!({ "rootfsPropagation": "loud" })),
            "linux.rootfsPropagation: must be one of private, rprivate",
        ),
        ("windows", json!({ "windows": { "layerFolders": ["x"] } }), "windows: not a Linux container"),
        ("solaris", json!({ "solaris": {} }), "solaris: not a Linux container"),
        ("vm", json!({ "vm": { "kernel": { "path": "/k" } } }), "vm: not a Linux container"),
        ("zos", json!({ "zos": {} }), "zos: not a Linux container"),
    ]);
}

#[test]
fn seccomp_listeners() {
    let with = |profile: Value| {
        let mut whole = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        whole.as_object_mut().unwrap().extend(profile.as_object().unwrap().clone());
        linux(&json!({ "seccomp": whole }))
    };
    let notify = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]);
    assert_refused(&[
        (
            "default",
            with(json!({ "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s" })),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default",
        ),
        (
            "no path",
            with(json!({ "syscalls": notify })),
            "linux.seccomp.listenerPath: missing, and a rule has SCMP_ACT_NOTIFY",
        ),
        ("empty path", with(json!({ "syscalls": notify, "listenerPath": "" })), "linux.seccomp.listenerPath: missing"),
        (
            "relative path",
            with(json!({ "syscalls": notify, "listenerPath": "s" })),
            "linux.seccomp.listenerPath: must be an absolute path, not \"s\"",
        ),
        (
            "metadata alone",
            with(json!({ "listenerMetadata": "m" })),
            "linux.seccomp.listenerMetadata: needs listenerPath",
        ),
        (
            "NUL in metadata",
            with(json!({ "syscalls": notify, "listenerPath": "/s", "listenerMetadata": "a\0" })),
            "linux.seccomp.listenerMetadata: must not contain a NUL",
        ),
    ]);
}

#[test]
fn long_values_are_cut() {
    let long = "x".repeat(100_000);
    for patch in [process(&json!({ "cwd": long })), process(&json!({ "args": long })), process(&json!({ "env": [7] }))]
    {
        let message = check(&patched(&patch), LoadOptions::default()).unwrap_err().to_string();
        assert!(message.len() < 1200, "{} bytes", message.len());
    }
}
