//! Wrong parts of `linux`.

use super::*;

/// Both maps the same, in a new user namespace.
fn mappings(list: &Value) -> Value {
    json!({ "linux": {
        "namespaces": [{ "type": "mount" }, { "type": "user" }], "uidMappings": list, "gidMappings": list
    } })
}

pub(super) fn namespaces_and_mappings() -> Vec<Case> {
    let one = json!({ "containerID": 0, "hostID": 0, "size": 1 });
    let twice = json!([{ "type": "mount" }, { "type": "pid" }, { "type": "mount" }]);
    let many: Vec<Value> = (0..341).map(|i| json!({ "containerID": i, "hostID": i, "size": 1 })).collect();
    vec![
        (
            "masked paths without a mount namespace",
            linux(&json!({ "namespaces": [{ "type": "pid" }], "maskedPaths": ["/proc/kcore"] })),
            "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace",
        ),
        (
            "read-only paths without a mount namespace",
            linux(&json!({ "namespaces": [{ "type": "pid" }], "readonlyPaths": ["/proc/sys"] })),
            "linux.readonlyPaths: unable to restrict sys entries without a private MNT namespace",
        ),
        (
            "a user namespace without a mount namespace",
            linux(&json!({ "namespaces": [{ "type": "user" }] })),
            "linux.namespaces: a user namespace needs a mount namespace",
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
    ]
}

pub(super) fn other_parts_of_linux() -> Vec<Case> {
    let time = json!([{ "type": "mount" }, { "type": "time" }]);
    vec![
        ("masked", linux(&json!({ "maskedPaths": ["/a", ""] })), "linux.maskedPaths[1]: must not be empty"),
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
    ]
}

pub(super) fn seccomp_listeners() -> Vec<Case> {
    let with = |profile: Value| {
        let mut whole = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        whole.as_object_mut().unwrap().extend(profile.as_object().unwrap().clone());
        linux(&json!({ "seccomp": whole }))
    };
    let notify = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]);
    vec![
        (
            "default",
            with(json!({ "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s" })),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default",
        ),
        (
            "write",
            with(json!({
                "listenerPath": "/s",
                "syscalls": [{ "names": ["mkdir", "write"], "action": "SCMP_ACT_NOTIFY" }],
            })),
            "linux.seccomp.syscalls[0].names: SCMP_ACT_NOTIFY cannot be used for the write syscall",
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
    ]
}

pub(super) fn memory_and_personality() -> Vec<Case> {
    let policy = |policy: Value| linux(&json!({ "memoryPolicy": policy }));
    vec![
        ("no mode", policy(json!({ "nodes": "0" })), "linux.memoryPolicy.mode: missing"),
        ("mode", policy(json!({ "mode": "MPOL_X" })), "linux.memoryPolicy.mode: unknown variant `MPOL_X`"),
        (
            "flag",
            policy(json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["X"] })),
            "linux.memoryPolicy.flags[0]: unknown variant `X`",
        ),
        (
            "default with nodes",
            policy(json!({ "mode": "MPOL_DEFAULT", "nodes": "0" })),
            "linux.memoryPolicy.nodes: MPOL_DEFAULT mode requires 0 nodes but got 1",
        ),
        (
            "local with nodes",
            policy(json!({ "mode": "MPOL_LOCAL", "nodes": "0" })),
            "linux.memoryPolicy.nodes: MPOL_LOCAL mode requires 0 nodes but got 1",
        ),
        (
            "bind",
            policy(json!({ "mode": "MPOL_BIND" })),
            "linux.memoryPolicy.nodes: missing, and the mode is MPOL_BIND",
        ),
        (
            "interleave",
            policy(json!({ "mode": "MPOL_INTERLEAVE", "nodes": "" })),
            "linux.memoryPolicy.nodes: missing, and the mode is MPOL_INTERLEAVE",
        ),
        (
            "weighted",
            policy(json!({ "mode": "MPOL_WEIGHTED_INTERLEAVE" })),
            "linux.memoryPolicy.nodes: missing, and the",
        ),
        (
            "many",
            policy(json!({ "mode": "MPOL_PREFERRED_MANY" })),
            "linux.memoryPolicy.nodes: missing, and the mode is",
        ),
        (
            "nodes",
            policy(json!({ "mode": "MPOL_BIND", "nodes": "3-1" })),
            "linux.memoryPolicy.nodes: \"3-1\" is no list of nodes",
        ),
        (
            "words",
            policy(json!({ "mode": "MPOL_BIND", "nodes": "all" })),
            "linux.memoryPolicy.nodes: \"all\" is no list",
        ),
        (
            "both kinds of nodes",
            policy(json!({
                "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]
            })),
            "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
        ),
        (
            "balancing",
            policy(json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"] })),
            "linux.memoryPolicy.flags: MPOL_F_NUMA_BALANCING is for MPOL_BIND",
        ),
        (
            "domain",
            linux(&json!({ "personality": { "domain": "SOLARIS" } })),
            "linux.personality.domain: unknown variant `SOLARIS`",
        ),
        (
            "personality flags",
            linux(&json!({ "personality": { "domain": "LINUX", "flags": ["X"] } })),
            "linux.personality.flags: no flag is defined",
        ),
    ]
}

