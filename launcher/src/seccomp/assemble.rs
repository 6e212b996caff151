//! Ranges and argument checks to instructions.
//!
//! Jumps of classic BPF only go forward, so the program is written from its end: whatever is jumped to is already there
//! and its distance known. A conditional jump reaches 255 instructions; what is farther away is reached through a `JA`
//! next to the jump, or, for a return, through a copy of the return.

use super::Instruction;
use super::ranges::{Outcome, Range, Section};
use super::rules::{Comparison, Condition, Rule};

/// `SECCOMP_RET_KILL_THREAD`: what libseccomp does to a call of an architecture that the profile does not name.
pub(super) const BAD_ARCHITECTURE: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// Up to so many ranges, single numbers are compared for equality, one after the other.
const MOST_IN_A_ROW: usize = 5;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const GREATER_OR_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The whole program; `default` is what happens when no argument check holds.
pub(super) fn assemble(sections: &[Section], default: u32) -> Vec<Instruction> {
    let mut writer = Writer { backwards: Vec::with_capacity(1024), default, returns: Vec::new(), checks: Vec::new() };
    let entries: Vec<_> = sections.iter().rev().map(|section| (section.audit, writer.section(section))).collect();
    let mut next = Target::Return(BAD_ARCHITECTURE);
    for (audit, entry) in entries {
        next = writer.branch(EQUAL, audit, entry, next);
    }
    writer.fall_into(next);
    writer.push(Instruction::new(LOAD, ARCHITECTURE));
    writer.backwards.reverse();
    writer.backwards
}

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// An instruction, counted from the end of the program.
    Label(usize),
    /// A return of this value, wherever one is.
    Return(u32),
}

/// The program, last instruction first.
struct Writer {
    backwards: Vec<Instruction>,
    default: u32,
    /// The copy of each return that was written last, and so is the nearest.
    returns: Vec<(u32, usize)>,
    /// Checks that are written already: the same one serves several numbers, and architectures of the same width.
    checks: Vec<(Vec<Rule>, usize)>,
}

impl Writer {
    fn push(&mut self, instruction: Instruction) -> usize {
        self.backwards.push(instruction);
        self.backwards.len() - 1
    }

    /// One architecture: loads the number and searches its range.
    fn section(&mut self, section: &Section) -> Target {
        let outcomes: Vec<Target> = section.outcomes.iter().map(|outcome| self.outcome(outcome)).collect();
        let root = self.search(&section.ranges, &outcomes);
        if let Target::Return(_) = root {
            return root;
        }
        self.fall_into(root);
        Target::Label(self.push(Instruction::new(LOAD, NUMBER)))
    }

    fn outcome(&mut self, outcome: &Outcome) -> Target {
        match outcome {
            Outcome::Return(value) => Target::Return(*value),
            Outcome::Check(rules) => Target::Label(self.check(rules)),
        }
    }

