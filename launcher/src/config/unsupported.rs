//! What config.json may ask for and does not get yet.
//!
//! Each such field is refused by name: a container that silently runs without its seccomp profile or memory limit is
//! worse than none. `--ignore-unsupported` turns the refusals into notes, except where nothing sensible would be left:
//! a config for another system.

use std::fmt::Display;

use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt, LinuxMemory, LinuxResources, Spec,
};

use super::error::ConfigError;

/// Refuses what is not supported yet; with `ignore` it notes it instead.
///
/// # Errors
/// Names the first such field.
pub fn check_supported(spec: &Spec, ignore: bool) -> Result<Vec<String>, ConfigError> {
    check_platform(spec)?;
    let mut check = Check { ignore, notes: Vec::new() };
    if let Some(linux) = spec.linux() {
        check.linux(linux)?;
    }
    Ok(check.notes)
}

/// Refuses a config for another system than Linux.
pub(super) fn check_platform(spec: &Spec) -> Result<(), ConfigError> {
    let sections = [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    match sections.iter().find(|(_, present)| *present) {
        Some((section, _)) => Err(ConfigError::field(section, "not a Linux container")),
        None => Ok(()),
    }
}

struct Check {
    ignore: bool,
    notes: Vec<String>,
}

impl Check {
    /// The field is not supported; `asked` says whether it asks for anything.
    fn refuse(&mut self, field: impl Display, asked: bool) -> Result<(), ConfigError> {
        if asked { self.refuse_because(field, "not supported yet") } else { Ok(()) }
    }

    fn refuse_because(&mut self, field: impl Display, reason: &'static str) -> Result<(), ConfigError> {
        if !self.ignore {
            return Err(ConfigError::unsupported(field, reason));
        }
        self.notes.push(format!("{field}: {reason}, ignored"));
        Ok(())
    }

    /// Several fields of one object.
    fn refuse_each<const N: usize>(&mut self, parent: &str, fields: [(&str, bool); N]) -> Result<(), ConfigError> {
        fields.into_iter().try_for_each(|(field, asked)| self.refuse(format_args!("{parent}.{field}"), asked))
    }

    fn linux(&mut self, linux: &Linux) -> Result<(), ConfigError> {
        if linux.intel_rdt().as_ref().is_some_and(|rdt| *rdt != LinuxIntelRdt::default()) {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            self.refuse_because("linux.intelRdt", without_resctrl(&mounts))?;
        }
        linux.resources().as_ref().map_or(Ok(()), |resources| self.resources(resources))
    }

    /// Zero and -1 are what cgroups begin with and what Go writes for "not set": they ask for nothing.
    fn resources(&mut self, resources: &LinuxResources) -> Result<(), ConfigError> {
        self.devices(resources.devices().as_deref().unwrap_or_default())?;
        resources.memory().as_ref().map_or(Ok(()), |memory| self.memory(memory))?;
        resources.cpu().as_ref().map_or(Ok(()), |cpu| self.cpu(cpu))?;
        resources.block_io().as_ref().map_or(Ok(()), |block_io| self.block_io(block_io))?;
        let network = resources.network().as_ref();
        self.refuse_each(
            "linux.resources",
            [
                ("pids.limit", resources.pids().is_some_and(|pids| is_limit(Some(pids.limit())))),
                ("hugepageLimits", is_list(resources.hugepage_limits())),
                ("network.classID", network.is_some_and(|network| is_nonzero(network.class_id()))),
                ("network.priorities", network.is_some_and(|network| is_list(network.priorities()))),
                ("rdma", resources.rdma().as_ref().is_some_and(|map| !map.is_empty())),
                ("unified", resources.unified().as_ref().is_some_and(|map| !map.is_empty())),
            ],
        )
    }

    fn devices(&mut self, rules: &[LinuxDeviceCgroup]) -> Result<(), ConfigError> {
        for (i, rule) in rules.iter().enumerate() {
            // What is allowed takes nothing from anybody.
            let asks_for_nothing = rule.allow() || is_deny_all(rule);
            self.refuse(format_args!("linux.resources.devices[{i}]"), !asks_for_nothing)?;
        }
        Ok(())
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), ConfigError> {
        self.refuse_each(
            "linux.resources.memory",
            [
                ("limit", is_limit(memory.limit())),
                ("reservation", is_limit(memory.reservation())),
                ("swap", is_limit(memory.swap())),
                ("kernel", is_limit(memory.kernel())),
                ("kernelTCP", is_limit(memory.kernel_tcp())),
                // Here zero is a wish of its own: swap only when there is no other way.
                ("swappiness", memory.swappiness().is_some()),
                ("disableOOMKiller", memory.disable_oom_killer() == Some(true)),
                ("useHierarchy", memory.use_hierarchy() == Some(true)),
                ("checkBeforeUpdate", memory.check_before_update() == Some(true)),
            ],
        )
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), ConfigError> {
        self.refuse_each(
            "linux.resources.cpu",
            [
                // 1024 is what the kernel begins with.
                ("shares", is_nonzero(cpu.shares()) && cpu.shares() != Some(1024)),
                ("quota", is_limit(cpu.quota())),
                ("idle", is_limit(cpu.idle())),
                ("burst", is_nonzero(cpu.burst())),
                ("period", is_nonzero(cpu.period())),
                ("realtimeRuntime", is_limit(cpu.realtime_runtime())),
                ("realtimePeriod", is_nonzero(cpu.realtime_period())),
                ("cpus", is_text(cpu.cpus())),
                ("mems", is_text(cpu.mems())),
            ],
        )
    }

    fn block_io(&mut self, block_io: &LinuxBlockIo) -> Result<(), ConfigError> {
        self.refuse_each(
            "linux.resources.blockIO",
            [
                ("weight", is_nonzero(block_io.weight())),
                ("leafWeight", is_nonzero(block_io.leaf_weight())),
                ("weightDevice", is_list(block_io.weight_device())),
                ("throttleReadBpsDevice", is_list(block_io.throttle_read_bps_device())),
                ("throttleWriteBpsDevice", is_list(block_io.throttle_write_bps_device())),
                ("throttleReadIOPSDevice", is_list(block_io.throttle_read_iops_device())),
                ("throttleWriteIOPSDevice", is_list(block_io.throttle_write_iops_device())),
            ],
        )
    }
}

/// Why there is no resource control: the machine's own reason comes first.
fn without_resctrl(mountinfo: &str) -> &'static str {
    let mounted =
        mountinfo.lines().any(|line| line.split_once(" - ").is_some_and(|(_, fs)| fs.starts_with("resctrl ")));
    if mounted { "not supported yet" } else { "resctrl is not mounted" }
}

