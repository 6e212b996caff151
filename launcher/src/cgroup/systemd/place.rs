//! Where systemd is to put a container: `linux.cgroupsPath` as `slice:prefix:name`.
//!
//! | what is given | slice | unit |
//! | --- | --- | --- |
//! | nothing | `system.slice`; for an ordinary user `user.slice` | `brood-ID.scope` |
//! | `SLICE:PREFIX:NAME` | `SLICE`, or that same one when it is empty | `PREFIX-NAME.scope` |
//! | `SLICE::NAME` | | `NAME.scope` |

/// Longest name of a unit.
const NAME_MAX: usize = 255;

/// Before the container's ID where nothing else is asked for.
const DEFAULT_PREFIX: &str = "brood";

const SLICE: &str = ".slice";

/// A unit and the slice in which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Ends in `.slice`. systemd makes it, and those above, if they are missing.
    pub slice: String,
    /// Ends in `.scope`.
    pub unit: String,
}

impl Place {
    /// Reads `linux.cgroupsPath`, empty for none. `user`: by the user's own systemd.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(path: &str, id: &str, user: bool) -> Result<Place, String> {
        let (slice, prefix, name) = match path.split(':').collect::<Vec<_>>()[..] {
            [""] => ("", DEFAULT_PREFIX, id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => {
                return Err(format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                ));
            }
        };
        if name.is_empty() {
            return Err(format!("{path:?} names no unit"));
        }
        if name.ends_with(SLICE) {
            return Err(format!("{name:?} is a slice, and a container is a scope"));
        }
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            given => given,
        };
        check_slice(slice)?;
        let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        check_unit(&unit)?;
        Ok(Place { slice: slice.to_owned(), unit })
    }
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)), so a name without one of its parts lies nowhere.
fn check_slice(slice: &str) -> Result<(), String> {
    let name = slice.strip_suffix(SLICE).filter(|name| !name.is_empty());
    let whole = name.is_some_and(|name| name == "-" || name.split('-').all(|part| !part.is_empty()));
    if !whole {
        return Err(format!("invalid slice name: {slice:?}"));
    }
    check_unit(slice)
}

/// systemd.unit(5): letters, digits and some signs. Its own name for a bad one is no more than "not valid".
fn check_unit(unit: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if unit.chars().all(valid) && unit.len() <= NAME_MAX {
        return Ok(());
    }
    Err(format!("invalid unit name: {unit:?}: may have letters, digits and any of :-_.\\@, up to {NAME_MAX}"))
}
