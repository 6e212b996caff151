//! Why a profile cannot be compiled.

use thiserror::Error;

/// A profile that cannot be honoured; each text is one line and begins with the field.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SeccompError {
    /// Nobody could hand over the listener if every call waited for it.
    #[error("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default")]
    NotifyDefault,
    /// Every one of its calls would be killed.
    #[error("linux.seccomp.architectures[{index}]: {name} has no table of system calls here")]
    Architecture {
        /// Position in `architectures`.
        index: usize,
        /// What it says.
        name: String,
    },
    /// Built for a machine whose system calls have no table.
    #[error("linux.seccomp.architectures: this machine's has no table of system calls here")]
    Machine,
    /// A name of no letters.
    #[error("linux.seccomp.syscalls[{rule}].names[{name}]: empty")]
    EmptyName {
        /// Position in `syscalls`.
        rule: usize,
        /// Position in `names`.
        name: usize,
    },
    /// A system call has six arguments.
    #[error("linux.seccomp.syscalls[{rule}].args[{arg}].index: {index} is more than 5")]
    Argument {
        /// Position in `syscalls`.
        rule: usize,
        /// Position in `args`.
        arg: usize,
        /// What it says.
        index: usize,
    },
    /// The kernel has 16 bits for it.
    #[error("{field}: {value} is more than 65535")]
    Errno {
        /// `linux.seccomp.defaultErrnoRet` or that of a rule.
        field: String,
        /// What it says.
        value: u32,
    },
    /// Too many rules for the kernel.
    #[error("linux.seccomp.syscalls: {instructions} instructions, the kernel takes {}", super::MOST_INSTRUCTIONS)]
    TooLong {
        /// Length of the program.
        instructions: usize,
    },
}
