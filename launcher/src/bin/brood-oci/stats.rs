//! The figures of a container as `events` prints them: runc's names, order and units (its `types/events.go`).

use std::collections::BTreeMap;

use brood_launcher::cgroup::stats::{self, BlockIoEntry, Counter, CpusetStats, Pressure, Stall};
use serde::Serialize;

/// What is not known is left out, as Go leaves out a zero.
#[derive(Serialize)]
pub struct Stats {
    cpu: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuset: Option<Cpuset>,
    memory: Memory,
    pids: Pids,
    blkio: BlockIo,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: Nothing,
    network_interfaces: Option<Nothing>,
}

/// `{}`
#[derive(Default, Serialize)]
struct Nothing {}

#[derive(Default, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Default, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

#[derive(Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<MemoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<MemoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<MemoryEntry>,
    #[serde(rename = "kernelTCP", skip_serializing_if = "Option::is_none")]
    kernel_tcp: Option<MemoryEntry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<Entry>,
    // Without `d`, as in runc.
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    io_queued_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_time_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_wait_time_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_merged_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_time_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sectors_recursive: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Serialize)]
struct Entry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Serialize)]
struct Psi {
    some: PsiLine,
    full: PsiLine,
}

#[derive(Serialize)]
struct PsiLine {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<stats::Stats> for Stats {
    fn from(stats: stats::Stats) -> Stats {
        let pressure = stats.pressure;
        let huge = |(size, pages): (String, stats::HugePageStats)| {
            let (max, failcnt) = (pages.peak.unwrap_or_default(), pages.failures.unwrap_or_default());
            (size, HugePages { usage: pages.usage, max, failcnt })
        };
        Stats {
            cpu: Cpu {
                usage: stats.cpu.map(CpuUsage::from).unwrap_or_default(),
                throttling: stats.throttling.map(Throttling::from).unwrap_or_default(),
                psi: pressure.cpu.map(Psi::from),
            },
            cpuset: stats.cpuset.map(Cpuset::from),
            memory: Memory {
                psi: pressure.memory.map(Psi::from),
                ..stats.memory.as_ref().map(Memory::from).unwrap_or_default()
            },
            pids: stats.pids.map_or_else(Pids::default, |pids| Pids {
                current: pids.current,
                limit: pids.limit.unwrap_or_default(),
            }),
            blkio: BlockIo { psi: pressure.io.map(Psi::from), ..BlockIo::from(stats.block_io) },
            hugetlb: stats.huge_pages.into_iter().map(huge).collect(),
            intel_rdt: Nothing {},
            network_interfaces: None,
        }
    }
}

impl From<stats::CpuStats> for CpuUsage {
    fn from(cpu: stats::CpuStats) -> CpuUsage {
        CpuUsage {
            total: cpu.total_ns,
            percpu: cpu.per_cpu.total_ns,
            percpu_kernel: cpu.per_cpu.kernel_ns,
            percpu_user: cpu.per_cpu.user_ns,
            kernel: cpu.kernel_ns,
            user: cpu.user_ns,
        }
    }
}

impl From<stats::Throttling> for Throttling {
    fn from(throttling: stats::Throttling) -> Throttling {
        Throttling {
            periods: throttling.periods,
            throttled_periods: throttling.throttled_periods,
            throttled_time: throttling.throttled_ns,
        }
    }
}

impl From<CpusetStats> for Cpuset {
    fn from(set: CpusetStats) -> Cpuset {
        Cpuset {
            cpus: set.cpus,
            cpu_exclusive: set.cpu_exclusive,
            mems: set.mems,
            mem_hardwall: set.mem_hardwall,
            mem_exclusive: set.mem_exclusive,
            memory_migrate: set.memory_migrate,
            memory_spread_page: set.memory_spread_page,
            memory_spread_slab: set.memory_spread_slab,
            memory_pressure: set.memory_pressure,
            sched_load_balance: set.sched_load_balance,
            sched_relax_domain_level: set.sched_relax_domain_level,
        }
    }
}

impl From<&stats::MemoryStats> for Memory {
    fn from(memory: &stats::MemoryStats) -> Memory {
        Memory {
            cache: memory.cache().unwrap_or_default(),
            usage: Some(memory.usage.into()),
            swap: memory.with_swap.map(MemoryEntry::from),
            kernel: memory.kernel.map(MemoryEntry::from),
            kernel_tcp: memory.kernel_tcp.map(MemoryEntry::from),
            raw: memory.stat.iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            psi: None,
        }
    }
}

impl From<Counter> for MemoryEntry {
    fn from(counter: Counter) -> MemoryEntry {
        MemoryEntry {
            limit: counter.limit.unwrap_or_default(),
            usage: counter.usage,
            max: counter.peak.unwrap_or_default(),
            failcnt: counter.failures.unwrap_or_default(),
        }
    }
}

impl From<stats::BlockIoStats> for BlockIo {
    fn from(stats: stats::BlockIoStats) -> BlockIo {
        let list = |entries: Vec<BlockIoEntry>| -> Vec<Entry> {
            let entry = |BlockIoEntry { major, minor, operation, value }| Entry { major, minor, op: operation, value };
            entries.into_iter().map(entry).collect()
        };
        BlockIo {
            io_service_bytes_recursive: list(stats.service_bytes),
            io_serviced_recursive: list(stats.serviced),
            io_queued_recursive: list(stats.queued),
            io_service_time_recursive: list(stats.service_time),
            io_wait_time_recursive: list(stats.wait_time),
            io_merged_recursive: list(stats.merged),
            io_time_recursive: list(stats.time),
            sectors_recursive: list(stats.sectors),
            psi: None,
        }
    }
}

impl From<Pressure> for Psi {
    fn from(pressure: Pressure) -> Psi {
        let line = |stall: Stall| PsiLine {
            avg10: stall.avg10,
            avg60: stall.avg60,
            avg300: stall.avg300,
            total: stall.total_us,
        };
        Psi { some: line(pressure.some), full: line(pressure.full) }
    }
}
