//! Architectures: how the kernel names them, and which number a system call has on each.

use oci_spec::runtime::Arch;

use super::generated::syscalls::{NONE, SYSCALLS};

/// Set in every number of the x32 ABI.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An architecture that has a number table here. The order is that of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
}

/// What a machine can report, most frequent first, for machines that we know.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Option<Architecture> = Some(Architecture::X86_64);
#[cfg(target_arch = "x86")]
pub(super) const NATIVE: Option<Architecture> = Some(Architecture::X86);
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Option<Architecture> = Some(Architecture::Aarch64);
#[cfg(target_arch = "arm")]
pub(super) const NATIVE: Option<Architecture> = Some(Architecture::Arm);
#[cfg(target_arch = "riscv64")]
pub(super) const NATIVE: Option<Architecture> = Some(Architecture::Riscv64);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "riscv64"
)))]
pub(super) const NATIVE: Option<Architecture> = None;

impl Architecture {
    /// `None` for an architecture without a table.
    pub(super) fn from_oci(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => NATIVE,
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            Arch::ScmpArchRiscv64 => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*`; x32 cannot be told from x86_64 by it.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether arguments are compared with all their 64 bits. libseccomp takes x32 for 32 bits wide.
    pub(super) const fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64 | Self::Riscv64)
    }

    /// The name of a number, the reverse of [`Architecture::number`].
    pub(super) fn name(self, number: u32) -> &'static str {
        let row = SYSCALLS.iter().find(|(_, numbers)| self.number(&Call { numbers: *numbers }) == Some(number));
        row.map_or("no call", |(name, _)| *name)
    }

    /// The number of a call, `None` where there is no such call.
    pub(super) fn number(self, call: &Call) -> Option<u32> {
        let number = call.numbers[self as usize];
        let bit = if self == Self::X32 { X32_BIT } else { 0 };
        (number != NONE).then_some(number as u32 | bit)
    }
}

/// A call that is made through another one, whose first argument selects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Multiplexed {
    /// Of socketcall(2) or ipc(2).
    pub(super) number: u32,
    /// What the first argument must be.
    pub(super) selector: u64,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    numbers: [i32; 6],
}

/// Looks a name up; `None` when no architecture has such a call.
pub(super) fn call(name: &str) -> Option<Call> {
    let row = SYSCALLS.binary_search_by(|(row, _)| (*row).cmp(name)).ok()?;
    Some(Call { numbers: SYSCALLS[row].1 })
}

/// The older way into a call on x86, where there is one.
pub(super) fn multiplexed(name: &str) -> Option<Multiplexed> {
    let row = MULTIPLEXED.binary_search_by(|(row, ..)| (*row).cmp(name)).ok()?;
    let (_, number, selector) = MULTIPLEXED[row];
    Some(Multiplexed { number, selector })
}

const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// Selectors of socketcall(2) and ipc(2), from linux/net.h and linux/ipc.h, sorted by name.
const MULTIPLEXED: [(&str, u32, u64); 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];
