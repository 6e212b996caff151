//! What a container uses, as its cgroups count it.
//!
//! | figure | v2 | v1 and hybrid |
//! | --- | --- | --- |
//! | cpu | `cpu.stat` | `cpuacct.*`, throttling from `cpu.stat`; without cpuacct v2's `cpu.stat` |
//! | memory | `memory.*` | `memory.*` |
//! | pids | `pids.*` | `pids.*` |
//! | block I/O | `io.stat`, in v1's words | `blkio.*` |
//! | huge pages | `hugetlb.*` | `hugetlb.*` |
//! | RDMA | `rdma.*` | `rdma.*` |
//! | pressure | `*.pressure` | v2's, in a hybrid |
//!
//! What the host or the container's cgroup does not count is absent: never an error, never an invented zero. Each file is
//! opened and read once. A cgroup that is gone has no figures at all.

mod oom;
mod parse;
mod read;
#[cfg(test)]
mod tests;
mod totals;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::sync::OnceLock;

pub use oom::OomWatch;
pub use parse::FlatMap;
pub use totals::{OutOfMemory, Totals};

use self::read::Files;
use super::{Cgroups, Version};

/// What a container uses; absent is what is not counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Time on the processors.
    pub cpu: Option<CpuStats>,
    /// What a quota did, where one can be set: v2 with the cpu controller, or a v1 cpu directory.
    pub throttling: Option<Throttling>,
    /// Which processors and memory nodes; cgroup v1 only, as with runc.
    pub cpuset: Option<CpusetStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
    /// Block devices, in the lists of cgroup v1.
    pub block_io: BlockIoStats,
    /// By page size (`2MB`).
    pub huge_pages: BTreeMap<String, HugePageStats>,
    /// By device (`mlx5_0`).
    pub rdma: BTreeMap<String, RdmaStats>,
    /// What the processes waited for.
    pub pressure: PressureStats,
}

/// Nanoseconds since the cgroup was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// In all.
    pub total_ns: u64,
    /// In the program's own code.
    pub user_ns: u64,
    /// In the kernel.
    pub kernel_ns: u64,
    /// By processor; cgroup v1 only.
    pub per_cpu: PerCpu,
}

/// Nanoseconds by processor, by its number; empty where they are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerCpu {
    /// In all.
    pub total_ns: Vec<u64>,
    /// In the kernel.
    pub kernel_ns: Vec<u64>,
    /// In the program's own code.
    pub user_ns: Vec<u64>,
}

/// What a quota did (sched-bwc.rst, "Statistics").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// That have passed.
    pub periods: u64,
    /// In which the quota was used up.
    pub throttled_periods: u64,
    /// That processes were kept waiting, summed over processors.
    pub throttled_ns: u64,
    /// In which more than the quota was used (Linux 5.14).
    pub burst_periods: Option<u64>,
    /// Used above the quota (Linux 5.14).
    pub burst_ns: Option<u64>,
}

/// A v1 cpuset (cpusets.rst, "1.6 What is memory spread" and its neighbours); the flags are 0 or 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpusetStats {
    /// Processors.
    pub cpus: Vec<u16>,
    /// Memory nodes.
    pub mems: Vec<u16>,
    /// `cpuset.cpu_exclusive`
    pub cpu_exclusive: u64,
    /// `cpuset.mem_hardwall`
    pub mem_hardwall: u64,
    /// `cpuset.mem_exclusive`
    pub mem_exclusive: u64,
    /// `cpuset.memory_migrate`
    pub memory_migrate: u64,
    /// `cpuset.memory_spread_page`
    pub memory_spread_page: u64,
    /// `cpuset.memory_spread_slab`
    pub memory_spread_slab: u64,
    /// `cpuset.memory_pressure`
    pub memory_pressure: u64,
    /// `cpuset.sched_load_balance`
    pub sched_load_balance: u64,
    /// `cpuset.sched_relax_domain_level`, -1 to 5.
    pub sched_relax_domain_level: i64,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Without swap.
    pub usage: Counter,
    /// Memory and swap together, as cgroup v1 counts; absent without swap accounting. On v2 it is the sum, and has no peak.
    pub with_swap: Option<Counter>,
    /// Swap alone; on v1 the difference, without a limit and a peak of its own.
    pub swap: Option<Counter>,
    /// Of that, the kernel's; on v2 its usage alone, from `memory.stat`.
    pub kernel: Option<Counter>,
    /// Of TCP's buffers; cgroup v1 only.
    pub kernel_tcp: Option<Counter>,
    /// How often the limit was met and nothing could be reclaimed; cgroup v2 only.
    pub oom: Option<u64>,
    /// How many processes were killed for it.
    pub oom_kills: Option<u64>,
    /// Whether they are in distress now, with the killer disabled; cgroup v1 only.
    pub under_oom: Option<bool>,
    /// `memory.stat` as it is.
    pub stat: FlatMap,
}

