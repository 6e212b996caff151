//! Mount points before a restore. CRIU makes none, and goes to them by name, through any link on the way: the root file
//! system may be an image that somebody made for that, and the names come from the images (CVE-2026-119614 of CRIU).

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use prost::Message;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::external::{is_bind, name};
use super::{CheckpointError, Result, images, kernel};
use crate::child;
use crate::plan::TargetKind;
use crate::report::errno_text;

/// Largest image of a mount namespace that is read, in bytes: some 100 are a mount.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

/// Makes the mount points that config.json names and that are missing, inside the root and inside bind mounts. What lies on
/// any other file system comes back with that: CRIU restores the content of a tmpfs.
pub(super) fn make(spec: &Spec, bundle: &Path, rootfs: &Path) -> Result<()> {
    let root = open_directory(rootfs).map_err(|errno| root_path(rootfs, errno))?;
    let mounts: Vec<&Mount> = spec.mounts().iter().flatten().collect();
    for (index, mount) in mounts.iter().enumerate().filter(|(_, mount)| !is_cgroup(mount)) {
        let field = format!("mounts[{index}].destination");
        let destination = name(&field, mount.destination())?;
        let kind = kind_of(mount, bundle);
        let fail = |errno| CheckpointError::config(&field, format!("{destination}: {}", errno_text(errno)));
        // The last mount before it that it lies on.
        let names = mounts.get(..index).unwrap_or_default().iter().rev();
        let below = names.filter_map(|earlier| Some((earlier, below(earlier, &destination)?)));
        match below.max_by_key(|(earlier, _)| earlier.destination().components().count()) {
            None => make_one(root.as_fd(), &destination, kind).map_err(fail)?,
            Some((earlier, rest)) if is_bind(earlier) => {
                let source = bundle.join(earlier.source().as_deref().unwrap_or(Path::new("")));
                match open_directory(&source) {
                    Ok(source) => make_one(source.as_fd(), &rest, kind).map_err(fail)?,
                    // The bind mount itself is refused in its turn.
                    Err(_) => continue,
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn root_path(rootfs: &Path, errno: Errno) -> CheckpointError {
    CheckpointError::config("root.path", format!("{}: {}", rootfs.display(), errno_text(errno)))
}

fn open_directory(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

fn kind_of(mount: &Mount, bundle: &Path) -> TargetKind {
    let source = mount.source().as_ref().map(|source| bundle.join(source));
    let is_file = is_bind(mount) && source.is_some_and(|source| source.exists() && !source.is_dir());
    if is_file { TargetKind::File } else { TargetKind::Directory }
}

/// The rest of a path below a mount.
fn below(mount: &Mount, path: &str) -> Option<String> {
    let mount_point = name("", mount.destination()).ok()?;
    let rest = Path::new(path).strip_prefix(&mount_point).ok()?;
    (!rest.as_os_str().is_empty()).then(|| format!("/{}", rest.display()))
}

fn make_one(root: std::os::fd::BorrowedFd<'_>, path: &str, kind: TargetKind) -> std::result::Result<(), Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    child::open_or_make_path(root, &path, kind, OFlags::empty(), false).map(drop).map_err(child::Failure::errno)
}

/// An entry of `mountpoints-N.img` (CRIU's `images/mnt.proto`).
#[derive(Clone, PartialEq, Eq, Message)]
struct MountEntry {
    #[prost(string, optional, tag = "7")]
    mount_point: Option<String>,
}

/// Refuses images that name a mount point to which a link of the root file system leads, or that climb out of it.
pub(super) fn check_images(folder: &OwnedFd, path: &Path, rootfs: &Path) -> Result<()> {
    let root = open_directory(rootfs).map_err(|errno| root_path(rootfs, errno))?;
    let entries = std::fs::read_dir(path);
    let entries =
        entries.map_err(|error| CheckpointError::path("--image-path", path, crate::state::io_text(&error)))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(b"mountpoints-") {
            continue;
        }
        let fail = |problem: &str| CheckpointError::path("--image-path", &entry.path(), problem);
        let file =
            rustix::fs::openat(folder, name.as_os_str(), images::READ, Mode::empty()).map_err(kernel("open image"))?;
        let mut bytes = Vec::new();
        let read = std::fs::File::from(file).take(IMAGE_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| fail(&crate::state::io_text(&error)))?;
        for mount_point in mount_points(&bytes).ok_or_else(|| fail("damaged"))? {
            check_one(&root, &mount_point).map_err(|problem| fail(&format!("{mount_point:?}: {problem}")))?;
        }
    }
    Ok(())
}

/// Two magic numbers, then entries: a length of four bytes and a message.
fn mount_points(image: &[u8]) -> Option<Vec<String>> {
    let (_, mut rest) = image.split_at_checked(8)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (entry, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        all.extend(MountEntry::decode(entry).ok()?.mount_point);
        rest = after;
    }
    Some(all)
}

fn check_one(root: &OwnedFd, mount_point: &str) -> std::result::Result<(), &'static str> {
    let relative = PathBuf::from(mount_point.trim_start_matches("./").trim_start_matches('/'));
    if relative.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("a mount point with \"..\"");
    }
    if relative.as_os_str().is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, &relative, flags, Mode::empty(), resolve) {
        Err(Errno::LOOP | Errno::XDEV) => Err("a link of the root file system leads there"),
        Ok(found) => match rustix::fs::fstat(&found) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                Err("a link of the root file system leads there")
            }
            _ => Ok(()),
        },
        // It is to appear with a file system that is mounted before.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(mount_points: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for place in mount_points {
            let entry = MountEntry { mount_point: Some((*place).to_owned()) }.encode_to_vec();
            bytes.extend((entry.len() as u32).to_le_bytes());
            bytes.extend(entry);
        }
        bytes
    }

    #[test]
    fn an_image_of_mounts_is_read_and_a_damaged_one_refused() {
        let bytes = image(&["/", "/proc"]);
        assert_eq!(mount_points(&bytes).unwrap(), ["/", "/proc"]);
        assert_eq!(mount_points(&bytes[..8]).unwrap(), [""; 0]);
        for end in [0, 7, 9, 11, bytes.len() - 1] {
            assert_eq!(mount_points(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn links_on_the_way_to_a_mount_point_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let [rootfs, images] = ["rootfs", "images"].map(|name| temp.path().join(name));
        std::fs::create_dir_all(rootfs.join("sys")).unwrap();
        std::fs::create_dir(&images).unwrap();
        std::os::unix::fs::symlink("/etc", rootfs.join("data")).unwrap();
        let folder = open_directory(&images).unwrap();
        let check = |places: &[&str]| {
            std::fs::write(images.join("mountpoints-12.img"), image(places)).unwrap();
            check_images(&folder, &images, &rootfs).map_err(|error| error.to_string())
        };
        check(&["/", "/sys", "/sys/fs/cgroup", "/not/there"]).unwrap();
        for (place, problem) in [
            ("/data", "a link of the root file system leads there"),
            ("/data/x", "a link of the root file system leads there"),
            ("/sys/../../x", "a mount point with \"..\""),
        ] {
            let error = check(&["/", place]).unwrap_err();
            assert!(error.ends_with(&format!("mountpoints-12.img: {place:?}: {problem}")), "{error}");
        }
    }

    #[test]
    fn missing_mount_points_are_made_inside_the_root_and_inside_binds() {
        let temp = tempfile::tempdir().unwrap();
        let bundle = temp.path();
        let rootfs = bundle.join("rootfs");
        for folder in ["rootfs", "volume", "outside"] {
            std::fs::create_dir(bundle.join(folder)).unwrap();
        }
        std::fs::write(bundle.join("file"), "").unwrap();
        std::os::unix::fs::symlink(bundle.join("outside"), rootfs.join("link")).unwrap();
        let spec: Spec = serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "linux": {}, "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/proc/never", "type": "tmpfs"},
            {"destination": "/a/b", "type": "bind", "source": "volume"},
            {"destination": "/a/b/c", "options": ["bind"], "source": "file"},
            {"destination": "/link/x", "type": "bind", "source": "volume"},
        ]}))
        .unwrap();
        make(&spec, bundle, &rootfs).unwrap();
        assert!(rootfs.join("proc").is_dir() && !rootfs.join("proc/never").exists());
        assert!(rootfs.join("a/b").is_dir() && bundle.join("volume/c").is_file());
        assert!(!bundle.join("outside/x").exists(), "a link of the image led out of it");
    }
}
