//! What runc would install: libseccomp's program behind runc's answer of ENOSYS to calls newer than the profile.

use std::collections::BTreeSet;

use brood_launcher::seccomp::Instruction;
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action};

use crate::interpreter::{self, Data};
use crate::reference;

const X32_BIT: u32 = 0x4000_0000;
const NO_SUCH_CALL: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// libseccomp's program and the newest calls of the profile.
pub struct Oracle {
    pub program: Vec<Instruction>,
    /// `AUDIT_ARCH_*`, whether x32, newest number.
    newest: Vec<(u32, bool, u32)>,
}

impl Oracle {
    /// Does what runc does with a profile, native architecture x86_64.
    pub fn new(profile: &LinuxSeccomp, optimize: u32) -> Self {
        let newest = newest(profile, &reference::architectures(profile));
        Self { program: reference::program(profile, optimize), newest }
    }

    /// The verdict on one call.
    pub fn run(&self, data: &Data) -> u32 {
        let x32 = data.architecture == audit(ScmpArch::X8664) && data.number & X32_BIT != 0;
        let newer = |(architecture, of_x32, newest): &(u32, bool, u32)| {
            data.architecture == *architecture && x32 == *of_x32 && data.number > *newest
        };
        if self.newest.iter().any(newer) { NO_SUCH_CALL } else { interpreter::run(&self.program, data) }
    }
}

/// Numbers that the profile's rules are about on any architecture; more than these does no harm.
pub fn numbers(profile: &LinuxSeccomp) -> BTreeSet<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|entry| entry.names());
    let on = |name: &String| EVERYWHERE.map(|arch| ScmpSyscall::from_name_by_arch_rewrite(name, arch));
    let direct = |name: &String| EVERYWHERE.map(|arch| ScmpSyscall::from_name_by_arch(name, arch));
    let all = names.flat_map(|name| on(name).into_iter().chain(direct(name)));
    // The direct socket and IPC calls of x86 hide behind names of socketcall(2) and ipc(2).
    let x86 = (359..=373).chain(393..=402);
    all.filter_map(|number| u32::try_from(i32::from(number.ok()?)).ok()).chain(x86).collect()
}

const EVERYWHERE: [ScmpArch; 6] =
    [ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32, ScmpArch::Aarch64, ScmpArch::Arm, ScmpArch::Riscv64];

/// `AUDIT_ARCH_*`.
pub fn audit(architecture: ScmpArch) -> u32 {
    match architecture {
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Riscv64 => 0xc000_00f3,
        _ => 0xc000_003e,
    }
}

fn newest(profile: &LinuxSeccomp, architectures: &[ScmpArch]) -> Vec<(u32, bool, u32)> {
    if matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace) {
        return Vec::new();
    }
    let names: Vec<&String> = profile.syscalls().iter().flatten().flat_map(|entry| entry.names()).collect();
    let of = |architecture: &ScmpArch| {
        let number = |name: &&String| {
            let known = ScmpSyscall::from_name_by_arch(name, *architecture).ok().map(i32::from)?;
            // Difference 1: of x86's socket and IPC calls runc counts neither the direct ones, which libseccomp hides from it,
            // nor socketcall(2) and ipc(2), through which they are made.
            let direct = || name.parse::<syscalls::x86::Sysno>().map_or(0, |call| call as i32);
            match known {
                -120..=-100 if *architecture == ScmpArch::X86 => Some(direct().max(102)),
                -224..=-200 if *architecture == ScmpArch::X86 => Some(direct().max(117)),
                _ => Some(known),
            }
        };
        let newest = names.iter().filter_map(number).max().filter(|newest| *newest > 0)?;
        Some((audit(*architecture), *architecture == ScmpArch::X32, newest as u32))
    };
    architectures.iter().filter_map(of).collect()
}
