//! Fields of the wrong type.

use super::mounts::device;
use super::*;

pub(super) fn fields_of_the_wrong_type() -> Vec<Case> {
    vec![
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
    ]
}

pub(super) fn more_types() -> Vec<Case> {
    vec![
        ("hostname", json!({ "hostname": 1 }), "hostname: invalid type: integer `1`, expected a string"),
        ("domainname", json!({ "domainname": [] }), "domainname: invalid type"),
        ("annotations", json!({ "annotations": { "a": 1 } }), "annotations.a: invalid type: integer `1`"),
        ("root", json!({ "root": "/r" }), "root: invalid type: string \"/r\""),
        ("root without path", json!({ "root": { "path": null, "readonly": true } }), "root.path: must not be empty"),
        ("readonly", json!({ "root": { "readonly": 1 } }), "root.readonly: invalid type: integer `1`"),
        ("cwd", process(&json!({ "cwd": 1 })), "process.cwd: invalid type: integer `1`"),
        ("env", process(&json!({ "env": "A=b" })), "process.env: invalid type: string \"A=b\""),
        ("env entry", process(&json!({ "env": [{}] })), "process.env[0]: invalid type"),
        ("user", process(&json!({ "user": "root" })), "process.user: invalid type: string \"root\""),
        ("uid text", process(&json!({ "user": { "uid": "0" } })), "process.user.uid: invalid type: string \"0\""),
        ("gid", process(&json!({ "user": { "gid": 1.5 } })), "process.user.gid: invalid type: floating point"),
        ("large uid", process(&json!({ "user": { "uid": 1_u64 << 32 } })), "process.user.uid: invalid value: integer"),
        ("groups", process(&json!({ "user": { "additionalGids": 5 } })), "process.user.additionalGids: invalid type"),
        ("umask", process(&json!({ "user": { "umask": "022" } })), "process.user.umask: invalid type: string"),
        ("oom", process(&json!({ "oomScoreAdj": "0" })), "process.oomScoreAdj: invalid type: string \"0\""),
        ("new privileges", process(&json!({ "noNewPrivileges": 1 })), "process.noNewPrivileges: invalid type"),
        ("rlimits", process(&json!({ "rlimits": {} })), "process.rlimits: invalid type: map"),
        (
            "soft",
            process(&json!({ "rlimits": [{ "type": "RLIMIT_CORE", "soft": -1 }] })),
            "process.rlimits[0].soft: invalid value: integer `-1`",
        ),
        (
            "hard",
            process(&json!({ "rlimits": [{ "type": "RLIMIT_CORE", "hard": "x" }] })),
            "process.rlimits[0].hard: invalid type: string \"x\"",
        ),
        (
            "effective",
            process(&json!({ "capabilities": { "effective": "CAP_KILL" } })),
            "process.capabilities.effective",
        ),
        ("permitted", process(&json!({ "capabilities": { "permitted": [1] } })), "process.capabilities.permitted[0]"),
        ("inheritable", process(&json!({ "capabilities": { "inheritable": {} } })), "process.capabilities.inheritable"),
        ("ambient", process(&json!({ "capabilities": { "ambient": 1 } })), "process.capabilities.ambient"),
        ("mounts", json!({ "mounts": {} }), "mounts: invalid type: map"),
        ("mount", mount(&json!("/proc")), "mounts[0]: invalid type: string \"/proc\""),
        ("source", mount(&json!({ "destination": "/a", "source": 1 })), "mounts[0].source: invalid type"),
        ("type", mount(&json!({ "destination": "/a", "type": 1 })), "mounts[0].type: invalid type: integer `1`"),
        ("options", mount(&json!({ "destination": "/a", "options": "ro" })), "mounts[0].options: invalid type: string"),
        ("option", mount(&json!({ "destination": "/a", "options": [1] })), "mounts[0].options[0]: invalid type"),
        ("hooks", json!({ "hooks": [1] }), "hooks"),
        ("hook list", json!({ "hooks": { "poststop": {} } }), "hooks.poststop: invalid type: map"),
        ("linux", json!({ "linux": [1] }), "linux"),
        ("namespaces", linux(&json!({ "namespaces": "all" })), "linux.namespaces: invalid type: string \"all\""),
        ("namespace no type", linux(&json!({ "namespaces": [{}] })), "linux.namespaces[0].type: missing"),
        ("mappings", linux(&json!({ "uidMappings": 1 })), "linux.uidMappings: invalid type: integer `1`"),
        (
            "host id",
            linux(&json!({ "gidMappings": [{ "containerID": 0, "hostID": "0", "size": 1 }] })),
            "linux.gidMappings[0].hostID: invalid type: string \"0\"",
        ),
        ("devices", linux(&json!({ "devices": {} })), "linux.devices: invalid type: map"),
        ("device mode", device_with(&json!({ "fileMode": "0666" })), "linux.devices[0].fileMode: invalid type: string"),
        ("device uid", device_with(&json!({ "uid": -1 })), "linux.devices[0].uid: invalid value: integer `-1`"),
        ("sysctl", linux(&json!({ "sysctl": { "net.x": 1 } })), "linux.sysctl.net.x: invalid type"),
        ("masked", linux(&json!({ "maskedPaths": "/x" })), "linux.maskedPaths: invalid type: string"),
        ("readonly", linux(&json!({ "readonlyPaths": [1] })), "linux.readonlyPaths[0]: invalid type: integer `1`"),
        ("mount label", linux(&json!({ "mountLabel": 1 })), "linux.mountLabel: invalid type: integer `1`"),
        ("propagation", linux(&json!({ "rootfsPropagation": 1 })), "linux.rootfsPropagation: invalid type: integer"),
        ("cgroups path", linux(&json!({ "cgroupsPath": 1 })), "linux.cgroupsPath: invalid type: integer `1`"),
        (
            "offset",
            linux(&json!({ "timeOffsets": { "boottime": { "secs": "1" } } })),
            "linux.timeOffsets.boottime.secs",
        ),
        ("personality", linux(&json!({ "personality": {} })), "linux.personality.domain: missing"),
        ("net device", linux(&json!({ "netDevices": { "eth0": 1 } })), "linux.netDevices.eth0: invalid type"),
        ("intelRdt", linux(&json!({ "intelRdt": 1 })), "linux.intelRdt: invalid type: integer `1`"),
    ]
}