    /// A balanced search. The upper half is written first, so that the lower one follows the comparison.
    fn search(&mut self, ranges: &[Range], outcomes: &[Target]) -> Target {
        if let [only] = ranges {
            return outcomes[only.outcome];
        }
        if ranges.len() <= MOST_IN_A_ROW
            && let Some(single) = single_number(ranges)
        {
            let others = [&ranges[..single], &ranges[single + 2..]].concat();
            let others = self.search(&others, outcomes);
            return self.branch(EQUAL, ranges[single].first, outcomes[ranges[single].outcome], others);
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let first = upper[0].first;
        let upper = self.search(upper, outcomes);
        let lower = self.search(lower, outcomes);
        self.branch(GREATER_OR_EQUAL, first, upper, lower)
    }

    /// The rules of a call, tried in order; returns where they begin.
    fn check(&mut self, rules: &[Rule]) -> usize {
        if let Some((_, label)) = self.checks.iter().find(|(known, _)| known == rules) {
            return *label;
        }
        let mut label = 0;
        let mut next = Target::Return(self.default);
        for rule in rules.iter().rev() {
            let mut holds = Target::Return(rule.action);
            for condition in rule.conditions.iter().rev() {
                label = self.condition(condition, holds, next);
                holds = Target::Label(label);
            }
            next = holds;
        }
        self.checks.push((rules.to_vec(), label));
        label
    }

    /// One comparison of up to 64 bits, the upper half first.
    fn condition(&mut self, condition: &Condition, holds: Target, fails: Target) -> usize {
        let (yes, no) = if condition.negated { (fails, holds) } else { (holds, fails) };
        let argument = ARGUMENTS + 8 * u32::from(condition.argument);
        let (low, high) = if cfg!(target_endian = "big") { (argument + 4, argument) } else { (argument, argument + 4) };
        let (low_value, high_value) = (condition.value as u32, (condition.value >> 32) as u32);
        let comparison = match condition.comparison {
            Comparison::Equal { mask } => {
                let mut label = None;
                for (offset, mask, value) in [(low, mask as u32, low_value), (high, (mask >> 32) as u32, high_value)] {
                    if mask != 0 && (offset == low || condition.wide) {
                        let yes = label.map_or(yes, Target::Label);
                        self.fall_in_branch(EQUAL, value, yes, no);
                        if mask != u32::MAX {
                            self.push(Instruction::new(AND, mask));
                        }
                        label = Some(self.push(Instruction::new(LOAD, offset)));
                    }
                }
                // A condition without any bit to compare is dropped before it gets here.
                return label.unwrap_or_default();
            }
            Comparison::Greater => GREATER,
            Comparison::GreaterOrEqual => GREATER_OR_EQUAL,
        };
        self.fall_in_branch(comparison, low_value, yes, no);
        let label = self.push(Instruction::new(LOAD, low));
        if !condition.wide {
            return label;
        }
        let equal = self.branch(EQUAL, high_value, Target::Label(label), no);
        self.fall_in_branch(GREATER, high_value, yes, equal);
        self.push(Instruction::new(LOAD, high))
    }

    /// A branch that what is written next runs into.
    fn fall_in_branch(&mut self, code: u32, k: u32, yes: Target, no: Target) {
        let branch = self.branch(code, k, yes, no);
        self.fall_into(branch);
    }

    /// A conditional jump; no instruction at all when both sides are the same.
    fn branch(&mut self, code: u32, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // Reaching `no` may put one instruction between.
        let yes = self.reach(yes, 1);
        let no = self.reach(no, 0);
        let here = self.backwards.len();
        let distance = |label: usize| (here - label - 1) as u8;
        Target::Label(self.push(Instruction { code: code as u16, jt: distance(yes), jf: distance(no), k }))
    }

    /// A label for the target that a conditional jump reaches, even when `between` instructions come between.
    fn reach(&mut self, target: Target, between: usize) -> usize {
        let here = self.backwards.len();
        let near = |label: usize| here + between - label - 1 <= usize::from(u8::MAX);
        match target {
            Target::Label(label) if near(label) => label,
            Target::Label(label) => self.push(Instruction::new(JUMP, (here - label - 1) as u32)),
            Target::Return(value) => {
                let known = self.returns.iter().position(|(known, _)| *known == value);
                if let Some(known) = known
                    && near(self.returns[known].1)
                {
                    return self.returns[known].1;
                }
                let label = self.push(Instruction::new(RETURN, value));
                match known {
                    Some(known) => self.returns[known].1 = label,
                    None => self.returns.push((value, label)),
                }
                label
            }
        }
    }

    /// Makes what is written next run into the target.
    fn fall_into(&mut self, target: Target) {
        let here = self.backwards.len();
        match target {
            Target::Label(label) if label + 1 == here => {}
            Target::Label(label) => drop(self.push(Instruction::new(JUMP, (here - label - 1) as u32))),
            Target::Return(value) => drop(self.push(Instruction::new(RETURN, value))),
        }
    }
}

/// A range of one number between two of equal outcome.
fn single_number(ranges: &[Range]) -> Option<usize> {
    let around = ranges.windows(3);
    let position = around.into_iter().position(|three| match three {
        [before, single, after] => before.outcome == after.outcome && after.first - single.first == 1,
        _ => false,
    });
    position.map(|before| before + 1)
}
