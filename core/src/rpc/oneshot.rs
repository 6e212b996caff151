//! `Brood.run` and `Container.execSync`: one container, or one exec, from beginning to end, its output captured. What is
//! kept of the output is bounded (CVE-2022-31030).

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use brood_launcher::plan::Stdio;
use brood_launcher::state::ExitRecord;
use brood_schema::brood_capnp as schema;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::brood::invalid;
use super::convert::{put_exit, put_failure};
use super::meter::{Meter, Pool, Share};
use super::peer::Peer;
use crate::limits::{OUTPUT_LIMIT_DEFAULT, OUTPUT_LIMIT_MAX, OUTPUT_OWN_BYTES};
use crate::registry::{Failure, FailureKind, Instance, ProcessCommand, Reply};
use crate::supervisor::{Creation, ExecOrder, Order, StdioOrder, Supervisor};

/// How long a stream may stay open after the container is gone: somebody outside of it holds the other end.
const STRAGGLERS: Duration = Duration::from_secs(1);

pub(super) struct Settings {
    limit: usize,
    timeout: Option<Duration>,
    /// What all captures share.
    pool: Rc<Pool>,
}

impl Settings {
    /// 0 stands for the default, and for no timeout.
    pub(super) fn new(output_limit: u32, timeout_ms: u64, peer: &Peer) -> Result<Settings, Failure> {
        let limit = match output_limit as usize {
            0 => OUTPUT_LIMIT_DEFAULT,
            limit if limit <= OUTPUT_LIMIT_MAX => limit,
            limit => return Err(invalid(format!("outputLimit: {limit} is more than {OUTPUT_LIMIT_MAX}"))),
        };
        let timeout = Some(timeout_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        Ok(Settings { limit, timeout, pool: peer.commons.output.clone() })
    }
}

pub(super) struct Ran {
    id: String,
    exit: ExitRecord,
    timed_out: bool,
    stdout: Captured,
    stderr: Captured,
}

/// Kills the process when the caller goes away.
struct Abandoned {
    supervisor: Rc<Supervisor>,
    instance: Instance,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        // Refused when it has ended and is being removed, which is as good.
        drop(self.supervisor.ask(self.instance, ProcessCommand::Delete { force: true }));
    }
}

pub(super) async fn run(supervisor: &Rc<Supervisor>, mut order: Order, settings: Settings) -> Result<Ran, Failure> {
    if order.id.is_empty() {
        order.id = format!("run-{:016x}", unique());
    }
    capture(supervisor, order.id.clone(), settings, |stdio| {
        (order.stdio, order.start, order.auto_remove) = (StdioOrder::Fds(stdio), true, true);
        supervisor.begin(order)
    })
    .await
}

pub(super) async fn exec(
    supervisor: &Rc<Supervisor>,
    mut order: ExecOrder,
    settings: Settings,
) -> Result<Ran, Failure> {
    capture(supervisor, order.exec.id.clone(), settings, |stdio| {
        (order.stdio, order.exec.park, order.auto_remove) = (StdioOrder::Fds(stdio), false, true);
        supervisor.begin_exec(order)
    })
    .await
}

