//! The devices controller as `security/device_cgroup.c` has it, and what a list of rules means to its reader.

use crate::devices::policy::Policy;
use crate::devices::rules::{ALWAYS, Access, Devices, Kind, Rule};
use crate::devices::v1::Line;

/// One access to one device.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub kind: Kind,
    pub major: u32,
    pub minor: u32,
    pub access: Access,
}

impl Request {
    /// Whether it asks for one thing only.
    pub fn is_single(&self) -> bool {
        self.access.0.count_ones() == 1
    }

    fn device(&self) -> Devices {
        Devices { kind: self.kind, major: Some(self.major), minor: Some(self.minor) }
    }
}

/// Every access to the devices that rules of these tests speak of, to one that they do not, and to `/dev/pts/4`.
pub fn requests() -> impl Iterator<Item = Request> {
    let numbers = (1..=4_u32).flat_map(|major| (1..=4_u32).map(move |minor| (major, minor))).chain([(136, 4)]);
    numbers.flat_map(|(major, minor)| {
        [Kind::Block, Kind::Char]
            .into_iter()
            .flat_map(move |kind| (0..=7).map(move |access| Request { kind, major, minor, access: Access(access) }))
    })
}

/// Whether the last rule that speaks of it, or the list that follows all, allows a request for one access.
pub fn last_word(rules: &[Rule], request: &Request) -> bool {
    let speaks = |rule: &&Rule| rule.devices.cover(request.device()) && rule.access.covers(request.access);
    ALWAYS.iter().rev().chain(rules.iter().rev()).find(speaks).is_some_and(|rule| rule.allow)
}

/// One directory of the devices controller, below one that allows everything. It begins with everything allowed.
#[derive(Clone, Debug)]
pub struct Controller {
    default_allow: bool,
    exceptions: Vec<(Devices, Access)>,
}

impl Default for Controller {
    fn default() -> Self {
        Self { default_allow: true, exceptions: Vec::new() }
    }
}

impl Controller {
    /// The controller after a policy was put in force.
    pub fn of(policy: &Policy) -> Self {
        Self { default_allow: policy.allow, exceptions: policy.exceptions.clone().into_iter().collect() }
    }

    /// devcgroup_update_access: `a` means everything, whatever follows.
    pub fn write(&mut self, rule: &Rule) {
        if rule.devices.kind == Kind::All {
            *self = Self { default_allow: rule.allow, exceptions: Vec::new() };
            return;
        }
        let known = self.exceptions.iter_mut().find(|(devices, _)| *devices == rule.devices);
        match (known, rule.allow == self.default_allow) {
            (Some((_, access)), true) => *access = access.without(rule.access),
            (Some((_, access)), false) => *access = access.and(rule.access),
            (None, true) => {}
            (None, false) => self.exceptions.push((rule.devices, rule.access)),
        }
        self.exceptions.retain(|(_, access)| *access != Access::NONE);
    }

    pub fn write_line(&mut self, line: &Line) {
        self.write(&Rule { allow: line.allow, devices: line.devices, access: line.access });
    }

    /// devcgroup_legacy_check_permission: match_exception_partial in a deny-list, match_exception in an allow-list.
    pub fn allows(&self, request: &Request) -> bool {
        let mut matching = self.exceptions.iter().filter(|(devices, _)| devices.cover(request.device()));
        if self.default_allow {
            !matching.any(|(_, access)| access.meets(request.access))
        } else {
            matching.any(|(_, access)| access.covers(request.access))
        }
    }

    /// The text of `devices.list`.
    pub fn list(&self) -> String {
        if self.default_allow {
            return "a *:* rwm\n".to_owned();
        }
        self.exceptions.iter().map(|(devices, access)| format!("{devices} {access}\n")).collect()
    }
}
