//! Everything before the clone, all or nothing: the configuration, the name, the state files, the cgroup, the plan.
//! Used alike by the supervisor (on a thread that may block) and by the daemonless `brood-oci`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::pipe::PipeFlags;

use crate::cgroup::{self, CgroupError, Hierarchy};
use crate::config::{self, ConfigError, IdError, LoadOptions};
use crate::plan::{self, BuildOptions, Launch, PlanError, Stdio};
use crate::state::{ContainerDir, ContainerState, INIT, PidRecord, StateError, StateRoot};

/// Why a container could not be prepared. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The container's name.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The bundle or its config.json.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that config.json names.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The cgroup.
    #[error("linux.cgroupsPath: {0}")]
    Cgroup(#[from] CgroupError),
    /// The host has no place for the cgroup that the configuration asks for.
    #[error("config.json: linux.cgroupsPath: the host has no writable cgroup v2 hierarchy")]
    NoCgroup,
    /// A pipe or descriptor could not be had.
    #[error("status pipe: {}", crate::report::errno_text(*.0))]
    Pipe(rustix::io::Errno),
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A bundle directory, and a configuration file elsewhere if given.
    Bundle {
        /// The directory.
        path: PathBuf,
        /// Instead of `<bundle>/config.json`.
        config: Option<PathBuf>,
    },
    /// The text of a configuration whose root is a throw-away layer over the host's root
    /// ([`plan::default_spec`]).
    HostOverlay {
        /// A config.json.
        config: Vec<u8>,
    },
}

/// A container to be prepared.
#[derive(Debug)]
pub struct Order {
    /// Its name.
    pub id: String,
    /// Its configuration.
    pub source: Source,
    /// Labels for the state file.
    pub labels: BTreeMap<String, String>,
    /// Wait for `start` after set-up.
    pub park: bool,
    /// Whether a zygote will clone it.
    pub from_zygote: bool,
    /// Signal for it when its launcher dies.
    pub die_with_parent: Option<u32>,
    /// Go on without what is not supported.
    pub ignore_unsupported: bool,
}

/// A prepared container: launch it, then [`Reserved::keep`] it.
#[derive(Debug)]
pub struct Prepared {
    /// For [`crate::spawn`] or a zygote.
    pub launch: Launch,
    /// Read end of the status pipe ([`crate::report`]).
    pub status: OwnedFd,
    /// As written to `state.json`.
    pub state: ContainerState,
    /// What was ignored or migrated, one line each.
    pub notes: Vec<String>,
    /// The name and what hangs on it.
    pub reserved: Reserved,
}

/// A reserved name with its directory and cgroup. Dropping it undoes all of that, unless it is kept.
#[derive(Debug)]
pub struct Reserved {
    dir: ContainerDir,
    cgroup: Option<PathBuf>,
    kept: bool,
}

impl Reserved {
    /// The container's folder.
    #[must_use]
    pub fn dir(&self) -> &ContainerDir {
        &self.dir
    }

    /// Records the clone.
    ///
    /// # Errors
    /// The state directory refuses.
    pub fn record_pid(&self, pid: i32) -> Result<PidRecord, StateError> {
        let record = PidRecord { pid, start_time: crate::state::start_time(pid).unwrap_or(0) };
        self.dir.process(INIT).write_pid(record)?;
        Ok(record)
    }

    /// The container exists now: from here on `delete` is what removes it.
    #[must_use]
    pub fn keep(mut self) -> ContainerDir {
        self.kept = true;
        self.dir.clone()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            if let Some(cgroup) = &self.cgroup {
                // An unborn container's cgroup is empty; one that is not belongs to somebody else.
                let _ = cgroup::try_remove(cgroup);
            }
            let _ = self.dir.remove();
        }
    }
}

/// Prepares a container. `stdio` is asked for once the container's folder exists, since it may hold the output files.
///
/// # Errors
/// One line that names the field, path or step; nothing is left behind.
pub fn prepare(
    root: &StateRoot,
    order: Order,
    stdio: impl FnOnce(&ContainerDir) -> Result<Stdio, PrepareError>,
) -> Result<Prepared, PrepareError> {
    config::check_id(&order.id)?;
    let (loaded_spec, notes, bundle) = load(&order)?;
    let dir = root.reserve(&order.id)?;
    let mut reserved = Reserved { dir, cgroup: None, kept: false };

    let cgroup = make_cgroup(root, &order.id, &loaded_spec, &mut reserved)?;
    let state = ContainerState {
        oci_version: loaded_spec.version().clone(),
        id: order.id,
        rootfs: loaded_spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default(),
        bundle: if matches!(order.source, Source::HostOverlay { .. }) { PathBuf::new() } else { bundle.clone() },
        annotations: loaded_spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        labels: order.labels,
        created: jiff::Timestamp::now().to_string(),
        cgroup: reserved.cgroup.clone().unwrap_or_default(),
        owner: rustix::process::getuid().as_raw(),
    };
    reserved.dir.write_state(&state)?;
    if let Some(process) = loaded_spec.process() {
        reserved.dir.process(INIT).create(process)?;
    }
    let park = if order.park { Some(reserved.dir.listen_for_start()?) } else { None };
    let (status, status_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(PrepareError::Pipe)?;
    let launch = plan::build(
        &loaded_spec,
        BuildOptions {
            bundle,
            host_overlay: matches!(order.source, Source::HostOverlay { .. }),
            stdio: stdio(&reserved.dir)?,
            status: status_write,
            park,
            cgroup,
            from_zygote: order.from_zygote,
            die_with_parent: order.die_with_parent,
        },
    )?;
    Ok(Prepared { launch, status, state, notes, reserved })
}

fn load(order: &Order) -> Result<(Spec, Vec<String>, PathBuf), PrepareError> {
    let options = LoadOptions { ignore_unsupported: order.ignore_unsupported };
    match &order.source {
        Source::Bundle { path, config } => {
            let loaded = match config {
                Some(file) => config::load_file(file, options)?,
                None => config::load(path, options)?,
            };
            let bundle = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Ok((loaded.spec, loaded.notes, bundle))
        }
        Source::HostOverlay { config } => {
            let (spec, mut notes) = config::parse(config)?;
            notes.extend(config::validate(&spec)?);
            notes.extend(config::check_supported(&spec, order.ignore_unsupported)?);
            Ok((spec, notes, PathBuf::from("/")))
        }
    }
}

fn make_cgroup(
    root: &StateRoot,
    id: &str,
    spec: &Spec,
    reserved: &mut Reserved,
) -> Result<Option<OwnedFd>, PrepareError> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let wanted = wanted.filter(|path| !path.as_os_str().is_empty());
    let Some(hierarchy) = Hierarchy::find() else {
        return if wanted.is_some() { Err(PrepareError::NoCgroup) } else { Ok(None) };
    };
    let path: &Path = &hierarchy.place(root.path(), id, wanted);
    let cgroup = cgroup::create(path)?;
    reserved.cgroup = Some(path.to_owned());
    Ok(Some(cgroup))
}
