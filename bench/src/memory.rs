//! Memory of a virtual machine: what its kernel has had no use for goes back to the hypervisor, and each page of it must be
//! fetched again when it is touched, which can take longer than everything else that is done for a container.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};

/// Page size of all machines that this is for; a larger one makes the figures smaller, not wrong.
const PAGE_BYTES: usize = 4096;
/// What is fetched: more than what the kernel takes for the containers that are timed (about 1 MiB each among 10,000).
const FETCHED_BYTES: u64 = 1 << 30;

/// Has the hypervisor give a gibibyte (a quarter of what is available, if that is less) and leaves it to the kernel, so that
/// what is timed next finds memory as a machine without a hypervisor has it. Microseconds that a page took.
pub fn fetch() -> Result<f64> {
    let bytes = usize::try_from(FETCHED_BYTES.min(available_bytes()? / 4)).context("memory")?;
    let began = Instant::now();
    drop(black_box(vec![1_u8; bytes]));
    Ok(began.elapsed().as_secs_f64() * 1e6 / (bytes / PAGE_BYTES).max(1) as f64)
}

fn available_bytes() -> Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("MemAvailable")?;
    Ok(kib << 10)
}
