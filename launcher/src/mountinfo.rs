//! The mounts that a process sees: `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).

use std::borrow::Cow;

/// One of them; borrows from the table's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// As statx(2) has it (`STATX_MNT_ID`).
    pub(crate) id: u64,
    /// What of the file system is mounted.
    pub(crate) root: Cow<'a, str>,
    /// Where.
    pub(crate) place: Cow<'a, str>,
    /// Receives what is mounted on a mount of another group of peers.
    pub(crate) is_slave: bool,
    /// Its type (`cgroup2`).
    pub(crate) fs_type: &'a str,
    /// Options of the file system, with commas between them.
    pub(crate) fs_options: &'a str,
}

/// The text of our own table; empty where there is no /proc.
pub(crate) fn own() -> String {
    of("self").unwrap_or_default()
}

/// The text of a process's table, by its name in /proc: a pid, `self`, or `thread-self`.
///
/// # Errors
/// As open(2) and read(2).
pub(crate) fn of(process: &str) -> std::io::Result<String> {
    let text = std::fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The mounts of a table, in its order: that in which they were made.
pub(crate) fn mounts(table: &str) -> impl Iterator<Item = Mount<'_>> {
    table.lines().filter_map(mount)
}

fn mount(line: &str) -> Option<Mount<'_>> {
    // A blank within a field is escaped, so that this is no part of any.
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let id = before.next()?.parse().ok()?;
    let (root, place) = (unescape(before.nth(2)?), unescape(before.next()?));
    let is_slave = before.skip(1).any(|tag| tag.starts_with("master:"));
    let mut after = after.split(' ');
    let fs_type = after.next()?;
    Some(Mount { id, root, place, is_slave, fs_type, fs_options: after.nth(1).unwrap_or_default() })
}

/// Undoes `\040` for a blank, and the like.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_and_its_paths_unescaped() {
        let line =
            r"36 35 98:0 /mnt\134\0401 /mnt\0402/x rw,noatime shared:3 master:1 - ext3 /dev/root rw,errors=continue";
        let mount = Mount {
            id: 36,
            root: r"/mnt\ 1".into(),
            place: "/mnt 2/x".into(),
            is_slave: true,
            fs_type: "ext3",
            fs_options: "rw,errors=continue",
        };
        let peer = Mount { is_slave: false, ..mount.clone() };
        let table = format!("nonsense\n{line}\n{}\n", line.replace(" master:1", ""));
        assert_eq!(mounts(&table).collect::<Vec<_>>(), [mount, peer]);
    }

    #[test]
    fn ours_has_a_root_and_a_proc() {
        let table = own();
        assert!(mounts(&table).any(|mount| mount.place == "/"), "{table}");
        assert!(mounts(&table).any(|mount| (&*mount.place, mount.fs_type) == ("/proc", "proc")), "{table}");
        assert!(of("nonsense").is_err());
    }
}
