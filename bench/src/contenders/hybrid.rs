//! Help for a runtime that refuses the hybrid cgroup layout (crun before 1.9): a mount namespace of its own in which no
//! controller is left to cgroup v2.
//!
//! "Hybrid" means to it that `unified/cgroup.controllers` names a controller. Mounting that controller as a v1 hierarchy,
//! anywhere, takes it away from v2 for as long as the mount exists. The mount lives in a private namespace, which lives
//! in a thread, so it is gone when the thread ends, even by SIGKILL. The runtime is spawned from that thread: it pays
//! nothing for the help.

use std::fs;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::command::time_to_exit;
use crate::bundle::Bundle;

const V2_CONTROLLERS: &str = "/sys/fs/cgroup/unified/cgroup.controllers";

/// A thread in a mount namespace that hides cgroup v2's controllers.
pub struct LegacyView {
    controllers: Vec<String>,
    commands: Option<Sender<Command>>,
    outcomes: Receiver<Result<(ExitStatus, Duration)>>,
    thread: Option<JoinHandle<()>>,
}

impl LegacyView {
    /// Starts the thread and makes its mounts.
    pub fn create(bundle: &Bundle) -> Result<Self> {
        let text = fs::read_to_string(V2_CONTROLLERS).with_context(|| format!("cannot read {V2_CONTROLLERS}"))?;
        let controllers: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let mut mounts = Vec::new();
        for controller in &controllers {
            let directory = bundle.scratch(&format!("cgroup-{controller}"))?;
            mounts.push((directory, std::ffi::CString::new(controller.as_str())?));
        }
        let (commands, requests) = channel::<Command>();
        let (replies, outcomes) = channel();
        let (ready, is_ready) = channel();
        let thread = std::thread::Builder::new().name("legacy-view".to_owned()).spawn(move || {
            let entered = enter(&mounts);
            let failed = entered.is_err();
            if ready.send(entered).is_err() || failed {
                return;
            }
            for command in requests {
                if replies.send(time_to_exit(command)).is_err() {
                    return;
                }
            }
        })?;
        let view = Self { controllers, commands: Some(commands), outcomes, thread: Some(thread) };
        is_ready.recv().context("the thread ended early")??;
        Ok(view)
    }

    /// What the report says about it.
    pub fn note(&self) -> String {
        format!(
            "refuses the hybrid cgroup layout; run in a private mount namespace with v1 {} mounted",
            self.controllers.join(", ")
        )
    }

    /// Runs the command inside the namespace; the time is taken there.
    pub fn run(&self, command: Command) -> Result<(ExitStatus, Duration)> {
        let commands = self.commands.as_ref().ok_or_else(|| anyhow!("the namespace is gone"))?;
        commands.send(command).map_err(|_| anyhow!("the namespace's thread is gone"))?;
        self.outcomes.recv().context("the namespace's thread is gone")?
    }
}

impl Drop for LegacyView {
    fn drop(&mut self) {
        // The thread ends when nobody can send any more; its namespace and the mounts go with it.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread, and no other, into a new mount namespace and mounts the controllers there.
fn enter(mounts: &[(std::path::PathBuf, std::ffi::CString)]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")?;
    for (directory, controller) in mounts {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("cgroup", directory.as_path(), "cgroup", flags, controller.as_c_str()).with_context(|| {
            let name = controller.to_string_lossy();
            format!("cannot mount the v1 controller {name} (cgroup v2 may hand it down: cgroup.subtree_control)")
        })?;
    }
    Ok(())
}
