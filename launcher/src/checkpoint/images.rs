//! The directories that CRIU reads and writes. Whoever made a checkpoint may not be whoever restores it, so what lies in
//! there is looked at first: CRIU opens files by name and would follow a link out of them, and wait for ever at a FIFO
//! (as CVE-2026-53489 of containerd had it, with a log file that was a link).

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::external::is_file_name;
use super::{CheckpointError, Options, Result, kernel};
use crate::report::errno_text;
use crate::state::{io_text, replace_file};

/// What the container's descriptors 0, 1 and 2 were, as runc writes it.
const DESCRIPTORS: &str = "descriptors.json";
/// CRIU's names of those among them that are external files.
const FILES: &str = "brood-files.json";
/// A directory's link to that of an earlier pre-dump.
const PARENT: &str = "parent";
/// Files that CRIU makes in its work directory.
const WORK_FILES: [&str; 4] = ["dump.log", "restore.log", "stats-dump", "stats-restore"];
/// Most pre-dumps that hang on one another.
const PARENTS_MAX: usize = 256;
/// How a file is opened that somebody else may have put there.
pub(super) const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);
/// Largest descriptors.json that is read, in bytes.
const DESCRIPTORS_BYTES_MAX: u64 = 4096;

/// The directories of one operation, open and looked at.
#[derive(Debug)]
pub(super) struct Directories {
    images: OwnedFd,
    images_path: PathBuf,
    work: Option<(OwnedFd, PathBuf)>,
}

impl Directories {
    /// Those of a checkpoint: what is missing is made.
    pub(super) fn make(options: &Options, parent: Option<&Path>) -> Result<Directories> {
        make_directory("--image-path", &options.images)?;
        let directories = Directories::open(options)?;
        if let Some(parent) = parent {
            check_parent(&options.images, parent)?;
        }
        Ok(directories)
    }

    /// Those of a restore; only the work directory is made.
    pub(super) fn open(options: &Options) -> Result<Directories> {
        let images = open("--image-path", &options.images)?;
        check_images(&options.images)?;
        let work = options.work.as_deref().map(open_work).transpose()?;
        Ok(Directories { images, images_path: options.images.clone(), work })
    }

    /// For `images_dir_fd`.
    pub(super) fn images(&self) -> RawFd {
        self.images.as_raw_fd()
    }

    /// The directory itself.
    pub(super) fn images_fd(&self) -> &OwnedFd {
        &self.images
    }

    /// For `work_dir_fd`.
    pub(super) fn work(&self) -> Option<RawFd> {
        self.work.as_ref().map(|(fd, _)| fd.as_raw_fd())
    }

    /// Where CRIU's log of this name is.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.work.as_ref().map_or(&self.images_path, |(_, path)| path).join(name)
    }

    /// Notes what the descriptors 0, 1 and 2 of a process are, and CRIU's names of those that are external files.
    pub(super) fn write_descriptors(&self, pid: i32, files: &[String]) -> Result<()> {
        let target = |number| {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
            // As runc: one that is closed, or of a process that is gone, is not an error.
            link.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let text = serde_json::json!([target(0), target(1), target(2)]).to_string();
        replace_file(&self.images_path.join(DESCRIPTORS), text.as_bytes(), 0o600)?;
        Ok(replace_file(&self.images_path.join(FILES), serde_json::json!(files).to_string().as_bytes(), 0o600)?)
    }

    /// What can be given anew of the descriptors 0, 1 and 2 of what was checkpointed, pipes and external files: number and
    /// CRIU's name.
    pub(super) fn read_descriptors(&self) -> Result<Vec<(usize, String)>> {
        let pipes = self.read_names(DESCRIPTORS)?;
        // Those of runc have none.
        let files = if self.images_path.join(FILES).exists() { self.read_names(FILES)? } else { Vec::new() };
        let pipes = pipes.into_iter().filter(|(_, name)| is_pipe(name));
        Ok(pipes.chain(files.into_iter().filter(|(_, name)| is_file_name(name))).collect())
    }

    fn read_names(&self, file_name: &str) -> Result<Vec<(usize, String)>> {
        let path = self.images_path.join(file_name);
        let fail = |problem: String| CheckpointError::path("--image-path", &path, problem);
        let file = rustix::fs::openat(&self.images, file_name, READ, Mode::empty());
        let file = std::fs::File::from(file.map_err(|errno| fail(errno_text(errno)))?);
        let mut text = String::new();
        file.take(DESCRIPTORS_BYTES_MAX).read_to_string(&mut text).map_err(|error| fail(io_text(&error)))?;
        let names: Vec<String> = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
        Ok(names.into_iter().take(3).enumerate().collect())
    }
}

