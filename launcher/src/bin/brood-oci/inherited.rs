//! Descriptors that our caller left open for the container: `--preserve-fds` and socket activation (sd_listen_fds(3)).

use std::os::fd::{OwnedFd, RawFd};

use anyhow::Context;
use brood_launcher::sys;
use rustix::io::Errno;

/// The first number after standard error.
const FIRST: RawFd = 3;

/// Descriptors for the container, and what its environment says of them.
#[derive(Debug, Default)]
pub struct Inherited {
    /// In the order of their numbers from 3 on.
    pub fds: Vec<OwnedFd>,
    /// `LISTEN_FDS` and `LISTEN_PID`: the latter is 1, as the init process of a pid namespace sees itself.
    pub env: Vec<String>,
}

impl Inherited {
    /// Copies the first descriptors after 2: those of socket activation, if we were activated, and then up to `preserve` more. The
    /// last of these may be missing, as with crun; a gap could not be kept.
    pub fn take(preserve: u32) -> anyhow::Result<Inherited> {
        let listen = activated();
        let count = listen.unwrap_or(0).checked_add(preserve).context("--preserve-fds: too many")?;
        // No larger number is open.
        let numbers = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let (mut fds, mut missing) = (Vec::new(), None);
        for number in (FIRST..).take(u64::from(count).min(numbers) as usize) {
            match sys::inherited(number) {
                Err(Errno::BADF) if fds.len() >= listen.unwrap_or(0) as usize => missing = missing.or(Some(number)),
                fd => {
                    let of = missing.unwrap_or(number);
                    let fd = fd.and_then(|fd| if missing.is_some() { Err(Errno::BADF) } else { Ok(fd) });
                    fds.push(fd.with_context(|| format!("--preserve-fds: descriptor {of}"))?);
                }
            }
        }
        let env = listen.map_or_else(Vec::new, |count| vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
        Ok(Inherited { fds, env })
    }
}

fn activated() -> Option<u32> {
    let variable = |name| std::env::var(name).ok();
    let meant_for_us = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse().ok());
    count.filter(|count| meant_for_us && *count > 0)
}
