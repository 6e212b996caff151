//! Without root: a user namespace for ourselves, in which all the rest goes as for root.
//!
//! Detached mount trees, mount namespaces and the identity maps of a container take privileges that an ordinary user has
//! only in a user namespace of their own. So whoever launches goes into one first: one in which every id that the
//! container is to have means itself, and nothing else is mapped. The container's own user namespace lies below it, and
//! its maps are written there as root writes them.
//!
//! | ids that the container is to have | the maps are written by |
//! | --- | --- |
//! | only the user's own | the process itself; setgroups(2) is given up for it (user_namespaces(7)) |
//! | more | newuidmap(1) and newgidmap(1), which look into /etc/subuid and /etc/subgid |
//!
//! Commands that launch nothing (`state`, `start`, `kill`, `delete`) need none of that, and neither does an exec: the owner
//! of a user namespace has every capability in it, from outside.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::sys;

/// The process's name while it waits to run newuidmap(1) and newgidmap(1) for another one.
const MAPPER: &str = "brood: id maps";

/// Why there is no user namespace for us.
#[derive(Debug, thiserror::Error)]
pub enum RootlessError {
    /// unshare(2) was refused.
    #[error("a user namespace for {}: {} (user_namespaces(7) names the limits)", who(), crate::report::errno_text(*.0))]
    Namespace(rustix::io::Errno),
    /// Our own maps could not be written.
    #[error("write {file}: {}", crate::state::io_text(source))]
    Map {
        /// The file.
        file: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The capabilities of the namespace's owner could not be kept.
    #[error("capabilities of our user namespace: {}", crate::report::errno_text(*.0))]
    Capabilities(rustix::io::Errno),
    /// newuidmap(1) or newgidmap(1) could not be run.
    #[error("newuidmap and newgidmap (Debian: uidmap): {}", crate::state::io_text(.0))]
    Helper(#[source] std::io::Error),
    /// One of them refused; it has said why.
    #[error("linux.uidMappings, linux.gidMappings: more than the id of {}: {}", who(), .0)]
    Refused(String),
}

fn who() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

/// First id and how many.
pub type Range = (u32, u32);

/// The ids of the host that a container is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostIds {
    /// Of `linux.uidMappings`.
    pub uids: Vec<Range>,
    /// Of `linux.gidMappings`.
    pub gids: Vec<Range>,
}

impl HostIds {
    /// Those of a config.json; none when it has none or cannot be read, which is for others to say.
    #[must_use]
    pub fn of(config: &[u8]) -> HostIds {
        let config: Value = serde_json::from_slice(config).unwrap_or_default();
        let number = |mapping: &Value, key: &str| u32::try_from(mapping[key].as_u64()?).ok();
        let ranges = |field: &str| {
            let mappings = config["linux"][field].as_array().into_iter().flatten();
            mappings.filter_map(|mapping| Some((number(mapping, "hostID")?, number(mapping, "size")?))).collect()
        };
        HostIds { uids: ranges("uidMappings"), gids: ranges("gidMappings") }
    }

    /// Those of a file.
    #[must_use]
    pub fn of_file(config: &Path) -> HostIds {
        std::fs::read(config).map(|bytes| HostIds::of(&bytes)).unwrap_or_default()
    }
}

/// Whether the process is an ordinary user's.
#[must_use]
pub fn needed() -> bool {
    !rustix::process::geteuid().is_root()
}

/// Whether we are in a user namespace that is not the machine's first (user_namespaces(7)).
#[must_use]
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether the host takes us for an ordinary user, whatever we are in a namespace of our own.
#[must_use]
pub fn is_ordinary() -> bool {
    needed() || in_user_namespace()
}

/// Goes into a user namespace and a mount namespace of our own. The process must have a single thread.
///
/// # Errors
/// The machine allows no user namespaces, or the user may not have these ids.
pub fn enter(ids: &HostIds) -> Result<(), RootlessError> {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (uids, gids) = (with_own(own.0, &ids.uids), with_own(own.1, &ids.gids));
    let alone = uids.len() == 1 && gids.len() == 1;
    // Started before: from inside nobody could run a set-user-id program any more.
    let mapper = if alone { None } else { Some(Mapper::start(&uids, &gids)?) };
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    sys::unshare(namespaces).map_err(RootlessError::Namespace)?;
    match mapper {
        Some(mapper) => mapper.map()?,
        None => map_own(own)?,
    }
    keep_capabilities().map_err(RootlessError::Capabilities)
}

/// Ours is not the id 0 of the namespace, and any other loses its capabilities by an exec, unless they are ambient. Ours
/// to come are that of the sealed copy and that of the zygote; the child clears them.
fn keep_capabilities() -> Result<(), rustix::io::Errno> {
    use rustix::thread::{capabilities, configure_capability_in_ambient_set, set_capabilities};
    let mut sets = capabilities(None)?;
    sets.inheritable = sets.permitted;
    set_capabilities(None, sets)?;
    sets.permitted.iter().try_for_each(|capability| configure_capability_in_ambient_set(capability, true))
}

/// Our own id and what else is wanted.
fn with_own(own: u32, wanted: &[Range]) -> Vec<Range> {
    let covers = |(first, count): &Range| (*first..first.saturating_add(*count)).contains(&own);
    let own = (!wanted.iter().any(covers)).then_some((own, 1));
    own.into_iter().chain(wanted.iter().copied()).collect()
}

fn map_own((uid, gid): (u32, u32)) -> Result<(), RootlessError> {
    let write = |file: &'static str, text: String| {
        std::fs::write(file, text).map_err(|source| RootlessError::Map { file, source })
    };
    write("/proc/self/uid_map", format!("{uid} {uid} 1\n"))?;
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1\n"))
}

