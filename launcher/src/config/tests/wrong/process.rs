//! Wrong versions, roots, names and processes.

use super::*;

pub(super) fn version_root_and_process() -> Vec<Case> {
    vec![
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
    ]
}

pub(super) fn names() -> Vec<Case> {
    vec![
        ("NUL in domainname", json!({ "domainname": "a\0" }), "domainname: must not contain a NUL character"),
        ("long domainname", json!({ "domainname": "x".repeat(65) }), "domainname: 65 bytes long, the kernel takes 64"),
        ("version -1", json!({ "ociVersion": "-1.0.0" }), "ociVersion: must be MAJOR.MINOR.PATCH, not \"-1.0.0\""),
        ("version of four", json!({ "ociVersion": "1.0.0.0" }), "ociVersion: must be MAJOR.MINOR.PATCH"),
        ("empty version", json!({ "ociVersion": "" }), "ociVersion: missing"),
        (
            "NUL in apparmor",
            process(&json!({ "apparmorProfile": "a\0" })),
            "process.apparmorProfile: must not contain a",
        ),
        ("NUL in selinux", process(&json!({ "selinuxLabel": "a\0" })), "process.selinuxLabel: must not contain a NUL"),
        (
            "groups",
            process(&json!({ "user": { "additionalGids": vec![1; 65_537] } })),
            "process.user.additionalGids: 65537 groups, the kernel takes 65536",
        ),
    ]
}

fn scheduler(policy: &str, patch: Value) -> Value {
    let mut scheduler = json!({ "policy": policy });
    merge(&mut scheduler, &patch);
    process(&json!({ "scheduler": scheduler }))
}

pub(super) fn schedulers() -> Vec<Case> {
    vec![
        ("no policy", process(&json!({ "scheduler": { "nice": 1 } })), "process.scheduler.policy: missing"),
        ("policy", scheduler("SCHED_FAST", json!({})), "process.scheduler.policy: unknown variant `SCHED_FAST`"),
        (
            "flag",
            scheduler("SCHED_OTHER", json!({ "flags": ["X"] })),
            "process.scheduler.flags[0]: unknown variant `X`",
        ),
        (
            "nice low",
            scheduler("SCHED_OTHER", json!({ "nice": -21 })),
            "process.scheduler.nice: must be within -20 and 19",
        ),
        (
            "nice high",
            scheduler("SCHED_BATCH", json!({ "nice": 20 })),
            "process.scheduler.nice: must be within -20 and 19",
        ),
        (
            "priority of other",
            scheduler("SCHED_OTHER", json!({ "priority": 1 })),
            "process.scheduler.priority: is for SCHED_FIFO and SCHED_RR, not for SCHED_OTHER",
        ),
        (
            "priority of deadline",
            scheduler("SCHED_DEADLINE", json!({ "priority": 1 })),
            "process.scheduler.priority: is for SCHED_FIFO and SCHED_RR, not for SCHED_DEADLINE",
        ),
        (
            "no priority",
            scheduler("SCHED_FIFO", json!({})),
            "process.scheduler.priority: must be within 1 and 99, not 0",
        ),
        (
            "high priority",
            scheduler("SCHED_RR", json!({ "priority": 100 })),
            "process.scheduler.priority: must be within 1 and 99, not 100",
        ),
        (
            "negative priority",
            scheduler("SCHED_RR", json!({ "priority": -1 })),
            "process.scheduler.priority: must be within 1 and 99, not -1",
        ),
        (
            "runtime of other",
            scheduler("SCHED_OTHER", json!({ "runtime": 1 })),
            "process.scheduler.runtime: is for SCHED_DEADLINE, not for SCHED_OTHER",
        ),
        (
            "deadline of idle",
            scheduler("SCHED_IDLE", json!({ "deadline": 1 })),
            "process.scheduler.deadline: is for SCHED_DEADLINE, not for SCHED_IDLE",
        ),
        (
            "period of fifo",
            scheduler("SCHED_FIFO", json!({ "priority": 1, "period": 1 })),
            "process.scheduler.period: is for SCHED_DEADLINE, not for SCHED_FIFO",
        ),
        (
            "short runtime",
            scheduler("SCHED_DEADLINE", json!({ "runtime": 1023, "deadline": 4096 })),
            "process.scheduler.runtime: must be within 1024 and",
        ),
        (
            "no deadline",
            scheduler("SCHED_DEADLINE", json!({ "runtime": 2048 })),
            "process.scheduler.deadline: must be within 2048 and",
        ),
        (
            "short period",
            scheduler("SCHED_DEADLINE", json!({ "runtime": 2048, "deadline": 4096, "period": 4095 })),
            "process.scheduler.period: must be within 4096 and",
        ),
        (
            "negative runtime",
            scheduler("SCHED_DEADLINE", json!({ "runtime": -1 })),
            "process.scheduler.runtime: invalid value: integer `-1`",
        ),
        (
            "io class",
            process(&json!({ "ioPriority": { "class": "IOPRIO_CLASS_X" } })),
            "process.ioPriority.class: unknown variant `IOPRIO_CLASS_X`",
        ),
        (
            "io high",
            process(&json!({ "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 8 } })),
            "process.ioPriority.priority: must be within 0 and 7, not 8",
        ),
        (
            "io low",
            process(&json!({ "ioPriority": { "class": "IOPRIO_CLASS_RT", "priority": -1 } })),
            "process.ioPriority.priority: must be within 0 and 7, not -1",
        ),
    ]
}

pub(super) fn consoles_and_cpus() -> Vec<Case> {
    let console = |height: i64, width: i64| process(&json!({ "consoleSize": { "height": height, "width": width } }));
    let initial = |list: &str| process(&json!({ "execCPUAffinity": { "initial": list } }));
    vec![
        ("high", console(65_536, 1), "process.consoleSize.height: must be within 0 and 65535, not 65536"),
        ("wide", console(1, 65_536), "process.consoleSize.width: must be within 0 and 65535, not 65536"),
        ("negative", console(-1, 1), "process.consoleSize.height: invalid value: integer `-1`"),
        ("console", process(&json!({ "consoleSize": "80x25" })), "process.consoleSize: invalid type: string"),
        ("terminal", process(&json!({ "terminal": "yes" })), "process.terminal: invalid type: string \"yes\""),
        ("words", initial("all"), "process.execCPUAffinity.initial: Invalid execCPUAffinity format: all"),
        ("open range", initial("1-"), "process.execCPUAffinity.initial: Invalid execCPUAffinity format: 1-"),
        ("backwards", initial("3-1"), "process.execCPUAffinity.initial: \"3-1\" is no list of CPUs"),
        ("far", initial("8192"), "process.execCPUAffinity.initial: \"8192\" is no list of CPUs"),
        (
            "final",
            process(&json!({ "execCPUAffinity": { "initial": "0", "final": "0-9999999999" } })),
            "process.execCPUAffinity.final: \"0-9999999999\" is no list of CPUs",
        ),
        (
            "affinity",
            process(&json!({ "execCPUAffinity": { "final": 3 } })),
            "process.execCPUAffinity.final: invalid type: integer `3`",
        ),
    ]
}
