//! Mount options: from config.json's words to attributes, file system parameters and what needs more than a flag.

use super::build::{PlanError, c_string};
use super::{FsParameter, MountAttrs};

/// `shared` and its like, and with an `r` before it for all mounts below.
pub(super) fn propagation(name: &str) -> Option<(u64, bool)> {
    let below = name.strip_prefix('r').unwrap_or_default();
    let (found, kind) = PROPAGATIONS.iter().find(|(known, _)| *known == name || *known == below)?;
    Some((*kind, *found != name))
}

/// One parsed mount option list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub attrs: MountAttrs,
    pub parameters: Vec<FsParameter>,
    pub bind: bool,
    pub recursive_bind: bool,
    pub remount: bool,
    pub id_map: Option<IdMapOption>,
    pub copy_up: bool,
    /// The source is not followed when it is a link (crun's `src-nofollow`).
    pub source_no_follow: bool,
    /// A source that is a link becomes a link like it (crun's `copy-symlink`).
    pub copy_symlink: bool,
    /// A destination that is a link is itself mounted over (crun's `dest-nofollow`).
    pub destination_no_follow: bool,
    /// The flags once more, as a bind mount takes them.
    pub flags: Flags,
}

/// What options say about a mount's flags, kept apart from what they leave open: a bind mount has flags already, those of
/// its source.
///
/// As with runc: without a word about any flag it keeps them; with one it gets exactly those that are named. Only its access
/// times stay until a mode is named, so a word that takes one away does nothing (mount(8), too, ignores it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    named: bool,
    set: u64,
    /// Taken away by a word of their own.
    cleared: u64,
    access_time: Option<u64>,
}

/// Flags that a mount from outside keeps in a user namespace (mount_namespaces(7), "Restrictions on mount namespaces").
const LOCKED: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// What says when access times are written; in a user namespace all of it is locked.
const TIMES: u64 = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;

impl Flags {
    fn apply(&mut self, option: &str) {
        let attribute = ATTRIBUTES.iter().find(|(known, ..)| *known == option);
        let time = ACCESS_TIMES.iter().find(|(known, ..)| *known == option);
        let of_superblock = NOTHING.contains(&option) || SUPERBLOCK.contains(&option);
        if let Some((_, bit, sets)) = attribute {
            choose(&mut self.set, &mut self.cleared, *bit, *sets);
        } else if let Some((_, mode, sets)) = time {
            match sets {
                true => self.access_time = Some(*mode),
                false => self.access_time = self.access_time.filter(|named| named != mode),
            }
        }
        self.named |= attribute.is_some() || time.is_some() || (of_superblock && option != "defaults");
    }

    /// Bits to set and to clear on a bind mount; `locked` are those of its source that have to stay, where they have to.
    pub(super) fn of_bind(&self, locked: u64) -> (u64, u64) {
        if !self.named {
            return (0, 0);
        }
        let all = LOCKED | libc::MOUNT_ATTR_NOSYMFOLLOW;
        let (set, clear) = (self.set & all, all & !self.set & !(locked & LOCKED));
        match self.times() {
            Some(times) => (set | times, clear | TIMES),
            None => (set, clear),
        }
    }

    /// The mode of access times that is named; `nodiratime` alone goes with the kernel's default.
    fn times(&self) -> Option<u64> {
        let no_directories = self.set & libc::MOUNT_ATTR_NODIRATIME;
        let mode = self.access_time.or((no_directories != 0).then_some(libc::MOUNT_ATTR_RELATIME))?;
        Some(mode | no_directories)
    }

    /// The word for a flag of the source (`MOUNT_ATTR_*`) that is to be taken away or changed, and is locked.
    pub(super) fn refused(&self, source: u64) -> Option<&'static str> {
        let taken = self.cleared & source & LOCKED;
        if self.times().is_some_and(|times| times != source & TIMES) {
            return Some("the mode of access times");
        }
        ATTRIBUTES.iter().find(|(_, bit, sets)| *sets && taken & bit != 0).map(|(name, ..)| *name)
    }
}

