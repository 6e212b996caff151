//! `list`, `state`, `events`, `version`.

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context;
use brood_launcher::state::INIT;
use brood_schema::brood_capnp as schema;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Place, nobody_there, print};
use crate::client::{ClientError, Version};
use crate::rpc;

/// How often a follower of events makes sure that the daemon is there.
const SIGN_OF_LIFE: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Form of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Print only the IDs
    #[arg(short, long)]
    quiet: bool,
    /// Only containers with this label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

#[derive(Args)]
pub(super) struct EventsArgs {
    /// Only events since this time (2026-11-23T18:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// Go on with new events
    #[arg(short, long)]
    follow: bool,
    /// Only events of this container
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Form of the output; json is one object per line
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub(super) fn list(place: &Place, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let labels = super::run::parse_labels(&args.labels)?;
    let containers = place.with_client(async |client| {
        let mut request = client.brood.list_request();
        let mut wanted = request.get().init_request().init_labels(labels.len() as u32);
        for (index, (key, value)) in (0..).zip(&labels) {
            let mut entry = wanted.reborrow().get(index);
            entry.set_key(key);
            entry.set_value(value);
        }
        let response = request.send().promise.await.map_err(ClientError::from)?;
        let containers = response.get()?.get_reply()?.get_containers()?;
        Ok(containers.iter().map(state_json).collect::<capnp::Result<Vec<Value>>>()?)
    })?;
    if args.quiet {
        return print(&containers.iter().map(|state| format!("{}\n", text(&state["id"]))).collect::<String>());
    }
    if args.format == Format::Json {
        return print(&format!("{:#}\n", Value::from(containers)));
    }
    let mut rows = vec![["ID", "PATH", "STATUS", "PROCESSES"].map(str::to_owned)];
    rows.extend(containers.iter().map(|state| {
        let names = state["processes"].as_array().into_iter().flatten().map(|process| text(&process["name"]));
        let path = match text(&state["bundle"]) {
            "" => "-",
            path => path,
        };
        let processes = names.collect::<Vec<_>>().join(",");
        [text(&state["id"]).to_owned(), path.to_owned(), text(&state["status"]).to_owned(), processes]
    }));
    print(&table(&rows))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Columns as wide as their widest cell; nothing after the last one.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn state_json(state: schema::container_state::Reader<'_>) -> capnp::Result<Value> {
    let processes = state.get_processes()?.iter().map(process_json).collect::<capnp::Result<Vec<Value>>>()?;
    let init = processes.iter().find(|process| process["name"] == INIT);
    let pid = init.map_or(json!(0), |init| init["pid"].clone());
    let exit = if state.has_exit() { Some(rpc::exit_from(state.get_exit()?)?) } else { None };
    Ok(json!({
        "ociVersion": state.get_oci_version()?.to_str()?,
        "id": state.get_id()?.to_str()?,
        "status": status_text(state.get_status()?),
        "pid": pid,
        "bundle": state.get_bundle()?.to_str()?,
        "rootfs": state.get_rootfs()?.to_str()?,
        "created": state.get_created_text()?.to_str()?,
        "processes": processes,
        "labels": rpc::labels_from(state.get_labels()?)?,
        "annotations": rpc::labels_from(state.get_annotations()?)?,
        "exit": exit,
    }))
}

fn process_json(process: schema::process_state::Reader<'_>) -> capnp::Result<Value> {
    let mut json = json!({
        "name": process.get_name()?.to_str()?,
        "pid": process.get_pid(),
        "status": status_text(process.get_status()?),
    });
    if process.has_exit() {
        json["exit"] = json!(rpc::exit_from(process.get_exit()?)?);
    }
    Ok(json)
}

fn status_text(status: schema::Status) -> &'static str {
    match status {
        schema::Status::Creating => "creating",
        schema::Status::Created => "created",
        schema::Status::Running => "running",
        schema::Status::Stopped => "stopped",
        schema::Status::Paused => "paused",
    }
}

pub(super) fn state(place: &Place, id: &str) -> anyhow::Result<ExitCode> {
    let state = place.with_client(async |client| {
        let sent = client.get(id).0.state_request().send();
        let response = sent.promise.await.map_err(ClientError::from)?;
        match response.get()?.get_outcome()?.which()? {
            schema::state_outcome::State(state) => Ok(state_json(state?)?),
            schema::state_outcome::Failure(failure) => Err(ClientError::from(rpc::failure_from(failure?)?).into()),
        }
    })?;
    print(&format!("{state:#}\n"))
}

/// Prints batches as they come.
struct Printer {
    format: Format,
    /// The last one's sequence number.
    printed: Rc<Cell<u64>>,
    done: tokio::sync::Notify,
}

impl schema::event_sink::Server for Printer {
    async fn push(
        self: Rc<Self>,
        params: schema::event_sink::PushParams,
        _: schema::event_sink::PushResults,
    ) -> Result<(), capnp::Error> {
        let batch = params.get()?.get_batch()?;
        if batch.get_lagged_to() != 0 {
            tracing::warn!("events before number {} are not kept any more", batch.get_lagged_to());
        }
        let mut lines = String::new();
        for event in batch.get_events()? {
            lines += &self.line(event)?;
            self.printed.set(event.get_seq());
        }
        print(&lines).map_err(|error| capnp::Error::failed(error.to_string()))?;
        Ok(())
    }