/// Exactly the kernel's name of a pipe: CRIU splits what it gets at brackets (CVE-2026-115520 of crun).
fn is_pipe(name: &str) -> bool {
    let inode = name.strip_prefix("pipe:[").and_then(|rest| rest.strip_suffix(']'));
    inode.is_some_and(|inode| !inode.is_empty() && inode.bytes().all(|byte| byte.is_ascii_digit()))
}

fn make_directory(option: &'static str, path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| CheckpointError::path(option, path, io_text(&error)))
}

fn open(option: &'static str, path: &Path) -> Result<OwnedFd> {
    let fail = |errno| CheckpointError::path(option, path, errno_text(errno));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&directory).map_err(kernel("stat"))?;
    // What was looked at must still be so when CRIU opens it.
    let ours = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if !ours || stat.st_mode & 0o002 != 0 {
        let problem = "must belong to root or to the user who runs this, and not be writable by everybody";
        return Err(CheckpointError::path(option, path, problem));
    }
    Ok(directory)
}

fn open_work(path: &Path) -> Result<(OwnedFd, PathBuf)> {
    make_directory("--work-path", path)?;
    let work = open("--work-path", path)?;
    check_work(path)?;
    Ok((work, path.to_owned()))
}

/// Images are regular files. Only `parent` may be a link, and must be relative, as CRIU itself makes it; the directory that
/// it names is looked at as well.
fn check_images(path: &Path) -> Result<()> {
    let mut path = path.to_owned();
    for _ in 0..PARENTS_MAX {
        let fail = |path: &Path, problem: &str| CheckpointError::path("--image-path", path, problem);
        let entries = std::fs::read_dir(&path).map_err(|error| fail(&path, &io_text(&error)))?;
        let mut parent = None;
        for entry in entries {
            let entry = entry.map_err(|error| fail(&path, &io_text(&error)))?;
            let kind = entry.file_type().map_err(|error| fail(&entry.path(), &io_text(&error)))?;
            if kind.is_symlink() && entry.file_name() == PARENT {
                parent = Some(entry.path());
            } else if !kind.is_file() && !kind.is_dir() {
                return Err(fail(&entry.path(), "neither a regular file nor a directory"));
            }
        }
        let Some(link) = parent else { return Ok(()) };
        let target = std::fs::read_link(&link).map_err(|error| fail(&link, &io_text(&error)))?;
        if target.is_absolute() {
            return Err(fail(&link, "leads to an absolute path"));
        }
        path = path.join(target);
        open("--image-path", &path)?;
    }
    Err(CheckpointError::path("--image-path", &path, format!("more than {PARENTS_MAX} parents")))
}