/// `idmap` or `ridmap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IdMapOption {
    pub recursive: bool,
    /// crun's own form brings its maps along.
    pub maps: Option<String>,
}

/// `(name, bit, sets)`: options that are mount attributes; with an `r` before the name they reach all mounts below.
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", libc::MOUNT_ATTR_RDONLY, true),
    ("rw", libc::MOUNT_ATTR_RDONLY, false),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, true),
    ("suid", libc::MOUNT_ATTR_NOSUID, false),
    ("nodev", libc::MOUNT_ATTR_NODEV, true),
    ("dev", libc::MOUNT_ATTR_NODEV, false),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, true),
    ("exec", libc::MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", libc::MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// Access-time options are one field of the attributes, not bits: setting one clears the field first. What takes a mode
/// away leaves the kernel's default, which is `relatime`: so `norelatime` changes nothing, as with mount(8).
/// `(name, mode, sets)`
const ACCESS_TIMES: &[(&str, u64, bool)] = &[
    ("relatime", libc::MOUNT_ATTR_RELATIME, true),
    ("noatime", libc::MOUNT_ATTR_NOATIME, true),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME, true),
    ("norelatime", libc::MOUNT_ATTR_RELATIME, false),
    ("atime", libc::MOUNT_ATTR_NOATIME, false),
    ("nostrictatime", libc::MOUNT_ATTR_STRICTATIME, false),
];

const PROPAGATIONS: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Options that mean what is the default already.
const NOTHING: &[&str] = &["defaults", "async", "nolazytime", "nomand", "loud", "silent", "iversion", "noiversion"];

/// Words for engines that some of them pass on (buildah does): the relabelling has been done by then, or has not.
const FOR_ENGINES: &[&str] = &["z", "Z"];

/// Options that take more than a flag; the last three are crun's.
const EXTENSIONS: &[&str] = &["idmap", "ridmap", "tmpcopyup", "src-nofollow", "dest-nofollow", "copy-symlink"];

/// crun's words for a whole tree that say no more than these: a superblock has no mounts below it.
const RECURSIVE_SUPERBLOCK: &[(&str, &str)] =
    &[("rsync", "sync"), ("rasync", "async"), ("rdirsync", "dirsync"), ("rmand", "mand"), ("rnomand", "nomand")];

/// Options that the kernel's own part of every file system takes (`vfs_parse_sb_flag`), and so need no word of ours.
const SUPERBLOCK: &[&str] = &["sync", "dirsync", "lazytime", "mand"];

/// The mount options that mean something here; any other word goes to the file system. Sorted, for `features`.
#[must_use]
pub fn known_options() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name).chain(ACCESS_TIMES.iter().map(|(name, ..)| *name));
    let twofold = attributes.chain(PROPAGATIONS.iter().map(|(name, _)| *name)).chain(["bind"]);
    let recursive = RECURSIVE_SUPERBLOCK.iter().map(|(name, _)| name);
    let single = NOTHING.iter().chain(EXTENSIONS).chain(SUPERBLOCK).chain(&["remount"]).chain(recursive);
    let mut names: Vec<String> = twofold.flat_map(|name| [name.to_owned(), format!("r{name}")]).collect();
    names.extend(single.map(|name| (*name).to_owned()));
    names.sort();
    names
}

impl Options {
    pub(super) fn parse(field: &str, options: &[String]) -> Result<Options, PlanError> {
        let mut parsed = Options::default();
        for option in options {
            let same = RECURSIVE_SUPERBLOCK.iter().find(|(name, _)| name == option);
            let option = same.map_or(option.as_str(), |(_, same)| *same);
            parsed.flags.apply(option);
            parsed.apply(field, option)?;
        }
        Ok(parsed)
    }

