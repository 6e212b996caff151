//! `linux.intelRdt`: names that are directory entries, schemata of one line each.

use oci_spec::runtime::Spec;

use super::super::error::{ConfigError, quote};
use super::c_string;
use crate::resctrl::{RESERVED, ROOT};

pub(super) fn check(spec: &Spec) -> Result<(), ConfigError> {
    let Some(rdt) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(()) };
    if let Some(name) = rdt.clos_id().as_deref().filter(|name| *name != ROOT) {
        let field = "linux.intelRdt.closID";
        c_string(field, name)?;
        if name.contains(['/', '\n']) || name == "." || name == ".." || RESERVED.contains(&name) {
            return Err(ConfigError::field(field, format!("{} is no name for a group", quote(name))));
        }
    }
    for (field, value) in [("l3CacheSchema", rdt.l3_cache_schema()), ("memBwSchema", rdt.mem_bw_schema())] {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { continue };
        let field = format!("linux.intelRdt.{field}");
        c_string(&field, value)?;
        if field.ends_with("memBwSchema") && (!value.starts_with("MB:") || value.trim_end().contains('\n')) {
            return Err(ConfigError::field(
                field,
                format!("must be one line that starts with MB:, not {}", quote(value)),
            ));
        }
    }
    for (index, line) in rdt.schemata().iter().flatten().enumerate() {
        c_string(format!("linux.intelRdt.schemata[{index}]"), line)?;
    }
    Ok(())
}
