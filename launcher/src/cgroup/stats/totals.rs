//! What a container took in its whole life, read in few files once its init process has ended.

use super::read::Files;
use super::{Cgroups, Version, parse};
use crate::state::PressureTotals;

/// What a container has taken; `None` is what is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Most memory in use, in bytes (on v2: Linux 5.19).
    pub memory_peak: Option<u64>,
    /// Processor time.
    pub cpu_ns: Option<u64>,
    /// Times of waiting.
    pub pressure: Option<PressureTotals>,
}

impl Cgroups {
    /// Reads them, on a hybrid host from both versions.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { memory_peak: self.memory_peak(), ..Totals::default() };
        if let Some(mut files) = self.unified().and_then(|directory| Files::open(&directory.path)) {
            totals.cpu_ns = files.read("cpu.stat").and_then(parse::cpu_stat).map(|cpu| cpu.total_ns);
            totals.pressure = pressure(&mut files);
        } else if let Some(directory) = self.with("cpuacct") {
            totals.cpu_ns = Files::open(&directory.path).and_then(|mut files| files.number("cpuacct.usage"));
        }
        totals
    }

    /// [`Cgroups::oom_kills`], and on cgroup v1 one more while processes wait for memory with the killer disabled. Whenever it is more than it was, the container has run out of memory once more.
    #[must_use]
    pub fn out_of_memory_count(&self) -> Option<u64> {
        let directory = self.with("memory").filter(|directory| directory.version == Version::V1);
        let Some(directory) = directory else { return self.oom_kills() };
        let mut files = Files::open(&directory.path)?;
        let text = files.read("memory.oom_control")?;
        Some(parse::value(text, "oom_kill")? + parse::value(text, "under_oom").unwrap_or(0))
    }

    /// Whether the container's memory has a limit of its own.
    #[must_use]
    pub fn has_memory_limit(&self) -> bool {
        let Some(directory) = self.with("memory") else { return false };
        let v2 = directory.version == Version::V2;
        let file = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let limit = Files::open(&directory.path).and_then(|mut files| files.number(file));
        super::Counter { limit, ..super::Counter::default() }.bound().is_some()
    }
}

fn pressure(files: &mut Files) -> Option<PressureTotals> {
    let mut read = |file| files.read(file).and_then(parse::pressure);
    let (cpu, memory, io) = (read("cpu.pressure")?, read("memory.pressure")?, read("io.pressure")?);
    Some(PressureTotals {
        cpu_some_us: cpu.some.total_us,
        cpu_full_us: cpu.full.total_us,
        memory_some_us: memory.some.total_us,
        memory_full_us: memory.full.total_us,
        io_some_us: io.some.total_us,
        io_full_us: io.full.total_us,
    })
}