    fn apply(&mut self, field: &str, option: &str) -> Result<(), PlanError> {
        let attrs = &mut self.attrs;
        let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        let find_time = |name: &str| {
            let found = ACCESS_TIMES.iter().find(|(known, ..)| *known == name);
            found.map(|(_, mode, sets)| if *sets { *mode } else { libc::MOUNT_ATTR_RELATIME })
        };
        let below = option.strip_prefix('r').unwrap_or_default();
        if let Some((_, bit, sets)) = find(option) {
            choose(&mut attrs.set, &mut attrs.clear, *bit, *sets);
        } else if let Some(value) = find_time(option) {
            attrs.set = attrs.set & !libc::MOUNT_ATTR__ATIME | value;
            attrs.clear |= libc::MOUNT_ATTR__ATIME;
        } else if let Some((_, bit, sets)) = find(below) {
            choose(&mut attrs.recursive_set, &mut attrs.recursive_clear, *bit, *sets);
        } else if let Some(value) = find_time(below) {
            attrs.recursive_set = attrs.recursive_set & !libc::MOUNT_ATTR__ATIME | value;
            attrs.recursive_clear |= libc::MOUNT_ATTR__ATIME;
        } else if let Some(propagation) = propagation(option) {
            (attrs.propagation, attrs.propagation_recursive) = propagation;
        } else {
            match option {
                "bind" => self.bind = true,
                "rbind" => (self.bind, self.recursive_bind) = (true, true),
                "remount" => self.remount = true,
                "idmap" | "ridmap" => {
                    self.id_map.get_or_insert_default().recursive = option == "ridmap";
                }
                "tmpcopyup" => self.copy_up = true,
                "src-nofollow" => self.source_no_follow = true,
                "copy-symlink" => self.copy_symlink = true,
                "dest-nofollow" => self.destination_no_follow = true,
                "" => return Err(PlanError::new(field, "an option must not be empty")),
                option if NOTHING.contains(&option) || FOR_ENGINES.contains(&option) => {}
                option if option.starts_with("idmap=") || option.starts_with("ridmap=") => {
                    let (name, maps) = option.split_once('=').unwrap_or_default();
                    self.id_map = Some(IdMapOption { recursive: name == "ridmap", maps: Some(maps.to_owned()) });
                }
                option => {
                    let (key, value) = match option.split_once('=') {
                        Some((key, value)) => (key, Some(c_string(field, value)?)),
                        None => (option, None),
                    };
                    self.parameters.push(FsParameter { key: c_string(field, key)?, value });
                }
            }
        }
        Ok(())
    }
}

impl Options {
    /// The first option that a bind mount cannot have: the superblock of its source is there already, and the kernel would
    /// not look at it. The words that every file system takes are let pass, as with mount(8).
    pub(super) fn for_new_superblock(&self) -> Option<&FsParameter> {
        let passes = |parameter: &FsParameter| {
            let key = parameter.key.to_str().unwrap_or_default();
            parameter.value.is_none() && SUPERBLOCK.contains(&key)
        };
        self.parameters.iter().find(|parameter| !passes(parameter))
    }
}

