//! Terminals and sockets that callers name: the console socket, the pidfd socket, and a terminal of our own caller's.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use brood_launcher::plan::{Plan, Step};
use brood_launcher::zygote::frame;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use rustix::termios::{OptionalActions, Termios};

use crate::signals::Source;

/// Connects to a socket that waits for a descriptor.
pub fn connect(option: &str, path: &Path) -> anyhow::Result<OwnedFd> {
    let connected = brood_launcher::socket::connect(path, SocketType::STREAM).map_err(std::io::Error::from);
    connected.with_context(|| format!("{option} {}", path.display()))
}

/// Sends a descriptor, with its name as the message that it needs.
pub fn send(socket: BorrowedFd<'_>, name: &str, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[IoSlice::new(name.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Who gets the master of a container's terminal.
pub enum Console {
    /// There is no terminal, or the caller's socket gets it.
    None,
    /// We: our end of the pair whose other end the child gets.
    Ours(OwnedFd),
}

impl Console {
    /// The child's socket, if a terminal was asked for. As runc: whoever detaches must have named a socket, and a socket
    /// without a use is a mistake.
    pub fn open(terminal: bool, detached: bool, socket: Option<&Path>) -> anyhow::Result<(Console, Option<OwnedFd>)> {
        match (terminal, detached, socket) {
            (true, true, None) => bail!("cannot allocate tty if brood-oci will detach without setting console socket"),
            (false, _, Some(_)) | (_, false, Some(_)) => {
                bail!("cannot use console socket if brood-oci will not detach or allocate tty")
            }
            (true, true, Some(path)) => Ok((Console::None, Some(connect("--console-socket", path)?))),
            (true, false, None) => {
                let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
                let (ours, childs) = pair.context("socketpair")?;
                Ok((Console::Ours(ours), Some(childs)))
            }
            (false, _, None) => Ok((Console::None, None)),
        }
    }

    /// A terminal that we carry is born with the size of our own, unless config.json gives it one, and leaves line ends to
    /// our own.
    pub fn fit(&self, plan: &mut Plan) {
        if !matches!(self, Console::Ours(_)) {
            return;
        }
        let own = rustix::termios::tcgetwinsize(rustix::stdio::stdin());
        for step in &mut plan.steps {
            if let Step::Terminal { rows, columns, keep_line_ends, .. } = step {
                *keep_line_ends = true;
                if let (Ok(own), (0, 0)) = (own, (*rows, *columns)) {
                    (*rows, *columns) = (own.ws_row, own.ws_col);
                }
            }
        }
    }

    /// The caller's side of a terminal, once the child has sent its master.
    pub fn relay(self) -> anyhow::Result<Option<Relay>> {
        match self {
            Console::Ours(socket) => {
                let mut fds = Vec::new();
                frame::receive_message(socket.as_fd(), &mut [0; 64], &mut fds).context("receive the terminal")?;
                fds.pop().context("the terminal did not come").and_then(Relay::new).map(Some)
            }
            Console::None => Ok(None),
        }
    }
}

/// Carries bytes between our caller's terminal and the container's.
pub struct Relay {
    master: OwnedFd,
    /// How our own terminal was, if we have one.
    before: Option<Termios>,
    /// What our input has given and the terminal has not taken.
    pending: Vec<u8>,
    input_ended: bool,
    output_ended: bool,
}

impl Relay {
    fn new(master: OwnedFd) -> anyhow::Result<Relay> {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // Line ends are its part: see `Console::fit`.
            raw.output_modes = before.output_modes;
            rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).context("terminal into raw mode")?;
        }
        rustix::io::ioctl_fionbio(&master, true).context("terminal")?;
        Ok(Relay { master, before, pending: Vec::new(), input_ended: false, output_ended: false })
    }

    /// What is to be waited for: our input and the container's output, unless they have ended.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let master = self.master.as_fd();
        // Nothing more is read before the terminal has taken what was.
        let input = match (self.pending.is_empty(), self.input_ended) {
            (false, _) => Some((Source::Room, master, PollFlags::OUT)),
            (true, false) => Some((Source::Input, rustix::stdio::stdin(), PollFlags::IN)),
            (true, true) => None,
        };
        let output = (!self.output_ended).then_some((Source::Output, master, PollFlags::IN));
        input.into_iter().chain(output)
    }

    /// Carries what is ready.
    pub fn carry(&mut self, ready: &[Source]) -> anyhow::Result<()> {
        if ready.contains(&Source::Output) {
            self.carry_output()?;
        }
        if ready.contains(&Source::Input) {
            self.read_input()?;
        }
        self.write_pending()?;
        Ok(())
    }

    /// The container's terminal gets the size of ours.
    pub fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn read_input(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) | Err(Errno::IO) => {
                self.input_ended = true;
                // Ctrl-D, which is how a terminal says that its input has ended.
                self.pending.push(4);
            }
            Ok(length) => self.pending.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).context("read standard input"),
        }
        Ok(())
    }

    /// Never waits: a terminal takes no more than its program reads, and the program may be dead.
    fn write_pending(&mut self) -> anyhow::Result<()> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.master, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(Errno::IO) => self.pending.clear(),
                Err(errno) => return Err(errno).context("write to the terminal"),
            }
        }
        Ok(())
    }

    fn carry_output(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.master, &mut buffer) {
            // EIO: the last user of the terminal has closed it.
            Ok(0) | Err(Errno::IO) => self.output_ended = true,
            Ok(length) => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(buffer.get(..length).unwrap_or_default()).context("write standard output")?;
                stdout.flush().context("write standard output")?;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).context("read from the terminal"),
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
