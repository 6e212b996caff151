//! The daemon's side of the RPC surface (`schema/brood.capnp`). The only module that knows Cap'n Proto RPC, together
//! with [`crate::client`].
//!
//! `brood`, `container` and `process` implement the handles, `events` the subscriptions, `oneshot` the captured runs, `stdio`
//! the hand-over of descriptors; `convert` and `exec` are where schema types become ours and back.

mod brood;
mod container;
mod convert;
mod events;
mod exec;
mod handle;
mod oneshot;
mod process;
mod resources;
mod stdio;

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use brood_schema::brood_capnp;
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use tokio::io::{BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

pub(crate) use convert::{exit_from, failure_from, labels_from};

use crate::limits::{CONNECTIONS_MAX, RPC_TRAVERSAL_WORDS_MAX};
use crate::socket;
use crate::supervisor::Supervisor;

/// Counts changes of the schema.
pub const API_VERSION: u32 = 3;
/// Bytes read from and written to a connection at a time.
const BUFFER_BYTES: usize = 16 * 1024;

/// Limits on what a peer may make us read.
#[must_use]
pub fn reader_options() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(RPC_TRAVERSAL_WORDS_MAX));
    options
}

/// The two halves of a connection as the RPC system wants them.
pub type Network = twoparty::VatNetwork<tokio_util::compat::Compat<BufReader<tokio::net::unix::OwnedReadHalf>>>;

/// Puts a connection under the RPC system.
#[must_use]
pub fn network(stream: UnixStream, side: Side) -> Network {
    let (reader, writer) = stream.into_split();
    let reader = BufReader::with_capacity(BUFFER_BYTES, reader).compat();
    let writer = BufWriter::with_capacity(BUFFER_BYTES, writer).compat_write();
    twoparty::VatNetwork::new(reader, writer, side, reader_options())
}

/// Serves both sockets from now on.
///
/// # Errors
/// A socket cannot be put under the loop.
pub fn listen(supervisor: &Rc<Supervisor>, rpc: OwnedFd, stdio: OwnedFd) -> std::io::Result<()> {
    let tickets = stdio::Tickets::listen(stdio, supervisor.root().join(socket::STDIO))?;
    rustix::io::ioctl_fionbio(&rpc, true)?;
    let listener = UnixListener::from_std(rpc.into())?;
    tokio::task::spawn_local(accept(supervisor.clone(), listener, tickets));
    Ok(())
}

async fn accept(supervisor: Rc<Supervisor>, listener: UnixListener, tickets: Rc<stdio::Tickets>) {
    let connections = Rc::new(Cell::new(0usize));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: the connection waits in the backlog until there are some.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        if connections.get() >= CONNECTIONS_MAX {
            tracing::warn!(limit = CONNECTIONS_MAX, "too many connections; one is closed");
            continue;
        }
        let bootstrap: brood_capnp::brood::Client = match socket::peer_allowed(stream.as_fd()) {
            Ok((true, _)) => capnp_rpc::new_client(brood::BroodServer::new(supervisor.clone(), tickets.clone())),
            Ok((false, uid)) => {
                tracing::warn!(uid, "refused a connection: only root and the daemon's own user may use it");
                refusal(&format!("uid {uid} may not use this daemon"))
            }
            Err(errno) => refusal(&format!("cannot tell who you are: {errno}")),
        };
        connections.set(connections.get() + 1);
        let (system, connections) =
            (RpcSystem::new(Box::new(network(stream, Side::Server)), Some(bootstrap.client)), connections.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = system.await {
                tracing::debug!(%error, "connection");
            }
            connections.set(connections.get() - 1);
        });
    }
}

/// A bootstrap whose every call fails with this reason.
fn refusal(reason: &str) -> brood_capnp::brood::Client {
    let error = capnp::Error::failed(reason.to_owned());
    capnp_rpc::new_future_client(std::future::ready(Err::<brood_capnp::brood::Client, _>(error)))
}