pub(super) fn resources() -> Vec<Case> {
    let of = |patch: Value| linux(&json!({ "resources": patch }));
    vec![
        ("resources", linux(&json!({ "resources": 1 })), "linux.resources: invalid type: integer `1`"),
        ("memory", of(json!({ "memory": { "limit": "1G" } })), "linux.resources.memory.limit: invalid type: string"),
        ("memory fraction", of(json!({ "memory": { "swap": 0.5 } })), "linux.resources.memory.swap: invalid type"),
        (
            "swappiness",
            of(json!({ "memory": { "swappiness": -1 } })),
            "linux.resources.memory.swappiness: invalid value",
        ),
        ("oom", of(json!({ "memory": { "disableOOMKiller": 1 } })), "linux.resources.memory.disableOOMKiller: invalid"),
        ("shares", of(json!({ "cpu": { "shares": -1 } })), "linux.resources.cpu.shares: invalid value: integer `-1`"),
        ("quota", of(json!({ "cpu": { "quota": "max" } })), "linux.resources.cpu.quota: invalid type: string \"max\""),
        ("period", of(json!({ "cpu": { "period": -1 } })), "linux.resources.cpu.period: invalid value: integer `-1`"),
        ("cpus", of(json!({ "cpu": { "cpus": 1 } })), "linux.resources.cpu.cpus: invalid type: integer `1`"),
        ("mems", of(json!({ "cpu": { "mems": [0] } })), "linux.resources.cpu.mems: invalid type"),
        ("pids", of(json!({ "pids": { "limit": "x" } })), "linux.resources.pids.limit: invalid type: string \"x\""),
        ("weight", of(json!({ "blockIO": { "weight": 65_536 } })), "linux.resources.blockIO.weight: invalid value"),
        ("class", of(json!({ "network": { "classID": -1 } })), "linux.resources.network.classID: invalid value"),
        (
            "rdma",
            of(json!({ "rdma": { "mlx": { "hcaHandles": -1 } } })),
            "linux.resources.rdma.mlx.hcaHandles: invalid value",
        ),
        ("unified", of(json!({ "unified": { "memory.max": 1 } })), "linux.resources.unified.memory.max: invalid type"),
        (
            "rule type",
            of(json!({ "devices": [{ "type": "x", "access": "r" }] })),
            "linux.resources.devices[0].type: unknown",
        ),
        ("rule major", of(json!({ "devices": [{ "major": "1" }] })), "linux.resources.devices[0].major: invalid type"),
        ("rule allow", of(json!({ "devices": [{ "allow": "no" }] })), "linux.resources.devices[0].allow: invalid type"),
    ]
}

fn device_with(patch: &Value) -> Value {
    let mut device = json!({ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 });
    merge(&mut device, patch);
    linux(&json!({ "devices": [device] }))
}
