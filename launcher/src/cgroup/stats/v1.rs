//! The figures of a cgroup v1 directory, which may be that of several controllers.

use super::read::Files;
use super::{
    BlockIoEntry, BlockIoStats, Counter, CpuStats, CpusetStats, HugePageStats, MemoryStats, PerCpu, Stats,
    huge_page_sizes, parse, v2,
};

pub(super) fn read(files: &mut Files, has: impl Fn(&str) -> bool, stats: &mut Stats) {
    if has("cpuacct")
        && let Some(cpu) = cpuacct(files)
    {
        // In more detail than v2's, in a hybrid.
        stats.cpu = Some(cpu);
    }
    if has("cpu") {
        stats.throttling = files.read("cpu.stat").and_then(parse::throttling);
    }
    if has("cpuset") {
        stats.cpuset = cpuset(files);
    }
    if has("memory") {
        stats.memory = memory(files);
    }
    if has("pids") {
        stats.pids = v2::pids(files);
    }
    if has("blkio") {
        stats.block_io = block_io(files);
    }
    if has("hugetlb") {
        for size in huge_page_sizes() {
            if let Some(huge) = huge_pages(files, size) {
                stats.huge_pages.insert(size.clone(), huge);
            }
        }
    }
    if has("rdma") {
        v2::rdma(files, stats);
    }
}

fn cpuacct(files: &mut Files) -> Option<CpuStats> {
    let total_ns = files.number("cpuacct.usage")?;
    let (user_ns, kernel_ns) = files.read("cpuacct.stat").and_then(parse::cpuacct_stat)?;
    let (by_user, by_kernel) = files.read("cpuacct.usage_all").map(parse::cpuacct_usage_all).unwrap_or_default();
    let by_cpu = files.read("cpuacct.usage_percpu").map(parse::numbers).unwrap_or_default();
    let per_cpu = PerCpu { total_ns: by_cpu, kernel_ns: by_kernel, user_ns: by_user };
    Some(CpuStats { total_ns, user_ns, kernel_ns, per_cpu })
}

fn cpuset(files: &mut Files) -> Option<CpusetStats> {
    let cpus = parse::ranges(files.read("cpuset.cpus")?);
    let mems = parse::ranges(files.read("cpuset.mems")?);
    let mut flag = |name: &str| files.number(&format!("cpuset.{name}")).unwrap_or_default();
    Some(CpusetStats {
        cpus,
        mems,
        cpu_exclusive: flag("cpu_exclusive"),
        mem_hardwall: flag("mem_hardwall"),
        mem_exclusive: flag("mem_exclusive"),
        memory_migrate: flag("memory_migrate"),
        memory_spread_page: flag("memory_spread_page"),
        memory_spread_slab: flag("memory_spread_slab"),
        memory_pressure: flag("memory_pressure"),
        sched_load_balance: flag("sched_load_balance"),
        sched_relax_domain_level: files
            .read("cpuset.sched_relax_domain_level")
            .and_then(|level| level.parse().ok())
            .unwrap_or(-1),
    })
}

fn memory(files: &mut Files) -> Option<MemoryStats> {
    let usage = counter(files, "memory")?;
    let with_swap = counter(files, "memory.memsw");
    let control = files.read("memory.oom_control").unwrap_or_default();
    Some(MemoryStats {
        oom: None,
        oom_kills: parse::value(control, "oom_kill"),
        under_oom: parse::value(control, "under_oom").map(|flag| flag != 0),
        usage,
        with_swap,
        swap: with_swap.map(|both| Counter {
            usage: both.usage.saturating_sub(usage.usage),
            failures: both.failures.zip(usage.failures).map(|(both, memory)| both.saturating_sub(memory)),
            ..Counter::default()
        }),
        kernel: counter(files, "memory.kmem"),
        kernel_tcp: counter(files, "memory.kmem.tcp"),
        stat: parse::FlatMap::new(files.read("memory.stat").unwrap_or_default()),
    })
}

fn counter(files: &mut Files, name: &str) -> Option<Counter> {
    Some(Counter {
        usage: files.number(&format!("{name}.usage_in_bytes"))?,
        limit: files.number(&format!("{name}.limit_in_bytes")),
        peak: files.number(&format!("{name}.max_usage_in_bytes")),
        failures: files.number(&format!("{name}.failcnt")),
    })
}

fn huge_pages(files: &mut Files, size: &str) -> Option<HugePageStats> {
    let reserved = format!("hugetlb.{size}.rsvd");
    let (name, usage) = match files.number(&format!("{reserved}.usage_in_bytes")) {
        Some(usage) => (reserved, usage),
        None => {
            let name = format!("hugetlb.{size}");
            let usage = files.number(&format!("{name}.usage_in_bytes"))?;
            (name, usage)
        }
    };
    let (peak, failures) =
        (files.number(&format!("{name}.max_usage_in_bytes")), files.number(&format!("{name}.failcnt")));
    Some(HugePageStats { usage, peak, failures })
}

/// Who counts what depends on the scheduler and the kernel: BFQ with debugging, BFQ, CFQ (before Linux 5.0), throttling.
/// The first of whom there is a figure tells all of them, as with runc.
fn block_io(files: &mut Files) -> BlockIoStats {
    for (prefix, suffix) in [
        ("blkio.bfq.", "_recursive"),
        ("blkio.", "_recursive"),
        ("blkio.throttle.", "_recursive"),
        ("blkio.throttle.", ""),
    ] {
        let mut list = |name: &str| -> Option<Vec<BlockIoEntry>> {
            let list = parse::blkio(files.read(&format!("{prefix}{name}{suffix}"))?);
            Some(list).filter(|list| !list.is_empty())
        };
        let (serviced, service_bytes) = (list("io_serviced"), list("io_service_bytes"));
        if serviced.is_none() && service_bytes.is_none() {
            continue;
        }
        return BlockIoStats {
            serviced: serviced.unwrap_or_default(),
            service_bytes: service_bytes.unwrap_or_default(),
            queued: list("io_queued").unwrap_or_default(),
            service_time: list("io_service_time").unwrap_or_default(),
            wait_time: list("io_wait_time").unwrap_or_default(),
            merged: list("io_merged").unwrap_or_default(),
            time: list("time").unwrap_or_default(),
            sectors: list("sectors").unwrap_or_default(),
        };
    }
    BlockIoStats::default()
}
