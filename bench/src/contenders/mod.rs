//! Who takes part: the trait, the list, and what all of them share about waiting for a process.

pub mod command;
pub mod hybrid;
mod rpc;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bundle::Bundle;
use crate::floor::Floor;
use crate::interrupt;
use command::{CommandContender, Form};
use rpc::RpcContender;

/// A launch that takes longer has gone wrong.
pub const LAUNCH_LIMIT: Duration = Duration::from_secs(30);
/// The same once the user has asked for the end.
const INTERRUPTED_LIMIT: Duration = Duration::from_secs(2);
/// How often a wait looks whether the user has.
const INTERRUPT_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// One way to launch the bundle.
///
/// `prepare`, then `launch_once` any number of times, then `finish`, which is called after a failure as well.
pub trait Contender {
    /// As in the table and in `--only`.
    fn name(&self) -> &'static str;

    /// What it is: a version, or a short description.
    fn version(&self) -> String;

    /// Remarks for the report, e.g. about help that it needed; asked for after `prepare`.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Gets ready and proves that a container really comes out.
    fn prepare(&mut self) -> Result<()>;

    /// Create, start, wait, clean up. Returns the time from the first thing done for this launch to the moment when
    /// nothing of it is left; fails unless the container's exit status was 0.
    fn launch_once(&mut self) -> Result<Duration>;

    /// Leaves nothing behind.
    fn finish(&mut self) -> Result<()>;
}

/// The contenders of this run, and the names of those that are not here with the reason.
pub struct Field {
    /// Those that can be measured, in the order of the table.
    pub present: Vec<Box<dyn Contender>>,
    /// Name and reason.
    pub absent: Vec<(&'static str, String)>,
}

/// Finds everybody. The paths override where our own binaries are looked for: beside this executable.
pub fn find(bundle: &Rc<Bundle>, brood: Option<&Path>, brood_oci: Option<&Path>) -> Result<Field> {
    let mut field = Field { present: vec![Box::new(Floor::new(Rc::clone(bundle)))], absent: Vec::new() };
    let (brood, brood_oci) = (ours("brood", brood), ours("brood-oci", brood_oci));
    match &brood {
        Ok(program) => field.present.push(Box::new(RpcContender::new(program.clone(), Rc::clone(bundle)))),
        Err(reason) => field.absent.push((rpc::NAME, format!("{reason:#}"))),
    }
    let brood = || brood.as_ref().map(PathBuf::clone).map_err(|reason| anyhow!("{reason:#}"));
    let commands = [
        ("brood run (command)", Form::Client, brood()),
        ("brood run (embedded)", Form::Embedded, brood()),
        ("brood-oci", Form::Oci, brood_oci),
        ("runc", Form::Oci, on_path("runc").context("not on PATH")),
        ("crun", Form::Oci, on_path("crun").context("not on PATH")),
    ];
    for (name, form, program) in commands {
        match program {
            Ok(program) => {
                let contender = CommandContender::new(name, form, program, Rc::clone(bundle));
                field.present.push(Box::new(contender));
            }
            Err(reason) => field.absent.push((name, reason.to_string())),
        }
    }
    Ok(field)
}

/// A contender's name as `--only` takes it, without what a shell would interpret: `brood run (embedded)` is
/// `brood-run-embedded`.
pub fn key(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

/// One of our own binaries: the one that the user names, or the one beside this executable.
pub fn ours(name: &str, named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe().context("cannot find out where this executable is")?.with_file_name(name),
    };
    existing(&path).with_context(|| format!("{} does not exist", path.display()))
}

fn existing(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_path_buf())
}

/// A program on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|directory| existing(&directory.join(name)))
}

/// Waits until the process behind the pidfd is a zombie. Fails when it takes too long; the caller then ends it.
pub fn wait_for_exit(pidfd: BorrowedFd<'_>, started: Instant) -> Result<()> {
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&INTERRUPT_CHECK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error).context("cannot wait for a pidfd"),
        }
        let limit = if interrupt::requested() { INTERRUPTED_LIMIT } else { LAUNCH_LIMIT };
        if started.elapsed() > limit {
            bail!("no end after {} s", limit.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_needs_no_quotes() {
        assert_eq!(super::key("brood run (embedded)"), "brood-run-embedded");
        assert_eq!(super::key("brood (RPC)"), "brood-rpc");
        assert_eq!(super::key("brood-oci"), "brood-oci");
    }
}
