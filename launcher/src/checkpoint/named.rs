//! Checkpoints by name, as containerd 0.2 had them: the images of `NAME` are in `<bundle>/checkpoints/NAME`, or in a directory
//! that the caller names, with what was asked for beside them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CheckpointError, DumpOptions, Options, RestoreOptions, Result};
use crate::config::{self, LoadOptions};
use crate::state::{ContainerDir, ContainerState, io_text, replace_file};

/// Folder in a bundle.
const FOLDER: &str = "checkpoints";
/// In a checkpoint's folder: [`Checkpoint`]. It has this name when the checkpoint is complete.
const FILE: &str = "checkpoint.json";
/// The same until then: what a daemon that died left of a checkpoint can be told from everything else, and removed.
const BEGUN: &str = "checkpoint.begun";
/// Largest such file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A checkpoint that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Checkpoint {
    /// As a container's ID.
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The container ended with it.
    pub exit: bool,
    /// With open TCP connections.
    pub tcp: bool,
    /// With unix sockets whose other end is outside.
    pub unix_sockets: bool,
    /// With sessions and terminals from outside.
    pub shell: bool,
}

/// Where the checkpoints of a bundle are: `directory`, if the caller names one.
///
/// # Errors
/// There is neither, or the directory is relative.
pub fn folder(bundle: &Path, directory: &Path) -> Result<PathBuf> {
    let given = !directory.as_os_str().is_empty();
    if given && directory.is_relative() {
        return Err(CheckpointError::path("checkpoint directory", directory, "is no absolute path"));
    }
    if !given && bundle.as_os_str().is_empty() {
        return Err(CheckpointError::path("bundle", bundle, "the container has none, so a directory must be named"));
    }
    Ok(if given { directory.to_owned() } else { bundle.join(FOLDER) })
}

fn place(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    config::check_id(name).map_err(|error| CheckpointError::path("checkpoint", Path::new(name), error.to_string()))?;
    Ok(path)
}

fn options(images: PathBuf, checkpoint: &Checkpoint) -> Options {
    Options {
        images,
        tcp_established: checkpoint.tcp,
        ext_unix_sk: checkpoint.unix_sockets,
        shell_job: checkpoint.shell,
        ..Options::default()
    }
}

/// Makes a checkpoint of a running container. Its processes stand still while `written` runs, which the images are then.
///
/// # Errors
/// The name is taken or wrong, or as [`super::dump`]; nothing of the checkpoint is left, and the container goes on.
pub fn create(
    folder: &Path,
    checkpoint: &Checkpoint,
    dir: &ContainerDir,
    state: &ContainerState,
    written: impl FnOnce(),
) -> Result<()> {
    let images = place(folder, &checkpoint.name)?;
    if state.bundle.as_os_str().is_empty() {
        return Err(CheckpointError::path("bundle", &state.bundle, "the container has none: it could not be restored"));
    }
    let fail = |error: std::io::Error| CheckpointError::path("checkpoint", &images, io_text(&error));
    std::fs::create_dir_all(folder).map_err(fail)?;
    // The directory is the reservation of the name.
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&images).map_err(fail)?;
    let dumped = config::load_file(&state.config_file(), LoadOptions { ignore_unsupported: true });
    let dumped = dumped.map_err(|error| CheckpointError::path("checkpoint", &images, error.to_string()));
    let dumped = dumped.and_then(|loaded| {
        let common = options(images.clone(), checkpoint);
        let options = DumpOptions { common, leave_running: !checkpoint.exit, ..DumpOptions::default() };
        let text = serde_json::to_vec(checkpoint).map_err(|error| fail(error.into()))?;
        replace_file(&images.join(BEGUN), &text, 0o600)?;
        let complete = || std::fs::rename(images.join(BEGUN), images.join(FILE));
        let mut completed = None;
        super::dump(dir, state, &loaded.spec, options, || {
            // Before it is told, and before CRIU may end the container.
            completed = Some(complete());
            written();
        })?;
        completed.unwrap_or_else(complete).map_err(fail)
    });
    if dumped.is_err() {
        let _ = std::fs::remove_dir_all(&images);
    }
    dumped
}

/// The checkpoints in a folder, sorted by name. What is none is left out, and a missing folder has none.
#[must_use]
pub fn list(folder: &Path) -> Vec<Checkpoint> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut all: Vec<Checkpoint> = names.filter_map(|name| find(folder, &name).ok()).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn find(folder: &Path, name: &str) -> Result<Checkpoint> {
    let file = place(folder, name)?.join(FILE);
    let fail = |error: std::io::Error| CheckpointError::path("checkpoint", &file, io_text(&error));
    let opened = rustix::fs::open(&file, super::images::READ, rustix::fs::Mode::empty());
    let opened = std::fs::File::from(opened.map_err(|errno| fail(errno.into()))?);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(opened, FILE_BYTES_MAX), &mut bytes).map_err(fail)?;
    let read: Checkpoint = serde_json::from_slice(&bytes).map_err(|error| fail(error.into()))?;
    Ok(Checkpoint { name: name.to_owned(), ..read })
}

/// Removes a checkpoint, or what there is of one that never came to its end.
///
/// # Errors
/// There is none of that name, or it cannot be removed.
pub fn delete(folder: &Path, name: &str) -> Result<()> {
    let images = place(folder, name)?;
    if !std::fs::symlink_metadata(images.join(BEGUN)).is_ok_and(|begun| begun.is_file()) {
        find(folder, name)?;
    }
    std::fs::remove_dir_all(&images).map_err(|error| CheckpointError::path("checkpoint", &images, io_text(&error)))
}

/// How to restore from a checkpoint: as it was made.
///
/// # Errors
/// There is none of that name.
pub fn restore_options(folder: &Path, name: &str) -> Result<RestoreOptions> {
    let checkpoint = find(folder, name)?;
    Ok(RestoreOptions { common: options(place(folder, name)?, &checkpoint), ..RestoreOptions::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_checkpoints_are_listed_found_and_deleted() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(temp.path(), Path::new("")).unwrap();
        assert_eq!(list(&folder), []);
        for name in ["b", "a", "c"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        for name in ["b", "a"] {
            std::fs::write(folder.join(name).join(FILE), r#"{"name": "other", "tcp": true, "later": 1}"#).unwrap();
        }
        let wanted = ["a", "b"].map(|name| Checkpoint { name: name.to_owned(), tcp: true, ..Checkpoint::default() });
        assert_eq!(list(&folder), wanted, "what is not complete is none");
        assert!(restore_options(&folder, "a").unwrap().common.tcp_established);
        delete(&folder, "a").unwrap();
        assert!(delete(&folder, "a").unwrap_err().to_string().contains("no such file or directory"));
        assert!(delete(&folder, "c").is_err() && folder.join("c").exists());
        std::fs::write(folder.join("c").join(BEGUN), "{}").unwrap();
        assert_eq!(list(&folder), wanted[1..], "one that never came to its end is none");
        delete(&folder, "c").unwrap();
        assert!(!folder.join("c").exists());
        for wrong in ["", "..", "../b", "/etc"] {
            assert!(delete(&folder, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_is_the_bundles_or_a_named_one() {
        assert_eq!(folder(Path::new("/b"), Path::new("")).unwrap(), Path::new("/b/checkpoints"));
        assert_eq!(folder(Path::new("/b"), Path::new("/x")).unwrap(), Path::new("/x"));
        assert!(folder(Path::new("/b"), Path::new("x")).is_err() && folder(Path::new(""), Path::new("")).is_err());
    }
}