/// The later of two contradicting options wins, as with mount(8).
fn choose(set: &mut u64, clear: &mut u64, bit: u64, sets: bool) {
    let (into, out_of) = if sets { (set, clear) } else { (clear, set) };
    *into |= bit;
    *out_of &= !bit;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse("mounts[0].options", &options.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn later_options_win_and_recursive_ones_are_apart() {
        let options = parse(&["nosuid", "ro", "rw", "rro", "noatime", "relatime", "rnoexec", "mode=755", "rslave"]);
        assert_eq!(options.attrs.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.attrs.clear, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME);
        assert_eq!(options.attrs.recursive_set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC);
        assert_eq!((options.attrs.propagation, options.attrs.propagation_recursive), (libc::MS_SLAVE, true));
        assert_eq!(options.parameters.len(), 1);
    }

    #[test]
    fn taking_an_access_time_mode_away_leaves_the_default() {
        for option in ["atime", "nostrictatime", "norelatime"] {
            let attrs = parse(&["strictatime", option, "rstrictatime", &format!("r{option}")]).attrs;
            let (set, clear) = (libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME);
            assert_eq!((attrs.set, attrs.clear), (set, clear), "{option}");
            assert_eq!((attrs.recursive_set, attrs.recursive_clear), (set, clear), "r{option}");
        }
    }

    #[test]
    fn words_that_begin_with_r_are_not_taken_apart() {
        let options = parse(&["rbind", "relatime", "remount", "ro"]);
        assert!(options.bind && options.recursive_bind && options.remount);
        assert_eq!(options.attrs.recursive_set | options.attrs.recursive_clear, 0);
        assert_eq!(options.attrs.set, libc::MOUNT_ATTR_RDONLY);
        assert!(options.parameters.is_empty());
    }
    #[test]
    fn a_known_option_is_not_handed_to_the_file_system() {
        for name in known_options() {
            let handed_over = !parse(&[&name]).parameters.is_empty();
            let name = name.strip_prefix('r').filter(|same| SUPERBLOCK.contains(same)).unwrap_or(&name);
            assert_eq!(handed_over, SUPERBLOCK.contains(&name), "{name}");
        }
    }

    const EVERY: u64 = LOCKED | libc::MOUNT_ATTR_NOSYMFOLLOW;

    #[test]
    fn a_bind_mount_has_the_flags_that_are_named_or_those_of_its_source() {
        for options in [&["bind"][..], &["rbind", "rslave", "rro", "defaults", "Z"]] {
            assert_eq!(parse(options).flags.of_bind(0), (0, 0), "{options:?}");
        }
        for option in ["rw", "exec", "dev", "suid", "symfollow", "atime", "async", "sync", "rsync", "loud"] {
            assert_eq!(parse(&["bind", option]).flags.of_bind(0), (0, EVERY), "{option}");
        }
        let (set, clear) = parse(&["bind", "ro", "nosuid", "suid"]).flags.of_bind(0);
        assert_eq!((set, clear), (libc::MOUNT_ATTR_RDONLY, EVERY & !libc::MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn access_times_of_a_bind_mount_change_where_a_mode_is_named() {
        let times = |options: &[&str]| parse(options).flags.times();
        for options in [&["ro"][..], &["atime"], &["noatime", "atime"], &["diratime"], &["norelatime"]] {
            assert_eq!(times(options), None, "{options:?}");
        }
        assert_eq!(times(&["noatime", "norelatime"]), Some(libc::MOUNT_ATTR_NOATIME));
        assert_eq!(times(&["nodiratime", "norelatime"]), Some(libc::MOUNT_ATTR_NODIRATIME));
        let (set, clear) = parse(&["strictatime"]).flags.of_bind(0);
        assert_eq!((set, clear), (libc::MOUNT_ATTR_STRICTATIME, EVERY | TIMES));
    }

    /// The table of runc's mounts_sshfs.bats.
    #[test]
    fn locked_flags_stay_and_are_not_taken_away_by_name() {
        let source = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NOSYMFOLLOW;
        let flags = parse(&["bind", "nosuid"]).flags;
        assert_eq!(flags.refused(source), None);
        let (set, clear) = flags.of_bind(source);
        assert_eq!((set, clear & source), (libc::MOUNT_ATTR_NOSUID, libc::MOUNT_ATTR_NOSYMFOLLOW));
        assert_eq!(parse(&["rw"]).flags.refused(source), Some("ro"));
        assert_eq!(parse(&["suid", "atime", "noatime"]).flags.refused(source), None);
        for mode in ["relatime", "strictatime", "nodiratime"] {
            assert_eq!(parse(&[mode]).flags.refused(source), Some("the mode of access times"), "{mode}");
        }
        assert_eq!(parse(&["exec"]).flags.refused(libc::MOUNT_ATTR_NOEXEC), Some("noexec"));
    }
}
