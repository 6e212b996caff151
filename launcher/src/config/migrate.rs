//! Old config.json to today's form, and around the corners of `oci_spec`.
//!
//! A config.json of 2016 (runc 1.0.0-rc1, `ociVersion` 0.4.0 to 1.0.0-rc5) has some fields in other places and shapes.
//! `oci_spec` knows today's only, and ignores unknown fields: what is not moved here would be lost without a word.
//! Only the slow path comes here, so speed is of no concern; each change is reported in one line.

use std::collections::BTreeSet;

use oci_spec::runtime::Capability;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{one_line, quote};

type Object = Map<String, Value>;

/// The five sets of today's `process.capabilities`.
const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "permitted", "inheritable", "ambient"];

/// Scheduler flags: as the specification writes them, as `oci_spec` does.
const SCHEDULER_FLAGS: [(&str, &str); 2] =
    [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

/// `linux.resources.blockIO`: names up to 1.0.0-rc5 and since.
const BLOCK_IO: [(&str, &str); 7] = [
    ("blkioWeight", "weight"),
    ("blkioLeafWeight", "leafWeight"),
    ("blkioWeightDevice", "weightDevice"),
    ("blkioThrottleReadBpsDevice", "throttleReadBpsDevice"),
    ("blkioThrottleWriteBpsDevice", "throttleWriteBpsDevice"),
    ("blkioThrottleReadIOPSDevice", "throttleReadIOPSDevice"),
    ("blkioThrottleWriteIOPSDevice", "throttleWriteIOPSDevice"),
];

/// `linux.resources.memory`: unsigned up to 1.0.0, where the largest number stood for "no limit".
const MEMORY_LIMITS: [&str; 5] = ["limit", "reservation", "swap", "kernel", "kernelTCP"];

/// The one change that is so common that nobody is told.
pub(super) const NO_USER: &str = "process.user: absent, taken as uid 0, gid 0";

/// Changes the document in place and says what was changed. What is wrong stays as it is: reading the result reports it.
pub(super) fn migrate(config: &mut Value) -> Vec<String> {
    let mut notes = Vec::new();
    drop_nulls(config, "", &mut notes);
    if let Some(root) = config.as_object_mut()
        && root.remove("platform").is_some()
    {
        notes.push("platform: dropped, it left the specification with 1.0.0-rc5".to_owned());
    }
    resources(config, &mut notes);
    if let Some(process) = object(config, "/process") {
        user(process, &mut notes);
        capabilities(process, &mut notes);
    }
    scheduler_flags(config, &mut notes);
    affinity(config, &mut notes);
    seccomp(config, &mut notes);
    notes
}

fn object<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Object> {
    value.pointer_mut(pointer)?.as_object_mut()
}

fn array<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Vec<Value>> {
    value.pointer_mut(pointer)?.as_array_mut()
}

/// Go writes and reads null for everything that is absent; `oci_spec` takes it in some places only.
fn drop_nulls(value: &mut Value, path: &str, notes: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.retain(|name, field| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if field.is_null() {
                notes.push(format!("{}: null, taken as absent", one_line(&path)));
                return false;
            }
            drop_nulls(field, &path, notes);
            true
        }),
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                drop_nulls(item, &format!("{path}[{i}]"), notes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `process.user` is required by `oci_spec` only; Go starts from uid 0, gid 0, and so do callers.
fn user(process: &mut Object, notes: &mut Vec<String>) {
    process.entry("user").or_insert_with(|| {
        notes.push(NO_USER.to_owned());
        json!({})
    });
}

/// An empty list leaves the affinity as it is (runtime-spec, config, "Linux Process"); `oci_spec` takes none.
fn affinity(config: &mut Value, notes: &mut Vec<String>) {
    let Some(affinity) = object(config, "/process/execCPUAffinity") else { return };
    for name in ["initial", "final"] {
        if affinity.get(name).and_then(Value::as_str) == Some("") {
            affinity.remove(name);
            notes.push(format!("process.execCPUAffinity.{name}: empty, taken as absent"));
        }
    }
}

/// Up to 1.0.0-rc4 one list, now five sets. Inheritable and ambient stay empty (CVE-2022-29162).
fn capabilities(process: &mut Object, notes: &mut Vec<String>) {
    let Some(value) = process.get_mut("capabilities") else { return };
    let mut unknown = BTreeSet::new();
    if let Value::Array(names) = value {
        drop_unknown_capabilities(names, &mut unknown);
        *value = json!({ "bounding": names, "effective": names, "permitted": names });
        notes.push(
            "process.capabilities: the flat list of old became bounding, effective and permitted; \
             inheritable and ambient are empty"
                .to_owned(),
        );
    } else {
        for set in CAPABILITY_SETS {
            if let Some(names) = value.get_mut(set).and_then(Value::as_array_mut) {
                drop_unknown_capabilities(names, &mut unknown);
            }
        }
    }
    if !unknown.is_empty() {
        // runc's words, which its callers know.
        let unknown = unknown.into_iter().collect::<Vec<_>>().join(" ");
        notes.push(format!("process.capabilities: ignoring unknown or unavailable capabilities: [{unknown}]"));
    }
}

/// A capability that this build does not know cannot be granted; as with runc that is no reason to refuse the rest.
fn drop_unknown_capabilities(names: &mut Vec<Value>, unknown: &mut BTreeSet<String>) {
    names.retain(|name| match name {
        Value::String(text) if Capability::deserialize(name).is_err() => {
            unknown.insert(quote(text).trim_matches('"').to_owned());
            false
        }
        _ => true,
    });
}

fn scheduler_flags(config: &mut Value, notes: &mut Vec<String>) {
    for (i, flag) in array(config, "/process/scheduler/flags").into_iter().flatten().enumerate() {
        if let Some((from, to)) = SCHEDULER_FLAGS.iter().find(|(from, _)| flag == from) {
            notes.push(format!("process.scheduler.flags[{i}]: {from}, in the parser's spelling {to}"));
            *flag = json!(to);
        }
    }
}

/// What moved or was renamed among the resources.
fn resources(config: &mut Value, notes: &mut Vec<String>) {
    if let Some(resources) = object(config, "/linux/resources") {
        if let Some(value) = resources.remove("disableOOMKiller") {
            notes.push("linux.resources.disableOOMKiller: moved to linux.resources.memory".to_owned());
            let memory = resources.entry("memory").or_insert_with(|| json!({}));
            if let Some(memory) = memory.as_object_mut() {
                memory.entry("disableOOMKiller").or_insert(value);
            }
        }
        let score = resources.remove("oomScoreAdj");
        if let (Some(score), Some(process)) = (score, object(config, "/process")) {
            notes.push("linux.resources.oomScoreAdj: moved to process.oomScoreAdj".to_owned());
            process.entry("oomScoreAdj").or_insert(score);
        }
    }
    if let Some(block_io) = object(config, "/linux/resources/blockIO") {
        for (from, to) in BLOCK_IO {
            if let Some(value) = block_io.remove(from) {
                notes.push(format!("linux.resources.blockIO.{from}: renamed to {to}"));
                block_io.entry(to).or_insert(value);
            }
        }
    }
    if let Some(memory) = object(config, "/linux/resources/memory") {
        for name in MEMORY_LIMITS {
            if let Some(limit) = memory.get_mut(name).filter(|limit| limit.is_u64() && !limit.is_i64()) {
                notes.push(format!("linux.resources.memory.{name}: {limit} is beyond all memory, taken as no limit"));
                *limit = json!(-1);
            }
        }
        if memory.get("swappiness").is_some_and(|value| value.as_u64() == Some(u64::MAX)) {
            notes.push("linux.resources.memory.swappiness: -1 of old, taken as absent".to_owned());
            memory.remove("swappiness");
        }
    }
}

/// Up to 1.0.0-rc4 a rule was for one `name`; and an empty profile was written as one without a default action.
fn seccomp(config: &mut Value, notes: &mut Vec<String>) {
    if let Some(linux) = object(config, "/linux")
        && linux.get("seccomp").is_some_and(is_empty_profile)
    {
        linux.remove("seccomp");
        notes.push("linux.seccomp: an empty profile, taken as absent".to_owned());
    }
    let mut renamed = 0;
    for rule in array(config, "/linux/seccomp/syscalls").into_iter().flatten().filter_map(Value::as_object_mut) {
        if !rule.contains_key("names")
            && let Some(name) = rule.remove("name")
        {
            rule.insert("names".to_owned(), json!([name]));
            renamed += 1;
        }
    }
    if renamed > 0 {
        notes.push(format!("linux.seccomp.syscalls: name became names, in {renamed} rules"));
    }
}

fn is_empty_profile(profile: &Value) -> bool {
    let empty = |name: &str| match profile.get(name) {
        None => true,
        Some(value) => value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty),
    };
    profile.is_object() && ["defaultAction", "architectures", "syscalls"].into_iter().all(empty)
}
