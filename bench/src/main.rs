//! `brood-bench`: measures Brood, the bare-kernel floor and the OCI runtimes found on PATH in one interleaved run.
//!
//! Reading order: [`launch`] (the run), [`bundle`] (what is launched), [`contenders`] (by whom), [`floor`] (the least
//! that the kernel can be asked for), then [`stats`], [`report`] and [`chart`]. README.md says how to read the result.

mod bundle;
mod chart;
mod contenders;
mod floor;
mod interrupt;
mod launch;
mod machine;
mod report;
mod seccomp;
mod shuffle;
mod stats;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Brood against the bare kernel and against the OCI runtimes on PATH.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time from nothing to a container that ran /bin/true and is gone without a trace
    Launch(launch::Options),
    /// Time to compile and to install docker's default seccomp profile
    Seccomp(seccomp::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Launch(options) => launch::run(&options),
        Command::Seccomp(options) => seccomp::run(&options),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            eprintln!("brood-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
