//! Seccomp: from docker's default profile to a program, and that program into the kernel.
//!
//! The kernel runs a filter once for every system call number when it is installed, so the program's shape is paid for
//! at every launch. With the feature `seccomp-oracle` libseccomp's two shapes are measured beside ours, in turn.
#![expect(unsafe_code, reason = "the child that installs a filter is forked, and must not allocate")]

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use brood_launcher::seccomp::{Cache, Instruction, compile, install};
use clap::Args;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::machine::Machine;
use crate::stats::micros;

#[path = "../../launcher/tests/seccomp/docker.rs"]
pub mod docker;
#[cfg(feature = "seccomp-oracle")]
#[path = "../../launcher/tests/seccomp/reference.rs"]
mod reference;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Rounds; each compiles and installs every program once
    #[arg(short = 'n', long, default_value_t = 200)]
    rounds: usize,
}

/// Someone who makes a program of the profile.
struct Contender<'p> {
    name: &'static str,
    compile: Box<dyn FnMut() -> Result<Vec<Instruction>> + 'p>,
    compiles: Vec<f64>,
    installs: Vec<f64>,
    instructions: usize,
}

impl<'p> Contender<'p> {
    fn new(name: &'static str, compile: impl FnMut() -> Result<Vec<Instruction>> + 'p) -> Self {
        let compile = Box::new(compile);
        Self { name, compile, compiles: Vec::new(), installs: Vec::new(), instructions: 0 }
    }
}

/// Measures and prints a table.
///
/// # Errors
/// Without the profile, and when the kernel refuses a program.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.rounds > 0, "--rounds must be more than 0");
    let profile = docker::default_profile(docker::ORDINARY);
    let mut cache = Cache::default();
    let mut contenders = vec![
        Contender::new("brood", || Ok(compile(&profile)?.program)),
        Contender::new("brood, cached", || Ok(cache.get(&profile)?.program.clone())),
    ];
    #[cfg(feature = "seccomp-oracle")]
    for (name, optimize) in [("libseccomp, linear", 1), ("libseccomp, tree", 2)] {
        let profile = &profile;
        contenders.push(Contender::new(name, move || Ok(reference::program(profile, optimize))));
    }
    for _ in 0..options.rounds {
        for contender in &mut contenders {
            let start = Instant::now();
            let program = (contender.compile)()?;
            contender.compiles.push(micros(start.elapsed()));
            contender.instructions = program.len();
            contender.installs.push(micros(install_in_child(&program)?));
        }
    }
    report(&mut contenders);
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the table is the program's output")]
fn report(contenders: &mut [Contender<'_>]) {
    println!("{}", Machine::survey().line());
    println!("{:20} {:>12} {:>12} {:>12} {:>12}", "", "instructions", "compile us", "install us", "p90 us");
    for Contender { name, compiles, installs, instructions, .. } in contenders {
        compiles.sort_by(f64::total_cmp);
        installs.sort_by(f64::total_cmp);
        let (compile, median) = (compiles[compiles.len() / 2], installs[installs.len() / 2]);
        let p90 = installs[installs.len() * 9 / 10];
        println!("{name:20} {instructions:>12} {compile:>12.1} {median:>12.1} {p90:>12.1}");
    }
}

/// How long seccomp(2) takes, in a child that then ends: a filter cannot be taken off again.
fn install_in_child(program: &[Instruction]) -> Result<Duration> {
    let (answer, tell) = pipe_with(PipeFlags::CLOEXEC).context("pipe")?;
    // SAFETY: this process has one thread, and the child only makes system calls.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => {
            let start = Instant::now();
            let installed = install(program, 0).is_ok();
            let took = start.elapsed();
            let nanoseconds = if installed { took.as_nanos() as u64 } else { 0 };
            let told = rustix::io::write(&tell, &nanoseconds.to_ne_bytes());
            // SAFETY: _exit runs no handlers.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut nanoseconds = [0; 8];
            let read = File::from(answer).read_exact(&mut nanoseconds);
            waitpid(child, None).context("waitpid")?;
            read.context("the child that installs the filter said nothing")?;
            match u64::from_ne_bytes(nanoseconds) {
                0 => bail!("the kernel refuses the filter; it must be installed as root"),
                nanoseconds => Ok(Duration::from_nanos(nanoseconds)),
            }
        }
    }
}
