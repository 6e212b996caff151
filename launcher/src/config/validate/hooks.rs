//! `hooks`: absolute paths, and timeouts that can pass.

use oci_spec::runtime::{Hook, Spec};

use super::{absolute_path, c_string};
use crate::config::error::ConfigError;

pub(super) fn check(spec: &Spec) -> Result<(), ConfigError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let lists = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, list) in lists {
        for (i, hook) in list.iter().flatten().enumerate() {
            check_one(&format!("hooks.{name}[{i}]"), hook)?;
        }
    }
    Ok(())
}

fn check_one(field: &str, hook: &Hook) -> Result<(), ConfigError> {
    absolute_path(format_args!("{field}.path"), hook.path())?;
    for (name, list) in [("args", hook.args()), ("env", hook.env())] {
        for (i, text) in list.iter().flatten().enumerate() {
            c_string(format_args!("{field}.{name}[{i}]"), text)?;
        }
    }
    match hook.timeout() {
        Some(seconds) if !(1..=i64::from(u32::MAX)).contains(&seconds) => {
            let reason = format!("must be a number of seconds greater than zero, not {seconds}");
            Err(ConfigError::field(format_args!("{field}.timeout"), reason))
        }
        _ => Ok(()),
    }
}
