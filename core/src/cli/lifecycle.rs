//! `start`, `wait`, `kill`, `rm`.

use std::process::ExitCode;

use brood_launcher::signal;
use brood_launcher::state::{INIT, now_ns};
use clap::Args;
use futures::FutureExt;

use super::{Place, is_done, print};
use crate::registry::FailureKind;

/// A container, or one of its execs.
#[derive(Args)]
pub(super) struct TargetArgs {
    /// Not the container but this exec of it
    #[arg(long, value_name = "EXEC")]
    exec: Option<String>,
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Args)]
pub(super) struct KillArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Name, SIG name or number
    #[arg(short, long, default_value = "TERM")]
    signal: String,
    /// Send it to every process of the container
    #[arg(short, long, conflicts_with = "exec")]
    all: bool,
}

#[derive(Args)]
pub(super) struct RmArgs {
    /// Not the container but this exec of it
    #[arg(long, value_name = "EXEC")]
    exec: Option<String>,
    /// Container IDs
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
}

pub(super) fn start(place: &Place, args: &TargetArgs) -> anyhow::Result<ExitCode> {
    place.with_client(async |client| {
        let container = client.get(&args.id);
        let started = match &args.exec {
            Some(exec) => container.process(exec).start().await,
            None => container.start().await,
        };
        match started {
            Err(error) if is_done(&client, &error, FailureKind::WrongState) => Ok(ExitCode::SUCCESS),
            started => Ok(started.map(|()| ExitCode::SUCCESS)?),
        }
    })
}

pub(super) fn wait(place: &Place, args: &TargetArgs) -> anyhow::Result<ExitCode> {
    let (process, began) = (args.exec.as_deref().unwrap_or(INIT), now_ns());
    let exit = place.with_client(async |client| {
        let container = client.get(&args.id);
        let exit = match &args.exec {
            Some(exec) => container.process(exec).wait().await,
            None => container.wait().await,
        };
        match exit {
            // Removed while there was no connection.
            Err(error) if is_done(&client, &error, FailureKind::NotFound) => {
                Ok(client.recorded_exit(&args.id, process, began).await?.ok_or(error)?)
            }
            exit => Ok(exit?),
        }
    })?;
    if let Some(reason) = &exit.reason {
        tracing::warn!(container = args.id, "exit status unknown: {reason}");
    }
    print(&format!("{}\n", exit.status))?;
    Ok(ExitCode::from(exit.status))
}

pub(super) fn kill(place: &Place, args: &KillArgs) -> anyhow::Result<ExitCode> {
    let signal = signal::parse(&args.signal)?.as_raw() as u8;
    place.with_client(async |client| {
        let container = client.get(&args.target.id);
        match &args.target.exec {
            Some(exec) => container.process(exec).kill(signal).await?,
            None => container.kill(signal, args.all).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn rm(place: &Place, args: &RmArgs) -> anyhow::Result<ExitCode> {
    place.with_client(async |client| {
        let delete = |id: &String| match &args.exec {
            Some(exec) => client.get(id).process(exec).delete(args.force).boxed_local(),
            None => client.get(id).delete(args.force).boxed_local(),
        };
        let asked: Vec<_> = args.ids.iter().map(delete).collect();
        let mut first_failure = Ok(ExitCode::SUCCESS);
        for deleted in asked {
            let deleted = match deleted.await {
                Err(error) if error.is_lost() => return Err(error.into()),
                Err(error) if is_done(&client, &error, FailureKind::NotFound) => Ok(()),
                deleted => deleted,
            };
            if first_failure.is_ok() {
                first_failure = deleted.map(|()| ExitCode::SUCCESS).map_err(Into::into);
            }
        }
        first_failure
    })
}
