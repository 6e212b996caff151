//! A policy as a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`: the kernel runs it whenever a process of the cgroup opens
//! or makes a device, and 1 lets it go on.

use super::policy::Policy;
use super::rules::{Access, Devices, Kind};

/// `struct bpf_insn` of a little-endian machine (Documentation/bpf/standardization/instruction-set.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    /// Class, operation and source.
    pub code: u8,
    /// Destination in the low half, source in the high one.
    pub registers: u8,
    /// Bytes from a base, or instructions to skip.
    pub offset: i16,
    pub immediate: i32,
}

/// `BPF_LDX | BPF_MEM | BPF_W`: destination = 32 bits at source + offset.
pub(super) const LOAD: u8 = 0x61;
/// `BPF_ALU | BPF_MOV | BPF_X`: destination = source. This and the following ones look at 32 bits.
pub(super) const COPY: u8 = 0xbc;
/// `BPF_ALU | BPF_MOV | BPF_K`: destination = immediate.
pub(super) const SET: u8 = 0xb4;
/// `BPF_ALU | BPF_AND | BPF_K`: destination &= immediate.
pub(super) const AND: u8 = 0x54;
/// `BPF_ALU | BPF_RSH | BPF_K`: destination >>= immediate.
pub(super) const SHIFT_RIGHT: u8 = 0x74;
/// `BPF_JMP | BPF_JA`: skip.
pub(super) const JUMP: u8 = 0x05;
/// `BPF_JMP32 | BPF_JNE | BPF_K`: skip if destination != immediate.
pub(super) const JUMP_IF_OTHER: u8 = 0x56;
/// `BPF_JMP32 | BPF_JSET | BPF_K`: skip if destination & immediate != 0.
pub(super) const JUMP_IF_ANY: u8 = 0x46;
/// `BPF_JMP | BPF_EXIT`: end with register 0.
pub(super) const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// A policy's instructions: an exception after the other, each with its own way out.
pub(super) fn assemble(policy: &Policy) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: access in the upper, kind in the lower half of a word; major; minor.
    let mut program = vec![
        Instruction { offset: 0, ..with_source(LOAD, KIND, CONTEXT) },
        Instruction { offset: 4, ..with_source(LOAD, MAJOR, CONTEXT) },
        Instruction { offset: 8, ..with_source(LOAD, MINOR, CONTEXT) },
        with_source(COPY, ACCESS, KIND),
        with_value(SHIFT_RIGHT, ACCESS, 16),
        with_value(AND, KIND, 0xffff),
    ];
    for (devices, access) in &policy.exceptions {
        exception(&mut program, policy.allow, *devices, *access);
    }
    program.extend(answer(policy.allow));
    program
}

/// Compares, and answers the opposite of the rest if all agrees.
fn exception(program: &mut Vec<Instruction>, denies: bool, devices: Devices, access: Access) {
    let kind = match devices.kind {
        Kind::Block => 1, // BPF_DEVCG_DEV_BLOCK
        Kind::Char => 2,  // BPF_DEVCG_DEV_CHAR
        Kind::All => unreachable!("a policy has no exception of this kind"),
    };
    let mut checks = vec![with_value(JUMP_IF_OTHER, KIND, kind)];
    checks.extend(devices.major.map(|major| with_value(JUMP_IF_OTHER, MAJOR, major)));
    checks.extend(devices.minor.map(|minor| with_value(JUMP_IF_OTHER, MINOR, minor)));
    if denies {
        // A part of what is asked for is enough.
        checks.push(Instruction { offset: 1, ..with_value(JUMP_IF_ANY, ACCESS, access.0.into()) });
        checks.push(with_value(JUMP, 0, 0));
    } else if access != Access::ALL {
        // There must be nothing that is asked for beyond this.
        checks.push(with_value(JUMP_IF_ANY, ACCESS, Access::ALL.without(access).0.into()));
    }
    let answer = answer(!denies);
    let end = checks.len() + answer.len();
    for (position, check) in checks.iter_mut().enumerate() {
        if check.offset == 0 {
            check.offset = (end - position - 1) as i16;
        }
    }
    program.extend(checks);
    program.extend(answer);
}

fn answer(allow: bool) -> [Instruction; 2] {
    [with_value(SET, RESULT, allow.into()), with_value(EXIT, 0, 0)]
}

fn with_source(code: u8, destination: u8, source: u8) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset: 0, immediate: 0 }
}

/// The kernel sees 32 bits; whether they have a sign does not matter to any of the codes above.
fn with_value(code: u8, destination: u8, value: u32) -> Instruction {
    Instruction { code, registers: destination, offset: 0, immediate: value.cast_signed() }
}
