//! The same verdict as libseccomp's on every call: docker's default profile, and random ones.

use std::collections::BTreeSet;

use brood_launcher::seccomp::compile;
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::docker;
use crate::interpreter::{self, Data};
use crate::oracle::{self, Oracle};
use crate::plain::Plain;
use crate::random;

const X32_BIT: u32 = 0x4000_0000;

/// x86_64 with x32, x86, aarch64, arm, riscv64, and mips64, which no profile here names.
const ARCHITECTURES: [u32; 6] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0xc000_00f3, 0x8000_0008];

#[test]
fn dockers_default_profile_is_the_same() {
    for caps in [docker::ORDINARY, &["CAP_SYS_ADMIN", "CAP_AUDIT_WRITE", "CAP_SYS_PTRACE", "CAP_BPF"], &[]] {
        let profile = docker::default_profile(caps);
        for optimize in [1, 2] {
            compare(&profile, optimize);
        }
    }
}

#[test]
fn dockers_default_profile_is_the_same_with_another_default() {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let mut profile = docker::default_profile(docker::ORDINARY);
        profile.set_default_action(action.parse().unwrap());
        profile.set_default_errno_ret(None);
        compare(&profile, 2);
    }
}

/// The same 256 profiles every time: among all that there are, some make libseccomp 2.5.4 loop for ever (difference 2),
/// and a test must not hang for that.
#[test]
fn random_profiles_are_the_same() {
    let config =
        ProptestConfig { cases: 256, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let compared = runner.run(&random::profile(), |profile| {
        let plain = Plain::new(&profile);
        compare_with_plain(&profile, &plain);
        // Difference 2: several rules with bounds for one call make libseccomp 2.5.4 return wrong verdicts or never return
        // at all. Its optimization 1 returns wrong verdicts for single rules too, and 2 fails without any rule.
        if !plain.several_with_bounds() && profile.syscalls().iter().flatten().count() > 0 {
            compare(&profile, 2);
        }
        Ok(())
    });
    compared.unwrap();
}

/// Every number up to 600, each also as an x32 number, and those where the kinds of numbers change.
fn all_numbers() -> BTreeSet<u32> {
    let edges = [X32_BIT - 1, 2 * X32_BIT - 1, 2 * X32_BIT, 3 * X32_BIT - 1, 3 * X32_BIT, u32::MAX - 1, u32::MAX];
    (0..=600).flat_map(|number| [number, number | X32_BIT]).chain(0xf0001..=0xf0006).chain(edges).collect()
}

/// With libseccomp, for every number.
fn compare(profile: &LinuxSeccomp, optimize: u32) {
    let oracle = Oracle::new(profile, optimize);
    differences(profile, |data| Some(oracle.run(data)));
}

/// With the plain reading, which knows numbers that have rules.
fn compare_with_plain(profile: &LinuxSeccomp, plain: &Plain) {
    differences(profile, |data| plain.run(data));
}

fn differences(profile: &LinuxSeccomp, expected: impl Fn(&Data) -> Option<u32>) {
    let program = compile(profile).unwrap().program;
    interpreter::check(&program);
    let patterns = patterns(profile);
    // The arguments of a call without a rule do not matter: a few patterns are enough to see that they do not.
    let (few, with_rules) = ([patterns[0], patterns[patterns.len() - 1]], oracle::numbers(profile));
    let mut differences = Vec::new();
    for (architecture, number) in
        ARCHITECTURES.into_iter().flat_map(|on| all_numbers().into_iter().map(move |n| (on, n)))
    {
        let patterns = if with_rules.contains(&number) { &patterns[..] } else { &few };
        for arguments in patterns {
            let data = Data { number, architecture, arguments: *arguments };
            let verdict = interpreter::run(&program, &data);
            if let Some(expected) = expected(&data).filter(|expected| *expected != verdict) {
                differences.push(format!("{data:x?}: {verdict:#x} instead of {expected:#x}"));
            }
        }
    }
    let shown = &differences[..differences.len().min(8)].join("\n");
    let json = || serde_json::to_string(profile).unwrap();
    assert!(differences.is_empty(), "{} differences:\n{shown}\n{}", differences.len(), json());
}

/// Arguments around everything that the profile compares with.
fn patterns(profile: &LinuxSeccomp) -> Vec<[u64; 6]> {
    let mut patterns = BTreeSet::from([[0; 6], [u64::MAX; 6]]);
    // What selects a call of socketcall(2) and ipc(2).
    patterns.extend((1..=25).map(|selector| [selector, 0, 0, 0, 0, 0]));
    for entry in profile.syscalls().iter().flatten() {
        let args = entry.args().as_deref().unwrap_or_default();
        let mut base = [0; 6];
        for arg in args {
            base[arg.index()] = arg.value_two().map_or(arg.value(), |two| two & arg.value());
        }
        for arg in args {
            let value = base[arg.index()];
            let around =
                [value, value.wrapping_sub(1), value.wrapping_add(1), value ^ (1 << 32), value ^ (1 << 63), !value];
            let others = [base, [0; 6], [3; 6]];
            for (mut pattern, value) in others.into_iter().flat_map(|other| around.map(|value| (other, value))) {
                pattern[arg.index()] = value;
                patterns.insert(pattern);
            }
        }
    }
    patterns.into_iter().collect()
}
