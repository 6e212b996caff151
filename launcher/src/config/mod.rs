//! From the bytes of config.json to a checked [`Spec`].
//!
//! ```text
//! <bundle>/config.json --read--> bytes --parse--> Spec --validate--> --check_supported--> Loaded
//!                                  |  simd-json, from a copy            ^
//!                                  `--(it fails, or the file is of before 1.0)--> Value --migrate--> Spec
//! ```
//!
//! What can be said about a container without looking at the host is said here: a [`Spec`] that passed is one that the
//! plan's builder may rely on. Every refusal is one line that names the file and the field or the position; whatever
//! was changed, ignored or is merely odd becomes a note.
//!
//! Not here: anything that needs the host (does the root exist, may the user read it): that is [`crate::plan`]'s.

mod error;
mod id;
mod migrate;
mod parse;
mod unsupported;
mod validate;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde_json::{Value, json};

pub use error::ConfigError;
pub(crate) use error::{one_line, quote};
pub use id::{IdError, MAX_ID_BYTES, check_id};
pub use parse::parse;
pub use unsupported::check_supported;
pub(crate) use validate::has_namespace;
pub use validate::{list_mask, sysctl_path, validate};

/// The name of the file in a bundle.
pub const FILE_NAME: &str = "config.json";

/// Largest file that is read, in bytes. The kernel takes no more than 6 MiB of arguments and environment (execve(2)).
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// A config.json that was read, understood and found right.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub spec: Spec,
    /// The untouched bytes of the file.
    pub raw: Vec<u8>,
    /// What was changed, ignored or is odd, one line each.
    pub notes: Vec<String>,
}

/// How strict [`load`] is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Go on without what is not supported yet (`--ignore-unsupported`), and note it.
    pub ignore_unsupported: bool,
}

/// Reads `<bundle>/config.json` and checks it.
///
/// # Errors
/// When the file cannot be read, is not a config.json, is wrong in itself, or asks for what is not supported yet.
pub fn load(bundle: &Path, options: LoadOptions) -> Result<Loaded, ConfigError> {
    load_file(&bundle.join(FILE_NAME), options).map_err(|error| match error {
        // The file is not there because the bundle is not: say so.
        ConfigError::Read { source, .. } if !bundle.is_dir() => ConfigError::bundle(bundle, source),
        other => other,
    })
}

/// Reads a config.json of any name (`--config FILE`) and checks it.
///
/// # Errors
/// As [`load`].
pub fn load_file(path: &Path, options: LoadOptions) -> Result<Loaded, ConfigError> {
    let raw = read(path).map_err(|source| ConfigError::read(path, source))?;
    let (spec, notes) = check(&raw, options).map_err(|error| error.in_file(path))?;
    Ok(Loaded { spec, raw, notes })
}

fn check(raw: &[u8], options: LoadOptions) -> Result<(Spec, Vec<String>), ConfigError> {
    let (spec, mut notes) = parse(raw)?;
    notes.extend(validate(&spec)?);
    notes.extend(check_supported(&spec, options.ignore_unsupported)?);
    Ok((spec, notes))
}

/// Reads the JSON text of something that is called `name` in messages.
///
/// # Errors
/// It is not JSON.
pub fn parse_value(text: &[u8], name: &str) -> Result<Value, ConfigError> {
    serde_json::from_slice(text)
        .map_err(|error| ConfigError::syntax(error.line(), error.column(), &error.to_string()).in_file(Path::new(name)))
}

/// Checks the process of an exec, with the same checks as an init process, by way of a configuration that holds nothing
/// else. Notes are as in [`Loaded`].
///
/// # Errors
/// As [`load`]; the messages begin with "exec".
pub fn check_process(process: Value, ignore_unsupported: bool) -> Result<(Process, Vec<String>), ConfigError> {
    let spec = json!({
        "ociVersion": "1.2.1", "process": process, "root": {"path": "/"},
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    let checked = check(spec.to_string().as_bytes(), LoadOptions { ignore_unsupported });
    let checked = checked.and_then(|(spec, notes)| {
        let process = spec.process().clone().ok_or_else(|| ConfigError::field("process", "missing"))?;
        Ok((process, notes))
    });
    checked.map_err(|error| error.in_file(Path::new("exec")))
}

/// Checks the `linux.resources` of an update; what they mean is [`crate::cgroup`]'s.
///
/// # Errors
/// The field that has the wrong type; the message begins with `name`.
pub fn check_resources(resources: Value, name: &str) -> Result<LinuxResources, ConfigError> {
    parse::resources(resources).map_err(|error| error.in_file(Path::new(name)))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Non-blocking, because opening a FIFO for reading waits for a writer; a regular file does not care.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB");
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large());
    }
    // One byte more than expected: the read that finds the end of the file needs no second allocation.
    let mut raw = Vec::with_capacity(usize::try_from(metadata.len()).map_err(|_| too_large())? + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut raw)?;
    if raw.len() as u64 > MAX_FILE_BYTES { Err(too_large()) } else { Ok(raw) }
}
