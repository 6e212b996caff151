//! What is refused, by which name; and what is compiled once.

use std::sync::Arc;

use serde_json::{Value, json};

use super::rule;
use crate::devices::policy::Policy;
use crate::devices::rules::{Access, Devices, Kind, MOST};
use crate::devices::{cache::Cache, program};

#[test]
fn wrong_rules_are_refused_by_field() {
    let cases = [
        (json!({ "allow": true, "access": "rwx" }), "access: \"rwx\" is not made of r, w and m"),
        (json!({ "allow": true, "access": "r\nw" }), "access: \"r\\nw\" is not made of r, w and m"),
        (json!({ "allow": true, "access": "" }), "access: device access cannot be empty"),
        (json!({ "allow": false }), "access: device access cannot be empty"),
        (json!({ "allow": true, "type": "p", "access": "r" }), "type: \"p\" is none of a, b and c"),
        (json!({ "allow": true, "type": "u", "access": "r" }), "type: \"u\" is none of a, b and c"),
        (
            json!({ "allow": true, "type": "c", "major": -2, "access": "r" }),
            "major: -2 is neither a device number nor -1",
        ),
        (
            json!({ "allow": true, "type": "c", "minor": 4_294_967_295_u32, "access": "r" }),
            "minor: 4294967295 is neither a device number nor -1",
        ),
        (
            json!({ "allow": true, "type": "c", "minor": i64::MAX, "access": "r" }),
            "minor: 9223372036854775807 is neither a device number nor -1",
        ),
    ];
    for (wrong, text) in cases {
        let refused = compile(&json!([{ "allow": false, "access": "rwm" }, wrong])).unwrap_err();
        assert_eq!(refused, format!("linux.resources.devices[1].{text}"));
    }
    let long = "r".repeat(100) + "x";
    let refused = compile(&json!([{ "allow": true, "access": long }])).unwrap_err();
    assert!(refused.len() < 160, "{refused}");
}

#[test]
fn the_number_of_rules_is_bounded() {
    let rules = |count: usize| Value::from(vec![json!({ "allow": true, "type": "c", "access": "r" }); count]);
    compile(&rules(MOST)).unwrap();
    assert_eq!(
        compile(&rules(MOST + 1)).unwrap_err(),
        "linux.resources.devices: 1025 rules, at most 1024 are possible"
    );
}

#[test]
fn a_part_of_a_wildcard_is_refused() {
    let hole = |rules: &[_]| Policy::of(rules).unwrap_err().to_string();
    let text = "linux.resources.devices[1]: cannot punch a hole in the wildcard rule c 10:* rw";
    assert_eq!(hole(&[rule(true, "c 10:* rw"), rule(false, "c 10:229 w")]), text);
    assert_eq!(hole(&[rule(true, "c 10:* rw"), rule(false, "c *:229 w")]), text);
    assert_eq!(hole(&[rule(true, "c 10:* rw"), rule(false, "a 10:229 w")]), text);
    Policy::of(&[rule(true, "c 10:* r"), rule(false, "c 10:229 w")]).unwrap();

    let all = rule(true, "a *:* rwm");
    assert_eq!(
        hole(&[all, rule(false, "c 1:* rwm")]),
        "linux.resources.devices: c 1:* rwm cannot be denied: a part of it, c 1:3 rwm, is always allowed"
    );
    Policy::of(&[all, rule(false, "c 11:* rwm")]).unwrap();
}

#[test]
fn what_a_later_rule_denies_is_denied() {
    let policy = Policy::of(&[rule(true, "c 10:229 rwm"), rule(false, "c 10:* w")]).unwrap();
    let fuse = Devices { kind: Kind::Char, major: Some(10), minor: Some(229) };
    assert_eq!(policy.exceptions[&fuse], Access::READ.and(Access::MKNOD));
}

#[test]
fn a_partial_rule_for_both_kinds_means_what_it_says() {
    let policy = Policy::of(&[rule(true, "a 10:229 r")]).unwrap();
    assert!(!policy.allow, "runc and the controller would allow everything");
    assert_eq!(policy, Policy::of(&[rule(true, "b 10:229 r"), rule(true, "c 10:229 r")]).unwrap());
}

#[test]
fn the_rules_of_every_template_are_the_same_as_none() {
    let template = Policy::of(&[rule(false, "a *:* rwm")]).unwrap();
    assert_eq!(template, Policy::of(&[]).unwrap());
    assert_eq!(template.exceptions.len(), 11);
}

#[test]
fn equal_rules_are_compiled_once() {
    let rules = |minor: u32| vec![rule(true, &format!("c 10:{minor} rwm"))];
    let mut cache = Cache::default();
    let first = cache.get(rules(0)).unwrap();
    assert!(Arc::ptr_eq(&first, &cache.get(rules(0)).unwrap()));
    for minor in 1..Cache::CAPACITY as u32 {
        cache.get(rules(minor)).unwrap();
    }
    assert!(Arc::ptr_eq(&first, &cache.get(rules(0)).unwrap()), "all have room");
    let second = cache.get(rules(1)).unwrap();
    assert!(Arc::ptr_eq(&first, &cache.get(rules(0)).unwrap()));
    cache.get(rules(1000)).unwrap();
    assert!(Arc::ptr_eq(&first, &cache.get(rules(0)).unwrap()), "just used");
    assert!(Arc::ptr_eq(&second, &cache.get(rules(1)).unwrap()), "used later than the third");
    let third = cache.get(rules(2)).unwrap();
    assert!(Arc::ptr_eq(&third, &cache.get(rules(2)).unwrap()));
}

fn compile(rules: &Value) -> Result<(), String> {
    let rules: Vec<_> = serde_json::from_value(rules.clone()).unwrap();
    program(&rules).map(drop).map_err(|error| error.to_string())
}
