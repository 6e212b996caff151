//! libseccomp's program for a profile, made as runc makes it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};

use brood_launcher::seccomp::Instruction;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
};

/// This machine's, and those that the profile names.
pub fn architectures(profile: &LinuxSeccomp) -> Vec<ScmpArch> {
    let named = profile.architectures().iter().flatten().map(|arch| match arch {
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        _ => ScmpArch::X8664,
    });
    let mut all = vec![ScmpArch::X8664];
    for architecture in named {
        if !all.contains(&architecture) {
            all.push(architecture);
        }
    }
    all
}

/// The program; `optimize` is libseccomp's: 1 is linear, 2 a tree.
pub fn program(profile: &LinuxSeccomp, optimize: u32) -> Vec<Instruction> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut filter = ScmpFilterContext::new(default).unwrap();
    for architecture in architectures(profile) {
        filter.add_arch(architecture).unwrap();
    }
    filter.set_ctl_optimize(optimize).unwrap();
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret());
        if action == default {
            continue;
        }
        let args = entry.args().as_deref().unwrap_or_default();
        let all: Vec<_> = args.iter().map(compare).collect();
        let different = args.iter().map(LinuxSeccompArg::index).collect::<BTreeSet<_>>().len();
        for name in entry.names() {
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            let rules: Vec<&[ScmpArgCompare]> =
                if different < args.len() { all.chunks(1).collect() } else { vec![all.as_slice()] };
            for rule in rules {
                filter.add_rule_conditional(action, call, rule).unwrap();
            }
        }
    }
    export(&filter)
}

fn export(filter: &ScmpFilterContext) -> Vec<Instruction> {
    let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    filter.export_bpf(&memory).unwrap();
    let mut file = File::from(memory);
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let (instructions, []) = bytes.as_chunks::<{ Instruction::SIZE }>() else { panic!("half an instruction") };
    instructions.iter().map(|bytes| Instruction::from_bytes(*bytes)).collect()
}

fn action(action: Action, data: Option<u32>) -> ScmpAction {
    let data = data.unwrap_or(libc::EPERM as u32);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(data as i32),
        Action::ScmpActNotify => ScmpAction::Notify,
        Action::ScmpActTrace => ScmpAction::Trace(data as u16),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
    }
}

fn compare(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (operator, value) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        Operator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or_default()),
    };
    ScmpArgCompare::new(arg.index() as u32, operator, value)
}
