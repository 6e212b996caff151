//! Everything before the clone of an exec, all or nothing: its process, its folder, its plan. For an init process that is
//! [`crate::prepare`].

use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};

use crate::cgroup::{CgroupError, Cgroups, Entrance};
use crate::config::{self, ConfigError, IdError};
use crate::plan::{ExecOptions, Io, Launch, PlanError, build_exec};
use crate::report::errno_text;
use crate::resctrl::ResctrlError;
use crate::state::{ContainerDir, ContainerState, INIT, PidRecord, ProcessDir, StateError, is_reserved, open_process};

/// Why an exec could not be prepared. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its name.
    #[error("{}", .0.to_string().replace("container", "exec"))]
    Id(#[from] IdError),
    /// Its name means something else in a container's folder.
    #[error("exec id {0:?}: reserved")]
    Reserved(String),
    /// Its folder is there.
    #[error("exec {0} already exists")]
    InUse(String),
    /// Not a uid or gid.
    #[error("{0:?} is not a number from 0 to 4294967294")]
    Number(String),
    /// The process that was asked for.
    #[error(transparent)]
    Process(#[from] ConfigError),
    /// The container's init process is gone.
    #[error("cannot exec in a container that is stopped")]
    Stopped,
    /// The container is on its way out, or a string has a NUL byte.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The container's cgroup is gone, or there are no descriptors left.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The same of its group of resctrl.
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    /// A descriptor could not be had.
    #[error("{what}: {}", errno_text(*errno))]
    Descriptor {
        /// Which.
        what: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
}

fn no_descriptor(what: &'static str) -> impl Fn(Errno) -> ExecError {
    move |errno| ExecError::Descriptor { what, errno }
}

/// What an exec has of its own; the rest is as in the container's own process.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=VALUE`, in place of entries with the same key.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Supplementary groups, beside the container's own.
    pub additional_gids: Vec<u32>,
    /// Mask of new files' modes.
    pub umask: Option<u32>,
    /// Added to the bounding, effective and permitted sets.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Type, soft and hard limit; in place of those of the same type.
    pub rlimits: Vec<(String, u64, u64)>,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux label.
    pub selinux_label: Option<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal; zeros leave them to the kernel.
    pub size: (u16, u16),
}

impl Changes {
    fn apply(&self, process: &mut Value) {
        process["args"] = self.args.clone().into();
        process["terminal"] = self.terminal.into();
        if self.terminal && self.size != (0, 0) {
            process["consoleSize"] = json!({"height": self.size.0, "width": self.size.1});
        }
        let fields =
            [("cwd", &self.cwd), ("apparmorProfile", &self.apparmor_profile), ("selinuxLabel", &self.selinux_label)];
        for (field, value) in fields {
            if let Some(value) = value {
                process[field] = value.as_str().into();
            }
        }
        for (field, value) in [("uid", self.uid), ("gid", self.gid), ("umask", self.umask)] {
            if let Some(value) = value {
                process["user"][field] = value.into();
            }
        }
        if !self.additional_gids.is_empty() {
            let added = self.additional_gids.iter().map(|gid| Value::from(*gid));
            change_list(&mut process["user"]["additionalGids"], |list| list.extend(added));
        }
        if self.no_new_privileges {
            process["noNewPrivileges"] = true.into();
        }
        self.apply_lists(process);
    }

    fn apply_lists(&self, process: &mut Value) {
        let key = |entry: &str| entry.split_once('=').map_or(entry, |(key, _)| key).to_owned();
        for entry in &self.env {
            change_list(&mut process["env"], |env| {
                env.retain(|old| old.as_str().map(key) != Some(key(entry)));
                env.push(entry.as_str().into());
            });
        }
        for (kind, soft, hard) in &self.rlimits {
            change_list(&mut process["rlimits"], |limits| {
                limits.retain(|old| old["type"] != kind.as_str());
                limits.push(json!({"type": kind, "soft": soft, "hard": hard}));
            });
        }
        // As runc: never to the inheritable set (CVE-2022-29162); to the ambient one only where the container has
        // inheritable capabilities, and there the kernel wants it in both.
        let ambient = process["capabilities"]["inheritable"].is_array().then_some("ambient");
        for capability in &self.capabilities {
            for set in ["bounding", "effective", "permitted"].into_iter().chain(ambient) {
                change_list(&mut process["capabilities"][set], |list| list.push(capability.as_str().into()));
            }
        }
    }
}

/// Has a list in this place, which is made if there is none, changed.
fn change_list(place: &mut Value, change: impl FnOnce(&mut Vec<Value>)) {
    let mut list = match place.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    change(&mut list);
    *place = list.into();
}

/// What runs.
#[derive(Clone, Debug)]
pub enum Program {
    /// The container's own process, changed.
    Changed(Changes),
    /// An OCI process object, whole.
    Json(Vec<u8>),
}

impl Program {
    /// The checked process, and what was ignored or is odd in it, one line each.
    ///
    /// # Errors
    /// The container's own process cannot be read, or the result is wrong or not supported.
    pub fn process(
        &self,
        container: &ContainerDir,
        ignore_unsupported: bool,
    ) -> Result<(Process, Vec<String>), ExecError> {
        let process = match self {
            Program::Json(text) => config::parse_value(text, "exec")?,
            Program::Changed(changes) => {
                let mut process = container.process(INIT).read_process()?;
                changes.apply(&mut process);
                process
            }
        };
        Ok(config::check_process(process, ignore_unsupported)?)
    }
}

/// An exec to be prepared.
#[derive(Debug)]
pub struct Order {
    /// Its name.
    pub id: String,
    /// What runs.
    pub program: Program,
    /// Wait for a start after set-up.
    pub park: bool,
    /// Go on without what is not supported.
    pub ignore_unsupported: bool,
}

/// A prepared exec: launch it, then [`Reserved::keep`] its folder.
#[derive(Debug)]
pub struct Prepared {
    /// For [`crate::spawn`] or a zygote.
    pub launch: Launch,
    /// Read end of the status pipe ([`crate::report`]).
    pub status: OwnedFd,
    /// What was ignored or is odd, one line each.
    pub notes: Vec<String>,
    /// The folder.
    pub reserved: Reserved,
}

/// The folder of an exec that is being prepared; dropping it removes it, unless it is kept.
#[derive(Debug)]
pub struct Reserved {
    dir: ProcessDir,
    kept: bool,
}

impl Reserved {
    fn make(container: &ContainerDir, id: &str, process: &Process) -> Result<Reserved, ExecError> {
        let dir = container.process(id);
        match dir.create(process) {
            Ok(()) => Ok(Reserved { dir, kept: false }),
            Err(StateError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(ExecError::InUse(id.to_owned()))
            }
            Err(error) => {
                let _ = dir.remove();
                Err(error.into())
            }
        }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &ProcessDir {
        &self.dir
    }

    /// The process exists now: from here on its deletion is what removes the folder.
    #[must_use]
    pub fn keep(mut self) -> ProcessDir {
        self.kept = true;
        self.dir.clone()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.dir.remove();
        }
    }
}

/// Checks the name of an exec: as a container's, and not [`is_reserved`].
///
/// # Errors
/// [`ExecError::Id`] or [`ExecError::Reserved`].
pub fn check_id(id: &str) -> Result<(), ExecError> {
    config::check_id(id)?;
    if is_reserved(id) { Err(ExecError::Reserved(id.to_owned())) } else { Ok(()) }
}

/// Prepares an exec in a container with these cgroups (or in some below them, [`Cgroups::below`]). `io` is asked for once the exec's folder
/// exists, since it may hold the output files.
///
/// # Errors
/// One line that names the field or path; nothing is left behind.
pub fn prepare(
    container: &ContainerDir,
    cgroups: &Cgroups,
    order: &Order,
    io: impl FnOnce(&ProcessDir) -> Result<Io, Errno>,
) -> Result<Prepared, ExecError> {
    check_id(&order.id)?;
    let (process, notes) = order.program.process(container, order.ignore_unsupported)?;
    let reserved = Reserved::make(container, &order.id, &process)?;
    let park = if order.park { Some(reserved.dir.start_socket().listen()?) } else { None };
    let (status, status_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(no_descriptor("status pipe"))?;
    let init_pid = container.process(INIT).read_pid()?;
    let state = container.read_state()?;
    let options = ExecOptions {
        kept: container.read_kept()?,
        preserve: Vec::new(),
        init: open_init(init_pid)?,
        init_pid: init_pid.pid,
        io: io(&reserved.dir).map_err(no_descriptor("standard descriptors"))?,
        status: status_write,
        cgroups: entrance(cgroups, &state)?,
        container: state,
        from_zygote: true,
        park,
    };
    Ok(Prepared { launch: build_exec(&process, options)?, status, notes, reserved })
}

/// How an exec gets into these cgroups, and to the container's share of caches.
///
/// # Errors
/// One of them is gone.
pub fn entrance(cgroups: &Cgroups, state: &ContainerState) -> Result<Entrance, ExecError> {
    let mut entrance = cgroups.entrance()?;
    if let Some(group) = &state.resctrl {
        entrance.tasks.extend(group.entrance()?);
    }
    Ok(entrance)
}

/// Takes `UID` or `UID:GID` apart.
///
/// # Errors
/// [`ExecError::Number`]
pub fn parse_user(text: &str) -> Result<(u32, Option<u32>), ExecError> {
    match text.split_once(':') {
        None => Ok((parse_id(text)?, None)),
        Some((uid, gid)) => Ok((parse_id(uid)?, Some(parse_id(gid)?))),
    }
}

/// A uid or gid: digits and nothing else. A name is not looked up and never taken for 0 (CVE-2016-3697, CVE-2026-30892),
/// nothing wraps around (CVE-2024-40635), and the highest number is none, since setresuid(2) takes it for "leave it as it
/// is".
///
/// # Errors
/// [`ExecError::Number`]
pub fn parse_id(text: &str) -> Result<u32, ExecError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number != u32::MAX => Ok(number),
        _ => Err(ExecError::Number(text.to_owned())),
    }
}

