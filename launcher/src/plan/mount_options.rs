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
    /// What a bind mount keeps of its source's peers when no option says so (`linux.rootfsPropagation`); 0 for nothing.
    pub default_propagation: u64,
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
const ACCESS_TIMES: &[(&str, u64)] = &[
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("atime", libc::MOUNT_ATTR_RELATIME),
    ("nostrictatime", libc::MOUNT_ATTR_RELATIME),
    ("norelatime", libc::MOUNT_ATTR_RELATIME),
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

/// Options that take more than a flag; the last two are crun's.
const EXTENSIONS: &[&str] = &["idmap", "ridmap", "tmpcopyup", "src-nofollow", "copy-symlink"];

/// Options that the kernel's own part of every file system takes (`vfs_parse_sb_flag`), and so need no word of ours.
const SUPERBLOCK: &[&str] = &["sync", "dirsync", "lazytime", "mand"];

/// The mount options that mean something here; any other word goes to the file system. Sorted, for `features`.
#[must_use]
pub fn known_options() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name).chain(ACCESS_TIMES.iter().map(|(name, _)| *name));
    let twofold = attributes.chain(PROPAGATIONS.iter().map(|(name, _)| *name)).chain(["bind"]);
    let single = NOTHING.iter().chain(EXTENSIONS).chain(SUPERBLOCK).chain(&["remount"]);
    let mut names: Vec<String> = twofold.flat_map(|name| [name.to_owned(), format!("r{name}")]).collect();
    names.extend(single.map(|name| (*name).to_owned()));
    names.sort();
    names
}

impl Options {
    pub(super) fn parse(field: &str, options: &[String]) -> Result<Options, PlanError> {
        let mut parsed = Options::default();
        for option in options {
            parsed.apply(field, option)?;
        }
        Ok(parsed)
    }

    fn apply(&mut self, field: &str, option: &str) -> Result<(), PlanError> {
        let attrs = &mut self.attrs;
        let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        let find_time = |name: &str| ACCESS_TIMES.iter().find(|(known, _)| *known == name);
        let below = option.strip_prefix('r').unwrap_or_default();
        if let Some((_, bit, sets)) = find(option) {
            choose(&mut attrs.set, &mut attrs.clear, *bit, *sets);
        } else if let Some((_, value)) = find_time(option) {
            attrs.set = attrs.set & !libc::MOUNT_ATTR__ATIME | value;
            attrs.clear |= libc::MOUNT_ATTR__ATIME;
        } else if let Some((_, bit, sets)) = find(below) {
            choose(&mut attrs.recursive_set, &mut attrs.recursive_clear, *bit, *sets);
        } else if let Some((_, value)) = find_time(below) {
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
                "dest-nofollow" => return Err(PlanError::new(field, "dest-nofollow: not supported yet")),
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
            assert_eq!(handed_over, SUPERBLOCK.contains(&name.as_str()), "{name}");
        }
    }
}
