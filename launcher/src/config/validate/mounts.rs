//! `mounts`: where they go and what they are made from.

use oci_spec::runtime::Mount;

use super::{c_path, c_string, climbs, mapping};
use crate::config::error::{ConfigError, quote};

pub(super) fn check(mounts: &[Mount], notes: &mut Vec<String>) -> Result<(), ConfigError> {
    for (i, mount) in mounts.iter().enumerate() {
        destination(i, mount, notes)?;
        if let Some(kind) = mount.typ() {
            c_string(format_args!("mounts[{i}].type"), kind)?;
        }
        for (o, option) in options(mount).iter().enumerate() {
            c_string(format_args!("mounts[{i}].options[{o}]"), option)?;
        }
        mappings(i, mount)?;
        match mount.source() {
            Some(source) if !source.as_os_str().is_empty() => c_string(format_args!("mounts[{i}].source"), source)?,
            _ if is_bind(mount) => {
                return Err(ConfigError::field(
                    format_args!("mounts[{i}].source"),
                    "missing, and this is a bind mount",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Destinations are resolved inside the root, so a relative or climbing one does no harm. It is a mistake all the same.
fn destination(i: usize, mount: &Mount, notes: &mut Vec<String>) -> Result<(), ConfigError> {
    let path = mount.destination();
    c_path(format_args!("mounts[{i}].destination"), path)?;
    if !path.is_absolute() {
        let value = quote(&path.to_string_lossy());
        notes.push(format!("mounts[{i}].destination: {value} is not absolute, taken as relative to /"));
    }
    if climbs(path) {
        let value = quote(&path.to_string_lossy());
        notes.push(format!("mounts[{i}].destination: {value} has a .. component, which does not leave the root"));
    }
    Ok(())
}

/// Both or none: a mount with one map would show every other id as the overflow id (runc and crun refuse it as well).
fn mappings(i: usize, mount: &Mount) -> Result<(), ConfigError> {
    let of = |mappings: &Option<Vec<_>>| mappings.clone().unwrap_or_default();
    let (uids, gids) = (of(mount.uid_mappings()), of(mount.gid_mappings()));
    let fields = [format!("mounts[{i}].uidMappings"), format!("mounts[{i}].gidMappings")];
    if uids.is_empty() != gids.is_empty() {
        let missing = if uids.is_empty() { &fields[0] } else { &fields[1] };
        return Err(ConfigError::field(
            missing,
            "missing: id-mapped mounts must have both uid and gid mappings specified",
        ));
    }
    mapping::list(&fields[0], &uids)?;
    mapping::list(&fields[1], &gids)
}

fn options(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}

fn is_bind(mount: &Mount) -> bool {
    let is_remount = options(mount).iter().any(|option| option == "remount");
    let is_bind = mount.typ().as_deref() == Some("bind")
        || options(mount).iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    is_bind && !is_remount
}
