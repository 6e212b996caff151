//! `list` and `state`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use brood_launcher::state::{ContainerDir, INIT, Status};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::runtime::Runtime;

#[derive(Args)]
pub struct ListArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Print only the IDs
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// A container as the files and the kernel show it now: `state`'s document and an entry of `list`. The names and their
/// order are runc's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

fn look(dir: &ContainerDir) -> anyhow::Result<Seen> {
    let state = dir.read_state()?;
    let status = dir.status();
    let pid = if status == Status::Stopped { 0 } else { dir.process(INIT).read_pid().map_or(0, |record| record.pid) };
    Ok(Seen {
        oci_version: state.oci_version,
        id: state.id,
        pid,
        status,
        bundle: state.bundle,
        rootfs: state.rootfs,
        created: state.created,
        annotations: state.annotations,
        owner: owner(state.owner),
    })
}

pub fn state(runtime: &Runtime, id: &str) -> anyhow::Result<ExitCode> {
    let seen = look(&runtime.find(id)?)?;
    print(&format!("{}\n", serde_json::to_string_pretty(&seen)?))
}

pub fn list(runtime: &Runtime, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut seen = Vec::new();
    for id in runtime.root.list()? {
        // A container may be deleted, or not yet be written, while we look.
        match runtime.root.find(&id).map_err(anyhow::Error::from).and_then(|dir| look(&dir)) {
            Ok(container) => seen.push(container),
            Err(error) => runtime.messages.debug(&format!("{id}: {error:#}")),
        }
    }
    if args.quiet {
        return print(&seen.iter().map(|container| format!("{}\n", container.id)).collect::<String>());
    }
    match args.format {
        Format::Json => print(&format!("{}\n", serde_json::to_string(&seen)?)),
        Format::Table => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(seen.into_iter().map(|seen| {
                let bundle = seen.bundle.display().to_string();
                [seen.id, seen.pid.to_string(), seen.status.to_string(), bundle, seen.created, seen.owner]
            }));
            print(&table(&rows))
        }
    }
}

/// Columns as runc's: three blanks after the widest cell, and at least 12 wide.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| (rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 3).max(12);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

fn owner(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| format!("#{uid}"), |user| user.name)
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes a line of JSON. False when the reader went away.
pub fn print_line(value: &impl Serialize) -> anyhow::Result<bool> {
    let line = serde_json::to_string(value)? + "\n";
    match std::io::stdout().write_all(line.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}
