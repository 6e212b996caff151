//! Attributes of the process that the kernel would refuse, or change without a word: scheduling, CPUs, memory, terminal.
//! Where runc checks, the same is refused (libcontainer/configs/validate).

use std::fmt::Display;

use oci_spec::runtime::{
    Box as ConsoleSize, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler, Spec,
};

use crate::config::error::{ConfigError, quote};

/// The kernel's own bound of CPU and node numbers is lower than this (`NR_CPUS`, `MAX_NUMNODES`).
const LIST_MAX: u32 = 8192;

/// Shortest runtime of SCHED_DEADLINE, in nanoseconds (sched_setattr(2)).
const MIN_DEADLINE_RUNTIME_NS: u64 = 1024;

pub(super) fn check_process(process: &Process) -> Result<(), ConfigError> {
    process.console_size().as_ref().map_or(Ok(()), console_size)?;
    process.scheduler().as_ref().map_or(Ok(()), scheduler)?;
    process.io_priority().as_ref().map_or(Ok(()), io_priority)?;
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    list("process.execCPUAffinity.initial", affinity.initial().as_deref(), "CPUs")?;
    list("process.execCPUAffinity.final", affinity.cpu_affinity_final().as_deref(), "CPUs").map(drop)
}

pub(super) fn check_linux(spec: &Spec) -> Result<(), ConfigError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    linux.personality().as_ref().map_or(Ok(()), personality)?;
    linux.memory_policy().as_ref().map_or(Ok(()), memory_policy)
}

/// A list as in cpuset(7), "List format", as a mask, lowest numbers first: `0-3,8`.
#[must_use]
pub fn list_mask(list: &str) -> Option<Vec<u64>> {
    let mut mask = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= LIST_MAX {
            return None;
        }
        for number in first..=last {
            let word = (number / u64::BITS) as usize;
            if mask.len() <= word {
                mask.resize(word + 1, 0u64);
            }
            mask[word] |= 1 << (number % u64::BITS);
        }
    }
    Some(mask)
}

/// Whether there is a list; one that is there must be right.
fn list(field: &str, text: Option<&str>, what: &str) -> Result<bool, ConfigError> {
    match text.map(str::trim).filter(|text| !text.is_empty()) {
        None => Ok(false),
        Some(text) if list_mask(text).is_some() => Ok(true),
        Some(text) => Err(ConfigError::field(field, format!("{} is no list of {what}", quote(text)))),
    }
}

fn within<T: PartialOrd + Display>(field: &str, value: T, min: T, max: T) -> Result<(), ConfigError> {
    if value < min || value > max {
        return Err(ConfigError::field(field, format!("must be within {min} and {max}, not {value}")));
    }
    Ok(())
}

/// The kernel counts in 16 bits (`struct winsize`).
fn console_size(size: &ConsoleSize) -> Result<(), ConfigError> {
    within("process.consoleSize.height", size.height(), 0, u64::from(u16::MAX))?;
    within("process.consoleSize.width", size.width(), 0, u64::from(u16::MAX))
}

fn scheduler(scheduler: &Scheduler) -> Result<(), ConfigError> {
    use LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedRr};
    let policy = *scheduler.policy();
    within("process.scheduler.nice", scheduler.nice().unwrap_or(0), -20, 19)?;
    let priority = scheduler.priority().unwrap_or(0);
    match policy {
        SchedFifo | SchedRr => within("process.scheduler.priority", priority, 1, 99)?,
        _ if priority != 0 => {
            let reason = format!("is for SCHED_FIFO and SCHED_RR, not for {policy}");
            return Err(ConfigError::field("process.scheduler.priority", reason));
        }
        _ => {}
    }
    let [runtime, deadline, period] =
        [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|time| time.unwrap_or(0));
    if policy == SchedDeadline {
        return deadline_times(runtime, deadline, period);
    }
    match [("runtime", runtime), ("deadline", deadline), ("period", period)].iter().find(|(_, time)| *time != 0) {
        Some((name, _)) => {
            let reason = format!("is for SCHED_DEADLINE, not for {policy}");
            Err(ConfigError::field(format_args!("process.scheduler.{name}"), reason))
        }
        None => Ok(()),
    }
}

/// runtime <= deadline <= period, where a period of 0 is that of the deadline (sched(7)).
fn deadline_times(runtime: u64, deadline: u64, period: u64) -> Result<(), ConfigError> {
    const MAX: u64 = i64::MAX as u64;
    within("process.scheduler.runtime", runtime, MIN_DEADLINE_RUNTIME_NS, MAX)?;
    within("process.scheduler.deadline", deadline, runtime, MAX)?;
    if period == 0 { Ok(()) } else { within("process.scheduler.period", period, deadline, MAX) }
}

fn io_priority(io: &LinuxIOPriority) -> Result<(), ConfigError> {
    within("process.ioPriority.priority", io.priority(), 0, 7)
}

fn personality(personality: &LinuxPersonality) -> Result<(), ConfigError> {
    match personality.flags().as_deref() {
        Some([_, ..]) => Err(ConfigError::field("linux.personality.flags", "no flag is defined")),
        _ => Ok(()),
    }
}

/// As set_mempolicy(2) has it.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(), ConfigError> {
    use MemoryPolicyFlagType::{MpolFNumaBalancing, MpolFRelativeNodes, MpolFStaticNodes};
    use MemoryPolicyModeType::{
        MpolBind, MpolDefault, MpolInterleave, MpolLocal, MpolPreferred, MpolPreferredMany, MpolWeightedInterleave,
    };
    const NODES: &str = "linux.memoryPolicy.nodes";
    const FLAGS: &str = "linux.memoryPolicy.flags";
    let mode = policy.mode();
    match (mode, list(NODES, policy.nodes().as_deref(), "nodes")?) {
        (MpolDefault | MpolLocal, true) => {
            let given = policy.nodes().as_deref().and_then(|list| list_mask(list.trim())).unwrap_or_default();
            let given: u32 = given.iter().map(|word| word.count_ones()).sum();
            return Err(ConfigError::field(NODES, format!("{mode} mode requires 0 nodes but got {given}")));
        }
        (MpolBind | MpolInterleave | MpolPreferredMany | MpolWeightedInterleave, false) => {
            return Err(ConfigError::field(NODES, format!("missing, and the mode is {mode}")));
        }
        (MpolDefault | MpolLocal, false) | (MpolPreferred, _) => {}
        (MpolBind | MpolInterleave | MpolPreferredMany | MpolWeightedInterleave, true) => {}
    }
    let has = |flag| policy.flags().iter().flatten().any(|one| *one == flag);
    if has(MpolFStaticNodes) && has(MpolFRelativeNodes) {
        return Err(ConfigError::field(FLAGS, "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"));
    }
    if has(MpolFNumaBalancing) && !matches!(mode, MpolBind | MpolPreferredMany) {
        let reason = format!("MPOL_F_NUMA_BALANCING is for MPOL_BIND and MPOL_PREFERRED_MANY, not for {mode}");
        return Err(ConfigError::field(FLAGS, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::list_mask;

    #[test]
    fn lists_become_masks() {
        assert_eq!(list_mask("0"), Some(vec![1]));
        assert_eq!(list_mask("0-3, 8"), Some(vec![0b1_0000_1111]));
        assert_eq!(list_mask("64"), Some(vec![0, 1]));
        for wrong in ["", "a", "3-1", "1-", "-1", "0,,1", "8192", "0x1"] {
            assert_eq!(list_mask(wrong), None, "{wrong}");
        }
    }
}
