//! Errors, notes, flags, tables, the cache, and programs with long jumps. What filters decide is tested in
//! tests/seccomp.

use std::sync::Arc;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::arch::{Architecture, call};
use super::generated::syscalls::SYSCALLS;
use super::{Cache, compile};

fn profile(document: Value) -> LinuxSeccomp {
    serde_json::from_value(document).unwrap()
}

fn with_entry(entry: Value) -> LinuxSeccomp {
    profile(
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }, entry] }),
    )
}

#[test]
fn errors_name_the_field() {
    let argument = json!({ "index": 6, "op": "SCMP_CMP_EQ", "value": 1 });
    let fine = json!({ "index": 5, "op": "SCMP_CMP_EQ", "value": 1 });
    let table = [
        (
            profile(json!({ "defaultAction": "SCMP_ACT_NOTIFY" })),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default",
        ),
        (
            profile(json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536 })),
            "linux.seccomp.defaultErrnoRet: 65536 is more than 65535",
        ),
        (
            profile(
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_S390X"] }),
            ),
            "linux.seccomp.architectures[1]: SCMP_ARCH_S390X has no table of system calls here",
        ),
        (
            with_entry(json!({ "names": ["open"], "action": "SCMP_ACT_TRACE", "errnoRet": 70000 })),
            "linux.seccomp.syscalls[1].errnoRet: 70000 is more than 65535",
        ),
        (
            with_entry(json!({ "names": ["open"], "action": "SCMP_ACT_ALLOW", "args": [fine, argument] })),
            "linux.seccomp.syscalls[1].args[1].index: 6 is more than 5",
        ),
        (
            with_entry(json!({ "names": ["open", ""], "action": "SCMP_ACT_ALLOW" })),
            "linux.seccomp.syscalls[1].names[1]: empty",
        ),
    ];
    for (profile, expected) in table {
        assert_eq!(compile(&profile).unwrap_err().to_string(), expected);
    }
}

#[test]
fn too_many_rules_are_an_error() {
    let entry = |value: u64| {
        let conditions: Vec<_> =
            (0..6).map(|index| json!({ "index": index, "op": "SCMP_CMP_EQ", "value": value })).collect();
        json!({ "names": ["open"], "action": "SCMP_ACT_ALLOW", "args": conditions })
    };
    let entries: Vec<_> = (0..200).map(entry).collect();
    let error =
        compile(&profile(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries }))).unwrap_err().to_string();
    assert!(
        error.starts_with("linux.seccomp.syscalls: ") && error.ends_with("instructions, the kernel takes 4096"),
        "{error}"
    );
}

#[test]
fn notes_say_what_was_skipped() {
    let filter = compile(&profile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            { "names": ["read", "no_such_call", "s390_runtime_instr"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["read"], "action": "SCMP_ACT_TRAP" },
        ],
    })))
    .unwrap();
    let expected = [
        "linux.seccomp.syscalls[0].names: `no_such_call` is unknown, skipped",
        "linux.seccomp.syscalls: two actions for `read` on X86_64 under one condition, the first holds",
        "linux.seccomp.flags[0]: nothing to wait for without SCMP_ACT_NOTIFY, ignored",
    ];
    // The second names this machine's architecture.
    let same = |note: &String, expected: &str| {
        cfg!(target_arch = "x86_64") && note == expected || expected.contains("two actions")
    };
    assert_eq!(filter.notes.len(), expected.len(), "{:?}", filter.notes);
    assert!(filter.notes.iter().zip(expected).all(|(note, expected)| same(note, expected)), "{:?}", filter.notes);
    assert_eq!(filter.flags, 0);
}

#[test]
fn flags_are_those_of_seccomp() {
    let flags = |flags: Value, action: &str| {
        let entry = json!({ "names": ["read"], "action": action });
        let filter =
            compile(&profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": [entry] })))
                .unwrap();
        (filter.flags, filter.needs_listener)
    };
    assert_eq!(flags(Value::Null, "SCMP_ACT_KILL"), (4, false), "without a list: SPEC_ALLOW");
    assert_eq!(flags(json!([]), "SCMP_ACT_KILL"), (0, false));
    assert_eq!(
        flags(json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), "SCMP_ACT_KILL"),
        (6, false)
    );
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), "SCMP_ACT_NOTIFY"), (8 | 32, true));
}

