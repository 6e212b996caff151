//! Bytes to [`Spec`]: the fast path for what is right, the slow path for what is old or wrong.
//!
//! The slow path exists for three reasons: config.json of before 1.0 must be [migrated](super::migrate), `oci_spec`
//! refuses a few files that are valid, and simd-json cannot say where in the text an error is.

use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::Value;

use super::error::ConfigError;
use super::migrate::{NO_USER, migrate};

/// Deepest nesting of arrays and objects that simd-json is trusted with; a real config.json has about 7 levels.
const MAX_DEPTH: usize = 512;

/// Reads a config.json: simd-json from a copy of the bytes; when that fails, or the file is of before 1.0, by way of
/// [`Value`] and [`migrate`]. The notes say what was changed.
///
/// # Errors
/// With line and column when the text is not JSON, with the path of the field when a value has the wrong type.
pub fn parse(raw: &[u8]) -> Result<(Spec, Vec<String>), ConfigError> {
    if is_plain(raw) {
        // simd-json parses in place and leaves rubbish behind.
        let mut copy = raw.to_vec();
        match simd_json::serde::from_slice::<Spec>(&mut copy) {
            Ok(spec) if !is_old(spec.version()) && !limits_to_no_process(&spec) => return Ok((spec, Vec::new())),
            // The slow path finds out what is wrong, if anything is.
            Ok(_) | Err(_) => {}
        }
    }
    parse_slowly(raw)
}

/// Whether the bytes are an object of bounded depth. An array would do as a struct for serde, and simd-json has no
/// limit to its recursion.
fn is_plain(raw: &[u8]) -> bool {
    let is_object = raw.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    // A count of opening brackets bounds the depth. It is a fraction of a microsecond, and enough for most files.
    is_object && (raw.iter().filter(|b| matches!(b, b'{' | b'[')).count() < MAX_DEPTH || depth(raw) < MAX_DEPTH)
}

fn depth(raw: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for &byte in raw {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Either it says so, or it says nothing ([`without_empty_pids`]).
fn limits_to_no_process(spec: &Spec) -> bool {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    resources.and_then(|resources| resources.pids().as_ref()).is_some_and(|pids| pids.limit() == 0)
}

/// `oci_spec` takes `pids` without a `limit` for one of zero; to Go's runtimes it says nothing, as any other object without
/// members.
fn without_empty_pids(resources: Option<&mut Value>) {
    let Some(Value::Object(fields)) = resources else { return };
    if fields.get("pids").is_some_and(|pids| pids.is_object() && pids["limit"].is_null()) {
        fields.remove("pids");
    }
}

/// Versions whose fields had other names or places; they parse, but would not mean the same.
fn is_old(version: &str) -> bool {
    version.starts_with("0.") || version.starts_with("1.0.0-rc")
}

fn parse_slowly(raw: &[u8]) -> Result<(Spec, Vec<String>), ConfigError> {
    let mut value = serde_json::from_slice::<Value>(raw).map_err(|error| syntax(raw, &error))?;
    if !value.is_object() {
        return Err(ConfigError::syntax(1, 1, &format!("expected a JSON object, found {}", kind(&value))));
    }
    let notes = migrate(&mut value);
    without_empty_pids(value.pointer_mut("/linux/resources"));
    let spec = serde_path_to_error::deserialize(value).map_err(|error| {
        let (field, reason) = describe(error.path(), error.inner());
        // The same fault in the text itself has a position.
        match locate(raw) {
            Some((path, reason, position)) if path == field => ConfigError::field(path, reason + &position),
            _ => ConfigError::field(field, reason),
        }
    })?;
    // Nothing was migrated and yet the first attempt failed: what the detour forgave (a field that is there twice).
    match locate(raw).filter(|_| notes.is_empty()) {
        Some((field, reason, position)) => Err(ConfigError::field(field, reason + &position)),
        None => Ok((spec, notes.into_iter().filter(|note| note != NO_USER).collect())),
    }
}

/// `linux.resources` alone.
pub(super) fn resources(mut value: Value) -> Result<LinuxResources, ConfigError> {
    without_empty_pids(Some(&mut value));
    if !value.is_object() {
        return Err(ConfigError::field("linux.resources", format!("expected a JSON object, found {}", kind(&value))));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (field, reason) = describe(error.path(), error.inner());
        ConfigError::field(format!("linux.resources.{field}"), reason)
    })
}

/// What is wrong with the text: field, reason and position.
fn locate(raw: &[u8]) -> Option<(String, String, String)> {
    let mut text = serde_json::Deserializer::from_slice(raw);
    let error = serde_path_to_error::deserialize::<_, Spec>(&mut text).err()?;
    let (field, reason) = describe(error.path(), error.inner());
    Some((field, reason, format!(" (line {}, column {})", error.inner().line(), error.inner().column())))
}

/// Serde's words in ours: the field itself, and the reason without the position.
fn describe(path: &serde_path_to_error::Path, error: &serde_json::Error) -> (String, String) {
    let reason = without_position(error);
    let parent = match path.to_string() {
        root if root == "." => String::new(),
        path => path,
    };
    // For these two serde says the object, and the field in words.
    for (prefix, text) in [("missing field `", "missing"), ("duplicate field `", "there twice")] {
        if let Some(name) = reason.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('`')) {
            let dot = if parent.is_empty() { "" } else { "." };
            return (format!("{parent}{dot}{name}"), text.to_owned());
        }
    }
    (if parent.is_empty() { "top level".to_owned() } else { parent }, reason)
}

fn syntax(raw: &[u8], error: &serde_json::Error) -> ConfigError {
    if raw.iter().all(u8::is_ascii_whitespace) {
        return ConfigError::syntax(1, 1, "the file is empty");
    }
    ConfigError::syntax(error.line(), error.column(), &without_position(error))
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map_or(text.clone(), str::to_owned)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
