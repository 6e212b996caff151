//! A policy in force for a directory of the devices controller (Documentation/admin-guide/cgroup-v1/devices.rst).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::io::Errno;

use super::error::DeviceError;
use super::policy::Policy;
use super::rules::{Access, Devices, Kind};

/// One write to `devices.allow` or `devices.deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub allow: bool,
    pub devices: Devices,
    pub access: Access,
}

/// Lines in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transition {
    pub lines: Vec<Line>,
    /// Whether there is a moment in which more is allowed than both before and after. That is so from an allow-list to a
    /// deny-list only: the controller begins a deny-list with no line.
    pub exposes: bool,
}

/// The shortest way from one policy to another on which nothing is allowed that is allowed neither before nor after, and,
/// as far as that goes, nothing denied either.
pub(super) fn transition(current: &Policy, target: &Policy) -> Transition {
    let same = current.allow == target.allow;
    let none = BTreeMap::new();
    let known = if same { &current.exceptions } else { &none };
    let change = |allow, from: &BTreeMap<Devices, Access>, to: &BTreeMap<Devices, Access>| -> Vec<Line> {
        let before = |devices| from.get(devices).copied().unwrap_or(Access::NONE);
        let lines = to.iter().map(|(devices, access)| (devices, access.without(before(devices))));
        let lines = lines.filter(|(_, access)| *access != Access::NONE);
        lines.map(|(devices, access)| Line { allow, devices: *devices, access }).collect()
    };
    let gained = change(!target.allow, known, &target.exceptions);
    let dropped = change(target.allow, &target.exceptions, known);
    let lines = if !same {
        let reset = Line { allow: target.allow, devices: Devices::ALL, access: Access::ALL };
        [vec![reset], gained].concat()
    } else if target.allow {
        [gained, dropped].concat()
    } else {
        // What the old list grants with a wider line can be written down before that line goes.
        let (early, late): (Vec<Line>, Vec<Line>) = gained.into_iter().partition(|line| {
            let whole = known.get(&line.devices).map_or(line.access, |had| had.and(line.access));
            known.iter().any(|(devices, had)| devices.cover(line.devices) && had.covers(whole))
        });
        [early, dropped, late].concat()
    };
    Transition { lines, exposes: !same && target.allow && !target.exceptions.is_empty() }
}

/// What `devices.list` says. Of a deny-list it does not tell the lines, only that it is one.
///
/// # Errors
/// The line that is not understood.
pub(super) fn parse_list(list: &str) -> Result<Policy, &str> {
    let mut policy = Policy::default();
    for line in list.lines() {
        if line.starts_with('a') {
            return Ok(Policy { allow: true, exceptions: BTreeMap::new() });
        }
        let (devices, access) = parse_line(line).ok_or(line)?;
        policy.exceptions.insert(devices, access);
    }
    Ok(policy)
}

fn parse_line(line: &str) -> Option<(Devices, Access)> {
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
    let (kind, rest) = line.split_once(' ')?;
    let (numbers, access) = rest.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    let kind = match kind {
        "b" => Kind::Block,
        "c" => Kind::Char,
        _ => return None,
    };
    let devices = Devices { kind, major: number(major)?, minor: number(minor)? };
    Some((devices, Access::parse(access)?))
}

/// Writes what is missing, and looks at the outcome.
pub(super) fn apply(target: &Policy, previous: Option<&Policy>, directory: &Path) -> Result<(), DeviceError> {
    let mut current = read(directory)?;
    if let Some(previous) = previous.filter(|previous| current.allow && previous.allow) {
        current = previous.clone();
    }
    let Transition { lines, exposes } = transition(&current, target);
    if exposes && has_processes(directory)? {
        return Err(DeviceError::Exposes { directory: directory.into() });
    }
    if lines.is_empty() {
        return Ok(());
    }
    let mut files = Files { directory, allow: None, deny: None };
    lines.iter().try_for_each(|line| files.write(line))?;
    let now = read(directory)?;
    let as_told = now.allow == target.allow && (now.allow || now == *target);
    if as_told { Ok(()) } else { Err(DeviceError::Mismatch { list: directory.join("devices.list") }) }
}

/// The two files, opened when they are needed first. The controller takes a line per write.
struct Files<'a> {
    directory: &'a Path,
    allow: Option<File>,
    deny: Option<File>,
}

impl Files<'_> {
    fn write(&mut self, line: &Line) -> Result<(), DeviceError> {
        let (name, file) =
            if line.allow { ("devices.allow", &mut self.allow) } else { ("devices.deny", &mut self.deny) };
        let path = self.directory.join(name);
        let text = format!("{} {}", line.devices, line.access);
        let file = match file {
            Some(file) => file,
            None => file.insert(OpenOptions::new().write(true).open(&path).map_err(|error| failed(&path, &error))?),
        };
        file.write_all(text.as_bytes())
            .map_err(|error| DeviceError::system(format!("{}: {text}", path.display()), errno(&error)))
    }
}

fn read(directory: &Path) -> Result<Policy, DeviceError> {
    let path = directory.join("devices.list");
    let list = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
    parse_list(&list).map_err(|line| DeviceError::system(format!("{}: {line:?}", path.display()), Errno::INVAL))
}

fn has_processes(directory: &Path) -> Result<bool, DeviceError> {
    let path = directory.join("cgroup.procs");
    fs::read(&path).map(|list| !list.is_empty()).map_err(|error| failed(&path, &error))
}

fn failed(path: &Path, error: &io::Error) -> DeviceError {
    DeviceError::system(path.display().to_string(), errno(error))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
