//! Connections: who gets one, and how it ends.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use brood_schema::brood_capnp;
use capnp_rpc::RpcSystem;
use futures::FutureExt;
use tokio::net::{UnixListener, UnixStream};

use super::brood::BroodServer;
use super::link::Link;
use super::peer::{Commons, Peer};
use super::stdio::Tickets;
use crate::complaint::Complaint;
use crate::limits::ACCEPT_PAUSE_MS;
use crate::socket;
use crate::supervisor::Supervisor;

/// Accepts for ever.
pub(super) async fn accept(door: Door, listener: UnixListener) {
    let deaf = Complaint::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                deaf.is_over();
                if let Some(served) = door.admit(stream) {
                    tokio::task::spawn_local(served);
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: the connection waits in the backlog until there are some.
                if let Some(silent) = deaf.now() {
                    tracing::warn!(%error, silent, "accept; trying again");
                }
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Where clients come in.
pub struct Door {
    supervisor: Rc<Supervisor>,
    tickets: Rc<Tickets>,
    commons: Rc<Commons>,
    crowded: Complaint,
    foreign: Complaint,
}

impl Door {
    /// A door to this supervisor, whose clients hand over descriptors at this socket.
    ///
    /// # Errors
    /// The socket cannot be put under the loop.
    pub fn new(supervisor: &Rc<Supervisor>, stdio: OwnedFd) -> std::io::Result<Door> {
        let tickets = Tickets::listen(stdio, supervisor.root().join(socket::STDIO))?;
        let (commons, crowded, foreign) = (Commons::new(), Complaint::default(), Complaint::default());
        Ok(Door { supervisor: supervisor.clone(), tickets, commons, crowded, foreign })
    }

    /// The service of one client, to its end; `None` when there is no place for it.
    pub fn admit(&self, stream: UnixStream) -> Option<impl Future<Output = ()> + use<>> {
        let stranger = socket::peer(stream.as_fd());
        let pid = stranger.as_ref().map_or(0, |stranger| stranger.pid);
        let Some(seat) = self.commons.seats.admit(pid) else {
            if let Some(silent) = self.crowded.now() {
                tracing::warn!(pid, silent, "too many connections; one is closed");
            }
            return None;
        };
        let bootstrap = match stranger {
            Ok(stranger) if stranger.allowed => Ok(()),
            Ok(stranger) => {
                if let Some(silent) = self.foreign.now() {
                    let uid = stranger.uid;
                    tracing::warn!(uid, silent, "refused a connection: only root and the daemon's own user may use it");
                }
                Err(format!("uid {} may not use this daemon", stranger.uid))
            }
            Err(errno) => Err(format!("cannot tell who you are: {errno}")),
        };
        let peer = Peer::new(&self.commons, Some(seat));
        let bootstrap = match bootstrap {
            Ok(()) => {
                let server = BroodServer::new(self.supervisor.clone(), self.tickets.clone(), peer.clone());
                capnp_rpc::new_client(server)
            }
            Err(reason) => refusal(reason),
        };
        let (reader, writer) = stream.into_split();
        Some(serve(Link::new(reader, writer, &peer), peer, bootstrap))
    }
}

/// A bootstrap whose every call fails with this reason.
fn refusal(reason: String) -> brood_capnp::brood::Client {
    let error = capnp::Error::failed(reason);
    capnp_rpc::new_future_client(std::future::ready(Err::<brood_capnp::brood::Client, _>(error)))
}

/// Serves a connection to its end.
async fn serve<R: tokio::io::AsyncRead + Unpin + 'static>(
    link: Link<R>,
    peer: Rc<Peer>,
    bootstrap: brood_capnp::brood::Client,
) {
    let system = RpcSystem::new(Box::new(link), Some(bootstrap.client));
    let disconnector = system.get_disconnector();
    tokio::select! {
        ended = system => if let Err(error) = ended {
            tracing::debug!(%error, "connection");
        },
        () = peer.is_over() => tracing::debug!("connection given up"),
    }
    // Takes apart what holds itself together, such as a call whose results go to a question that waits for it.
    drop(disconnector.now_or_never());
}
