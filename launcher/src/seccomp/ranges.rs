//! An outcome for every number from 0 to 2^32 - 1, as ranges of equal outcome.
//!
//! Numbers without a rule fall in three kinds: up to the newest call that the profile knows, the default action; above it
//! ENOSYS, so that a library falls back to an older call instead of giving up at EPERM (runc does the same, unless the
//! default lets calls pass); and, on x86_64, numbers of the other ABI that the profile does not name, which are killed.

use oci_spec::runtime::LinuxSeccomp;

use super::SeccompError;
use super::arch::{Architecture, NATIVE, X32_BIT};
use super::assemble::BAD_ARCHITECTURE;
use super::rules::{Meaning, Named, OnArchitecture, Rule, Rules};

const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What is decided for a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same for all arguments.
    Return(u32),
    /// Rules to try in order; the default action when none holds.
    Check(Vec<Rule>),
}

/// Numbers from `first` up to the next range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    /// Position in the section's outcomes.
    pub(super) outcome: usize,
}

/// All numbers of one `AUDIT_ARCH_*`.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) audit: u32,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) ranges: Vec<Range>,
}

/// One section for each architecture: this machine's first, then the profile's.
///
/// # Errors
/// An architecture without a table, this machine's or one that the profile names.
pub(super) fn sections(
    profile: &LinuxSeccomp,
    rules: &Rules,
    notes: &mut Vec<String>,
) -> Result<Vec<Section>, SeccompError> {
    let mut architectures = vec![NATIVE.ok_or(SeccompError::Machine)?];
    for (index, arch) in profile.architectures().iter().flatten().enumerate() {
        match Architecture::from_oci(*arch) {
            Some(known) if architectures.contains(&known) => {}
            Some(new) => architectures.push(new),
            None => return Err(SeccompError::Architecture { index, name: arch.to_string() }),
        }
    }
    let mut sections: Vec<Section> = Vec::new();
    for architecture in &architectures {
        if sections.iter().all(|section| section.audit != architecture.audit()) {
            let alike = architectures.iter().copied().filter(|other| other.audit() == architecture.audit());
            sections.push(section(&alike.collect::<Vec<_>>(), rules, notes));
        }
    }
    Ok(sections)
}

/// The section of architectures that the kernel reports alike: one, or x86_64 and x32.
fn section(architectures: &[Architecture], rules: &Rules, notes: &mut Vec<String>) -> Section {
    let mut section = Section { audit: architectures[0].audit(), ..Section::default() };
    let newest = |architecture| newest(architecture, rules).filter(|_| !lets_pass(rules.default));
    if section.audit == Architecture::X86_64.audit() {
        let of = |wanted| architectures.contains(&wanted).then(|| newest(wanted));
        section.x86_64_background(rules.default, of(Architecture::X86_64), of(Architecture::X32));
    } else {
        section.background(0, Outcome::Return(rules.default));
        if let Some(newest) = newest(architectures[0]) {
            section.background(newest + 1, Outcome::Return(NO_SUCH_CALL));
        }
    }
    let mut calls: Vec<Range> = Vec::new();
    for architecture in architectures {
        section.calls(*architecture, &rules.on(*architecture), &mut calls, notes);
    }
    calls.sort_unstable_by_key(|call| call.first);
    section.ranges = paint(&section.ranges, &calls);
    section
}

impl Section {
    /// Position of an outcome, which is added when it is new.
    fn outcome(&mut self, outcome: Outcome) -> usize {
        self.outcomes.iter().position(|known| *known == outcome).unwrap_or_else(|| {
            self.outcomes.push(outcome);
            self.outcomes.len() - 1
        })
    }

    fn background(&mut self, first: u32, outcome: Outcome) {
        let outcome = self.outcome(outcome);
        self.ranges.push(Range { first, outcome });
    }

