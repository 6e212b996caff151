//! Who takes part: the trait, the list, and what all of them share about waiting for a process.

mod command;
mod hybrid;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bundle::Bundle;
use crate::floor::Floor;
use crate::interrupt;
use command::CommandContender;

/// A launch that takes longer has gone wrong.
const LAUNCH_LIMIT: Duration = Duration::from_secs(30);
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

/// Finds everybody. `brood_oci` overrides where brood-oci is looked for: beside this executable.
pub fn find(bundle: &Rc<Bundle>, brood_oci: Option<&Path>) -> Result<Field> {
    let mut field = Field { present: vec![Box::new(Floor::new(Rc::clone(bundle)))], absent: Vec::new() };
    let beside =
        std::env::current_exe().context("cannot find out where this executable is")?.with_file_name("brood-oci");
    let brood_oci = brood_oci.map_or(beside, Path::to_path_buf);
    let commands = [
        ("brood-oci", existing(&brood_oci).with_context(|| format!("{} does not exist", brood_oci.display()))),
        ("runc", on_path("runc").context("not on PATH")),
        ("crun", on_path("crun").context("not on PATH")),
    ];
    for (name, program) in commands {
        match program {
            Ok(program) => field.present.push(Box::new(CommandContender::new(name, program, Rc::clone(bundle)))),
            Err(reason) => field.absent.push((name, reason.to_string())),
        }
    }
    Ok(field)
}

fn existing(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_path_buf())
}

fn on_path(name: &str) -> Option<PathBuf> {
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