/// A process of ours that stays outside and has newuidmap(1) and newgidmap(1) map us.
struct Mapper(std::process::Child);

impl Mapper {
    fn start(uids: &[Range], gids: &[Range]) -> Result<Mapper, RootlessError> {
        let words = |ranges: &[Range]| -> Vec<String> {
            ranges.iter().flat_map(|(first, count)| [*first, *first, *count]).map(|number| number.to_string()).collect()
        };
        let mut command = Command::new("/proc/self/exe");
        command.arg0(MAPPER).arg(std::process::id().to_string()).args(words(uids)).arg("--").args(words(gids));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.spawn().map(Mapper).map_err(RootlessError::Helper)
    }

    fn map(mut self) -> Result<(), RootlessError> {
        let mut answer = String::new();
        let told = self.0.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(b"\n"));
        let read = self.0.stdout.take().map_or(Ok(0), |mut pipe| pipe.read_to_string(&mut answer));
        let status = self.0.wait().map_err(RootlessError::Helper)?;
        told.and(read).map_err(RootlessError::Helper)?;
        if status.success() { Ok(()) } else { Err(RootlessError::Refused(answer.trim().to_owned())) }
    }
}

/// What a process does that was started to run newuidmap(1) and newgidmap(1) for its parent; `None` when this is none.
/// What they have to say goes to standard output.
#[must_use]
pub fn serve_maps() -> Option<std::process::ExitCode> {
    let mut arguments = std::env::args();
    if arguments.next().as_deref() != Some(MAPPER) {
        return None;
    }
    let pid = arguments.next()?;
    let arguments: Vec<String> = arguments.collect();
    let (uids, gids) = arguments.split_at(arguments.iter().position(|word| word == "--")?);
    // Without a byte, the one to be mapped is no more.
    if std::io::stdin().read_exact(&mut [0]).is_err() {
        return Some(std::process::ExitCode::FAILURE);
    }
    for (program, words) in [("newuidmap", uids), ("newgidmap", gids.get(1..)?)] {
        let problem = match Command::new(program).arg(&pid).args(words).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
            Err(error) => format!("{program}: {} (Debian: uidmap)", crate::state::io_text(&error)),
        };
        let _ = std::io::stdout().write_all(problem.as_bytes());
        return Some(std::process::ExitCode::FAILURE);
    }
    Some(std::process::ExitCode::SUCCESS)
}

/// Whether setgroups(2) is denied in the user namespace of a process, `self` or a pid.
#[must_use]
pub fn denies_setgroups(process: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/setgroups")).is_ok_and(|text| text.trim() == "deny")
}

/// Nobody in a container may look at a process that is about to enter it (CVE-2016-9962). Not where that would put a new
/// container's maps out of our reach: our files in /proc become root's, whom an ordinary user's namespace does not know.
///
/// # Errors
/// As prctl(2).
pub fn hide_from_containers(writes_maps: bool) -> Result<(), rustix::io::Errno> {
    if writes_maps && needed() { Ok(()) } else { sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop) }
}

/// Where state is kept by default.
#[must_use]
pub fn default_state_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if needed() => PathBuf::from(directory).join("brood"),
        _ => PathBuf::from("/run/brood"),
    }
}

/// Makes a config.json one that an ordinary user can launch: with a user namespace whose root is they themselves.
pub fn add_user_namespace(config: &mut Value) {
    let mapping = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    config["linux"]["uidMappings"] = mapping(rustix::process::getuid().as_raw());
    config["linux"]["gidMappings"] = mapping(rustix::process::getgid().as_raw());
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user"}));
    }
    let terminals = config["mounts"].as_array_mut().into_iter().flatten();
    for mount in terminals.filter(|mount| mount["destination"] == "/dev/pts") {
        // The group of terminals is not mapped.
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_id_is_always_among_them_and_never_twice() {
        assert_eq!(with_own(1000, &[]), [(1000, 1)]);
        assert_eq!(with_own(1000, &[(1000, 1)]), [(1000, 1)]);
        assert_eq!(with_own(1000, &[(100_000, 65_536)]), [(1000, 1), (100_000, 65_536)]);
        assert_eq!(with_own(1000, &[(999, 2)]), [(999, 2)]);
        assert_eq!(with_own(1000, &[(998, 2), (1001, 1)]), [(1000, 1), (998, 2), (1001, 1)]);
    }

    #[test]
    fn host_ids_come_from_the_mappings() {
        let config = br#"{"linux": {"uidMappings": [{"containerID": 0, "hostID": 7, "size": 2}, {"hostID": 5}]}}"#;
        assert_eq!(HostIds::of(config), HostIds { uids: vec![(7, 2)], gids: Vec::new() });
        assert_eq!(HostIds::of(b"no json"), HostIds::default());
    }
}
