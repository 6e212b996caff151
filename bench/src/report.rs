//! What a run found: the table for people, the JSON file for programs.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::stats::Summary;

/// One run.
#[derive(Debug, Serialize)]
pub struct Contest {
    /// Where.
    pub machine: Machine,
    /// What was measured, in the plural.
    pub what: &'static str,
    /// Whether each container had a network namespace of its own.
    pub netns: bool,
    /// Measured launches of each contender.
    pub launches: u32,
    /// Launches before those.
    pub warmup: u32,
    /// Seed of the order within the rounds.
    pub seed: u64,
    /// Those that were measured.
    pub entries: Vec<Entry>,
    /// Those that were not, with the reason.
    pub absent: Vec<Absence>,
    /// Remarks, e.g. about help that a contender needed.
    pub notes: Vec<String>,
}

/// One contender's figures.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// As in `--only`.
    pub name: String,
    /// What it says it is.
    pub version: String,
    /// Order statistics.
    pub summary: Summary,
    /// Every measured launch, in order.
    pub samples_us: Vec<f64>,
}

/// Somebody without figures.
#[derive(Debug, Serialize)]
pub struct Absence {
    /// As in `--only`.
    pub name: String,
    /// Not installed, or how it failed.
    pub reason: String,
}

impl Contest {
    /// The median of a contender, when it was measured.
    pub fn median_us(&self, name: &str) -> Option<f64> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.summary.median_us)
    }

    /// A median as a multiple of the floor's.
    pub fn times_floor(&self, entry: &Entry) -> Option<f64> {
        self.median_us("floor").map(|floor| entry.summary.median_us / floor)
    }

    /// Each of ours against each peer, as `ours / peer = ratio of medians`.
    pub fn ratios(&self) -> Vec<(&str, &str, f64)> {
        let ours = self.entries.iter().filter(|entry| is_ours(&entry.name));
        ours.flat_map(|our| {
            let ratio = |peer| Some((our.name.as_str(), peer, our.summary.median_us / self.median_us(peer)?));
            ["crun", "runc"].into_iter().filter_map(ratio)
        })
        .collect()
    }
}

/// Whether a contender is Brood in one of its forms.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("brood")
}

/// The table, on stdout.
pub fn print_table(contest: &Contest) -> Result<()> {
    let mut out = io::stdout().lock();
    let netns = if contest.netns { "with" } else { "without" };
    writeln!(out, "{}", contest.machine.line())?;
    writeln!(
        out,
        "{} {} each after {} to warm up, interleaved, seed {}, {netns} network namespace; milliseconds\n",
        contest.launches, contest.what, contest.warmup, contest.seed
    )?;
    let width = contest.entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0).max(9);
    let rate = format!("{}/s", contest.what);
    let header = ["median", "p90", "p99", "min", &rate, "x floor"];
    write!(out, "{:width$}", "contender")?;
    for title in header {
        write!(out, " {title:>10}")?;
    }
    writeln!(out)?;
    for entry in &contest.entries {
        let Summary { median_us, p90_us, p99_us, min_us, launches_per_second, .. } = entry.summary;
        write!(out, "{:width$}", entry.name)?;
        for time in [median_us, p90_us, p99_us, min_us] {
            write!(out, " {:>10.2}", time / 1000.0)?;
        }
        let times = contest.times_floor(entry).map_or_else(|| "-".to_owned(), |times| format!("{times:.2}"));
        writeln!(out, " {launches_per_second:>10.0} {times:>10}")?;
    }
    writeln!(out)?;
    for (ours, peer, ratio) in contest.ratios() {
        writeln!(out, "{ours} / {peer} = {ratio:.2}")?;
    }
    for entry in &contest.entries {
        writeln!(out, "{}: {}", entry.name, entry.version)?;
    }
    for note in &contest.notes {
        writeln!(out, "note: {note}")?;
    }
    for Absence { name, reason } in &contest.absent {
        writeln!(out, "not measured: {name}: {reason}")?;
    }
    Ok(())
}

/// Everything, with all samples.
pub fn write_json(result: &impl Serialize, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut writer = BufWriter::new(file);
    serde_json::to_writer(&mut writer, result).with_context(|| format!("cannot write {}", path.display()))?;
    writer.flush().with_context(|| format!("cannot write {}", path.display()))
}