/// The rule that every runtime's template begins with: no device at all, before others allow some.
fn is_deny_all(rule: &LinuxDeviceCgroup) -> bool {
    let any = |number: Option<i64>| number.is_none_or(|number| number == -1);
    let kind = rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A);
    let access = rule.access().as_deref().unwrap_or_default();
    let all = ['r', 'w', 'm'].into_iter().all(|letter| access.contains(letter));
    !rule.allow() && kind && any(rule.major()) && any(rule.minor()) && all
}

fn is_text(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|text| !text.is_empty())
}

fn is_list<T>(value: &Option<Vec<T>>) -> bool {
    value.as_ref().is_some_and(|list| !list.is_empty())
}

fn is_limit(value: Option<i64>) -> bool {
    value.is_some_and(|limit| !matches!(limit, 0 | -1))
}

fn is_nonzero<T: Default + PartialEq>(value: Option<T>) -> bool {
    value.is_some_and(|value| value != T::default())
}

#[cfg(test)]
mod tests {
    use super::without_resctrl;

    #[test]
    fn resource_control_is_missing_for_one_reason_or_the_other() {
        let root = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
        assert_eq!(without_resctrl(root), "resctrl is not mounted");
        let mounted = "40 23 0:36 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n";
        assert_eq!(without_resctrl(&format!("{root}{mounted}")), "not supported yet");
    }
}
