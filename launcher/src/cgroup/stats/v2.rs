//! The figures of a cgroup v2 directory; in a hybrid it has only those whose controllers are not in v1's hierarchies.

use super::read::Files;
use super::{Counter, HugePageStats, MemoryStats, PidsStats, RdmaStats, Stats, huge_page_sizes, parse};

pub(super) fn read(files: &mut Files, stats: &mut Stats) {
    if let Some(text) = files.read("cpu.stat") {
        (stats.cpu, stats.throttling) = (parse::cpu_stat(text), parse::throttling(text));
    }
    stats.memory = memory(files);
    stats.pids = pids(files);
    if let Some(text) = files.read("io.stat") {
        stats.block_io = parse::io_stat(text);
    }
    for size in huge_page_sizes() {
        if let Some(huge) = huge_pages(files, size) {
            stats.huge_pages.insert(size.clone(), huge);
        }
    }
    rdma(files, stats);
    stats.pressure.cpu = files.read("cpu.pressure").and_then(parse::pressure);
    stats.pressure.memory = files.read("memory.pressure").and_then(parse::pressure);
    stats.pressure.io = files.read("io.pressure").and_then(parse::pressure);
}

fn memory(files: &mut Files) -> Option<MemoryStats> {
    let mut usage = counter(files, "memory")?;
    let events = files.read("memory.events").unwrap_or_default();
    let (oom, oom_kills) = (parse::value(events, "oom"), parse::value(events, "oom_kill"));
    usage.failures = parse::value(events, "max");
    let stat = parse::FlatMap::new(files.read("memory.stat").unwrap_or_default());
    let mut swap = counter(files, "memory.swap");
    if let Some(swap) = &mut swap {
        swap.failures = files.read("memory.swap.events").and_then(|events| parse::value(events, "max"));
    }
    Some(MemoryStats {
        usage,
        with_swap: swap.map(|swap| Counter {
            usage: usage.usage.saturating_add(swap.usage),
            limit: usage.limit.zip(swap.limit).map(|(memory, swap)| memory.saturating_add(swap)),
            peak: None,
            failures: None,
        }),
        swap,
        kernel: stat.get("kernel").map(|usage| Counter { usage, ..Counter::default() }),
        kernel_tcp: None,
        oom,
        oom_kills,
        under_oom: None,
        stat,
    })
}

fn counter(files: &mut Files, name: &str) -> Option<Counter> {
    Some(Counter {
        usage: files.number(&format!("{name}.current"))?,
        limit: files.number(&format!("{name}.max")),
        peak: files.number(&format!("{name}.peak")),
        failures: None,
    })
}

/// The same files on v1.
pub(super) fn pids(files: &mut Files) -> Option<PidsStats> {
    let current = files.number("pids.current")?;
    Some(PidsStats { current, limit: files.number("pids.max").filter(|limit| *limit != u64::MAX) })
}

fn huge_pages(files: &mut Files, size: &str) -> Option<HugePageStats> {
    let reserved = files.number(&format!("hugetlb.{size}.rsvd.current"));
    let usage = reserved.or_else(|| files.number(&format!("hugetlb.{size}.current")))?;
    let failures = files.read(&format!("hugetlb.{size}.events")).and_then(|events| parse::value(events, "max"));
    Some(HugePageStats { usage, peak: None, failures })
}

/// The same files on v1.
pub(super) fn rdma(files: &mut Files, stats: &mut Stats) {
    for (device, current) in files.read("rdma.current").into_iter().flat_map(parse::rdma) {
        stats.rdma.insert(device.to_owned(), RdmaStats { current, ..RdmaStats::default() });
    }
    for (device, limit) in files.read("rdma.max").into_iter().flat_map(parse::rdma) {
        // One that came between the two reads is told next time.
        if let Some(known) = stats.rdma.get_mut(device) {
            known.limit = limit;
        }
    }
}
