//! `events`: the figures of a container at intervals, and a notice whenever it runs out of memory, as lines of JSON.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use brood_launcher::cgroup::{Cgroups, OomWatch};
use brood_launcher::state::{ContainerDir, INIT, Status, open_process};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::lifecycle::own_cgroups;
use crate::list::print_line;
use crate::runtime::Runtime;
use crate::stats::Stats;

#[derive(Args)]
pub struct EventsArgs {
    /// Container ID
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Time between statistics, such as 500ms or 1m30s
    #[arg(long, default_value = "5s", value_name = "DURATION", allow_hyphen_values = true)]
    interval: String,
    /// Print the statistics once
    #[arg(long)]
    stats: bool,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

pub fn events(runtime: &Runtime, args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let interval = duration(&args.interval).with_context(|| format!("--interval {:?}: no duration", args.interval))?;
    let dir = runtime.find(&args.id)?;
    ensure!(!interval.is_zero(), "duration interval must be greater than 0");
    if dir.status() == Status::Stopped {
        bail!("container with id {} is not running", args.id);
    }
    let cgroups = own_cgroups(&dir, &args.id, "tell its events")?;
    if args.stats {
        tell_stats(&args.id, &cgroups)?;
        return Ok(ExitCode::SUCCESS);
    }
    watch(&dir, &args.id, &cgroups, interval)
}

/// Until the container has ended, or nobody reads any more.
fn watch(dir: &ContainerDir, id: &str, cgroups: &Cgroups, interval: Duration) -> anyhow::Result<ExitCode> {
    let Some(init) = dir.process(INIT).read_pid().ok().and_then(open_process) else {
        bail!("container with id {id} is not running");
    };
    let mut memory = Memory::watch(cgroups)?;
    let mut next = Instant::now() + interval;
    loop {
        let mut poll = vec![PollFd::new(&init, PollFlags::IN)];
        if let Some(memory) = &memory {
            poll.push(PollFd::new(&memory.notices, memory.flags));
        }
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Err(Errno::INTR) => continue,
            polled => polled.context("wait for events")?,
        };
        let ended = !poll[0].revents().is_empty();
        let noticed = poll.get(1).is_some_and(|memory| !memory.revents().is_empty());
        // What killed it is told before the end is.
        if (noticed || ended) && memory.as_mut().is_some_and(|memory| memory.is_out(cgroups)) && !tell_oom(id)? {
            break;
        }
        if ended {
            break;
        }
        if Instant::now() >= next {
            next += interval;
            if !tell_stats(id, cgroups)? {
                break;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Notices of memory that ran out.
struct Memory {
    watch: OomWatch,
    notices: OwnedFd,
    flags: PollFlags,
    /// Known so far.
    kills: u64,
}

impl Memory {
    /// `None` when nobody counts the container's memory.
    fn watch(cgroups: &Cgroups) -> anyhow::Result<Option<Memory>> {
        let Some(watch) = cgroups.oom_watch() else { return Ok(None) };
        let (notices, flags) = match (&watch, watch.eventfd()?) {
            (_, Some(eventfd)) => (eventfd, PollFlags::IN),
            (OomWatch::Modified(path) | OomWatch::Eventfd(path), None) => {
                let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                (file.with_context(|| path.display().to_string())?, PollFlags::PRI)
            }
        };
        let mut memory = Memory { watch, notices, flags, kills: 0 };
        memory.arm();
        memory.kills = kills(cgroups);
        Ok(Some(memory))
    }

    /// Reads what there is, so that only what comes later wakes us. The number of v1's notices.
    fn arm(&self) -> u64 {
        let mut text = [0; 512];
        let read = match self.watch {
            OomWatch::Modified(_) => rustix::io::pread(&self.notices, &mut text, 0),
            OomWatch::Eventfd(_) => rustix::io::read(&self.notices, &mut text[..8]),
        };
        let number = text.first_chunk().copied().map(u64::from_ne_bytes).unwrap_or_default();
        if read == Ok(8) { number } else { 0 }
    }

    /// Whether memory ran out since we were asked last. v1 tells so before it kills, or where it must not kill; its notice
    /// that the cgroup is removed is none. v2 tells of other counters too, and its kills are counted.
    fn is_out(&mut self, cgroups: &Cgroups) -> bool {
        let notices = self.arm();
        if let OomWatch::Eventfd(directory) = &self.watch {
            return notices > 0 && directory.exists();
        }
        let kills = kills(cgroups);
        let more = kills > self.kills;
        self.kills = kills;
        more
    }
}

fn kills(cgroups: &Cgroups) -> u64 {
    cgroups.out_of_memory().unwrap_or_default().kills
}

/// False when nobody reads any more.
fn tell_oom(id: &str) -> anyhow::Result<bool> {
    print_line(&Event { r#type: "oom", id, data: None })
}

fn tell_stats(id: &str, cgroups: &Cgroups) -> anyhow::Result<bool> {
    print_line(&Event { r#type: "stats", id, data: Some(cgroups.stats().into()) })
}

/// As Go writes a duration: numbers with units, `1m30s`, `1.5h`, `100ms`. A negative one is zero.
fn duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    Some(if negative { Duration::ZERO } else { duration })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, expected) in [
            ("5s", Some(Duration::from_secs(5))),
            ("100ms", Some(Duration::from_millis(100))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("1.5h", Some(Duration::from_secs(5400))),
            ("+2us", Some(Duration::from_micros(2))),
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("-3s", Some(Duration::ZERO)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            ("5x", None),
            ("5s5", None),
            ("1e400s", None),
        ] {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }
}
