//! `linux.seccomp`: who listens. What the rules mean is checked when they are compiled ([`crate::seccomp`]).

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use super::{absolute_path, c_string};
use crate::config::error::ConfigError;

/// As runc: a path without `SCMP_ACT_NOTIFY` is not used, the action without a path cannot be.
pub(super) fn check(profile: &LinuxSeccomp, notes: &mut Vec<String>) -> Result<(), ConfigError> {
    const FIELD: &str = "linux.seccomp.listenerPath";
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    if notifies(profile.default_action()) {
        return Err(ConfigError::field("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be the default"));
    }
    for (i, rule) in profile.syscalls().iter().flatten().enumerate().filter(|(_, rule)| notifies(rule.action())) {
        if rule.names().iter().any(|name| name == "write") {
            // Here it would work; but a profile that is right here is to be right with runc.
            let reason = "SCMP_ACT_NOTIFY cannot be used for the write syscall";
            return Err(ConfigError::field(format_args!("linux.seccomp.syscalls[{i}].names"), reason));
        }
    }
    let notifies = profile.syscalls().iter().flatten().any(|rule| notifies(rule.action()));
    let path = profile.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().as_deref().unwrap_or_default();
    match path {
        None if notifies => return Err(ConfigError::field(FIELD, "missing, and a rule has SCMP_ACT_NOTIFY")),
        None if !metadata.is_empty() => {
            return Err(ConfigError::field("linux.seccomp.listenerMetadata", "needs listenerPath"));
        }
        None => return Ok(()),
        Some(path) => absolute_path(FIELD, path)?,
    }
    c_string("linux.seccomp.listenerMetadata", metadata)?;
    if !notifies {
        notes.push(format!("{FIELD}: no rule has SCMP_ACT_NOTIFY, ignored"));
    }
    Ok(())
}
