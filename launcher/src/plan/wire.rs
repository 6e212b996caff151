//! The plan's wire form: one flat, unpacked Cap'n Proto message (`schema/plan.capnp`).
//!
//! [`encode`] runs in the supervisor and [`decode`] in the zygote, where a plan is checked for the last time before
//! something acts on it: what comes out of [`decode`] names only descriptors that came along, holds no string that a
//! system call would cut short, and ends in its only [`Step::Exec`](super::Step::Exec).
//!
//! Not here: the socket and its SCM_RIGHTS, and whether a plan makes sense (that is [`crate::plan`]'s promise).

mod decode;
mod encode;
#[cfg(test)]
mod strategies;
#[cfg(test)]
mod tests;

use brood_schema::plan_capnp;

pub use decode::decode;
pub use encode::encode;

/// The largest message that [`decode`] reads. Nearly all of a large plan is argv and environment, and the kernel takes
/// at most 6 MiB of those (execve(2)).
pub const MAX_PLAN_BYTES: usize = 8 * 1024 * 1024;

/// The most steps that [`decode`] accepts: hundreds of mounts are seen in practice. A step takes more room in memory
/// than on the wire, so that the size alone is no bound.
pub const MAX_STEPS: u32 = 16 * 1024;

/// Why bytes are not a plan.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_PLAN_BYTES`].
    #[error("the plan has {0} bytes, more than {MAX_PLAN_BYTES}")]
    TooLarge(usize),
    /// Not a Cap'n Proto message: cut short, damaged, or something else altogether.
    #[error("the plan is not a well-formed message")]
    Message(#[from] capnp::Error),
    /// The message ends before the bytes do.
    #[error("{0} bytes follow the plan")]
    TrailingBytes(usize),
    /// Written by another version of this program.
    #[error("the plan has version {0}, only {expected} is understood", expected = plan_capnp::PLAN_VERSION)]
    Version(u16),
    /// More than [`MAX_STEPS`].
    #[error("the plan has {0} steps, more than {MAX_STEPS}")]
    TooManySteps(u32),
    /// The last step is not [`Step::Exec`](super::Step::Exec), or there is no step at all.
    #[error("the plan does not end in an exec")]
    NoExec,
    /// A [`Step::Exec`](super::Step::Exec) before the last step.
    #[error("exec is not the last step")]
    EarlyExec,
    /// A [`Step::Exec`](super::Step::Exec) without arguments: there would not even be an `argv[0]`.
    #[error("argv is empty")]
    EmptyArgv,
    /// A union arm or an enumerant that the schema does not have.
    #[error("unknown {what} {number}")]
    Unknown {
        /// What it would be, e.g. `step`.
        what: &'static str,
        /// Its number on the wire.
        number: u16,
    },
    /// A string with a NUL byte inside.
    #[error("{field} has a NUL byte at {position}")]
    Nul {
        /// The field's name.
        field: &'static str,
        /// Offset of the byte.
        position: usize,
    },
    /// A descriptor that did not come along.
    #[error("{field} is descriptor {index}, only {count} came along")]
    Descriptor {
        /// The field's name.
        field: &'static str,
        /// Which descriptor it asks for, from 0.
        index: u16,
        /// How many there are.
        count: usize,
    },
    /// Something is wrong with one step; the source says what.
    #[error("step {position} of the plan")]
    Step {
        /// Position among the plan's steps, from 0.
        position: usize,
        /// What is wrong; never itself a [`WireError::Step`].
        source: Box<WireError>,
    },
}