    async fn done(
        self: Rc<Self>,
        _: schema::event_sink::DoneParams,
        _: schema::event_sink::DoneResults,
    ) -> Result<(), capnp::Error> {
        self.done.notify_one();
        Ok(())
    }
}

impl Printer {
    fn line(&self, event: schema::event::Reader<'_>) -> capnp::Result<String> {
        let exit = if event.has_exit() { Some(rpc::exit_from(event.get_exit()?)?) } else { None };
        let time = jiff::Timestamp::from_nanosecond(i128::from(event.get_time())).unwrap_or_default();
        let (kind, id, process) =
            (event.get_type()?.to_str()?, event.get_id()?.to_str()?, event.get_process()?.to_str()?);
        Ok(match self.format {
            Format::Json => {
                let pid = event.get_pid();
                let line = json!({"seq": event.get_seq(), "time": time.to_string(), "type": kind, "id": id,
                    "process": process, "pid": pid, "exit": exit});
                format!("{line}\n")
            }
            Format::Table => {
                let status = exit.map_or_else(|| "-".to_owned(), |exit| exit.status.to_string());
                let time = time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string();
                format!("{time:<30}  {kind:<15}  {id:<24}  {process:<12}  {status}\n")
            }
        })
    }
}

pub(super) fn events(place: &Place, args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let since = args.since.map(|time| u64::try_from(time.as_nanosecond())).transpose().context("--since")?;
    if args.format == Format::Table {
        print(&format!("{:<30}  {:<15}  {:<24}  {:<12}  STATUS\n", "TIME", "TYPE", "ID", "PROCESS"))?;
    }
    // On another connection it goes on after what was printed.
    let printed = Rc::new(Cell::new(0));
    place.with_client(async |client| {
        let (printed, done) = (printed.clone(), tokio::sync::Notify::new());
        let printer = Rc::new(Printer { format: args.format, printed: printed.clone(), done });
        let mut request = client.brood.events_request();
        request.get().set_sink(capnp_rpc::new_client_from_rc(printer.clone()));
        let mut fields = request.get().init_request();
        fields.set_since(since.unwrap_or(1).max(1));
        fields.set_after_seq(printed.get());
        fields.set_follow(args.follow);
        fields.set_id(args.id.as_deref().unwrap_or_default());
        let response = request.send().promise.await.map_err(ClientError::from)?;
        let subscription = response.get()?.get_subscription()?;
        let lost = connection_lost(&client);
        tokio::select! {
            () = printer.done.notified() => {}
            error = lost => return Err(error.into()),
        }
        drop(subscription);
        Ok(ExitCode::SUCCESS)
    })
}

/// Resolves when the connection breaks: a follower would otherwise wait for ever.
async fn connection_lost(client: &crate::client::Client) -> ClientError {
    loop {
        tokio::time::sleep(SIGN_OF_LIFE).await;
        if let Err(error) = client.version().await {
            return error;
        }
    }
}

pub(super) fn version(place: &Place) -> anyhow::Result<ExitCode> {
    let client = format!("client  {} (api {})\n", env!("CARGO_PKG_VERSION"), rpc::API_VERSION);
    let daemon = place.try_with_line(async |line| {
        let Version { version, api, pid, reactor, zygotes } = line.client().version().await?;
        Ok(format!("daemon  {version} (api {api}), pid {pid}, {reactor}, {zygotes} zygotes\n"))
    })?;
    match daemon {
        Ok(daemon) => print(&(client + &daemon?)),
        // Asking for one's own version needs no daemon.
        Err(error) if place.host.is_none() && nobody_there(&error) => print(&(client + "daemon  not running\n")),
        Err(error) => Err(error.into()),
    }
}
