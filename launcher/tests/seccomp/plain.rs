//! What a profile says, read plainly and slowly: a call gets the action of a rule all of whose conditions hold.
//!
//! Only for profiles whose rules for one call share an action, so that order does not matter.

use std::collections::HashMap;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator as Operator};

use crate::interpreter::Data;
use crate::oracle;

/// The rules of a profile by number.
pub struct Plain {
    rules: HashMap<(u32, u32), Vec<Rule>>,
    default: u32,
}

struct Rule {
    wide: bool,
    conditions: Vec<LinuxSeccompArg>,
    action: u32,
}

impl Plain {
    pub fn new(profile: &LinuxSeccomp) -> Self {
        let default = profile.default_action().as_u32(profile.default_errno_ret());
        let mut rules: HashMap<_, Vec<Rule>> = HashMap::new();
        let architectures = crate::reference::architectures(profile);
        for entry in profile.syscalls().iter().flatten() {
            let action = entry.action().as_u32(entry.errno_ret());
            let args = entry.args().as_deref().unwrap_or_default();
            let twice =
                args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|one| one.index() == arg.index()));
            let alternatives: Vec<_> = if twice { args.chunks(1).collect() } else { vec![args] };
            for (name, architecture) in
                entry.names().iter().flat_map(|name| architectures.iter().map(move |on| (name, *on)))
            {
                let wide = matches!(architecture, ScmpArch::X8664 | ScmpArch::Aarch64 | ScmpArch::Riscv64);
                for conditions in alternatives.iter().filter(|_| action != default) {
                    for (number, conditions) in on(name, architecture, conditions) {
                        let of = rules.entry((oracle::audit(architecture), number)).or_default();
                        of.push(Rule { wide, conditions, action });
                    }
                }
            }
        }
        Self { rules, default }
    }

    /// The verdict on a call that has rules.
    pub fn run(&self, data: &Data) -> Option<u32> {
        let rules = self.of(data);
        let chosen = || rules.iter().find(|rule| rule.always()).or_else(|| rules.iter().find(|rule| rule.holds(data)));
        let verdict = || chosen().map_or(self.default, |rule| rule.action);
        (!rules.is_empty()).then(verdict)
    }

    /// Whether any call has several rules with conditions, one of them a bound.
    pub fn several_with_bounds(&self) -> bool {
        let bound = |condition: &LinuxSeccompArg| {
            !matches!(condition.op(), Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq)
        };
        let several = self.rules.values().filter(|rules| rules.len() > 1);
        several.flatten().any(|rule| rule.conditions.iter().any(bound))
    }

    fn of(&self, data: &Data) -> &[Rule] {
        self.rules.get(&(data.architecture, data.number)).map_or(&[], Vec::as_slice)
    }
}

/// Under which numbers, and then under which conditions, an architecture has the call.
fn on(
    name: &str,
    architecture: ScmpArch,
    conditions: &[LinuxSeccompArg],
) -> impl Iterator<Item = (u32, Vec<LinuxSeccompArg>)> {
    let number = ScmpSyscall::from_name_by_arch(name, architecture).map_or(-1, i32::from);
    let x86 = architecture == ScmpArch::X86;
    let direct = if x86 { name.parse::<syscalls::x86::Sysno>().ok().map(|call| call as u32) } else { None };
    let direct = direct.or_else(|| u32::try_from(number).ok()).map(|number| (number, conditions.to_vec()));
    let through = match number {
        -120..=-100 if x86 => Some((102, -number % 100)),
        -224..=-200 if x86 => Some((117, -number % 200)),
        _ => None,
    };
    let through = through.map(|(number, selector)| {
        let mut selected: Vec<_> = conditions.iter().filter(|condition| condition.index() != 0).copied().collect();
        let select = LinuxSeccompArgBuilder::default().index(0usize).op(Operator::ScmpCmpEq).value(selector as u64);
        selected.push(select.build().unwrap());
        (number, selected)
    });
    direct.into_iter().chain(through)
}

impl Rule {
    fn bits(&self) -> u64 {
        if self.wide { u64::MAX } else { u64::from(u32::MAX) }
    }

    /// Whether no bit is compared with anything.
    fn always(&self) -> bool {
        let nothing = |condition: &LinuxSeccompArg| {
            condition.op() == Operator::ScmpCmpMaskedEq && condition.value() & self.bits() == 0
        };
        self.conditions.iter().all(nothing)
    }

    fn holds(&self, data: &Data) -> bool {
        self.conditions.iter().all(|condition| {
            let bits = self.bits();
            let argument = data.arguments[condition.index()] & bits;
            let value = condition.value() & bits;
            match condition.op() {
                Operator::ScmpCmpNe => argument != value,
                Operator::ScmpCmpLt => argument < value,
                Operator::ScmpCmpLe => argument <= value,
                Operator::ScmpCmpEq => argument == value,
                Operator::ScmpCmpGe => argument >= value,
                Operator::ScmpCmpGt => argument > value,
                Operator::ScmpCmpMaskedEq => argument & value == condition.value_two().unwrap_or_default() & value,
            }
        })
    }
}