/// One of the memory controller's counters, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Now.
    pub usage: u64,
    /// As the kernel has it: for "none" v2's `max` is [`u64::MAX`], v1's the largest number of whole pages. See
    /// [`Counter::bound`].
    pub limit: Option<u64>,
    /// Most ever (v2: Linux 5.19, of swap 6.5).
    pub peak: Option<u64>,
    /// How often the limit was met.
    pub failures: Option<u64>,
}

impl Counter {
    /// The limit, if there is one.
    #[must_use]
    pub fn bound(&self) -> Option<u64> {
        // v1 counts pages in a signed long: whatever is within a huge page of that is no limit.
        self.limit.filter(|limit| *limit < i64::MAX as u64 - (1 << 21))
    }
}

impl MemoryStats {
    /// Of the page cache: `file` (v2) or `cache` (v1).
    #[must_use]
    pub fn cache(&self) -> Option<u64> {
        self.stat.get("file").or_else(|| self.stat.get("cache"))
    }
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// `None`: no limit.
    pub limit: Option<u64>,
}

/// cgroup v1's eight lists; on v2 only bytes and operations are counted, as reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIoStats {
    /// Bytes.
    pub service_bytes: Vec<BlockIoEntry>,
    /// Operations.
    pub serviced: Vec<BlockIoEntry>,
    /// Operations that wait.
    pub queued: Vec<BlockIoEntry>,
    /// Nanoseconds from dispatch to completion.
    pub service_time: Vec<BlockIoEntry>,
    /// Nanoseconds in queues.
    pub wait_time: Vec<BlockIoEntry>,
    /// Operations merged into others.
    pub merged: Vec<BlockIoEntry>,
    /// Milliseconds of the device's time.
    pub time: Vec<BlockIoEntry>,
    /// Sectors of 512 bytes.
    pub sectors: Vec<BlockIoEntry>,
}

/// A figure of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIoEntry {
    /// Of the device.
    pub major: u64,
    /// Of the device.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where operations are not told apart.
    pub operation: String,
    /// See the list.
    pub value: u64,
}

/// Bytes in pages of one size, reserved ones where the kernel counts these (Linux 5.7), as with runc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePageStats {
    /// Now.
    pub usage: u64,
    /// Most ever; cgroup v1 only.
    pub peak: Option<u64>,
    /// How often the limit was met.
    pub failures: Option<u64>,
}

/// Of one RDMA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaStats {
    /// Now.
    pub current: RdmaCount,
    /// Highest allowed.
    pub limit: RdmaCount,
}

/// Of one RDMA device; [`u32::MAX`] is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaCount {
    /// `hca_handle`
    pub handles: u32,
    /// `hca_object`
    pub objects: u32,
}

/// Pressure stall information (psi.rst), absent before Linux 4.20 and where it is turned off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureStats {
    /// Waiting for a processor.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for block devices.
    pub io: Option<Pressure>,
}

/// On one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Stall,
    /// All of them did.
    pub full: Stall,
}

/// How long processes waited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
}

impl Cgroups {
    /// Reads all figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for directory in &self.directories {
            let Some(mut files) = Files::open(&directory.path) else { continue };
            match directory.version {
                Version::V2 => v2::read(&mut files, &mut stats),
                Version::V1 => v1::read(&mut files, |controller| directory.has(controller), &mut stats),
            }
        }
        stats
    }
}

/// The sizes of huge pages, in the words of the hugetlb controller (`2MB`, `1GB`).
fn huge_page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| parse::huge_page_size(entry.file_name().to_str()?));
        sizes.collect()
    })
}
