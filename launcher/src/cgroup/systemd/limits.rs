//! Limits as properties of a unit (systemd.resource-control(5)): what systemd is told, it does not overwrite with
//! something else. They are written to the cgroup's files as well, which know more than it does.

use zbus::Variant;

use super::Property;
use crate::cgroup::Setting;

/// What systemd has for no limit.
const NO_LIMIT: u64 = u64::MAX;

/// The kernel's period for a quota, in microseconds, where none is given.
const PERIOD_US: u64 = 100_000;

/// systemd keeps a quota in whole percents of a processor: this many microseconds of each second.
const PERCENT_US: u64 = 10_000;

/// Files whose number is a property's; `max` and `-1` are no limit.
const NUMBERS: [(&str, &str); 11] = [
    ("memory.max", "MemoryMax"),
    ("memory.high", "MemoryHigh"),
    ("memory.low", "MemoryLow"),
    ("memory.min", "MemoryMin"),
    ("memory.swap.max", "MemorySwapMax"),
    ("memory.limit_in_bytes", "MemoryLimit"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
    ("cpu.shares", "CPUShares"),
    ("io.weight", "IOWeight"),
    ("blkio.weight", "BlockIOWeight"),
];

/// Files with a list of numbers, on cgroup v2.
const LISTS: [(&str, &str); 2] = [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")];

/// The settings that are properties too. A later one for the same property counts, as it does in the files.
pub fn properties<'a>(settings: impl Iterator<Item = &'a Setting>) -> Vec<Property> {
    let mut all: Vec<Property> = Vec::new();
    let mut set = |name: &str, value: Variant<'static>| {
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), value));
    };
    let (mut quota, mut period) = (None, None);
    for Setting { file, value, .. } in settings {
        let (file, value) = (file.as_str(), value.trim());
        match file {
            "cpu.max" => {
                let mut words = value.split_ascii_whitespace();
                quota = words.next();
                period = words.next().or(period);
            }
            "cpu.cfs_quota_us" => quota = Some(value),
            "cpu.cfs_period_us" => period = Some(value),
            _ => {}
        }
        let named = |(known, _): &&(&str, &'static str)| *known == file;
        if let Some(((_, name), value)) = NUMBERS.iter().find(named).zip(number(value)) {
            set(name, value.into());
        }
        if let Some(((_, name), bits)) = LISTS.iter().find(named).zip(bits(value)) {
            set(name, bits.into());
        }
    }
    let period = period.and_then(|period| period.parse().ok()).filter(|period: &u64| *period != 0);
    if let Some(period) = period {
        set("CPUQuotaPeriodUSec", period.into());
    }
    if let Some(quota) = quota {
        let per_second = number(quota).map_or(NO_LIMIT, |quota| per_second(quota, period.unwrap_or(PERIOD_US)));
        set("CPUQuotaPerSecUSec", per_second.into());
    }
    all
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("default ").unwrap_or(text) {
        "max" | "-1" => Some(NO_LIMIT),
        number => number.parse().ok(),
    }
}

/// Rounded up, so that the files may hold what was asked for.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    match u64::try_from(exact) {
        Ok(exact) if quota != NO_LIMIT => exact.max(1).div_ceil(PERCENT_US).saturating_mul(PERCENT_US),
        _ => NO_LIMIT,
    }
}

/// `0-2,7` as a set of bits, the lowest first. None where it is no list: the kernel says so in its own words.
fn bits(list: &str) -> Option<Vec<u8>> {
    /// Far above any machine's processors.
    const BIT_MAX: usize = 1 << 16;
    let mut bits = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > BIT_MAX {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    (!bits.is_empty()).then_some(bits)
}
