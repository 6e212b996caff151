//! `brood-bench`: measures Brood, the bare-kernel floor and the OCI runtimes found on PATH in one interleaved run.
//!
//! Reading order: [`launch`] (the run), [`bundle`] (what is launched), [`contenders`] (by whom), [`floor`] (the least
//! that the kernel can be asked for), then [`stats`], [`report`] and [`chart`]. [`throughput`] and [`idle`] put a daemon
//! ([`daemon`]) under load by RPC ([`session`]). README.md says how to read the results.

mod bundle;
mod chart;
mod contenders;
mod daemon;
mod devices;
mod exec;
mod floor;
mod idle;
mod interrupt;
mod launch;
mod machine;
mod memory;
mod processes;
mod report;
mod scale;
mod seccomp;
mod session;
mod shuffle;
mod soak;
mod stats;
mod throughput;

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
    /// Launches per second when several are in flight on one RPC connection
    Throughput(throughput::Options),
    /// Time of one more process in a container that runs
    Exec(exec::Options),
    /// What idle containers cost: memory and descriptors of Brood's own processes
    Idle(idle::Options),
    /// What changes as a node fills with idle containers
    Scale(scale::Options),
    /// Many containers one after the other, and whether anything is left of them
    Soak(soak::Options),
    /// Time to compile and to install docker's default seccomp profile
    Seccomp(seccomp::Options),
    /// Time to put device rules in force on cgroup v2 and v1
    Devices(devices::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Launch(options) => launch::run(&options),
        Command::Throughput(options) => throughput::run(&options),
        Command::Exec(options) => exec::run(&options),
        Command::Idle(options) => idle::run(&options),
        Command::Scale(options) => scale::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Seccomp(options) => seccomp::run(&options),
        Command::Devices(options) => devices::run(&options),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("brood-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
