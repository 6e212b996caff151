//! A policy in force for a cgroup v2: one program of ours, exchanged in one step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::io::Errno;

use super::bpf;
use super::ebpf::{self, Instruction};
use super::error::DeviceError;
use super::policy::Policy;

/// A program that the kernel has.
#[derive(Debug)]
pub(super) struct Loaded {
    id: u32,
    program: OwnedFd,
}

/// Attaches the policy's program, loaded now if it was not yet, in place of what we attached before.
pub(super) fn apply(policy: &Policy, loaded: &OnceLock<Loaded>, cgroup: BorrowedFd<'_>) -> Result<(), DeviceError> {
    let failed = |what: &'static str| move |errno| DeviceError::system(what, errno);
    let mut before = ours(cgroup).map_err(failed("query the cgroup's device programs"))?;
    if before.is_empty() && policy.allows_all() {
        return Ok(());
    }
    let new = match loaded.get() {
        Some(new) => new,
        None => {
            let new = load(&ebpf::assemble(policy))?;
            loaded.get_or_init(|| new)
        }
    };
    match before.iter().position(|old| old.id == new.id) {
        Some(attached) => drop(before.swap_remove(attached)),
        None => {
            let replaced = before.pop();
            bpf::attach(cgroup, new.program.as_fd(), replaced.as_ref().map(|old| old.program.as_fd()))
                .map_err(failed("attach the device program"))?;
        }
    }
    // Never more than one, unless somebody else attached it again.
    before
        .iter()
        .try_for_each(|old| bpf::detach(cgroup, old.program.as_fd()))
        .map_err(failed("detach a device program"))
}

/// Programs of ours that are attached. Those of others, which perhaps may not even be looked at, are none of them.
fn ours(cgroup: BorrowedFd<'_>) -> Result<Vec<Loaded>, Errno> {
    let find = |id| {
        let program = match bpf::by_id(id) {
            Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => return Ok(None),
            program => program?,
        };
        let info = bpf::info(program.as_fd())?;
        Ok((info.name == bpf::NAME).then_some(Loaded { id, program }))
    };
    bpf::attached(cgroup)?.into_iter().filter_map(|id| find(id).transpose()).collect()
}

/// Loads, and asks for the reason only once it failed: a log slows the verifier down.
pub(super) fn load(program: &[Instruction]) -> Result<Loaded, DeviceError> {
    const LOG_BYTES: usize = 64 << 10;
    const WHAT: &str = "load the device program";
    let program = match bpf::load(program, bpf::NAME, &mut []) {
        Ok(loaded) => loaded,
        Err(Errno::PERM) => return Err(DeviceError::system(WHAT, Errno::PERM)),
        Err(source) => {
            let mut log = vec![0; LOG_BYTES];
            // A failure here is the one that is known already; a success comes too late to be trusted.
            let _ = bpf::load(program, bpf::NAME, &mut log);
            return Err(DeviceError::Verifier { log: last_line(&log), source });
        }
    };
    let id = bpf::info(program.as_fd()).map_err(|errno| DeviceError::system("query the device program", errno))?.id;
    Ok(Loaded { id, program })
}

/// The verifier's last line before its statistics.
fn last_line(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
    let said =
        |line: &&str| !line.is_empty() && !line.starts_with("processed ") && !line.starts_with("verification time");
    text.lines().rev().map(str::trim).find(said).unwrap_or("no reason was given").to_owned()
}
