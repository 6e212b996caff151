//! Hand-over of descriptors beside the RPC connection: tickets, and the socket at which they are filled.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use brood_launcher::plan::Stdio;
use brood_launcher::zygote::frame;
use brood_schema::brood_capnp as schema;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::brood::invalid;
use super::meter::{Census, Seat, Share};
use crate::complaint::Complaint;
use crate::limits::{
    ACCEPT_PAUSE_MS, MESSAGE_PATIENCE_S, STDIO_CONNECTIONS_MAX, STDIO_CONNECTIONS_PER_PROCESS_MAX, TICKET_LIFETIME_S,
    TICKETS_MAX,
};
use crate::registry::Failure;
use crate::socket;
use crate::supervisor::StdioOrder;
use crate::watch::watch;

/// Length of a ticket, bytes.
pub(crate) const TICKET_LEN: usize = 16;
/// What whoever hands descriptors over is answered when they are taken; else the number of an errno, or nothing.
pub(crate) const TAKEN: u8 = 1;
const LIFETIME: Duration = Duration::from_secs(TICKET_LIFETIME_S);

type Ticket = [u8; TICKET_LEN];

/// The tickets that are issued and not redeemed.
pub(super) struct Tickets {
    path: PathBuf,
    issued: RefCell<HashMap<Ticket, Issued>>,
}

struct Issued {
    at: Instant,
    stdio: Option<StdioOrder>,
    _share: Share,
}

impl Tickets {
    /// Serves the descriptor socket from now on.
    pub(super) fn listen(listener: OwnedFd, path: PathBuf) -> std::io::Result<Rc<Tickets>> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let tickets = Rc::new(Tickets { path, issued: RefCell::default() });
        let listener = watch(listener, Interest::READABLE)?;
        tokio::task::spawn_local(tickets.clone().accept(listener));
        Ok(tickets)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A new ticket, or the reason why there is none.
    pub(super) fn issue(&self, share: Share) -> Result<Ticket, String> {
        let mut issued = self.issued.borrow_mut();
        issued.retain(|_, ticket| ticket.at.elapsed() < LIFETIME);
        if issued.len() >= TICKETS_MAX {
            return Err(format!("more than {TICKETS_MAX} stdio tickets are in use"));
        }
        let mut ticket = [0; TICKET_LEN];
        let filled = rustix::rand::getrandom(&mut ticket, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(TICKET_LEN) {
            return Err("no random numbers for a ticket".to_owned());
        }
        issued.insert(ticket, Issued { at: Instant::now(), stdio: None, _share: share });
        Ok(ticket)
    }

    /// The descriptors that came under this ticket; it is void from now on.
    fn redeem(&self, ticket: &[u8]) -> Result<StdioOrder, String> {
        let ticket: &Ticket = ticket.try_into().map_err(|_| format!("stdio: a ticket has {TICKET_LEN} bytes"))?;
        let issued = self.issued.borrow_mut().remove(ticket).filter(|issued| issued.at.elapsed() < LIFETIME);
        let issued = issued.ok_or("stdio: unknown ticket, or it was used or is too old")?;
        issued.stdio.ok_or_else(|| "stdio: no descriptors were handed over under this ticket".to_owned())
    }

    /// Where a request wants the standard descriptors to come from. The outer error is a malformed message.
    pub(super) fn order(&self, request: schema::stdio::Reader<'_>) -> capnp::Result<Result<StdioOrder, Failure>> {
        Ok(match request.which()? {
            schema::stdio::File(()) => Ok(StdioOrder::File),
            schema::stdio::Null(()) => Ok(StdioOrder::Null),
            schema::stdio::Passed(ticket) => self.redeem(ticket?).map_err(invalid),
        })
    }

    async fn accept(self: Rc<Self>, listener: AsyncFd<OwnedFd>) {
        let seats = Census::new(STDIO_CONNECTIONS_MAX, STDIO_CONNECTIONS_PER_PROCESS_MAX);
        let (deaf, crowded) = (Complaint::default(), Complaint::default());
        while let Ok(mut guard) = listener.readable().await {
            match rustix::net::accept_with(listener.get_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) => {
                    deaf.is_over();
                    let Ok(peer) = socket::peer(connection.as_fd()) else { continue };
                    match seats.admit(peer.pid) {
                        Some(seat) if peer.allowed => {
                            drop(tokio::task::spawn_local(self.clone().fill(connection, seat)))
                        }
                        Some(_) => {}
                        None => {
                            if let Some(silent) = crowded.now() {
                                tracing::warn!(peer.pid, silent, "too many connections for descriptors; one is closed");
                            }
                        }
                    }
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => {
                    // Still ready: who waits in the backlog makes no new edge.
                    if let Some(silent) = deaf.now() {
                        tracing::warn!(%errno, silent, "accept descriptors; trying again");
                    }
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }

    /// One connection fills one ticket.
    async fn fill(self: Rc<Self>, connection: OwnedFd, _seat: Seat) {
        let Ok(connection) = watch(connection, Interest::READABLE) else { return };
        let filled = tokio::time::timeout(Duration::from_secs(MESSAGE_PATIENCE_S), self.receive(&connection)).await;
        let answer = match filled {
            Ok(Some(Ok(()))) => TAKEN,
            // Ours, most often that there is no number left for a descriptor: not the client's fault, who is to know.
            Ok(Some(Err(errno))) => u8::try_from(errno.raw_os_error()).unwrap_or(libc::EIO as u8),
            Ok(None) | Err(_) => return,
        };
        let _ = rustix::net::send(connection.get_ref(), &[answer], rustix::net::SendFlags::NOSIGNAL);
    }

    /// `None` when it is not what a client sends.
    async fn receive(&self, connection: &AsyncFd<OwnedFd>) -> Option<Result<(), Errno>> {
        let (mut buffer, mut fds) = ([0; TICKET_LEN], Vec::new());
        let length = loop {
            let mut guard = connection.readable().await.ok()?;
            match frame::receive_message(connection.get_ref().as_fd(), &mut buffer, &mut fds) {
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => return Some(Err(errno)),
                Ok(length) => break length,
            }
        };
        let stdio = match fds.len() {
            1 => StdioOrder::Terminal(fds.pop()?),
            _ => {
                let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).ok()?;
                StdioOrder::Fds(Stdio { stdin, stdout, stderr })
            }
        };
        let mut issued = self.issued.borrow_mut();
        let ticket = issued.get_mut(&buffer).filter(|_| length == TICKET_LEN)?;
        ticket.stdio = Some(stdio);
        Some(Ok(()))
    }
}
