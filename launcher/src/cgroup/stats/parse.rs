//! The kernel's texts about a cgroup, as figures. Pure: nothing here touches the machine. What cannot be understood is left
//! out.

use super::{BlockIoEntry, BlockIoStats, CpuStats, Pressure, RdmaCount, Stall, Throttling};

/// A file of lines `key value`, such as `memory.stat`, kept as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlatMap(String);

impl FlatMap {
    /// Of a file's text.
    #[must_use]
    pub fn new(text: &str) -> FlatMap {
        FlatMap(text.to_owned())
    }

    /// In the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        pairs(&self.0)
    }

    /// One value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<u64> {
        value(&self.0, key)
    }
}

/// A number, or `max`: [`u64::MAX`]. v1 may show a negative one, for a counter that is just being changed: zero.
pub(super) fn number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        _ if text.starts_with('-') => text.parse::<i64>().ok().map(|_| 0),
        _ => text.parse().ok(),
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}

/// The value of one key in lines `key value`.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    pairs(text).find(|(known, _)| *known == key).map(|(_, value)| value)
}

/// Numbers with blanks between.
pub(super) fn numbers(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// A list of numbers and ranges, `0-2,7` (cpuset(7), "List format").
pub(super) fn ranges(text: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// The times in v2's `cpu.stat`.
pub(super) fn cpu_stat(text: &str) -> Option<CpuStats> {
    let ns = |key: &str| value(text, key).map(|us| us.saturating_mul(1000));
    let (total_ns, user_ns, kernel_ns) = (ns("usage_usec")?, ns("user_usec")?, ns("system_usec")?);
    Some(CpuStats { total_ns, user_ns, kernel_ns, ..CpuStats::default() })
}

/// Of `cpu.stat`: v2 counts in microseconds, v1 in nanoseconds. `None` where nothing can be throttled.
pub(super) fn throttling(text: &str) -> Option<Throttling> {
    let ns = |v1: &str, v2: &str| value(text, v1).or_else(|| value(text, v2).map(|us| us.saturating_mul(1000)));
    Some(Throttling {
        periods: value(text, "nr_periods")?,
        throttled_periods: value(text, "nr_throttled")?,
        throttled_ns: ns("throttled_time", "throttled_usec")?,
        burst_periods: value(text, "nr_bursts"),
        burst_ns: ns("burst_time", "burst_usec"),
    })
}

/// `cpuacct.stat`: user and kernel, in nanoseconds. It counts in clock ticks, of which Linux shows 100 a second on every
/// architecture of ours (`USER_HZ`, time(7)).
pub(super) fn cpuacct_stat(text: &str) -> Option<(u64, u64)> {
    const TICK_NS: u64 = 1_000_000_000 / 100;
    let ns = |key| value(text, key).map(|ticks| ticks.saturating_mul(TICK_NS));
    Some((ns("user")?, ns("system")?))
}

/// `cpuacct.usage_all`: a title `cpu user system`, and a line for each processor. User and kernel, in nanoseconds.
pub(super) fn cpuacct_usage_all(text: &str) -> (Vec<u64>, Vec<u64>) {
    let mut lines = text.lines();
    if !lines.next().is_some_and(|title| title.starts_with("cpu user system")) {
        return (Vec::new(), Vec::new());
    }
    let line = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(|field| field.parse::<u64>().ok());
        Some((fields.next()??, fields.next()??))
    };
    lines.filter_map(line).unzip()
}

/// A file of the blkio controller: lines `8:0 Read 4096` or `8:0 4096`, and `Total 4096` at the end.
pub(super) fn blkio(text: &str) -> Vec<BlockIoEntry> {
    let line = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (operation, value) = rest.split_once(' ').unwrap_or(("", rest));
        let operation = operation.to_owned();
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation,
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// v2's `io.stat`, lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`, in v1's lists.
pub(super) fn io_stat(text: &str) -> BlockIoStats {
    let mut all = BlockIoStats::default();
    for line in text.lines() {
        let Some((device, fields)) = line.split_once(' ') else { continue };
        let Some((Ok(major), Ok(minor))) = device.split_once(':').map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (key, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut all.service_bytes, "Read"),
                "wbytes" => (&mut all.service_bytes, "Write"),
                "dbytes" => (&mut all.service_bytes, "Discard"),
                "rios" => (&mut all.serviced, "Read"),
                "wios" => (&mut all.serviced, "Write"),
                "dios" => (&mut all.serviced, "Discard"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(BlockIoEntry { major, minor, operation: operation.to_owned(), value });
            }
        }
    }
    all
}

/// `rdma.current` and `rdma.max`: lines `mlx4_0 hca_handle=2 hca_object=max`.
pub(super) fn rdma(text: &str) -> impl Iterator<Item = (&str, RdmaCount)> {
    text.lines().filter_map(|line| {
        let (device, fields) = line.split_once(' ')?;
        let field = |name: &str| {
            let value = fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
            if value == "max" { Some(u32::MAX) } else { value.parse().ok() }
        };
        Some((device, RdmaCount { handles: field("hca_handle")?, objects: field("hca_object")? }))
    })
}

/// A file of pressure: lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full ...` (of the processor only since
/// Linux 5.13).
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| text.lines().find_map(|line| stall(line.strip_prefix(name)?));
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}

fn stall(fields: &str) -> Option<Stall> {
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let percent = |name: &str| field(name)?.parse().ok();
    Some(Stall {
        avg10: percent("avg10")?,
        avg60: percent("avg60")?,
        avg300: percent("avg300")?,
        total_us: field("total")?.parse().ok()?,
    })
}

/// `hugepages-2048kB` as the hugetlb controller says it, `2MB`.
pub(super) fn huge_page_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        _ if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        _ if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}
