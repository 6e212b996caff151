//! Device rules: from config.json's list to a cgroup that has them in force, on cgroup v2 (a program) and v1 (lines).

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use brood_launcher::devices::program;
use clap::Args;

use crate::machine::Machine;
use crate::stats::micros;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Rounds; each puts rules in force in three new cgroups
    #[arg(short = 'n', long, default_value_t = 200)]
    rounds: usize,
    /// Directory of cgroup v2 to make cgroups in
    #[arg(long, default_value = "/sys/fs/cgroup/unified")]
    unified: PathBuf,
    /// Directory of the devices controller of cgroup v1
    #[arg(long, default_value = "/sys/fs/cgroup/devices")]
    controller: PathBuf,
}

/// Measures and prints a table.
///
/// # Errors
/// Without root, or without one of the directories.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.rounds > 0, "--rounds must be more than 0");
    let [mut compiles, mut loads, mut attaches, mut writes] = [const { Vec::new() }; 4];
    for round in 0..options.rounds {
        // No two rounds share a list: each list is new to the cache once.
        let allowed = serde_json::json!({ "allow": true, "type": "c", "major": 10, "minor": round, "access": "rwm" });
        let list = serde_json::from_value::<Vec<_>>(serde_json::json!([{ "allow": false, "access": "rwm" }, allowed]))?;
        let start = Instant::now();
        let rules = program(&list)?;
        compiles.push(micros(start.elapsed()));
        for samples in [&mut loads, &mut attaches] {
            samples.push(in_new_cgroup(&options.unified, |path| {
                let directory = File::open(path)?;
                let start = Instant::now();
                program(&list)?.apply_v2(directory.as_fd())?;
                Ok(micros(start.elapsed()))
            })?);
        }
        writes.push(in_new_cgroup(&options.controller, |path| {
            let start = Instant::now();
            rules.apply_v1(path)?;
            Ok(micros(start.elapsed()))
        })?);
    }
    report([
        ("compile", compiles),
        ("v2, load and attach", loads),
        ("v2, attach (cached)", attaches),
        ("v1, twelve lines", writes),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// A cgroup for one sample, gone afterwards.
fn in_new_cgroup(parent: &Path, sample: impl FnOnce(&Path) -> Result<f64>) -> Result<f64> {
    let path = parent.join(format!("brood-bench-devices-{}", std::process::id()));
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    let taken = sample(&path);
    fs::remove_dir(&path).with_context(|| path.display().to_string())?;
    taken
}

#[expect(clippy::print_stdout, reason = "the table is the program's output")]
fn report(rows: [(&str, Vec<f64>); 4]) {
    println!("{}", Machine::survey().line());
    println!("{:20} {:>12} {:>12}", "", "median us", "p90 us");
    for (name, mut samples) in rows {
        samples.sort_by(f64::total_cmp);
        println!("{name:20} {:>12.1} {:>12.1}", samples[samples.len() / 2], samples[samples.len() * 9 / 10]);
    }
}