    /// Numbers without a rule where x32 calls are x86_64 calls with bit 30 set. For each of the two: whether it is there,
    /// and the newest call where that matters.
    fn x86_64_background(&mut self, default: u32, wide: Option<Option<u32>>, x32: Option<Option<u32>>) {
        let default = Outcome::Return(default);
        let bad = Outcome::Return(BAD_ARCHITECTURE);
        let missing = Outcome::Return(NO_SUCH_CALL);
        // Bit 30 is clear in the first and third quarter of all numbers: those are x86_64 calls; but libseccomp takes
        // everything from bit 30 on for x32, so the third quarter is the latter's unless the newest call decides.
        let above = |newest: Option<Option<u32>>| newest.flatten().map(|newest| newest + 1);
        let beyond = |there: bool| if there { default.clone() } else { bad.clone() };
        self.background(0, beyond(wide.is_some()));
        if let Some(first) = above(wide) {
            self.background(first, missing.clone());
        }
        self.background(X32_BIT, beyond(x32.is_some()));
        if let Some(first) = above(x32) {
            self.background(first, missing.clone());
        }
        let third = if above(wide).is_some() { missing.clone() } else { beyond(x32.is_some()) };
        self.background(2 * X32_BIT, third);
        let fourth = if above(x32).is_some() { missing } else { beyond(x32.is_some()) };
        self.background(3 * X32_BIT, fourth.clone());
        // A tracer that suppresses a call sets its number to -1.
        let suppressed = if x32.is_some() { fourth } else { default };
        self.background(u32::MAX, suppressed);
    }

    /// Numbers with rules.
    fn calls(
        &mut self,
        architecture: Architecture,
        rules: &OnArchitecture<'_>,
        calls: &mut Vec<Range>,
        notes: &mut Vec<String>,
    ) {
        for call in rules.calls.chunk_by(|one, next| one.0 == next.0) {
            let number = call[0].0;
            let (meaning, contradiction) = rules.meaning(call);
            if contradiction {
                let name = architecture.name(number);
                notes.push(format!(
                    "linux.seccomp.syscalls: two actions for `{name}` on {architecture:?} under one condition, the first holds"
                ));
            }
            let outcome = match meaning {
                Meaning::Always(action) => Outcome::Return(action),
                Meaning::Checks(rules) => Outcome::Check(rules),
            };
            let outcome = self.outcome(outcome);
            calls.push(Range { first: number, outcome });
        }
    }
}

/// Whether a call without a rule gets through, or to someone who knows what to do about it.
fn lets_pass(default: u32) -> bool {
    let action = default & libc::SECCOMP_RET_ACTION_FULL;
    [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE].contains(&action)
}

/// The highest number that the profile names, skipped rules included.
fn newest(architecture: Architecture, rules: &Rules) -> Option<u32> {
    let through = |named: &Named| named.multiplexed.filter(|_| architecture == Architecture::X86).map(|by| by.number);
    let numbers =
        rules.named.iter().flat_map(|named| architecture.number(&named.call).into_iter().chain(through(named)));
    numbers.max().filter(|newest| *newest != 0)
}

/// Single numbers on a background that covers everything.
fn paint(background: &[Range], calls: &[Range]) -> Vec<Range> {
    let mut painted: Vec<Range> = Vec::with_capacity(2 * calls.len());
    let mut put = |first: u64, outcome| {
        if painted.last().is_none_or(|last| last.outcome != outcome) {
            painted.push(Range { first: first as u32, outcome });
        }
    };
    let mut calls = calls.iter().peekable();
    for (index, range) in background.iter().enumerate() {
        let end = background.get(index + 1).map_or(1 << 32, |next| u64::from(next.first));
        let mut first = u64::from(range.first);
        while let Some(call) = calls.next_if(|call| u64::from(call.first) < end) {
            if u64::from(call.first) > first {
                put(first, range.outcome);
            }
            put(u64::from(call.first), call.outcome);
            first = u64::from(call.first) + 1;
        }
        if first < end {
            put(first, range.outcome);
        }
    }
    painted
}
