//! What systemd is asked for. That it does it is for `tests/tests/systemd.rs`.

use std::path::Path;

use zbus::Variant;

use super::place::Place;
use super::{asked, limits};
use crate::cgroup::{Version, settings};

#[test]
fn a_path_names_slice_and_unit() {
    for (path, user, slice, unit) in [
        ("", false, "system.slice", "brood-box.scope"),
        ("", true, "user.slice", "brood-box.scope"),
        ("a-b.slice:pre:one", false, "a-b.slice", "pre-one.scope"),
        (":pre:one", true, "user.slice", "pre-one.scope"),
        ("-.slice::one", false, "-.slice", "one.scope"),
    ] {
        let place = Place { slice: slice.to_owned(), unit: unit.to_owned() };
        assert_eq!(Place::parse(path, "box", user), Ok(place), "{path}");
    }
    for (path, problem) in [
        ("/a/b", "expected cgroupsPath to be of format \"slice:prefix:name\""),
        ("a:b", "expected cgroupsPath to be of format"),
        ("a:b:c:d", "expected cgroupsPath to be of format"),
        ("a.slice:b:", "names no unit"),
        ("a.slice:b:c.slice", "is a slice"),
        ("a:b:c", "invalid slice name"),
        (".slice:b:c", "invalid slice name"),
        ("a--b.slice:b:c", "invalid slice name"),
        ("-a.slice:b:c", "invalid slice name"),
        ("a/b.slice:b:c", "invalid unit name"),
        ("a.slice:b:../c", "invalid unit name"),
        ("a.slice:b:c\n", "invalid unit name"),
    ] {
        let refused = Place::parse(path, "box", false).unwrap_err();
        assert!(refused.contains(problem), "{path}: {refused}");
    }
}

#[test]
fn limits_are_properties_of_the_same_value() {
    let no_limit = u64::MAX;
    for (json, v1, v2) in [
        (
            r#"{"memory":{"limit":100,"swap":150}}"#,
            vec![("MemoryLimit", 100)],
            vec![("MemorySwapMax", 50), ("MemoryMax", 100)],
        ),
        (
            r#"{"memory":{"limit":-1}}"#,
            vec![("MemoryLimit", no_limit)],
            vec![("MemorySwapMax", no_limit), ("MemoryMax", no_limit)],
        ),
        (r#"{"memory":{"reservation":9}}"#, vec![], vec![("MemoryLow", 9)]),
        (r#"{"cpu":{"shares":1024}}"#, vec![("CPUShares", 1024)], vec![("CPUWeight", 100)]),
        // In whole percents, rounded up.
        (r#"{"cpu":{"quota":5000}}"#, vec![("CPUQuotaPerSecUSec", 50_000)], vec![("CPUQuotaPerSecUSec", 50_000)]),
        (r#"{"cpu":{"quota":1}}"#, vec![("CPUQuotaPerSecUSec", 10_000)], vec![("CPUQuotaPerSecUSec", 10_000)]),
        (
            r#"{"cpu":{"quota":15000,"period":10000}}"#,
            vec![("CPUQuotaPeriodUSec", 10_000), ("CPUQuotaPerSecUSec", 1_500_000)],
            vec![("CPUQuotaPeriodUSec", 10_000), ("CPUQuotaPerSecUSec", 1_500_000)],
        ),
        (r#"{"cpu":{"quota":-1}}"#, vec![("CPUQuotaPerSecUSec", no_limit)], vec![("CPUQuotaPerSecUSec", no_limit)]),
        (r#"{"pids":{"limit":-1}}"#, vec![("TasksMax", no_limit)], vec![("TasksMax", no_limit)]),
        (r#"{"pids":{"limit":0}}"#, vec![("TasksMax", 1)], vec![("TasksMax", 1)]),
        (r#"{"blockIO":{"weight":10}}"#, vec![("BlockIOWeight", 10)], vec![("IOWeight", 1)]),
    ] {
        assert_eq!(numbers(json, Version::V1), v1.into_iter().map(owned).collect::<Vec<_>>(), "{json} on v1");
        assert_eq!(numbers(json, Version::V2), v2.into_iter().map(owned).collect::<Vec<_>>(), "{json} on v2");
    }
    // The same by cgroup v2's own names; what systemd does not know stays a file.
    let unified = r#"{"unified":{"memory.high":"max","cpu.max":"max 5000","cpu.weight":"7","memory.oom.group":"1"}}"#;
    let mut found = numbers(unified, Version::V2);
    found.sort();
    let expected =
        [("CPUQuotaPerSecUSec", no_limit), ("CPUQuotaPeriodUSec", 5000), ("CPUWeight", 7), ("MemoryHigh", no_limit)];
    assert_eq!(found, expected.map(owned));
}

fn owned((name, value): (&str, u64)) -> (String, u64) {
    (name.to_owned(), value)
}

fn of(json: &str, version: Version) -> Vec<super::Property> {
    let resources = serde_json::from_str(json).unwrap();
    limits::properties(settings(&resources, &|_| version).unwrap().iter())
}

fn numbers(json: &str, version: Version) -> Vec<(String, u64)> {
    let number = |value: Variant<'static>| value.downcast().unwrap();
    of(json, version).into_iter().map(|(name, value)| (name, number(value))).collect()
}

#[test]
fn lists_are_sets_of_bits_on_v2() {
    let bits = |cpus: &str| {
        let all = of(&format!(r#"{{"cpu":{{"cpus":"{cpus}"}}}}"#), Version::V2);
        all.into_iter().map(|(name, value)| (name, value.downcast::<Vec<u8>>().unwrap())).next()
    };
    assert_eq!(bits("0-2,9"), Some(("AllowedCPUs".to_owned(), vec![0b111, 0b10])));
    assert_eq!(bits(" 3 , 1"), Some(("AllowedCPUs".to_owned(), vec![0b1010])));
    for wrong in ["x", "2-1", "99999999", ","] {
        assert_eq!(bits(wrong), None, "{wrong}");
    }
}

#[test]
fn the_address_of_a_bus_is_a_file() {
    for (address, path) in [
        ("unix:path=/run/user/7/bus", Some("/run/user/7/bus")),
        ("unix:abstract=x;unix:guid=0,path=/a%20b,x=y", Some("/a b")),
        ("tcp:host=localhost", None),
        ("unix:path=/a%2", None),
    ] {
        assert_eq!(asked::unix_path(address).as_deref(), path.map(Path::new), "{address}");
    }
}

#[test]
fn a_unit_is_told_by_its_invocation() {
    for (invocation, object) in [("a1b2", "a1b2"), ("3f", "_33f"), ("", "")] {
        let expected = format!("/org/freedesktop/systemd1/unit/{object}");
        assert_eq!(super::bus::object_of(invocation), expected);
    }
}
