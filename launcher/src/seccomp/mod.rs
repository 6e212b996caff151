//! A seccomp profile of config.json to a classic BPF program, without any C library.
//!
//! ```text
//! LinuxSeccomp --rules--> (number, rule) per architecture --ranges--> number ranges of equal outcome
//!              --assemble--> dispatch by architecture, balanced search over the ranges, argument checks, returns
//! ```
//!
//! Reading order: [`compile`] here, then `rules` (names to numbers, what the rules mean), `ranges` (an outcome for every
//! number), `assemble` (instructions), [`install`] (seccomp(2)) and [`Cache`]. `arch` and `generated` hold the tables.
//!
//! The kernel runs a filter once for every system call number when it is installed, so a long linear program is paid for
//! at every launch; hence the search tree. What a filter decides is what runc with libseccomp decides;
//! docs/seccomp.md lists the differences, and a test compares the two for every number.

mod arch;
mod assemble;
mod cache;
mod error;
mod generated;
mod install;
mod instruction;
mod ranges;
mod rules;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

pub use cache::Cache;
pub use error::SeccompError;
pub use install::install;
pub use instruction::Instruction;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const MOST_INSTRUCTIONS: usize = 4096;

/// A profile in the form that seccomp(2) wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program, at most [`MOST_INSTRUCTIONS`] long.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`, ready for [`install`].
    pub flags: u32,
    /// Whether `SCMP_ACT_NOTIFY` is used: then `flags` asks for a listener, and [`install`] returns it.
    pub needs_listener: bool,
    /// What was skipped or taken in another way than it may have been meant, a line each, with the field's name.
    pub notes: Vec<String>,
}

/// Compiles a profile for this machine's architecture and those that the profile names.
///
/// # Errors
/// Names the field of config.json that cannot be honoured.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let mut notes = Vec::new();
    let rules = rules::Rules::collect(profile, &mut notes)?;
    let sections = ranges::sections(profile, &rules, &mut notes)?;
    let program = assemble::assemble(&sections, rules.default);
    if program.len() > MOST_INSTRUCTIONS {
        return Err(SeccompError::TooLong { instructions: program.len() });
    }
    let needs_listener = profile.syscalls().iter().flatten().any(|s| s.action() == LinuxSeccompAction::ScmpActNotify);
    let flags = filter_flags(profile, needs_listener, &mut notes);
    Ok(Filter { program, flags, needs_listener, notes })
}

/// The profile's flags. Without a list it is `SPEC_ALLOW`, as in runc; TSYNC is ignored, for the process that installs
/// the filter has one thread.
fn filter_flags(profile: &LinuxSeccomp, listener: bool, notes: &mut Vec<String>) -> u32 {
    const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    const SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    const NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    const WAIT_KILLABLE_RECV: u32 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;
    let base = if listener { NEW_LISTENER } else { 0 };
    let Some(flags) = profile.flags() else { return base | SPEC_ALLOW };
    flags.iter().enumerate().fold(base, |all, (index, flag)| {
        all | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if listener => WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                notes.push(format!(
                    "linux.seccomp.flags[{index}]: nothing to wait for without SCMP_ACT_NOTIFY, ignored"
                ));
                0
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        }
    })
}

#[cfg(test)]
mod tests;
