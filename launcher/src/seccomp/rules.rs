//! What a profile's rules mean: names to numbers, several rules for one call, conditions in the form that is assembled.
//!
//! As runc and libseccomp have it:
//! - a rule whose action is the default one is skipped, so it makes no exception from a broader rule;
//! - an unconditional rule beats conditional ones, wherever it stands, and the first of several holds;
//! - conditions of one rule must all hold, unless two of them look at the same argument: then each is a rule of its own;
//! - of several conditional rules the more specific ones are tried first ([`Rule::order`]).

use std::cmp::{Ordering, Reverse};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::SeccompError;
use super::arch::{self, Architecture, Call, Multiplexed};

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal { mask: u64 },
    Greater,
    GreaterOrEqual,
}

/// One comparison; LT, LE and NE are the others negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) comparison: Comparison,
    pub(super) negated: bool,
    pub(super) value: u64,
    /// Whether all 64 bits count.
    pub(super) wide: bool,
}

/// An action and what must hold for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Sorted by argument, each argument once.
    pub(super) conditions: Vec<Condition>,
    /// `SECCOMP_RET_*` with its data.
    pub(super) action: u32,
}

/// The profile's rules, not yet for one architecture.
#[derive(Debug)]
pub(super) struct Rules {
    /// What happens to a call without a rule.
    pub(super) default: u32,
    /// Every name that is a system call, in the profile's order; those of skipped rules have no rule.
    pub(super) named: Vec<Named>,
    rules: Vec<Rule>,
}

/// One name of one entry of `syscalls`.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) call: Call,
    /// How x86 has the call behind another one.
    pub(super) multiplexed: Option<Multiplexed>,
    /// Range in `Rules::rules`.
    rules: (usize, usize),
}

impl Rules {
    /// Reads and checks the profile.
    pub(super) fn collect(profile: &LinuxSeccomp, notes: &mut Vec<String>) -> Result<Self, SeccompError> {
        let default_action = profile.default_action();
        if default_action == LinuxSeccompAction::ScmpActNotify {
            return Err(SeccompError::NotifyDefault);
        }
        let errno = || "linux.seccomp.defaultErrnoRet".to_owned();
        let default = action(default_action, profile.default_errno_ret(), errno)?;
        let mut all = Self { default, named: Vec::new(), rules: Vec::new() };
        for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
            all.add(index, entry, notes)?;
        }
        Ok(all)
    }

    fn add(&mut self, index: usize, entry: &LinuxSyscall, notes: &mut Vec<String>) -> Result<(), SeccompError> {
        let errno = || format!("linux.seccomp.syscalls[{index}].errnoRet");
        let action = action(entry.action(), entry.errno_ret(), errno)?;
        let conditions = conditions(index, entry.args().as_deref().unwrap_or_default())?;
        let first = self.rules.len();
        if action != self.default {
            self.rules.extend(alternatives(conditions).map(|conditions| Rule { conditions, action }));
        }
        let rules = (first, self.rules.len());
        for (position, name) in entry.names().iter().enumerate() {
            if name.is_empty() {
                return Err(SeccompError::EmptyName { rule: index, name: position });
            }
            match arch::call(name) {
                Some(call) => {
                    let multiplexed = arch::multiplexed(name);
                    self.named.push(Named { call, multiplexed, rules });
                }
                None => notes.push(format!("linux.seccomp.syscalls[{index}].names: `{name}` is unknown, skipped")),
            }
        }
        Ok(())
    }

    /// Numbers with the positions of their rules, sorted by number and then as the profile has them; and rules that only
    /// this architecture has, whose positions follow those of the profile.
    pub(super) fn on(&self, architecture: Architecture) -> OnArchitecture<'_> {
        let mut on =
            OnArchitecture { shared: &self.rules, own: Vec::new(), wide: architecture.wide(), calls: Vec::new() };
        for named in &self.named {
            let (first, end) = named.rules;
            if let Some(number) = architecture.number(&named.call) {
                on.calls.extend((first..end).map(|rule| (number, rule)));
            }
            if let Some(Multiplexed { number, selector }) = named.multiplexed
                && architecture == Architecture::X86
            {
                for rule in &self.rules[first..end] {
                    on.calls.push((number, self.rules.len() + on.own.len()));
                    on.own.push(rule.selected_by(selector));
                }
            }
        }
        on.calls.sort_unstable();
        on
    }
}

/// The rules as one architecture sees them.
pub(super) struct OnArchitecture<'r> {
    shared: &'r [Rule],
    own: Vec<Rule>,
    wide: bool,
    /// Number and position of a rule.
    pub(super) calls: Vec<(u32, usize)>,
}

/// What one number comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The same for all arguments.
    Always(u32),
    /// Rules to try in this order.
    Checks(Vec<Rule>),
}

impl OnArchitecture<'_> {
    fn rule(&self, position: usize) -> &Rule {
        self.shared.get(position).unwrap_or_else(|| &self.own[position - self.shared.len()])
    }

    /// What the rules of one number come to together. The second value tells that rules contradict each other.
    pub(super) fn meaning(&self, rules: &[(u32, usize)]) -> (Meaning, bool) {
        // By far the most frequent: one rule without conditions.
        if let [(_, only)] = rules
            && self.rule(*only).conditions.is_empty()
        {
            return (Meaning::Always(self.rule(*only).action), false);
        }
        let mut contradiction = false;
        let mut always = None;
        let mut checks: Vec<Rule> = Vec::new();
        for (_, position) in rules {
            let rule = self.rule(*position).narrowed(self.wide);
            if rule.conditions.is_empty() {
                contradiction |= *always.get_or_insert(rule.action) != rule.action;
            } else if let Some(same) = checks.iter().find(|known| known.conditions == rule.conditions) {
                contradiction |= same.action != rule.action;
            } else {
                checks.push(rule);
            }
        }
        if let Some(action) = always {
            return (Meaning::Always(action), contradiction);
        }
        checks.sort_by(Rule::order);
        (Meaning::Checks(checks), contradiction)
    }
}

