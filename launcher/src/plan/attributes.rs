//! Attributes of processes and namespaces: from config.json's words to the kernel's numbers.

use std::path::Path;

use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Spec,
};

use super::build::{PlanError, c_string};
use super::{Scheduler, SecurityModule, Step};
use crate::config::list_mask;

/// Sysctls of config.json, as files below /proc/sys. That each belongs to a namespace of the container's own was
/// checked by [`crate::config::validate`].
pub(super) fn sysctls(spec: &Spec, steps: &mut Vec<Step>) -> Result<(), PlanError> {
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    // Sorted: some depend on others, and a hash map has no order to rely on.
    let sysctls: std::collections::BTreeMap<_, _> = sysctls.into_iter().flatten().collect();
    for (key, value) in sysctls {
        let field = format!("linux.sysctl.{key}");
        let path = c_string(&field, crate::config::sysctl_path(key))?;
        steps.push(Step::Sysctl { path, value: value.as_bytes().to_vec() });
    }
    Ok(())
}

/// The session keyring of a container, by its name: an exec joins the one that the init process made. By a zygote every
/// process gets its own, without a name: the kernel looks through the names of all keyrings, one by one, to find one.
pub(super) fn session_keyring(id: &str, from_zygote: bool) -> Result<Step, PlanError> {
    let name = if from_zygote { String::new() } else { format!("_ses.{id}") };
    Ok(Step::SessionKeyring(c_string("id", name)?))
}

/// Scheduling and I/O priority of a process.
pub(super) fn priorities(process: &Process, steps: &mut Vec<Step>) -> Result<(), PlanError> {
    if let Some(scheduler) = process.scheduler() {
        steps.push(Step::Scheduler(Scheduler {
            policy: match scheduler.policy() {
                LinuxSchedulerPolicy::SchedOther => 0,
                LinuxSchedulerPolicy::SchedFifo => 1,
                LinuxSchedulerPolicy::SchedRr => 2,
                LinuxSchedulerPolicy::SchedBatch => 3,
                LinuxSchedulerPolicy::SchedIso => 4,
                LinuxSchedulerPolicy::SchedIdle => 5,
                LinuxSchedulerPolicy::SchedDeadline => 6,
            },
            flags: scheduler.flags().iter().flatten().fold(0, |flags, flag| flags | scheduler_flag(*flag)),
            nice: scheduler.nice().unwrap_or(0),
            priority: u32::try_from(scheduler.priority().unwrap_or(0))
                .map_err(|_| PlanError::new("process.scheduler.priority", "must not be negative"))?,
            runtime: scheduler.runtime().unwrap_or(0),
            deadline: scheduler.deadline().unwrap_or(0),
            period: scheduler.period().unwrap_or(0),
        }));
    }
    if let Some(io) = process.io_priority() {
        let class = match io.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u32::try_from(io.priority()).ok().filter(|level| *level < 8);
        let level = level.ok_or_else(|| PlanError::new("process.ioPriority.priority", "must be 0 to 7"))?;
        steps.push(Step::IoPriority(class << 13 | level));
    }
    Ok(())
}

/// `SCHED_FLAG_*` of linux/sched.h.
fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// The affinity of an exec, as a step; `field` is `initial` or `final`.
pub(super) fn affinity(field: &str, list: Option<&String>) -> Result<Option<Step>, PlanError> {
    let field = format!("process.execCPUAffinity.{field}");
    match list.map(|list| list.trim()).filter(|list| !list.is_empty()) {
        None => Ok(None),
        Some(list) => {
            let mask = list_mask(list).ok_or_else(|| PlanError::new(field, format!("{list:?} is no list of CPUs")))?;
            Ok(Some(Step::CpuAffinity(mask)))
        }
    }
}

/// Words of a mask of 8,192 CPUs, the most that a kernel is built for (`NR_CPUS`).
const EVERY_CPU_WORDS: usize = 128;

/// Takes back an affinity that we were started with, as runc does: what bounds a container is its cpuset, by which the
/// kernel narrows the mask. `None` where there is nothing to take back.
pub(super) fn every_cpu() -> Option<Step> {
    let own = rustix::thread::sched_getaffinity(None).ok()?;
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let online: u32 = list_mask(online.trim())?.iter().map(|word| word.count_ones()).sum();
    (own.count() < online).then(|| Step::CpuAffinity(vec![u64::MAX; EVERY_CPU_WORDS]))
}

/// What a process's execution domain is.
pub(super) fn personality(personality: &LinuxPersonality) -> Step {
    Step::Personality(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// Where a process's memory comes from.
pub(super) fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Step, PlanError> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
    };
    let mode = policy.flags().iter().flatten().map(flag).fold(mode, |mode, flag| mode | flag);
    let nodes = match policy.nodes().as_deref().map(str::trim) {
        None | Some("") => Vec::new(),
        Some(list) => {
            let error = || PlanError::new("linux.memoryPolicy.nodes", format!("{list:?} is no list of nodes"));
            list_mask(list).ok_or_else(error)?
        }
    };
    Ok(Step::MemoryPolicy { mode, nodes })
}

/// The labels that the program gets; a module that this machine does not have cannot give one.
pub(super) fn labels(process: &Process, steps: &mut Vec<Step>) -> Result<(), PlanError> {
    let modules = [
        (SecurityModule::AppArmor, "process.apparmorProfile", process.apparmor_profile(), "AppArmor"),
        (SecurityModule::Selinux, "process.selinuxLabel", process.selinux_label(), "SELinux"),
    ];
    for (module, field, label, name) in modules {
        let Some(label) = label.as_deref().filter(|label| !label.is_empty()) else { continue };
        if !enabled(module) {
            return Err(PlanError::new(field, format!("{label:?}: {name} is not enabled on this machine")));
        }
        steps.push(Step::Label { module, text: c_string(field, label)? });
    }
    Ok(())
}

/// Whether the kernel runs this security module.
#[must_use]
pub fn enabled(module: SecurityModule) -> bool {
    match module {
        SecurityModule::AppArmor => {
            std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
        }
        // Its file system is mounted when it is in use (selinux(8), is_selinux_enabled(3)).
        SecurityModule::Selinux => {
            const SELINUX_MAGIC: rustix::fs::FsWord = 0xf97c_ff8c_u32 as rustix::fs::FsWord;
            rustix::fs::statfs(Path::new("/sys/fs/selinux")).is_ok_and(|found| found.f_type == SELINUX_MAGIC)
        }
    }
}
