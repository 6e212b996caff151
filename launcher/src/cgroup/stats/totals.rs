//! What a container took in its whole life, read in few files once its init process has ended: this is on the path of every
//! exit.

use super::read::Files;
use super::{Cgroups, Version, parse};
use crate::state::PressureTotals;

/// What a container has taken; `None` is what is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Most memory in use, in bytes (on v2: Linux 5.19).
    pub memory_peak: Option<u64>,
    /// How it ran out of memory.
    pub out_of_memory: Option<OutOfMemory>,
    /// Processor time.
    pub cpu_ns: Option<u64>,
    /// Times of waiting.
    pub pressure: Option<PressureTotals>,
}

/// How a container ran out of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutOfMemory {
    /// How many of its processes were killed for memory. With cgroup v2 those in cgroups below its own count too
    /// (`memory.events`), with v1 they do not (`memory.oom_control`).
    pub kills: u64,
    /// Whether processes wait for memory now, with the killer disabled; cgroup v1 only.
    pub waits: bool,
}

impl OutOfMemory {
    /// Whenever this is more than it was, the container has run out of memory once more.
    #[must_use]
    pub fn count(self) -> u64 {
        self.kills + u64::from(self.waits)
    }
}

impl Cgroups {
    /// Reads all of them, on a hybrid host from both versions: each directory and each file is opened once.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        if let Some(directory) = self.with("memory").filter(|directory| directory.version == Version::V1)
            && let Some(mut files) = Files::open(&directory.path)
        {
            totals.read_memory(&mut files, Version::V1);
        }
        if let Some(directory) = self.unified()
            && let Some(mut files) = Files::open(&directory.path)
        {
            if directory.has("memory") {
                totals.read_memory(&mut files, Version::V2);
            }
            totals.cpu_ns = files.read("cpu.stat").and_then(parse::cpu_stat).map(|cpu| cpu.total_ns);
            totals.pressure = pressure(&mut files);
        } else if let Some(directory) = self.with("cpuacct") {
            totals.cpu_ns = Files::open(&directory.path).and_then(|mut files| files.number("cpuacct.usage"));
        }
        totals
    }

    /// Reads [`Totals::out_of_memory`] alone.
    #[must_use]
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        let directory = self.with("memory")?;
        out_of_memory(&mut Files::open(&directory.path)?, directory.version)
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

impl Totals {
    fn read_memory(&mut self, files: &mut Files, version: Version) {
        self.memory_peak = files.number(match version {
            Version::V2 => "memory.peak",
            Version::V1 => "memory.max_usage_in_bytes",
        });
        self.out_of_memory = out_of_memory(files, version);
    }
}

fn out_of_memory(files: &mut Files, version: Version) -> Option<OutOfMemory> {
    let file = match version {
        Version::V2 => "memory.events",
        Version::V1 => "memory.oom_control",
    };
    let text = files.read(file)?;
    Some(OutOfMemory {
        kills: parse::value(text, "oom_kill")?,
        waits: parse::value(text, "under_oom").is_some_and(|waits| waits > 0),
    })
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