/// A handle on the init process that was recorded.
///
/// # Errors
/// [`ExecError::Stopped`]
pub fn open_init(record: PidRecord) -> Result<OwnedFd, ExecError> {
    open_process(record).ok_or(ExecError::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Value {
        json!({
            "args": ["init"], "cwd": "/", "env": ["PATH=/bin", "A=1"], "terminal": true, "user": {"uid": 0, "gid": 0},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}],
        })
    }

    #[test]
    fn without_changes_it_is_the_containers_own_process() {
        let mut process = own();
        Changes { args: vec!["sh".into()], ..Changes::default() }.apply(&mut process);
        let mut expected = own();
        (expected["args"], expected["terminal"]) = (json!(["sh"]), json!(false));
        assert_eq!(process, expected);
    }

    #[test]
    fn changes_replace_what_they_name() {
        let mut process = own();
        Changes {
            env: vec!["A=2".into(), "B=3".into()],
            cwd: Some("/tmp".into()),
            uid: Some(5),
            additional_gids: vec![7],
            capabilities: vec!["CAP_CHOWN".into()],
            rlimits: vec![("RLIMIT_NOFILE".into(), 8, 9), ("RLIMIT_CORE".into(), 0, 0)],
            ..Changes::default()
        }
        .apply(&mut process);
        assert_eq!(process["env"], json!(["PATH=/bin", "A=2", "B=3"]));
        assert_eq!(process["user"], json!({"uid": 5, "gid": 0, "additionalGids": [7]}));
        assert_eq!(process["cwd"], "/tmp");
        assert_eq!(process["rlimits"][0], json!({"type": "RLIMIT_NOFILE", "soft": 8, "hard": 9}));
        assert_eq!(process["rlimits"].as_array().unwrap().len(), 2);
        assert_eq!(process["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
        assert!(process["capabilities"].get("inheritable").is_none(), "CVE-2022-29162");
    }

    #[test]
    fn only_numbers_are_numbers() {
        for (text, number) in [("0", 0), ("1000", 1000), ("007", 7), ("4294967294", u32::MAX - 1)] {
            assert_eq!(parse_id(text).unwrap(), number, "{text}");
            assert_eq!(parse_user(text).unwrap(), (number, None));
            assert_eq!(parse_user(&format!("{text}:{text}")).unwrap(), (number, Some(number)));
        }
        let wrong = [
            "",
            " ",
            "root",
            "-1",
            "-0",
            "+5",
            " 5",
            "5 ",
            "5\n",
            "5a",
            "0x10",
            "1e3",
            "1.0",
            "\u{665}",
            "4294967295",
            "4294967296",
            "8589934592",
            "18446744073709551616",
            "99999999999999999999999",
        ];
        for text in wrong {
            assert!(parse_id(text).is_err(), "{text:?}");
            for both in [text.to_owned(), format!("{text}:0"), format!("0:{text}")] {
                assert!(parse_user(&both).is_err(), "{both:?}");
            }
        }
        for text in [":", "1:", ":1", "1:2:3", "1::2"] {
            assert!(parse_user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_added_capability_is_ambient_only_beside_inheritable_ones() {
        let changes = Changes { capabilities: vec!["CAP_SYS_TIME".to_owned()], ..Changes::default() };
        let added = json!(["CAP_SYS_TIME"]);
        let mut plain = json!({"capabilities": {"bounding": ["CAP_KILL"]}});
        changes.apply(&mut plain);
        let sets = json!({"bounding": ["CAP_KILL", "CAP_SYS_TIME"], "effective": added, "permitted": added});
        assert_eq!(plain["capabilities"], sets);
        let mut inheriting = json!({"capabilities": {"inheritable": ["CAP_KILL"]}});
        changes.apply(&mut inheriting);
        let sets = &inheriting["capabilities"];
        assert_eq!((&sets["ambient"], &sets["inheritable"]), (&added, &json!(["CAP_KILL"])));
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in ["init", "state.json", "start.sock"] {
            assert_eq!(check_id(name).unwrap_err().to_string(), format!("exec id {name:?}: reserved"));
        }
        assert_eq!(check_id("").unwrap_err().to_string(), "exec id cannot be empty");
        check_id("probe-1").unwrap();
    }
}
