//! A process's terminal, and our caller's: bytes and sizes go from one to the other.
//!
//! The process makes the terminal and sends its master over a socket of ours; no daemon ever holds it. Two threads carry
//! the bytes, since our own descriptors are shared with whoever called us and must not be made non-blocking.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use brood_launcher::zygote::frame;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::termios::{OptionalActions, Termios};
use tokio::signal::unix::{SignalKind, signal};

/// How long the output may go on after the process has ended: another one holds the terminal.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// Rows and columns of our caller's terminal; zeros when there is none.
pub(super) fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(rustix::stdio::stdin()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// Where the master comes in.
pub(super) struct Console(OwnedFd);

impl Console {
    /// Our end, and the one for the process.
    pub(super) fn open() -> anyhow::Result<(Console, OwnedFd)> {
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.context("socketpair")?;
        Ok((Console(ours), theirs))
    }

    /// Begins to carry, once the process is set up and so has sent its master.
    pub(super) fn relay(self) -> anyhow::Result<Relay> {
        let mut fds = Vec::new();
        frame::receive_message(self.0.as_fd(), &mut [0; 64], &mut fds).context("receive the terminal")?;
        Relay::begin(Arc::new(fds.pop().context("the terminal did not come")?))
    }
}

/// Carries until it is finished; our caller's terminal is in raw mode as long as this lives.
pub(super) struct Relay {
    before: Option<Termios>,
    output: tokio::sync::oneshot::Receiver<()>,
    sizes: tokio::task::JoinHandle<()>,
}

impl Relay {
    fn begin(master: Arc<OwnedFd>) -> anyhow::Result<Relay> {
        let before = rustix::termios::tcgetattr(rustix::stdio::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let set = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw);
            set.context("terminal into raw mode")?;
        }
        let (done, output) = tokio::sync::oneshot::channel();
        let (reader, writer) = (master.clone(), master.clone());
        std::thread::spawn(move || {
            carry_output(&reader);
            let _ = done.send(());
        });
        // Blocked in a read it does not keep us from ending.
        std::thread::spawn(move || carry_input(&writer));
        let mut changes = signal(SignalKind::window_change()).context("SIGWINCH")?;
        let sizes = tokio::task::spawn_local(async move {
            loop {
                if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
                    let _ = rustix::termios::tcsetwinsize(&*master, size);
                }
                changes.recv().await;
            }
        });
        Ok(Relay { before, output, sizes })
    }

    /// After the process has ended: what it wrote is carried to the end.
    pub(super) async fn finish(mut self) {
        let _ = tokio::time::timeout(STRAGGLERS, &mut self.output).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.sizes.abort();
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

fn carry_output(master: &OwnedFd) {
    let (mut buffer, mut stdout) = ([0; 4096], std::io::stdout());
    loop {
        match rustix::io::read(master, &mut buffer) {
            // EIO: the last user of the terminal has closed it.
            Ok(0) => return,
            Ok(length) => {
                let written = stdout.write_all(buffer.get(..length).unwrap_or_default());
                if written.and_then(|()| stdout.flush()).is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn carry_input(master: &OwnedFd) {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => {
                // Ctrl-D, which is how a terminal says that its input has ended.
                let _ = rustix::io::write(master, &[4]);
                return;
            }
            Ok(length) => {
                let mut rest = buffer.get(..length).unwrap_or_default();
                while !rest.is_empty() {
                    match rustix::io::write(master, rest) {
                        Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                        Err(Errno::INTR) => {}
                        Err(_) => return,
                    }
                }
            }
        }
    }
}
