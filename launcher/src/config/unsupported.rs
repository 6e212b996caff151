//! What config.json may ask for and does not get yet.
//!
//! Each such field is refused by name: a container that silently runs without its seccomp profile or memory limit is
//! worse than none. `--ignore-unsupported` turns the refusals into notes, except where nothing sensible would be left:
//! a config for another system.

use oci_spec::runtime::{LinuxIntelRdt, Spec};

use super::error::ConfigError;

/// Refuses what is not supported yet; with `ignore` it notes it instead.
///
/// # Errors
/// Names the first such field.
pub fn check_supported(spec: &Spec, ignore: bool) -> Result<Vec<String>, ConfigError> {
    check_platform(spec)?;
    let intel_rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    if intel_rdt.is_none_or(|rdt| *rdt == LinuxIntelRdt::default()) {
        return Ok(Vec::new());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match without_resctrl(&mounts) {
        reason if ignore => Ok(vec![format!("linux.intelRdt: {reason}, ignored")]),
        reason => Err(ConfigError::unsupported("linux.intelRdt", reason)),
    }
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

/// Why there is no resource control: the machine's own reason comes first.
fn without_resctrl(mountinfo: &str) -> &'static str {
    let mounted =
        mountinfo.lines().any(|line| line.split_once(" - ").is_some_and(|(_, fs)| fs.starts_with("resctrl ")));
    if mounted { "not supported yet" } else { "resctrl is not mounted" }
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
