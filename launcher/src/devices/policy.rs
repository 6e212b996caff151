//! What a list of rules amounts to: the form in which the devices controller keeps it.

use std::collections::BTreeMap;

use super::error::RuleError;
use super::rules::{ALWAYS, Access, Devices, FIELD, Kind, Rule, wrong};

/// All allowed or all denied, with exceptions that say the opposite. No exception has the kind [`Kind::All`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Policy {
    /// Whether this is a deny-list, in which the exceptions are denied. The default is an allow-list without a line.
    pub allow: bool,
    /// Each with at least one access.
    pub exceptions: BTreeMap<Devices, Access>,
}

/// An exception of which a rule would have to take a part: neither version of cgroups can express that, and v1 ignores the
/// rule without a word.
#[derive(Debug)]
struct Hole {
    wildcard: (Devices, Access),
}

impl Policy {
    /// The outcome of these rules, and then of those that every container has.
    ///
    /// # Errors
    /// Names the rule that takes a part of a wildcard.
    pub fn of(rules: &[Rule]) -> Result<Policy, RuleError> {
        let mut policy = Policy::default();
        for (index, rule) in rules.iter().enumerate() {
            policy.apply(rule).map_err(|Hole { wildcard: (devices, access) }| {
                let reason = format!("cannot punch a hole in the wildcard rule {devices} {access}");
                wrong(format!("{FIELD}[{index}]"), reason)
            })?;
        }
        for rule in &ALWAYS {
            policy.apply(rule).map_err(|Hole { wildcard: (devices, access) }| {
                let always = format!("{} {}", rule.devices, rule.access);
                wrong(FIELD, format!("{devices} {access} cannot be denied: a part of it, {always}, is always allowed"))
            })?;
        }
        Ok(policy)
    }

    /// One more rule, which overrides what was there.
    fn apply(&mut self, rule: &Rule) -> Result<(), Hole> {
        if rule.devices == Devices::ALL && rule.access == Access::ALL {
            *self = Policy { allow: rule.allow, exceptions: BTreeMap::new() };
            return Ok(());
        }
        let kinds: &[Kind] = match rule.devices.kind {
            Kind::All => &[Kind::Block, Kind::Char],
            Kind::Block => &[Kind::Block],
            Kind::Char => &[Kind::Char],
        };
        for &kind in kinds {
            let devices = Devices { kind, ..rule.devices };
            if rule.allow == self.allow {
                self.retract(devices, rule.access)?;
            } else {
                let known = self.exceptions.entry(devices).or_insert(Access::NONE);
                *known = known.and(rule.access);
            }
        }
        Ok(())
    }

    /// Takes an access away from the exceptions.
    ///
    /// Of narrower ones than `devices` the devices controller, told rule by rule, would keep all. Here they stay in a
    /// deny-list only: what a later rule denies is denied.
    fn retract(&mut self, devices: Devices, access: Access) -> Result<(), Hole> {
        let whole = |known: Devices| devices.cover(known);
        let hole = |(known, had): (&Devices, &Access)| devices.meet(*known) && had.meets(access) && !whole(*known);
        if let Some((known, had)) = self.exceptions.iter().find(|entry| hole(*entry)) {
            return Err(Hole { wildcard: (*known, *had) });
        }
        let keeps_narrower = self.allow;
        self.exceptions.retain(|known, had| {
            if *known == devices || (whole(*known) && !keeps_narrower) {
                *had = had.without(access);
            }
            *had != Access::NONE
        });
        Ok(())
    }

    /// Whether everything is allowed.
    pub fn allows_all(&self) -> bool {
        self.allow && self.exceptions.is_empty()
    }
}
