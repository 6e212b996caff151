//! Hooks that the runtime runs. Their processes are waited for on the loop: however long one takes, it holds up its own
//! container only.

use std::os::fd::AsFd;

use brood_launcher::hooks::{Due, HookError, List};
use tokio::io::Interest;

use super::{Deadline, Supervisor};
use crate::registry::{Failure, FailureKind};
use crate::supervisor::act::internal;
use crate::watch::watch;

impl Supervisor {
    /// Runs a list of hooks, one after the other. At the deadline the one that runs is killed and reaped, the rest is left
    /// alone, and only then does this return.
    ///
    /// When the supervisor stops, the same happens to it by its being dropped.
    pub(super) async fn run_hooks(&self, mut list: List, deadline: Option<Deadline>) -> Result<(), Failure> {
        while let Some(due) = list.next_due() {
            let result = self.run_hook(due, deadline).await?;
            list.note(result);
        }
        list.outcome().map_err(|error| Failure::new(FailureKind::LaunchFailed, error.to_string()))
    }

    async fn run_hook(&self, due: Due, deadline: Option<Deadline>) -> Result<Result<(), HookError>, Failure> {
        let turn = within(deadline, self.hook_starts.acquire()).await?;
        let started = self.on_thread(move || due.start()).await?;
        drop(turn);
        let hook = match started {
            Ok(hook) => hook,
            Err(error) => return Ok(Err(error)),
        };
        let pidfd = hook.as_fd().try_clone_to_owned().and_then(|pidfd| watch(pidfd, Interest::READABLE));
        let pidfd = pidfd.map_err(|error| internal(&format!("watch a hook: {error}")))?;
        let limit = hook.limit();
        let ended = async {
            match limit {
                Some(limit) => tokio::time::timeout(limit, pidfd.readable()).await.is_ok(),
                None => pidfd.readable().await.is_ok(),
            }
        };
        let in_time = within(deadline, ended).await;
        // What has not ended is killed there, which may take the kernel a moment.
        let finish = move || in_time.map(|_| hook.finish());
        self.thread.sometime().await;
        self.on_thread(finish).await?
    }
}

async fn within<T>(deadline: Option<Deadline>, work: impl Future<Output = T>) -> Result<T, Failure> {
    match deadline {
        Some(deadline) => deadline.keep(work).await,
        None => Ok(work.await),
    }
}
