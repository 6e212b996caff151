//! In which cgroups a process is: `/proc/<pid>/cgroup` (cgroups(7)).

use std::fmt::Display;

use super::{Directory, Version};

/// One line: the process's place in one hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership<'a> {
    /// As the kernel writes them, `cpu,cpuacct` or `name=systemd`; empty for cgroup v2.
    pub(crate) controllers: &'a str,
    /// From the hierarchy's root, as far as our cgroup namespace shows it.
    pub(crate) path: &'a str,
}

/// The text of a process's file, by its name in /proc; empty when it is gone.
pub(crate) fn of(process: impl Display) -> String {
    std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
}

/// The lines of such a file.
pub(crate) fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(Membership { controllers: fields.next()?, path: fields.next()? })
    })
}

impl<'a> Membership<'a> {
    fn names(self) -> impl Iterator<Item = &'a str> {
        self.controllers.split(',').filter(|name| !name.is_empty())
    }

    /// Its controllers; none for a hierarchy that has only a name.
    pub(super) fn controllers(self) -> impl Iterator<Item = &'a str> {
        self.names().filter(|name| !name.starts_with("name="))
    }

    /// Whether it is that of a hierarchy that is mounted with these options of its file system.
    pub(crate) fn is_of_mount(self, version: Version, options: &str) -> bool {
        match version {
            Version::V2 => self.controllers.is_empty(),
            Version::V1 => {
                let mut names = self.names().peekable();
                names.peek().is_some() && names.all(|name| options.split(',').any(|option| option == name))
            }
        }
    }

    fn is_of(self, directory: &Directory) -> bool {
        match directory.version {
            Version::V2 => self.controllers.is_empty(),
            Version::V1 => self.names().any(|controller| directory.has(controller)),
        }
    }
}

impl Directory {
    /// Where a process is in this directory's hierarchy, from its file's text, without the slash at the front and the mark
    /// that the kernel puts behind one that is removed.
    pub(super) fn place_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        let membership = memberships(text).find(|membership| membership.is_of(self))?;
        Some(membership.path.trim_start_matches('/').trim_end_matches(" (deleted)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_and_found_by_what_is_mounted() {
        let text = "9:name=systemd:/a\nnonsense\n4:cpu,cpuacct:/x\n0::/a:b/c\n";
        let all: Vec<_> = memberships(text).collect();
        let membership = |controllers, path| Membership { controllers, path };
        assert_eq!(all, [membership("name=systemd", "/a"), membership("cpu,cpuacct", "/x"), membership("", "/a:b/c")]);
        let found = |version, options: &str| memberships(text).find(|all| all.is_of_mount(version, options));
        assert_eq!(found(Version::V2, "rw,nsdelegate"), Some(all[2]));
        assert_eq!(found(Version::V1, "rw,cpu,cpuacct,favordynmods"), Some(all[1]));
        assert_eq!(found(Version::V1, "rw,xattr,name=systemd"), Some(all[0]));
        assert_eq!(found(Version::V1, "rw,cpu"), None);
        assert_eq!((all[1].controllers().count(), all[0].controllers().count()), (2, 0));
    }
}
