//! `checkpoint create`, `list` and `rm`, and `restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use brood_launcher::checkpoint::named::Checkpoint;
use clap::{Args, Subcommand};

use super::query::table;
use super::run::{CommonArgs, parse_labels};
use super::{Place, absolute, print};
use crate::client::{Create, CreateSource};

#[derive(Subcommand)]
pub(super) enum CheckpointCommand {
    /// Write a running container's processes to images, by CRIU
    Create(CreateArgs),
    /// List the checkpoints of a container's bundle
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove a checkpoint
    #[command(alias = "delete")]
    Rm(NamedArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// The container ends with it; otherwise it goes on
    #[arg(long)]
    exit: bool,
    /// Take open TCP connections along
    #[arg(long)]
    tcp: bool,
    /// Take unix sockets along whose other end is outside
    #[arg(long)]
    unix_sockets: bool,
    /// Take sessions and terminals along that were begun outside
    #[arg(long)]
    shell: bool,
}

#[derive(Args)]
pub(super) struct NamedArgs {
    #[command(flatten)]
    place: DirectoryArgs,
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
    /// Name of the checkpoint
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: DirectoryArgs,
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Args)]
struct DirectoryArgs {
    /// Directory of checkpoints [default: checkpoints in the bundle]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
}

impl DirectoryArgs {
    fn directory(&self) -> anyhow::Result<PathBuf> {
        let directory = self.checkpoint_dir.as_deref();
        directory.map_or(Ok(PathBuf::new()), |path| Ok(std::path::absolute(path)?))
    }
}

#[derive(Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    place: DirectoryArgs,
    /// Name of the container
    #[arg(long, value_name = "ID")]
    name: String,
    /// OCI bundle: a directory with config.json
    #[arg(long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Delete the container when it ends
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    common: CommonArgs,
    /// Name of the checkpoint
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: String,
}

pub(super) fn checkpoint(place: &Place, command: &CheckpointCommand) -> anyhow::Result<ExitCode> {
    match command {
        CheckpointCommand::Create(args) => create(place, args),
        CheckpointCommand::List(args) => list(place, args),
        CheckpointCommand::Rm(args) => rm(place, args),
    }
}

fn create(place: &Place, args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let checkpoint = Checkpoint {
        name: args.named.name.clone(),
        created: String::new(),
        exit: args.exit,
        tcp: args.tcp,
        unix_sockets: args.unix_sockets,
        shell: args.shell,
    };
    let directory = args.named.place.directory()?;
    place.with_client(async |client| {
        client.get(&args.named.id).checkpoint(&directory, &checkpoint).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn list(place: &Place, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let directory = args.place.directory()?;
    let found = place.with_client(async |client| Ok(client.get(&args.id).checkpoints(&directory).await?))?;
    let mut rows = vec![["NAME", "TCP", "UNIX SOCKETS", "SHELL"].map(str::to_owned)];
    rows.extend(found.into_iter().map(|Checkpoint { name, tcp, unix_sockets, shell, .. }| {
        [name, tcp.to_string(), unix_sockets.to_string(), shell.to_string()]
    }));
    print(&table(&rows))
}

fn rm(place: &Place, args: &NamedArgs) -> anyhow::Result<ExitCode> {
    let directory = args.place.directory()?;
    place.with_client(async |client| {
        client.get(&args.id).delete_checkpoint(&directory, &args.name).await?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn restore(place: &Place, args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let create = Create {
        id: args.name,
        source: CreateSource::Bundle(absolute("--bundle", &args.bundle)?),
        labels: parse_labels(&args.common.labels)?,
        start: true,
        auto_remove: args.rm,
        ignore_unsupported: args.common.ignore_unsupported,
        checkpoint: Some((args.place.directory()?, args.checkpoint)),
        ..Create::default()
    };
    place.with_client(async |client| {
        client.create(&create).1.await?;
        print(&format!("{}\n", create.id))
    })
}
