//! The daemon's sockets: `<root>/brood.sock` for RPC, `<root>/stdio.sock` for descriptors. Files of mode 0600 in a
//! directory of mode 0700, never abstract (CVE-2020-15257), and the peer's uid is checked on top.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use brood_launcher::state::StateRoot;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;

/// RPC.
pub const RPC: &str = "brood.sock";
/// Descriptors.
pub const STDIO: &str = "stdio.sock";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The two listening sockets.
#[derive(Debug)]
pub struct Listeners {
    /// Stream.
    pub rpc: OwnedFd,
    /// SEQPACKET.
    pub stdio: OwnedFd,
}

impl Listeners {
    /// Binds both, replacing what a dead daemon left. Call only with the lock held.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn bind(root: &StateRoot) -> anyhow::Result<Listeners> {
        Listeners::unlink(root);
        Ok(Listeners { rpc: bind(root, RPC, SocketType::STREAM)?, stdio: bind(root, STDIO, SocketType::SEQPACKET)? })
    }

    /// Removes the socket files.
    pub fn unlink(root: &StateRoot) {
        for name in [RPC, STDIO] {
            // Missing is what is wanted.
            let _ = std::fs::remove_file(root.path().join(name));
        }
    }
}

fn bind(root: &StateRoot, name: &str, kind: SocketType) -> anyhow::Result<OwnedFd> {
    let path = root.path().join(name);
    let bound = brood_launcher::socket::at(&path, kind, |socket, address| {
        // The mode is in place before anybody could connect: between bind and listen nobody can.
        rustix::net::bind(socket, address)?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o600))?;
        rustix::net::listen(socket, BACKLOG)
    });
    bound.map_err(|errno: Errno| std::io::Error::from(errno)).with_context(|| path.display().to_string())
}

/// One daemon per state root: the lock is held as long as the descriptor is open.
///
/// # Errors
/// Another daemon has it.
pub fn lock(root: &StateRoot) -> anyhow::Result<OwnedFd> {
    let path = root.path().join(brood_launcher::state::LOCK);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(std::io::Error::from);
    let file = file.with_context(|| path.display().to_string())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            anyhow::bail!("a daemon is already running on the state directory {}", root.path().display())
        }
        Err(errno) => Err(errno).with_context(|| path.display().to_string()),
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its user, when it connected.
    pub uid: u32,
    /// Its process, when it connected; 0 when that is in a pid namespace that we do not see.
    pub pid: i32,
    /// Whether it may use the daemon: root, or the user who runs it.
    pub allowed: bool,
}

/// Who is at the other end.
///
/// # Errors
/// The kernel does not tell.
pub fn peer(socket: BorrowedFd<'_>) -> Result<Stranger, Errno> {
    let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    let allowed = peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw();
    Ok(Stranger { uid: peer.uid(), pid: peer.pid(), allowed })
}

/// sd_notify(3): tells a service manager that the daemon is ready.
pub fn notify_ready() {
    notify("READY=1");
}

/// sd_notify(3)
pub fn notify(text: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> std::io::Result<()> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let bytes = address.as_encoded_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(Path::new(&address))?,
        };
        UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "NOTIFY_SOCKET");
    }
}
