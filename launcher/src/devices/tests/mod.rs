//! Rules against a model of the kernel's devices controller, and programs against both.

mod interpreter;
mod kernel;
mod model;
mod rules;
mod transitions;

use proptest::prelude::*;

use super::ebpf::assemble;
use super::policy::Policy;
use super::rules::{Access, Devices, Kind, Rule};
use model::{Controller, Request, last_word, requests};

/// A rule as the devices controller writes it.
fn rule(allow: bool, text: &str) -> Rule {
    let (kind, rest) = text.split_once(' ').unwrap();
    let (numbers, access) = rest.split_once(' ').unwrap();
    let (major, minor) = numbers.split_once(':').unwrap();
    let kind = match kind {
        "a" => Kind::All,
        "b" => Kind::Block,
        "c" => Kind::Char,
        other => panic!("{other}"),
    };
    let devices = Devices { kind, major: major.parse().ok(), minor: minor.parse().ok() };
    Rule { allow, devices, access: Access::parse(access).unwrap() }
}

fn devices() -> impl Strategy<Value = Devices> {
    let kind = prop_oneof![4 => Just(Kind::Char), 2 => Just(Kind::Block), 1 => Just(Kind::All)];
    let number = || prop_oneof![1 => Just(None), 3 => (1..=3_u32).prop_map(Some)];
    (kind, number(), number()).prop_map(|(kind, major, minor)| Devices { kind, major, minor })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let some = (any::<bool>(), devices(), 1..=7_u8).prop_map(|(allow, devices, access)| Rule {
        allow,
        devices,
        access: Access(access),
    });
    let everything = any::<bool>().prop_map(|allow| Rule { allow, devices: Devices::ALL, access: Access::ALL });
    prop_oneof![9 => some, 1 => everything]
}

/// Rules, and what they amount to.
fn policy() -> impl Strategy<Value = (Vec<Rule>, Policy)> {
    proptest::collection::vec(any_rule(), 0..12).prop_map(without_holes)
}

/// Leaves those rules out that would take a part of a wildcard.
fn without_holes(rules: Vec<Rule>) -> (Vec<Rule>, Policy) {
    let mut kept = Vec::new();
    for rule in rules {
        kept.push(rule);
        if Policy::of(&kept).is_err() {
            kept.pop();
        }
    }
    let policy = Policy::of(&kept).unwrap();
    (kept, policy)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What a rule denies is denied, and what one allows is allowed unless a narrower rule denied it before.
    #[test]
    fn the_last_rule_has_the_last_word((rules, policy) in policy()) {
        let controller = Controller::of(&policy);
        for request in requests().filter(Request::is_single) {
            let (granted, wanted) = (controller.allows(&request), last_word(&rules, &request));
            if policy.allow {
                prop_assert!(wanted || !granted, "{request:?} is granted");
            } else {
                prop_assert_eq!(granted, wanted, "{:?}", request);
            }
        }
    }

    /// Told rule by rule, the controller grants no less; and the same, unless a rule denies what narrower ones allow.
    #[test]
    fn no_more_is_granted_than_by_the_controller(mut rules in proptest::collection::vec(any_rule(), 0..12)) {
        // For the controller every line with `a` is about everything.
        let everything = |rule: &Rule| rule.devices == Devices::ALL && rule.access == Access::ALL;
        rules.retain(|rule| rule.devices.kind != Kind::All || everything(rule));
        let (rules, policy) = without_holes(rules);
        let mut told = Controller::default();
        told.write(&rule(false, "a *:* rwm"));
        rules.iter().chain(&super::rules::ALWAYS).for_each(|rule| told.write(rule));
        let wider = |(index, rule): (usize, &Rule)| {
            let narrower = |known: &Rule| rule.devices != known.devices && rule.devices.cover(known.devices);
            !rule.allow && !everything(rule) && rules[..index].iter().any(narrower)
        };
        let same = !rules.iter().enumerate().any(wider);
        let ours = Controller::of(&policy);
        for request in requests() {
            let (ours, told) = (ours.allows(&request), told.allows(&request));
            prop_assert!(ours == told || (!same && !ours), "{request:?}");
        }
    }

    /// The program decides as the controller does.
    #[test]
    fn a_program_decides_as_the_controller((_, policy) in policy()) {
        let (program, controller) = (assemble(&policy), Controller::of(&policy));
        for request in requests() {
            prop_assert_eq!(interpreter::run(&program, &request), controller.allows(&request), "{:?}", request);
        }
    }

    /// Numbers are compared in full, those with the highest bit too.
    #[test]
    fn a_program_compares_whole_numbers(numbers in proptest::collection::vec(any::<u32>(), 2), other: u32) {
        let devices = Devices { kind: Kind::Char, major: Some(numbers[0]), minor: Some(numbers[1]) };
        let policy = Policy { allow: false, exceptions: [(devices, Access::READ)].into() };
        for (major, minor) in [(numbers[0], numbers[1]), (other, numbers[1]), (numbers[0], other)] {
            let request = Request { kind: Kind::Char, major, minor, access: Access::READ };
            let same = major == numbers[0] && minor == numbers[1];
            prop_assert_eq!(interpreter::run(&assemble(&policy), &request), same);
        }
    }
}
