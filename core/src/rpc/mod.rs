//! The daemon's side of the RPC surface (`schema/brood.capnp`). The only module that knows Cap'n Proto RPC, together
//! with [`crate::client`].
//!
//! `brood`, `container` and `process` implement the handles, `events` the subscriptions, `oneshot` the captured runs, `stdio`
//! the hand-over of descriptors; `convert` and `exec` are where schema types become ours and back.
//!
//! A connection, from the outside in: `connection` accepts it, `link` reads its messages, `gate` says which ones pass, `peer`
//! keeps account of what the client holds, in the units of `meter`.

mod brood;
mod connection;
mod container;
mod convert;
mod events;
mod exec;
mod gate;
mod handle;
mod link;
mod meter;
mod oneshot;
mod peer;
mod process;
mod resources;
mod stdio;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty;
use tokio::io::{BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

pub use connection::Door;
pub(crate) use convert::{checkpoint_from, exit_from, failure_from, labels_from, put_checkpoint};
pub(crate) use stdio::TAKEN;

use crate::limits::RPC_TRAVERSAL_WORDS_MAX;
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

/// Puts a client's end of a connection under the RPC system.
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
    let door = Door::new(supervisor, stdio)?;
    rustix::io::ioctl_fionbio(&rpc, true)?;
    let listener = UnixListener::from_std(rpc.into())?;
    tokio::task::spawn_local(connection::accept(door, listener));
    Ok(())
}