impl Rule {
    /// For an architecture of this width. What cannot fail is dropped.
    fn narrowed(&self, wide: bool) -> Self {
        let conditions = self.conditions.iter().filter_map(|condition| condition.narrowed(wide)).collect();
        Self { conditions, action: self.action }
    }

    /// The rule of a call that is made through socketcall(2) or ipc(2): its first argument must select it. The others are
    /// not where the condition looks for them, but libseccomp keeps them, and so the outcome is the same.
    fn selected_by(&self, selector: u64) -> Self {
        let comparison = Comparison::Equal { mask: u64::MAX };
        let select = Condition { argument: 0, comparison, negated: false, value: selector, wide: true };
        let others = self.conditions.iter().filter(|condition| condition.argument != 0).copied();
        Self { conditions: std::iter::once(select).chain(others).collect(), action: self.action }
    }

    /// The order of libseccomp's tree: by the first condition, the last argument first; equality, then upper bounds, then
    /// lower bounds; of bounds the tightest first. Otherwise as the profile has them.
    fn order(&self, other: &Self) -> Ordering {
        let key = |rule: &Self| {
            rule.conditions.first().map(|first| {
                let (kind, value) = match (first.comparison, first.negated) {
                    (Comparison::Equal { .. }, _) => (0, Reverse(first.value)),
                    (_, true) => (1, Reverse(!first.value)),
                    (_, false) => (2, Reverse(first.value)),
                };
                (Reverse(first.argument), kind, value)
            })
        };
        key(self).cmp(&key(other))
    }
}

impl Condition {
    fn new(arg: &LinuxSeccompArg) -> Self {
        let equal = Comparison::Equal { mask: u64::MAX };
        let (comparison, negated, value) = match arg.op() {
            Operator::ScmpCmpEq => (equal, false, arg.value()),
            Operator::ScmpCmpNe => (equal, true, arg.value()),
            Operator::ScmpCmpGt => (Comparison::Greater, false, arg.value()),
            Operator::ScmpCmpLe => (Comparison::Greater, true, arg.value()),
            Operator::ScmpCmpGe => (Comparison::GreaterOrEqual, false, arg.value()),
            Operator::ScmpCmpLt => (Comparison::GreaterOrEqual, true, arg.value()),
            Operator::ScmpCmpMaskedEq => {
                let mask = arg.value();
                (Comparison::Equal { mask }, false, arg.value_two().unwrap_or_default() & mask)
            }
        };
        // Checked by the caller to be below 6.
        Self { argument: arg.index() as u8, comparison, negated, value, wide: true }
    }

    /// `None` when no bit is left to compare.
    fn narrowed(mut self, wide: bool) -> Option<Self> {
        if !wide {
            self.wide = false;
            self.value &= u64::from(u32::MAX);
            if let Comparison::Equal { mask } = &mut self.comparison {
                *mask &= u64::from(u32::MAX);
            }
        }
        (self.comparison != Comparison::Equal { mask: 0 }).then_some(self)
    }
}

fn conditions(rule: usize, args: &[LinuxSeccompArg]) -> Result<Vec<Condition>, SeccompError> {
    let wrong = args.iter().position(|arg| arg.index() > 5);
    if let Some(arg) = wrong {
        return Err(SeccompError::Argument { rule, arg, index: args[arg].index() });
    }
    Ok(args.iter().map(Condition::new).collect())
}

/// All conditions as one rule; or each as one, when two of them look at the same argument.
fn alternatives(mut conditions: Vec<Condition>) -> impl Iterator<Item = Vec<Condition>> {
    conditions.sort_by_key(|condition| condition.argument);
    let split = conditions.windows(2).any(|two| two[0].argument == two[1].argument);
    let (each, together) = if split { (conditions, None) } else { (Vec::new(), Some(conditions)) };
    each.into_iter().map(|condition| vec![condition]).chain(together)
}

/// `SECCOMP_RET_*` of an action. Without a value ERRNO and TRACE carry EPERM, as in runc.
fn action(action: LinuxSeccompAction, data: Option<u32>, field: impl Fn() -> String) -> Result<u32, SeccompError> {
    let data = data.unwrap_or(libc::EPERM as u32);
    let with_data = |base: u32| {
        if data > libc::SECCOMP_RET_DATA {
            return Err(SeccompError::Errno { field: field(), value: data });
        }
        Ok(base | data)
    };
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Ok(libc::SECCOMP_RET_KILL_THREAD),
        LinuxSeccompAction::ScmpActKillProcess => Ok(libc::SECCOMP_RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(libc::SECCOMP_RET_TRAP),
        LinuxSeccompAction::ScmpActErrno => with_data(libc::SECCOMP_RET_ERRNO),
        LinuxSeccompAction::ScmpActTrace => with_data(libc::SECCOMP_RET_TRACE),
        LinuxSeccompAction::ScmpActNotify => Ok(libc::SECCOMP_RET_USER_NOTIF),
        LinuxSeccompAction::ScmpActLog => Ok(libc::SECCOMP_RET_LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(libc::SECCOMP_RET_ALLOW),
    }
}
