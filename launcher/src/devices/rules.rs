//! The rules of a config.json, checked, and those that every container has.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::error::RuleError;
use crate::config::quote;

/// The field of config.json.
pub(super) const FIELD: &str = "linux.resources.devices";

/// The most rules of a config.json: the kernel goes through them one by one whenever a device is opened.
pub(super) const MOST: usize = 1024;

/// Type of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Both of the others.
    All,
    Block,
    Char,
}

/// Some devices; a number that is `None` stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Devices {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

impl Devices {
    pub const ALL: Devices = Devices { kind: Kind::All, major: None, minor: None };

    /// Whether all of the others are among these.
    pub fn cover(self, others: Devices) -> bool {
        let all = |mine: Option<u32>, theirs| mine.is_none() || mine == theirs;
        (self.kind == Kind::All || self.kind == others.kind)
            && all(self.major, others.major)
            && all(self.minor, others.minor)
    }

    /// Whether there are devices among both.
    pub fn meet(self, others: Devices) -> bool {
        let both = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || theirs.is_none() || mine == theirs;
        (self.kind == Kind::All || others.kind == Kind::All || self.kind == others.kind)
            && both(self.major, others.major)
            && both(self.minor, others.minor)
    }
}

impl fmt::Display for Devices {
    /// As the devices controller writes them: `c 136:*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            Kind::All => 'a',
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// What is done with a device: bits as in `BPF_DEVCG_ACC_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Access(pub u8);

impl Access {
    pub const MKNOD: Access = Access(1);
    pub const READ: Access = Access(2);
    pub const WRITE: Access = Access(4);
    pub const NONE: Access = Access(0);
    pub const ALL: Access = Access(7);

    /// The letters of both lists, `None` if there is another one.
    pub fn parse(letters: &str) -> Option<Access> {
        letters.chars().try_fold(Access::NONE, |all, letter| {
            Some(all.and(match letter {
                'r' => Access::READ,
                'w' => Access::WRITE,
                'm' => Access::MKNOD,
                // Callers mix it up with the type; to runc it says nothing.
                'a' => Access::NONE,
                _ => return None,
            }))
        })
    }

    pub fn and(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    pub fn without(self, other: Access) -> Access {
        Access(self.0 & !other.0)
    }

    pub fn meets(self, other: Access) -> bool {
        self.0 & other.0 != 0
    }

    pub fn covers(self, other: Access) -> bool {
        other.without(self) == Access::NONE
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(Access::READ, "r"), (Access::WRITE, "w"), (Access::MKNOD, "m")];
        letters.into_iter().filter(|(access, _)| self.meets(*access)).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// One rule; later ones override earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub allow: bool,
    pub devices: Devices,
    pub access: Access,
}

/// What every container may use, whatever its config.json says: runc's list, and like there after the file's rules.
/// Making a node gives nothing away, since opening it is another matter. `linux.devices` adds nothing to it.
pub(super) const ALWAYS: [Rule; 11] = [
    allowed(Kind::Char, None, None, Access::MKNOD),
    allowed(Kind::Block, None, None, Access::MKNOD),
    allowed(Kind::Char, Some(1), Some(3), Access::ALL),    // null
    allowed(Kind::Char, Some(1), Some(5), Access::ALL),    // zero
    allowed(Kind::Char, Some(1), Some(7), Access::ALL),    // full
    allowed(Kind::Char, Some(1), Some(8), Access::ALL),    // random
    allowed(Kind::Char, Some(1), Some(9), Access::ALL),    // urandom
    allowed(Kind::Char, Some(5), Some(0), Access::ALL),    // tty
    allowed(Kind::Char, Some(5), Some(2), Access::ALL),    // ptmx
    allowed(Kind::Char, Some(136), None, Access::ALL),     // pts
    allowed(Kind::Char, Some(10), Some(200), Access::ALL), // net/tun
];

const fn allowed(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
    Rule { allow: true, devices: Devices { kind, major, minor }, access }
}

/// The rules of a config.json, without [`ALWAYS`].
pub(super) fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, RuleError> {
    if rules.len() > MOST {
        return Err(wrong(FIELD, format!("{} rules, at most {MOST} are possible", rules.len())));
    }
    rules.iter().enumerate().map(|(index, rule)| parse_one(&format!("{FIELD}[{index}]"), rule)).collect()
}

fn parse_one(field: &str, rule: &LinuxDeviceCgroup) -> Result<Rule, RuleError> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => Kind::All,
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::C => Kind::Char,
        other => return Err(wrong(format!("{field}.type"), format!("{:?} is none of a, b and c", other.as_str()))),
    };
    let major = number(field, "major", rule.major())?;
    let minor = number(field, "minor", rule.minor())?;
    let letters = rule.access().as_deref().unwrap_or_default();
    let access = match Access::parse(letters) {
        Some(Access::NONE) => return Err(wrong(format!("{field}.access"), "device access cannot be empty")),
        Some(access) => access,
        None => return Err(wrong(format!("{field}.access"), format!("{} is not made of r, w and m", quote(letters)))),
    };
    Ok(Rule { allow: rule.allow(), devices: Devices { kind, major, minor }, access })
}

/// A device number; the kernel takes the highest one for all of them.
fn number(field: &str, name: &str, value: Option<i64>) -> Result<Option<u32>, RuleError> {
    let Some(value) = value.filter(|value| *value != -1) else { return Ok(None) };
    match u32::try_from(value) {
        Ok(number) if number != u32::MAX => Ok(Some(number)),
        _ => Err(wrong(format!("{field}.{name}"), format!("{value} is neither a device number nor -1"))),
    }
}

pub(super) fn wrong(field: impl Into<String>, reason: impl Into<String>) -> RuleError {
    RuleError { field: field.into(), reason: reason.into() }
}
