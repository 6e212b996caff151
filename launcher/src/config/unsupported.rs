//! What config.json may ask for and does not get.
//!
//! Each such field is refused by name: a container that silently runs without its seccomp profile or memory limit is
//! worse than none. `--ignore-unsupported` turns the refusals into notes, except where nothing sensible would be left:
//! a config for another system.

use oci_spec::runtime::{LinuxIntelRdt, Spec};

use super::error::ConfigError;
use crate::resctrl::Resctrl;

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
    if Resctrl::find().is_some() {
        return Ok(Vec::new());
    }
    let reason = "resctrl is not mounted";
    if ignore {
        Ok(vec![format!("linux.intelRdt: {reason}, ignored")])
    } else {
        Err(ConfigError::unsupported("linux.intelRdt", reason))
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
