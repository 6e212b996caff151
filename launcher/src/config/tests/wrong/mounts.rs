//! Wrong mounts, devices and hooks.

use super::*;

pub(super) fn device(path: &str, kind: &str, major: i64, minor: i64) -> Value {
    json!({ "linux": { "devices": [{ "path": path, "type": kind, "major": major, "minor": minor }] } })
}

pub(super) fn mounts_and_devices() -> Vec<Case> {
    vec![
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
    ]
}

pub(super) fn mount_mappings() -> Vec<Case> {
    let one = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    let both = |uids: &Value, gids: &Value| {
        mount(&json!({ "destination": "/a", "type": "tmpfs", "uidMappings": uids, "gidMappings": gids }))
    };
    let none = json!([]);
    vec![
        ("no gids", both(&one, &none), "mounts[0].gidMappings: missing: id-mapped mounts must have both"),
        ("no uids", both(&none, &one), "mounts[0].uidMappings: missing: id-mapped mounts must have both"),
        (
            "size",
            both(&json!([{ "containerID": 0, "hostID": 0, "size": 0 }]), &one),
            "mounts[0].uidMappings[0].size: must not be 0",
        ),
        (
            "gid overflow",
            both(&one, &json!([{ "containerID": u32::MAX, "hostID": 0, "size": 1 }])),
            "mounts[0].gidMappings[0].containerID: 4294967295 and size 1 go beyond the largest id",
        ),
        (
            "overlap",
            both(
                &one,
                &json!([{ "containerID": 0, "hostID": 0, "size": 1 }, { "containerID": 0, "hostID": 5, "size": 1 }]),
            ),
            "mounts[0].gidMappings[1].containerID: the range overlaps that of mounts[0].gidMappings[0]",
        ),
        (
            "mapping",
            both(&json!([{ "containerID": -1, "hostID": 0, "size": 1 }]), &one),
            "mounts[0].uidMappings[0].containerID: invalid value: integer `-1`",
        ),
    ]
}

pub(super) fn more_devices() -> Vec<Case> {
    vec![
        ("NUL in path", device("/dev/\0", "c", 1, 1), "linux.devices[0].path: must not contain a NUL character"),
        (
            "no path",
            linux(&json!({ "devices": [{ "type": "c", "major": 1, "minor": 1 }] })),
            "linux.devices[0].path: must not be empty",
        ),
        ("no type", linux(&json!({ "devices": [{ "path": "/dev/x" }] })), "linux.devices[0].type: missing"),
        (
            "minor",
            device("/dev/x", "u", 1, 1 << 20),
            "linux.devices[0].minor: must be within 0 and 1048575, not 1048576",
        ),
        ("negative major", device("/dev/x", "b", -1, 0), "linux.devices[0].major: must be within 0 and 4095, not -1"),
    ]
}

/// The six lists, each with everything that a hook can get wrong.
pub(super) fn hooks() -> Vec<Case> {
    const FAULTS: [&str; 9] = [
        "no path",
        "empty path",
        "relative",
        "NUL path",
        "NUL arg",
        "NUL env",
        "timeout 0",
        "timeout -1",
        "timeout text",
    ];
    let hook = |fault: &str| match fault {
        "no path" => (json!({ "args": ["x"] }), ".path: missing"),
        "empty path" => (json!({ "path": "" }), ".path: must not be empty"),
        "relative" => (json!({ "path": "bin/x" }), ".path: must be an absolute path, not \"bin/x\""),
        "NUL path" => (json!({ "path": "/x\0" }), ".path: must not contain a NUL character"),
        "NUL arg" => (json!({ "path": "/x", "args": ["x", "\0"] }), ".args[1]: must not contain a NUL character"),
        "NUL env" => (json!({ "path": "/x", "env": ["A=\0"] }), ".env[0]: must not contain a NUL character"),
        "timeout 0" => {
            (json!({ "path": "/x", "timeout": 0 }), ".timeout: must be a number of seconds greater than zero")
        }
        "timeout -1" => (json!({ "path": "/x", "timeout": -1 }), ".timeout: must be a number of seconds greater than"),
        _ => (json!({ "path": "/x", "timeout": "5s" }), ".timeout: invalid type: string \"5s\""),
    };
    let lists = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let case = |list: &str, fault: &'static str| {
        let (hook, expected) = hook(fault);
        // The second of the list: the index is part of the name.
        let patch = json!({ "hooks": { list: [{ "path": "/bin/true" }, hook] } });
        (fault, patch, &*format!("hooks.{list}[1]{expected}").leak())
    };
    lists.iter().flat_map(|list| FAULTS.map(|fault| case(list, fault))).collect()
}