pub(super) fn sysctls() -> Vec<Case> {
    let network = json!([{ "type": "mount" }, { "type": "network" }, { "type": "ipc" }]);
    let with = |key: &str, value: &str| linux(&json!({ "namespaces": network, "sysctl": { key: value } }));
    let without = |key: &str| linux(&json!({ "sysctl": { key: "1" } }));
    let host = |kind: &str, file: &str, key: &str| {
        let joined = json!([{ "type": "mount" }, { "type": kind, "path": format!("/proc/self/ns/{file}") }]);
        linux(&json!({ "namespaces": joined, "sysctl": { key: "1" } }))
    };
    vec![
        (
            "host's",
            with("vm.swappiness", "1"),
            "linux.sysctl.vm.swappiness: sysctl \"vm.swappiness\" is not in a separate",
        ),
        ("core pattern", with("kernel.core_pattern", "|/x"), "linux.sysctl.kernel.core_pattern: sysctl"),
        (
            "climbs",
            with("net/../kernel/x", "1"),
            "linux.sysctl.net/../kernel/x: \"net/../kernel/x\" is not the name of",
        ),
        ("empty name", with("", "1"), "linux.sysctl.: \"\" is not the name of a sysctl"),
        ("two dots", with("net..x", "1"), "linux.sysctl.net..x: \"net..x\" is not the name of a sysctl"),
        ("NUL in key", with("net.\0", "1"), "linux.sysctl.net.\\u{0}: \"net.\\0\" is not the name of a sysctl"),
        ("NUL in value", with("net.x", "1\0"), "linux.sysctl.net.x: must not contain a NUL character"),
        (
            "hostname",
            with("kernel.hostname", "x"),
            "linux.sysctl.kernel.hostname: sysctl \"kernel.hostname\" conflicts",
        ),
        (
            "no network",
            without("net.ipv4.ip_forward"),
            "linux.sysctl.net.ipv4.ip_forward: sysctl \"net.ipv4.ip_forward\" is",
        ),
        (
            "no ipc",
            without("kernel.msgmax"),
            "linux.sysctl.kernel.msgmax: sysctl \"kernel.msgmax\" is not allowed without",
        ),
        ("no mqueue", without("fs.mqueue.queues_max"), "linux.sysctl.fs.mqueue.queues_max: sysctl"),
        (
            "no uts",
            with("kernel.domainname", "x"),
            "linux.sysctl.kernel.domainname: sysctl \"kernel.domainname\" is not",
        ),
        (
            "our network",
            host("network", "net", "net.x"),
            "linux.sysctl.net.x: sysctl \"net.x\" is not allowed without a network",
        ),
        ("our ipc", host("ipc", "ipc", "kernel.sem"), "linux.sysctl.kernel.sem: sysctl \"kernel.sem\" is not allowed"),
    ]
}