/// A work directory may hold anything (callers name that of their container), but not in CRIU's places.
fn check_work(path: &Path) -> Result<()> {
    for name in WORK_FILES {
        let file = path.join(name);
        match std::fs::symlink_metadata(&file) {
            Ok(metadata) if !metadata.is_file() || metadata.nlink() > 1 => {
                return Err(CheckpointError::path("--work-path", &file, "not a regular file of its own"));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(CheckpointError::path("--work-path", &file, io_text(&error)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// As runc: relative to the images, since CRIU makes a link of it, which is to hold wherever the images are carried.
fn check_parent(images: &Path, parent: &Path) -> Result<()> {
    let fail = |problem: &str| Err(CheckpointError::path("--parent-path", parent, problem));
    if parent.is_absolute() {
        return fail("must be relative");
    }
    if !parent.components().any(|part| matches!(part, Component::Normal(_))) {
        return fail("names the directory of the images, or one above it");
    }
    open("--parent-path", &images.join(parent))?;
    check_images(&images.join(parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn options(images: &Path) -> Options {
        Options { images: images.to_owned(), ..Options::default() }
    }

    fn refusal(images: &Path) -> String {
        Directories::open(&options(images)).unwrap_err().to_string()
    }

    #[test]
    fn names_of_pipes_are_taken_to_the_letter() {
        assert!(is_pipe("pipe:[123]"));
        for name in ["pipe:[]", "pipe:[1]:x", "pipe:[1]]", "pipe:[-1]", "socket:[1]", "/x/pipe:[1]", ""] {
            assert!(!is_pipe(name), "{name}");
        }
    }

    #[test]
    fn links_and_special_files_among_images_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let images = temp.path().join("images");
        assert_eq!(refusal(&images), format!("--image-path {}: no such file or directory", images.display()));
        std::fs::create_dir(&images).unwrap();
        Directories::open(&options(&images)).unwrap();
        let log = images.join("restore.log");
        symlink("/etc/passwd", &log).unwrap();
        let wanted = format!("--image-path {}: neither a regular file nor a directory", log.display());
        assert_eq!(refusal(&images), wanted);
        std::fs::remove_file(&log).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(refusal(&images), wanted);
    }

    #[test]
    fn parents_are_relative_and_looked_at() {
        let temp = tempfile::tempdir().unwrap();
        let [images, older] = ["images", "older"].map(|name| temp.path().join(name));
        std::fs::create_dir(&images).unwrap();
        std::fs::create_dir(&older).unwrap();
        symlink("../older", images.join(PARENT)).unwrap();
        Directories::open(&options(&images)).unwrap();
        symlink("/etc/passwd", older.join("pages-1.img")).unwrap();
        assert!(refusal(&images).contains("pages-1.img: neither a regular file"));
        std::fs::remove_file(older.join("pages-1.img")).unwrap();
        symlink(".", older.join(PARENT)).unwrap();
        assert!(refusal(&images).ends_with("more than 256 parents"));
        std::fs::remove_file(images.join(PARENT)).unwrap();
        symlink(&older, images.join(PARENT)).unwrap();
        assert!(refusal(&images).ends_with("leads to an absolute path"));
    }

    #[test]
    fn a_parent_path_is_checked_before_anything_is_dumped() {
        let temp = tempfile::tempdir().unwrap();
        let images = temp.path().join("images");
        let refusal =
            |parent: &str| Directories::make(&options(&images), Some(Path::new(parent))).unwrap_err().to_string();
        assert_eq!(refusal("/older"), "--parent-path /older: must be relative");
        assert!(refusal("../older").ends_with("older: no such file or directory"));
        std::fs::write(temp.path().join("older"), "").unwrap();
        assert!(refusal("../older").ends_with("older: not a directory"));
        assert!(refusal("..").contains("names the directory of the images"));
    }

    #[test]
    fn a_directory_that_everybody_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(refusal(temp.path()).contains("must belong to root"));
    }

    #[test]
    fn a_work_directory_has_no_link_in_the_place_of_a_log() {
        let temp = tempfile::tempdir().unwrap();
        let [images, work] = ["images", "work"].map(|name| temp.path().join(name));
        std::fs::create_dir(&images).unwrap();
        std::fs::create_dir(&work).unwrap();
        symlink("/nowhere", work.join("ctl")).unwrap();
        let options = Options { work: Some(work.clone()), ..options(&images) };
        Directories::open(&options).unwrap();
        symlink("/etc/passwd", work.join("restore.log")).unwrap();
        let error = Directories::open(&options).unwrap_err().to_string();
        assert!(error.ends_with("restore.log: not a regular file of its own"), "{error}");
    }
}
