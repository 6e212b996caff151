//! `linux.uidMappings` and `gidMappings`: what the kernel takes (user_namespaces(7)), so that the write cannot fail.

use std::fmt::Display;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use crate::config::error::ConfigError;

/// Most lines in a map (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_MAPPINGS: usize = 340;

pub(super) fn check(linux: &Linux) -> Result<(), ConfigError> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let user = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let joined = user.is_some_and(|user| user.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()));
    for (field, mappings) in [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
    {
        let mappings = mappings.as_deref().unwrap_or_default();
        if user.is_none() && !mappings.is_empty() {
            return Err(ConfigError::field(field, "needs a user namespace in linux.namespaces"));
        }
        if user.is_some() && !joined && mappings.is_empty() {
            return Err(ConfigError::field(field, "missing, and there is a new user namespace"));
        }
        list(field, mappings)?;
    }
    Ok(())
}

pub(super) fn list(field: &str, mappings: &[LinuxIdMapping]) -> Result<(), ConfigError> {
    if mappings.len() > MAX_MAPPINGS {
        return Err(ConfigError::field(field, format!("{} entries, the kernel takes {MAX_MAPPINGS}", mappings.len())));
    }
    for (i, mapping) in mappings.iter().enumerate() {
        let size = mapping.size();
        if size == 0 {
            return Err(ConfigError::field(format_args!("{field}[{i}].size"), "must not be 0"));
        }
        range(format_args!("{field}[{i}].containerID"), mapping.container_id(), size)?;
        range(format_args!("{field}[{i}].hostID"), mapping.host_id(), size)?;
        for (j, earlier) in mappings[..i].iter().enumerate() {
            let overlap = |ours: u32, theirs: u32| {
                u64::from(ours) < u64::from(theirs) + u64::from(earlier.size())
                    && u64::from(theirs) < u64::from(ours) + u64::from(size)
            };
            let reason = || format!("the range overlaps that of {field}[{j}]");
            if overlap(mapping.container_id(), earlier.container_id()) {
                return Err(ConfigError::field(format_args!("{field}[{i}].containerID"), reason()));
            }
            if overlap(mapping.host_id(), earlier.host_id()) {
                return Err(ConfigError::field(format_args!("{field}[{i}].hostID"), reason()));
            }
        }
    }
    Ok(())
}

/// The largest number is no id, so a range ends before it.
fn range(field: impl Display, first: u32, size: u32) -> Result<(), ConfigError> {
    if first.checked_add(size).is_none() {
        return Err(ConfigError::field(field, format!("{first} and size {size} go beyond the largest id")));
    }
    Ok(())
}
