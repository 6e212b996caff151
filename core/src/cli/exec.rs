//! `exec`: one more process in a container of a daemon.

use std::process::ExitCode;

use brood_launcher::exec::parse_user;
use clap::Args;

use super::attached::{Job, attached, exec_once};
use super::run::{environment, random_name};
use super::{Place, print, terminal};
use crate::client::Exec;

#[derive(Args)]
pub(super) struct ExecArgs {
    /// Return when the program runs; its output goes to files in the state directory, and what is known of it is kept
    /// until `brood rm --exec`
    #[arg(short, long)]
    detach: bool,
    /// Give the process our standard input
    #[arg(short, long, conflicts_with = "detach")]
    interactive: bool,
    /// Give the process a terminal, with our own as the other end
    #[arg(short, long, conflicts_with = "detach")]
    tty: bool,
    /// Environment variable, in place of the container's own of that name
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Working directory [default: the container's own]
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// User, as UID or UID:GID [default: the container's own]
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Name of the exec [default: a random one]
    #[arg(long, value_name = "EXEC")]
    name: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    cap: Vec<String>,
    /// Go on without what this version does not support, with a warning
    #[arg(long)]
    ignore_unsupported: bool,
    /// Container ID
    #[arg(value_name = "ID")]
    id: String,
    /// Program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn exec(place: &Place, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let (uid, gid) = args.user.as_deref().map(parse_user).transpose()?.unzip();
    let exec = Exec {
        id: args.name.map_or_else(random_name, Ok)?,
        args: args.command,
        env: environment(&args.env)?,
        cwd: args.cwd.unwrap_or_default(),
        uid,
        gid: gid.flatten(),
        capabilities: args.cap,
        no_new_privileges: args.no_new_privs,
        terminal: args.tty.then(terminal::size),
        stdio: None,
        start: true,
        auto_remove: !args.detach,
        ignore_unsupported: args.ignore_unsupported,
    };
    let (id, detach, interactive) = (args.id, args.detach, args.interactive);
    if !detach {
        let tty = exec.terminal.is_some();
        let done = place.try_with_line(async |line| attached(line, Job::Exec(id, exec), tty, interactive).await)?;
        return done.unwrap_or_else(|error| Err(error.into()));
    }
    place.with_client(async |client| {
        exec_once(&client, &id, &exec).await?;
        print(&format!("{}\n", exec.id))
    })
}
