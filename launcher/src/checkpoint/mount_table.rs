//! Which of a process's mounts are slaves of the host's, and what lies on them.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::mountinfo::{self, Mount};

/// All of them.
pub(super) struct MountTable(Vec<Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    id: u64,
    place: String,
    /// Receives what is mounted on a mount of another group of peers.
    is_slave: bool,
}

impl MountTable {
    /// Those of a process, by its name in /proc: a pid, or `thread-self`.
    ///
    /// # Errors
    /// As open(2) and read(2).
    pub(super) fn of(process: &str) -> std::io::Result<MountTable> {
        let table = mountinfo::of(process)?;
        let entries = mountinfo::mounts(&table).map(|Mount { id, place, is_slave, .. }| Entry {
            id,
            place: place.into_owned(),
            is_slave,
        });
        Ok(MountTable(entries.collect()))
    }

    /// Where a mount is.
    pub(super) fn place(&self, id: u64) -> Option<&str> {
        self.find(id).map(|entry| entry.place.as_str())
    }

    fn find(&self, id: u64) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.id == id)
    }

    /// The mount on which the source of a bind mount lies, and the rest of the path, if that mount is a slave. Not if the
    /// source is all of it, or if something is mounted below that is to come along.
    ///
    /// All mounts with one master get it back from the source of one of them, the root of whose mount must hold theirs
    /// (`restore_one_sharing` in criu/mount-v2.c; `do_set_group` in the kernel's fs/namespace.c).
    pub(super) fn slave_below(&self, source: &Path, recursive: bool) -> Option<(PathBuf, PathBuf)> {
        let source = std::fs::canonicalize(source).ok()?;
        let stat = rustix::fs::statx(CWD, &source, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        let mount = self.find(stat.stx_mnt_id).filter(|mount| mount.is_slave)?;
        let rest = source.strip_prefix(&mount.place).ok().filter(|rest| !rest.as_os_str().is_empty())?;
        let comes_along = |entry: &Entry| recursive && Path::new(&entry.place).starts_with(&source);
        let alone = !self.0.iter().any(comes_along);
        alone.then(|| (PathBuf::from(&mount.place), rest.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_slave_is_found_on_it() {
        let place = std::env::temp_dir().canonicalize().unwrap();
        let dir = tempfile::tempdir_in(&place).unwrap();
        let id = rustix::fs::statx(CWD, dir.path(), AtFlags::empty(), StatxFlags::MNT_ID).unwrap().stx_mnt_id;
        let entry = |id, place: &Path, is_slave| Entry { id, place: place.to_str().unwrap().to_owned(), is_slave };
        let mut table = MountTable(vec![entry(id, &place, false)]);
        assert_eq!(table.slave_below(dir.path(), true), None);
        table.0[0].is_slave = true;
        let rest = dir.path().strip_prefix(&place).unwrap().to_owned();
        assert_eq!(table.slave_below(dir.path(), true), Some((place.clone(), rest)));
        assert_eq!(table.slave_below(&place, false), None, "all of it");
        table.0.push(entry(id + 1_000_000, &dir.path().join("below"), false));
        assert_eq!(table.slave_below(dir.path(), true), None, "with what is mounted below");
        assert!(table.slave_below(dir.path(), false).is_some());
    }
}