async fn capture(
    supervisor: &Rc<Supervisor>,
    id: String,
    settings: Settings,
    begin: impl FnOnce(Stdio) -> Creation,
) -> Result<Ran, Failure> {
    let _capturing = supervisor.capturing();
    let io_failure = |error: std::io::Error| Failure::new(FailureKind::Internal, format!("output pipe: {error}"));
    let (stdio, stdout, stderr) = pipes(&settings).map_err(io_failure)?;
    let (stdout, stderr) = (stdout.begin(), stderr.begin());

    let creation = begin(stdio);
    // From here on, wherever the caller goes away.
    let guard = creation.instance.map(|instance| Abandoned { supervisor: supervisor.clone(), instance });
    let (instance, mut exit) = creation.complete().await?;
    let mut timed_out = false;
    let reply = match settings.timeout {
        None => exit.await,
        Some(limit) => match tokio::time::timeout(limit, &mut exit).await {
            Ok(reply) => reply,
            Err(_) => {
                timed_out = true;
                drop(supervisor.ask(instance, ProcessCommand::Kill { signal: libc::SIGKILL, all: true }));
                exit.await
            }
        },
    };
    // The answer to this comes when the removal is complete: nothing is left when the caller hears of it.
    let removed = supervisor.ask(instance, ProcessCommand::Delete { force: true }).await;
    drop(guard);
    if let Reply::Refused(failure) = removed
        && failure.kind != FailureKind::NotFound
    {
        return Err(failure);
    }
    match reply {
        Reply::Exit(exit) => {
            Ok(Ran { id, exit, timed_out, stdout: stdout.finish().await, stderr: stderr.finish().await })
        }
        Reply::Refused(failure) => Err(failure),
        Reply::Created(_) | Reply::Done => Err(Failure::new(FailureKind::Internal, "a wait without an exit".into())),
    }
}

/// A number for a name that nobody has.
pub(super) fn unique() -> u64 {
    let mut bytes = [0; 8];
    // Cannot fail once the kernel is up; a clash would be refused as a taken name.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

fn pipes(settings: &Settings) -> std::io::Result<(Stdio, Capture, Capture)> {
    let capture = || -> std::io::Result<(OwnedFd, Capture)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        let pipe = pipe::Receiver::from_owned_fd(read)?;
        Ok((
            write,
            Capture { pipe, limit: settings.limit, room: Meter::new(&settings.pool, OUTPUT_OWN_BYTES, settings.limit) },
        ))
    };
    let stdin = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let ((stdout, first), (stderr, second)) = (capture()?, capture()?);
    Ok((Stdio { stdin, stdout, stderr }, first, second))
}

struct Capture {
    pipe: pipe::Receiver,
    limit: usize,
    room: Rc<Meter>,
}

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    truncated: bool,
    /// The room of the bytes, as long as they are there.
    room: Vec<Share>,
}

impl Capture {
    fn begin(self) -> Capturing {
        let captured = Rc::new(RefCell::new(Captured::default()));
        Capturing { task: tokio::task::spawn_local(self.read(captured.clone())), captured }
    }

    /// Reads to the end of file; beyond the limit it only reads, so that the process is never blocked.
    async fn read(mut self, captured: Rc<RefCell<Captured>>) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = self.pipe.read(&mut buffer).await {
            let mut captured = captured.borrow_mut();
            // Once something is missing nothing more is kept: there are no holes.
            let kept = if captured.truncated { 0 } else { length.min(self.limit - captured.bytes.len()) };
            match self.room.hold(kept) {
                Some(share) => {
                    captured.truncated |= length > kept;
                    captured.bytes.extend_from_slice(&buffer[..kept]);
                    captured.room.extend(Some(share).filter(|_| kept > 0));
                }
                None => captured.truncated = true,
            }
        }
    }
}

struct Capturing {
    task: tokio::task::JoinHandle<()>,
    captured: Rc<RefCell<Captured>>,
}

impl Capturing {
    /// What was read, once the stream ends or nobody of the container is left to write.
    async fn finish(mut self) -> Captured {
        let ended = tokio::time::timeout(STRAGGLERS, &mut self.task).await;
        let mut captured = self.captured.take();
        captured.truncated |= ended.is_err();
        captured
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn put(to: schema::run_outcome::Builder<'_>, from: &Result<Ran, Failure>) {
    match from {
        Ok(ran) => {
            let mut to = to.init_done();
            to.set_id(&ran.id);
            to.set_stdout(&ran.stdout.bytes);
            to.set_stderr(&ran.stderr.bytes);
            to.set_stdout_truncated(ran.stdout.truncated);
            to.set_stderr_truncated(ran.stderr.truncated);
            to.set_timed_out(ran.timed_out);
            put_exit(to.init_exit(), &ran.exit);
        }
        Err(failure) => put_failure(to.init_failure(), failure),
    }
}
