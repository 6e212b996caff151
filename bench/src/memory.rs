//! Memory of a virtual machine: what its kernel has no use for goes back to the hypervisor, and each page must be fetched
//! again when it is touched next. That can take longer than all else that is done for a container.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};

/// Page size of all machines that this is for; a larger one makes the figure smaller, not wrong.
const PAGE_BYTES: usize = 4096;
/// What is touched at a time.
const PIECE_BYTES: usize = 64 << 20;
/// Where a page takes no longer than this there is no hypervisor that takes memory back, and nothing to be gained.
const FAST_US: f64 = 1.0;

/// Touches nine tenths of the free memory and leaves it to the kernel again, so that whatever is timed within the next
/// seconds finds memory as on a machine of its own. Microseconds that each page took.
pub fn fetch() -> Result<f64> {
    let pieces = free_bytes()? / 10 * 9 / PIECE_BYTES;
    let began = Instant::now();
    let mut held = Vec::with_capacity(pieces);
    let mut page_us = 0.0;
    while held.len() < pieces {
        held.push(black_box(vec![1_u8; PIECE_BYTES]));
        page_us = began.elapsed().as_secs_f64() * 1e6 / (held.len() * PIECE_BYTES / PAGE_BYTES) as f64;
        if page_us < FAST_US {
            break;
        }
    }
    Ok(page_us)
}

fn free_bytes() -> Result<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let free = meminfo.lines().find_map(|line| line.strip_prefix("MemFree:")).context("/proc/meminfo: no MemFree")?;
    let kib: usize = free.trim().trim_end_matches(" kB").parse().context("/proc/meminfo: MemFree")?;
    Ok(kib << 10)
}
