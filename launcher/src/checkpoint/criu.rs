//! One `criu swrk` process and the conversation with it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use prost::Message;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::rpc::{Features, Kind, Notify, Opts, Request, Response};
use super::spawn::{self, SOCKET};
use super::{CheckpointError, CriuVersion, OLDEST_CRIU, Result, kernel};
use crate::zygote::frame;

/// Largest answer that is taken, in bytes; those of CRIU are some tens.
const ANSWER_BYTES_MAX: usize = 40 << 10;
/// Most of what CRIU wrote to standard error that is read.
const STDERR_BYTES_MAX: u64 = 4096;

/// A CRIU that waits for requests. Dropping it closes the connection, at which it ends.
#[derive(Debug)]
pub(super) struct Criu {
    socket: OwnedFd,
    child: Child,
    /// Until it has opened its log, that is where it complains.
    stderr: File,
    version: CriuVersion,
}

impl Criu {
    /// Starts it, with `fds` from [`Criu::FIRST_FD`] on, and makes sure that it is no older than [`OLDEST_CRIU`].
    pub(super) fn start(fds: &[BorrowedFd<'_>]) -> Result<Criu> {
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(kernel("socketpair"))?;
        let memory = rustix::fs::memfd_create(c"criu-stderr", MemfdFlags::CLOEXEC).map_err(kernel("memfd_create"))?;
        let stderr = File::from(memory);
        let mut command = Command::new(find_program("criu").ok_or(CheckpointError::NoCriu)?);
        // Standard input and output are ours: with --shell-job it looks for the caller's terminal there.
        command.arg("swrk").arg(SOCKET.to_string());
        command.stderr(stderr.try_clone().map_err(CheckpointError::Start)?);
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
        let all: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd()).chain(fds.iter().copied()).collect();
        let child = spawn::spawn(&mut command, &all).map_err(CheckpointError::Start)?;
        let mut criu = Criu { socket, child, stderr, version: CriuVersion(0, 0, 0) };
        drop((theirs, command));
        criu.version = criu.ask_version()?;
        criu.insist(OLDEST_CRIU, "this")?;
        Ok(criu)
    }

    /// The number at which CRIU has the first descriptor that [`Criu::start`] was given.
    pub(super) const FIRST_FD: i32 = SOCKET + 1;

    /// Its process number.
    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it is this version or a newer one.
    pub(super) fn is(&self, version: CriuVersion) -> bool {
        self.version >= version
    }

    /// Refuses an older one.
    pub(super) fn insist(&self, needed: CriuVersion, what: &'static str) -> Result<()> {
        if self.is(needed) { Ok(()) } else { Err(CheckpointError::TooOld { found: self.version, needed, what }) }
    }

    /// Refuses an option that needs a feature which CRIU or the kernel lacks.
    pub(super) fn insist_feature(&mut self, wanted: Features, what: &'static str) -> Result<()> {
        let request = Request {
            kind: Kind::FeatureCheck as i32,
            keep_open: Some(true),
            features: Some(wanted),
            ..Request::default()
        };
        self.send(&request)?;
        let (answer, _) = self.receive()?;
        let has = answer.features.unwrap_or_default();
        // An older CRIU says nothing of what it does not know, and runc lets that pass.
        let lacking = |wanted: Option<bool>, has: Option<bool>| wanted == Some(true) && has == Some(false);
        if !answer.success || lacking(wanted.mem_track, has.mem_track) || lacking(wanted.lazy_pages, has.lazy_pages) {
            return Err(CheckpointError::Lacks(what));
        }
        Ok(())
    }

    fn ask_version(&mut self) -> Result<CriuVersion> {
        let request = Request { kind: Kind::Version as i32, keep_open: Some(true), ..Request::default() };
        self.send(&request)?;
        let (answer, _) = self.receive()?;
        let version = answer.version.filter(|_| answer.success);
        let version = version.ok_or_else(|| CheckpointError::Protocol("no version".to_owned()))?;
        Ok(CriuVersion(version.major, version.minor, version.sublevel.unwrap_or(0)))
    }

    /// Has it do the work. `notified` is told of every point that it comes to, with the descriptors that came along; what
    /// it refuses CRIU undoes. An answer without success is the caller's to explain.
    pub(super) fn run(
        mut self,
        kind: Kind,
        opts: Opts,
        mut notified: impl FnMut(&Notify, Vec<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        self.send(&Request { kind: kind as i32, opts: Some(opts), ..Request::default() })?;
        loop {
            let (answer, fds) = self.receive()?;
            if answer.kind() != Kind::Notify || !answer.success {
                if answer.success && answer.kind() != kind {
                    return Err(CheckpointError::Protocol(format!("{:?} to {kind:?}", answer.kind())));
                }
                self.finish(kind)?;
                return Ok(answer);
            }
            let done = notified(&answer.notify.unwrap_or_default(), fds);
            let reply = Request { kind: Kind::Notify as i32, notify_success: Some(done.is_ok()), ..Request::default() };
            let sent = self.send(&reply);
            if done.is_err() {
                // It undoes what it did, and only then is it gone.
                while self.receive().is_ok() {}
                let _ = self.child.wait();
            }
            done.and(sent)?;
        }
    }

    /// Waits for its end. After a pre-dump it would take another request, and fails for want of one.
    fn finish(&mut self, kind: Kind) -> Result<()> {
        let status = self.hang_up().map_err(CheckpointError::Start)?;
        if status.success() || kind == Kind::PreDump {
            return Ok(());
        }
        // A failure that it has told of ends with a status too.
        if status.code().is_some() { Ok(()) } else { Err(CheckpointError::Protocol(format!("ended by {status}"))) }
    }

    fn hang_up(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        self.child.wait()
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        match rustix::net::send(&self.socket, &request.encode_to_vec(), SendFlags::NOSIGNAL) {
            // It is gone: what it said is on its standard error.
            Err(Errno::PIPE | Errno::CONNRESET) => Err(self.gone()),
            sent => sent.map(drop).map_err(kernel("send to criu")),
        }
    }

    fn receive(&mut self) -> Result<(Response, Vec<OwnedFd>)> {
        let (mut buffer, mut fds) = (vec![0; ANSWER_BYTES_MAX], Vec::new());
        let length = loop {
            match frame::receive_message(self.socket.as_fd(), &mut buffer, &mut fds) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(self.gone()),
                received => break received.map_err(kernel("receive from criu"))?,
            }
        };
        if length == 0 {
            return Err(self.gone());
        }
        let answer = Response::decode(buffer.get(..length).unwrap_or_default());
        Ok((answer.map_err(|error| CheckpointError::Protocol(error.to_string()))?, fds))
    }

    fn gone(&mut self) -> CheckpointError {
        let status = self.child.wait().map_or_else(|error| crate::state::io_text(&error), |status| status.to_string());
        let mut said = String::new();
        let read = self.stderr.seek(SeekFrom::Start(0));
        let read = read.and_then(|_| (&self.stderr).take(STDERR_BYTES_MAX).read_to_string(&mut said));
        let said = super::log::last_errors(if read.is_ok() { &said } else { "" });
        CheckpointError::Protocol(format!("end of file ({status}){said}"))
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // A child that was waited for is not waited for again.
        let _ = self.hang_up();
    }
}

/// A program along PATH, as runc finds CRIU.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs = |file: &PathBuf| {
        file.is_absolute() && file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(runs)
}