#[test]
fn a_program_with_many_returns_keeps_its_jumps_in_reach() {
    let entries: Vec<_> = SYSCALLS
        .iter()
        .enumerate()
        .map(|(errno, (name, _))| {
            let args: Vec<_> = (0..errno % 3)
                .map(|index| json!({ "index": index, "op": "SCMP_CMP_EQ", "value": errno << 32 | 7 }))
                .collect();
            json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args })
        })
        .collect();
    let filter = compile(&profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries }))).unwrap();
    assert!(filter.program.len() > 1000);
    for (at, instruction) in filter.program.iter().enumerate() {
        let far = if instruction.code == 0x05 {
            instruction.k as usize
        } else {
            usize::from(instruction.jt.max(instruction.jf))
        };
        assert!(at + far + 1 < filter.program.len() || instruction.code == 0x06, "instruction {at}");
    }
}

#[test]
fn the_cache_is_bounded_and_forgets_the_oldest() {
    let numbered = |errno: u32| profile(json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno }));
    let mut cache = Cache::new(2);
    let first = cache.get(&numbered(1)).unwrap();
    let second = cache.get(&numbered(2)).unwrap();
    assert!(Arc::ptr_eq(&first, &cache.get(&numbered(1)).unwrap()), "known");
    cache.get(&numbered(3)).unwrap();
    assert_eq!(cache.len(), 2);
    assert!(Arc::ptr_eq(&first, &cache.get(&numbered(1)).unwrap()), "used after the second");
    assert!(!Arc::ptr_eq(&second, &cache.get(&numbered(2)).unwrap()), "made room");
    assert!(cache.get(&profile(json!({ "defaultAction": "SCMP_ACT_NOTIFY" }))).is_err());
    assert_eq!(cache.len(), 2, "errors are not kept");
}

#[test]
fn the_table_is_sorted() {
    assert!(SYSCALLS.is_sorted_by(|one, next| one.0 < next.0));
}

#[test]
fn the_table_agrees_with_libseccomp() {
    let architectures = [
        (Architecture::X86_64, ScmpArch::X8664),
        (Architecture::X86, ScmpArch::X86),
        (Architecture::X32, ScmpArch::X32),
        (Architecture::Aarch64, ScmpArch::Aarch64),
        (Architecture::Arm, ScmpArch::Arm),
        (Architecture::Riscv64, ScmpArch::Riscv64),
    ];
    let mut known = 0;
    for (name, _) in &SYSCALLS {
        for (ours, theirs) in architectures {
            // Negative: not there, multiplexed, or newer than this libseccomp.
            let number = ScmpSyscall::from_name_by_arch(name, theirs).map_or(-1, i32::from);
            if number >= 0 {
                assert_eq!(ours.number(&call(name).unwrap()), Some(number as u32), "{name} on {ours:?}");
                known += 1;
            }
        }
    }
    assert!(known > 2000, "{known} numbers compared");
}

#[test]
fn the_table_agrees_with_the_syscalls_crate() {
    // Not aarch64: there it lists 64-bit time calls, which only 32-bit architectures have.
    for number in 0..1024 {
        let rows = [
            (Architecture::X86_64, syscalls::x86_64::Sysno::new(number).map(|call| call.name())),
            (Architecture::X86, syscalls::x86::Sysno::new(number).map(|call| call.name())),
            (Architecture::Arm, syscalls::arm::Sysno::new(number).map(|call| call.name())),
        ];
        for (architecture, name) in rows {
            let ours = name.map(|name| architecture.number(&call(name.trim_start_matches("r#")).expect(name)));
            assert!(ours.is_none_or(|ours| ours == Some(number as u32)), "{name:?} on {architecture:?}: {ours:?}");
        }
    }
}
