//! `start`, `wait`, `kill`, `rm`.

use std::process::ExitCode;

use brood_launcher::signal;
use clap::Args;

use super::{Place, print};

#[derive(Args)]
pub(super) struct KillArgs {
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
    /// Name, SIG name or number
    #[arg(short, long, default_value = "TERM")]
    signal: String,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
}

#[derive(Args)]
pub(super) struct RmArgs {
    /// Container IDs
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Kill the container first if it runs
    #[arg(short, long)]
    force: bool,
}

pub(super) fn start(place: &Place, id: &str) -> anyhow::Result<ExitCode> {
    place.with_client(async |client| {
        client.get(id).start().await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn wait(place: &Place, id: &str) -> anyhow::Result<ExitCode> {
    let exit = place.with_client(async |client| Ok(client.get(id).wait().await?))?;
    if let Some(reason) = &exit.reason {
        tracing::warn!(container = id, "exit status unknown: {reason}");
    }
    print(&format!("{}\n", exit.status))?;
    Ok(ExitCode::from(exit.status))
}

pub(super) fn kill(place: &Place, args: &KillArgs) -> anyhow::Result<ExitCode> {
    let signal = signal::parse(&args.signal)?.as_raw() as u8;
    place.with_client(async |client| {
        client.get(&args.id).kill(signal, args.all).await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn rm(place: &Place, args: &RmArgs) -> anyhow::Result<ExitCode> {
    place.with_client(async |client| {
        let asked: Vec<_> = args.ids.iter().map(|id| client.get(id).delete(args.force)).collect();
        let mut first_failure = Ok(ExitCode::SUCCESS);
        for deleted in asked {
            let deleted = deleted.await;
            if first_failure.is_ok() {
                first_failure = deleted.map(|()| ExitCode::SUCCESS).map_err(Into::into);
            }
        }
        first_failure
    })
}
