//! `features`: what this runtime supports, as runtime-spec's features.md describes it.
//!
//! What config.json may ask for is not listed by hand: every candidate is put before the code that refuses what is not
//! supported, so the document cannot promise more than a container gets.

use std::process::ExitCode;

use brood_launcher::cgroup::SYSTEMD_SUPPORTED;
use brood_launcher::checkpoint::CRIU_CONFIG_ANNOTATION;
use brood_launcher::config;
use brood_launcher::plan::known_mount_options;
use brood_launcher::seccomp;
use serde_json::{Value, json};

use crate::documents::OCI_VERSION;
use crate::list::print;

/// The oldest version whose config.json is understood, by migration.
const OCI_VERSION_MIN: &str = "0.4.0";

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];
const ARCHITECTURES: [&str; 20] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
const FILTER_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
const MEMORY_MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MEMORY_FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

pub fn features() -> anyhow::Result<ExitCode> {
    print(&format!("{:#}\n", document()))
}

fn document() -> Value {
    let capabilities: Vec<String> =
        rustix::thread::CapabilitySet::all().iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    let mut options = known_mount_options();
    options.retain(|option| accepts(json!({ "mounts": [{ "destination": "/x", "options": [option] }] })));
    let limits = accepts_linux("resources", json!({ "memory": { "limit": 1 } }));
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION,
        "hooks": those(&HOOKS, |name| accepts(json!({ "hooks": { name: [{ "path": "/x" }] } }))),
        "mountOptions": options,
        "linux": {
            "namespaces": those(&NAMESPACES, |kind| accepts_linux("namespaces", json!([{ "type": kind }]))),
            "capabilities": capabilities,
            "cgroup": {
                "v1": limits,
                "v2": limits,
                "systemd": SYSTEMD_SUPPORTED,
                "systemdUser": SYSTEMD_SUPPORTED,
                "rdma": accepts_linux("resources", json!({ "rdma": { "mlx5_1": { "hcaHandles": 1 } } })),
            },
            "seccomp": seccomp_features(),
            "apparmor": { "enabled": accepts(json!({ "process": process("apparmorProfile") })) },
            "selinux": { "enabled": accepts(json!({ "process": process("selinuxLabel") })) },
            // Of this program, whatever the machine has.
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": {
                "modes": those(&MEMORY_MODES, |mode| accepts_linux("memoryPolicy", json!({ "mode": mode, "nodes": "0" }))),
                "flags": those(&MEMORY_FLAGS, |flag| {
                    accepts_linux("memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": [flag] }))
                }),
            },
            "mountExtensions": { "idmap": { "enabled": accepts(json!({ "mounts": [idmapped()] })) } },
            "netDevices": { "enabled": accepts_linux("netDevices", json!({ "eth0": { "name": "x" } })) },
        },
        "annotations": {
            "org.opencontainers.brood.version": env!("CARGO_PKG_VERSION"),
            // As runc has it, for whoever looks for that.
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": [CRIU_CONFIG_ANNOTATION],
    })
}

fn seccomp_features() -> Value {
    let rule = |action: &str| json!({ "names": ["read"], "action": action });
    let with = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let compared = |operator: &str| {
        let mut rule = rule("SCMP_ACT_KILL");
        rule["args"] = json!([{ "index": 0, "op": operator, "value": 1, "valueTwo": 1 }]);
        with(rule)
    };
    let flagged = |flag: &str| json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [flag] });
    let on = |arch: &str| json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch] });
    let flags = those(&FILTER_FLAGS, |flag| compiles(flagged(flag)).is_some());
    let actions = those(&ACTIONS, |action| compiles(with(rule(action))).is_some());
    // Meant for those who are listened to.
    let notifies = actions.contains(&"SCMP_ACT_NOTIFY");
    let supported: Vec<&str> =
        flags.iter().copied().filter(|flag| notifies || !flag.ends_with("WAIT_KILLABLE_RECV")).collect();
    json!({
        "enabled": compiles(on("SCMP_ARCH_NATIVE")).is_some(),
        "actions": actions,
        "operators": those(&OPERATORS, |operator| compiles(compared(operator)).is_some()),
        // One without a table is refused.
        "archs": those(&ARCHITECTURES, |arch| compiles(on(arch)).is_some_and(|notes| notes.is_empty())),
        "knownFlags": flags,
        "supportedFlags": supported,
    })
}

/// The compiler's notes about a profile; `None` when it is refused.
fn compiles(profile: Value) -> Option<Vec<String>> {
    if !accepts_linux("seccomp", profile.clone()) {
        return None;
    }
    let profile = serde_json::from_value(profile).ok()?;
    seccomp::compile(&profile).ok().map(|filter| filter.notes)
}

fn process(text_field: &str) -> Value {
    json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["x"], text_field: "x" })
}

fn idmapped() -> Value {
    let map = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
    json!({ "destination": "/x", "source": "/x", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map })
}

fn those<'a>(candidates: &[&'a str], mut accepted: impl FnMut(&str) -> bool) -> Vec<&'a str> {
    candidates.iter().copied().filter(|candidate| accepted(candidate)).collect()
}

fn accepts_linux(field: &str, value: Value) -> bool {
    accepts(json!({ "linux": { field: value } }))
}

/// Whether this part of a config.json is understood, and supported.
fn accepts(mut part: Value) -> bool {
    part["ociVersion"] = OCI_VERSION.into();
    let parsed = serde_json::to_vec(&part).ok().and_then(|bytes| config::parse(&bytes).ok());
    parsed.is_some_and(|(spec, _)| config::check_supported(&spec, false).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_promised() {
        assert!(accepts_linux("namespaces", json!([{ "type": "pid" }])));
        assert!(!accepts_linux("namespaces", json!([{ "type": "kitchen" }])));
        assert!(compiles(json!({ "defaultAction": "SCMP_ACT_SLEEP" })).is_none());
        let document = document();
        for (pointer, word) in [
            ("/linux/seccomp/archs", "SCMP_ARCH_X86_64"),
            ("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ"),
            ("/linux/namespaces", "time"),
            ("/mountOptions", "rro"),
        ] {
            let list = document.pointer(pointer).and_then(Value::as_array).unwrap();
            assert!(list.contains(&json!(word)), "{pointer} lacks {word}: {list:?}");
        }
        let archs = document.pointer("/linux/seccomp/archs").and_then(Value::as_array).unwrap();
        assert!(!archs.contains(&json!("SCMP_ARCH_M68K")), "there is no table for it");
    }
}
