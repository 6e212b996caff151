//! What a group's file `schemata` holds: a line for each resource, `L3:0=7f0;1=1f`, with a value for each domain.

use oci_spec::runtime::LinuxIntelRdt;

/// Lines to be written, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Schemata(Vec<String>);

impl Schemata {
    /// Those of the configuration. The bandwidth has a field of its own, which goes before a line of it among those of the
    /// cache; `schemata` comes last (config-linux.md, "IntelRdt").
    pub fn of(rdt: &LinuxIntelRdt) -> Schemata {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let bandwidth = given(rdt.mem_bw_schema());
        let cache = given(rdt.l3_cache_schema()).unwrap_or_default();
        let cache = cache.lines().filter(|line| bandwidth.is_none() || !is_bandwidth(line)).map(str::to_owned);
        let last = rdt.schemata().iter().flatten().flat_map(|text| text.lines()).map(str::to_owned);
        let all = cache.chain(bandwidth.clone()).chain(last);
        Schemata(all.filter(|line| !line.trim().is_empty()).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn text(&self) -> String {
        self.0.iter().flat_map(|line| [line, "\n"]).collect()
    }

    /// The first value that is another one in `found`, which has all of them; written otherwise it may still be the same.
    /// Bandwidth is rounded up to a `step`.
    pub fn differs_from(&self, found: &str, step: u64) -> Option<String> {
        let found: Vec<(&str, &str, &str)> = found.lines().flat_map(values).collect();
        let all: Vec<(&str, &str, &str)> = self.0.iter().flat_map(|line| values(line)).collect();
        // Of two lines for the same the last counts.
        let last = |(at, (resource, domain, _)): &(usize, &(&str, &str, &str))| {
            !all[at + 1..].iter().any(|(other, theirs, _)| (other, theirs) == (resource, domain))
        };
        let other =
            all.iter().enumerate().filter(last).map(|(_, wanted)| wanted).find(|(resource, domain, value)| {
                let has = found.iter().find(|(other, theirs, _)| other == resource && same_number(theirs, domain));
                has.is_none_or(|(.., has)| !same_value(resource, has, value, step))
            })?;
        let (resource, domain, value) = other;
        let has = found.iter().find(|(other, theirs, _)| other == resource && same_number(theirs, domain));
        let has = has.map_or("none", |(.., has)| has);
        Some(format!("{resource}:{domain} is {has}, not {value}"))
    }
}

fn is_bandwidth(line: &str) -> bool {
    line.trim_start().starts_with("MB:")
}

/// Resource, domain and value of each part of a line. A part that is none is compared as it is, and so differs.
fn values(line: &str) -> Vec<(&str, &str, &str)> {
    let (resource, rest) = line.split_once(':').unwrap_or((line, ""));
    let parts = rest.trim().split(';').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| {
            let (domain, value) = part.split_once('=').unwrap_or((part, ""));
            (resource.trim(), domain.trim(), value.trim())
        })
        .collect()
}

fn same_number(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Bandwidth is a decimal number, the mask of a cache a hexadecimal one.
fn same_value(resource: &str, found: &str, wanted: &str, step: u64) -> bool {
    if matches!(resource, "MB" | "SMBA") {
        return match (found.parse::<u64>(), wanted.parse::<u64>()) {
            (Ok(found), Ok(wanted)) => wanted == found || wanted.checked_next_multiple_of(step) == Some(found),
            _ => found == wanted,
        };
    }
    let mask = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    match (mask(found), mask(wanted)) {
        (Ok(found), Ok(wanted)) => found == wanted,
        _ => found == wanted,
    }
}
