//! Random profiles.
//!
//! What they leave out is where libseccomp's verdict depends on how its tree happens to be built (docs/seccomp.md):
//! conditional rules for one call that overlap and have different actions. So all rules of one call share an action.

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

/// Names that libseccomp 2.5.4 knows: ordinary, in x32 or x86 under other numbers, behind socketcall and ipc, in one
/// architecture only, and in none.
const NAMES: [&str; 40] = [
    "read",
    "write",
    "open",
    "openat",
    "close",
    "ioctl",
    "clone",
    "clone3",
    "personality",
    "ptrace",
    "execve",
    "mmap",
    "mmap2",
    "futex",
    "futex_time64",
    "socket",
    "socketcall",
    "connect",
    "accept",
    "accept4",
    "send",
    "sendmsg",
    "setsockopt",
    "ipc",
    "semop",
    "shmctl",
    "msgget",
    "stat64",
    "fadvise64",
    "arm_fadvise64_64",
    "set_tls",
    "s390_runtime_instr",
    "arch_prctl",
    "rt_sigaction",
    "preadv2",
    "process_mrelease",
    "faccessat2",
    "renameat",
    "no_such_call",
    "umount2",
];

const ACTIONS: [&str; 9] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

/// Any profile that libseccomp and we must agree on.
pub fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let architectures = ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64"];
    let architectures = subsequence(architectures.to_vec(), 0..=5);
    let names = subsequence(NAMES.to_vec(), 0..=12).prop_shuffle();
    (action(), architectures, names)
        .prop_flat_map(|(default, architectures, names)| {
            let entries: Vec<_> = names.into_iter().map(entries_of).collect();
            (Just(default), Just(architectures), entries)
        })
        .prop_map(|((default, errno), architectures, entries)| {
            let default = if default == "SCMP_ACT_NOTIFY" { "SCMP_ACT_ERRNO" } else { default };
            let entries: Vec<Value> = entries.into_iter().flatten().collect();
            let profile = json!({
                "defaultAction": default, "defaultErrnoRet": errno, "architectures": architectures, "syscalls": entries,
            });
            serde_json::from_value(profile).unwrap()
        })
}

fn action() -> impl Strategy<Value = (&'static str, Option<u32>)> {
    (select(&ACTIONS[..]), prop::option::of(select(&[1u32, 13, 38, 99][..])))
}

fn entries_of(name: &'static str) -> impl Strategy<Value = Vec<Value>> {
    let unconditional = Just(Vec::new()).boxed();
    let conditional = prop::collection::vec(prop::collection::vec(condition(), 1..=3), 1..=4).boxed();
    // Conditions on these would overlap with the rules of the calls that are made through them.
    let multiplexer = ["socketcall", "ipc"].contains(&name);
    let rules = if multiplexer { unconditional } else { prop_oneof![unconditional, conditional].boxed() };
    (action(), rules).prop_map(move |((action, errno), rules)| {
        // The listener's way out must stay open.
        let action = if name == "write" && action == "SCMP_ACT_NOTIFY" { "SCMP_ACT_LOG" } else { action };
        let entry = |args: Value| json!({ "names": [name], "action": action, "errnoRet": errno, "args": args });
        let entries: Vec<Value> = rules.into_iter().map(|conditions| entry(Value::Array(conditions))).collect();
        if entries.is_empty() { vec![entry(Value::Null)] } else { entries }
    })
}

fn condition() -> impl Strategy<Value = Value> {
    let interesting = [0, 1, 2, 9, 16, 0x7e02_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 9, 1 << 63, u64::MAX];
    let value = prop_oneof![select(interesting.to_vec()), any::<u64>()];
    (0usize..6, select(&OPERATORS[..]), value.clone(), value).prop_map(|(index, op, value, two)| {
        let two = (op == "SCMP_CMP_MASKED_EQ").then_some(two);
        json!({ "index": index, "op": op, "value": value, "valueTwo": two })
    })
}