pub(super) fn net_devices() -> Vec<Case> {
    let with = |name: &str, new: &str| {
        let network = json!([{ "type": "mount" }, { "type": "network" }]);
        linux(&json!({ "namespaces": network, "netDevices": { name: { "name": new } } }))
    };
    vec![
        ("no namespace", linux(&json!({ "netDevices": { "a": {} } })), "linux.netDevices: needs a network namespace"),
        ("empty", with("", "a"), "linux.netDevices.: not a name of a network device: \"\""),
        ("long", with("a234567890123456", "a"), "linux.netDevices.a234567890123456: not a name of a network device"),
        ("slash", with("a/b", "a"), "linux.netDevices.a/b: not a name of a network device: \"a/b\""),
        ("dots", with("..", "a"), "linux.netDevices...: not a name of a network device"),
        ("new name", with("a", "b c"), "linux.netDevices.a.name: not a name of a network device: \"b c\""),
        ("pattern", with("a", "eth%d"), "linux.netDevices.a.name: not a name of a network device: \"eth%d\""),
        ("NUL", with("a", "b\0"), "linux.netDevices.a.name: not a name of a network device: \"b\\0\""),
    ]
}

pub(super) fn intel_rdt() -> Vec<Case> {
    let of = |patch: Value| linux(&json!({ "intelRdt": patch }));
    vec![
        ("group above", of(json!({ "closID": ".." })), "linux.intelRdt.closID: \"..\" is no name for a group"),
        ("group below", of(json!({ "closID": "a/b" })), "linux.intelRdt.closID: \"a/b\" is no name for a group"),
        ("the kernel's", of(json!({ "closID": "info" })), "linux.intelRdt.closID: \"info\" is no name for a group"),
        ("NUL", of(json!({ "closID": "a\0" })), "linux.intelRdt.closID: must not contain a NUL"),
        (
            "no bandwidth",
            of(json!({ "memBwSchema": "L3:0=f" })),
            "linux.intelRdt.memBwSchema: must be one line that starts with MB:",
        ),
        (
            "two lines",
            of(json!({ "memBwSchema": "MB:0=1\nMB:1=2" })),
            "linux.intelRdt.memBwSchema: must be one line that starts with MB:",
        ),
        ("NUL in a line", of(json!({ "schemata": ["L3:0=f", "\0"] })), "linux.intelRdt.schemata[1]: must not contain"),
    ]
}

pub(super) fn seccomp_types() -> Vec<Case> {
    let rule = |patch: Value| {
        let mut rule = json!({ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" });
        merge(&mut rule, &patch);
        linux(&json!({ "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] } }))
    };
    let profile = |patch: Value| {
        let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        merge(&mut profile, &patch);
        linux(&json!({ "seccomp": profile }))
    };
    let at = "linux.seccomp.syscalls[0]";
    let named = |rest: &str| -> &'static str { format!("{at}{rest}").leak() };
    vec![
        (
            "no default",
            linux(&json!({ "seccomp": { "architectures": ["SCMP_ARCH_X86"] } })),
            "linux.seccomp.defaultAction: missing",
        ),
        ("errno", profile(json!({ "defaultErrnoRet": -1 })), "linux.seccomp.defaultErrnoRet: invalid value"),
        (
            "architecture",
            profile(json!({ "architectures": ["X"] })),
            "linux.seccomp.architectures[0]: unknown variant `X`",
        ),
        ("flag", profile(json!({ "flags": ["X"] })), "linux.seccomp.flags[0]: unknown variant `X`"),
        ("listener", profile(json!({ "listenerPath": 1 })), "linux.seccomp.listenerPath: invalid type: integer `1`"),
        ("syscalls", profile(json!({ "syscalls": {} })), "linux.seccomp.syscalls: invalid type: map"),
        ("names", rule(json!({ "names": "mkdir" })), named(".names: invalid type: string \"mkdir\"")),
        ("action", rule(json!({ "action": "X" })), named(".action: unknown variant `X`")),
        ("errnoRet", rule(json!({ "errnoRet": "EPERM" })), named(".errnoRet: invalid type: string \"EPERM\"")),
        (
            "operator",
            rule(json!({ "args": [{ "index": 0, "value": 1, "op": "X" }] })),
            named(".args[0].op: unknown variant"),
        ),
        (
            "index",
            rule(json!({ "args": [{ "index": -1, "value": 1, "op": "SCMP_CMP_EQ" }] })),
            named(".args[0].index: invalid"),
        ),
        ("value", rule(json!({ "args": [{ "index": 0, "op": "SCMP_CMP_EQ" }] })), named(".args[0].value: missing")),
    ]
}
