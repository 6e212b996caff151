//! `ps`: the processes of a container, as numbers or as ps(1) shows them.

use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use brood_launcher::state::Status;
use clap::Args;

use crate::lifecycle::own_cgroups;
use crate::list::{Format, print};
use crate::runtime::Runtime;

/// What ps(1) is asked for when nobody says anything else, as with runc.
const DEFAULT: &str = "-ef";

#[derive(Args)]
pub struct PsArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Container ID, and options of ps(1) for the table
    // One list: whatever follows the ID is not ours to understand.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "CONTAINER-ID [PS OPTIONS]"
    )]
    id_and_options: Vec<String>,
}

pub fn ps(runtime: &Runtime, args: &PsArgs) -> anyhow::Result<ExitCode> {
    let (id, options) = args.id_and_options.split_first().context("a CONTAINER-ID is needed")?;
    let (format, options) = format_after_id(args.format, options);
    let dir = runtime.find(id)?;
    let pids = match own_cgroups(&dir, id, "tell its processes")?.processes() {
        // Of a stopped container somebody else may have removed it.
        Err(_) if dir.status() == Status::Stopped => Vec::new(),
        pids => pids?,
    };
    match format {
        Format::Json => print(&format!("{}\n", serde_json::to_string(&pids)?)),
        Format::Table => print(&only(&pids, &table(options)?)?),
    }
}

/// `--format table|json` is ours after the ID too: of ps(1) it would mean columns, and it has none of these names.
fn format_after_id(format: Format, options: &[String]) -> (Format, &[String]) {
    let named = |name: &str| <Format as clap::ValueEnum>::from_str(name, false).ok();
    match options {
        [flag, name, rest @ ..] if flag == "--format" && named(name).is_some() => (named(name).unwrap_or(format), rest),
        [flag, rest @ ..] => match flag.strip_prefix("--format=").and_then(named) {
            Some(named) => (named, rest),
            None => (format, options),
        },
        [] => (format, options),
    }
}

/// What ps(1) says about the whole machine.
fn table(options: &[String]) -> anyhow::Result<String> {
    let default = [DEFAULT.to_owned()];
    let options = if options.is_empty() { &default } else { options };
    let output = Command::new("ps").args(options).output().context("ps")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason = reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        bail!("ps {}: {}: {reason}", options.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The title, and the lines about these processes.
fn only(pids: &[i32], table: &str) -> anyhow::Result<String> {
    let (title, lines) = table.split_once('\n').unwrap_or((table, ""));
    let column = title.split_whitespace().position(|name| name == "PID");
    let column = column.context("couldn't find PID field in ps output")?;
    let mut text = format!("{title}\n");
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let field = line.split_whitespace().nth(column).unwrap_or_default();
        // A thread or a header in between has "-" or a word there.
        let pid = field.parse::<i32>();
        ensure!(pid.is_ok() || field == "-", "ps: not a pid: {field:?}");
        if pid.is_ok_and(|pid| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_the_column_that_is_called_pid() {
        let table = "USER   PID STAT\nroot    12 S\n12      13 S\nx      140 S\n";
        assert_eq!(only(&[12, 140], table).unwrap(), "USER   PID STAT\nroot    12 S\nx      140 S\n");
        assert_eq!(only(&[], table).unwrap(), "USER   PID STAT\n");
        assert!(only(&[12], "USER STAT\nroot S\n").is_err());
        assert!(only(&[12], "USER PID\nroot x\n").is_err());
    }

    #[test]
    fn our_own_option_is_told_from_those_of_ps() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (given, json, left) in [
            ("--format json", true, 0),
            ("--format=json", true, 0),
            ("--format table -ef", false, 1),
            ("--format pid,args", false, 2),
            ("-o pid", false, 2),
        ] {
            let given = words(given);
            let (format, rest) = format_after_id(Format::Table, &given);
            assert_eq!((format == Format::Json, rest.len()), (json, left), "{given:?}");
        }
    }
}
