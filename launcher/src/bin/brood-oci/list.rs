//! `list` and `state`.

use std::io::Write;
use std::process::ExitCode;

use brood_launcher::state::{ContainerDir, ContainerState, INIT, Status};
use clap::{Args, ValueEnum};
use serde_json::json;

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

/// A container as the files and the kernel show it now.
struct Seen {
    state: ContainerState,
    status: Status,
    pid: i32,
}

fn look(dir: &ContainerDir) -> anyhow::Result<Seen> {
    let state = dir.read_state()?;
    let status = dir.status();
    let pid = if status == Status::Stopped { 0 } else { dir.process(INIT).read_pid().map_or(0, |record| record.pid) };
    Ok(Seen { state, status, pid })
}

pub fn state(runtime: &Runtime, id: &str) -> anyhow::Result<ExitCode> {
    let Seen { state, status, pid } = look(&runtime.find(id)?)?;
    let document = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": pid,
        "status": status,
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "annotations": state.annotations,
        "owner": owner(state.owner),
    });
    print(&format!("{document:#}\n"))
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
        return print(&seen.iter().map(|container| format!("{}\n", container.state.id)).collect::<String>());
    }
    match args.format {
        Format::Json => {
            let entry = |container: &Seen| {
                json!({
                    "ociVersion": container.state.oci_version,
                    "id": container.state.id,
                    "pid": container.pid,
                    "status": container.status,
                    "bundle": container.state.bundle,
                    "rootfs": container.state.rootfs,
                    "created": container.state.created,
                    "annotations": container.state.annotations,
                    "owner": owner(container.state.owner),
                })
            };
            print(&format!("{}\n", serde_json::Value::from(seen.iter().map(entry).collect::<Vec<_>>())))
        }
        Format::Table => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(seen.iter().map(|Seen { state, status, pid }| {
                let bundle = state.bundle.display().to_string();
                [
                    state.id.clone(),
                    pid.to_string(),
                    status.to_string(),
                    bundle,
                    state.created.clone(),
                    owner(state.owner),
                ]
            }));
            print(&table(&rows))
        }
    }
}

/// Columns as wide as their widest cell and at least 12, as runc prints them.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(11) + 1;
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
