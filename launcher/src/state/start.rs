//! `start.sock`: where a process that is set up waits for its start. The connection alone starts the program, and carries
//! its last reports. Until it is set up the socket has another name: whoever looks at the folder sees that it is being made.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::StateError;

/// Name of the socket in the folder of a container (for its init process) or of an exec.
const NAME: &str = "start.sock";
/// Its name until the process waits there.
const EARLY_NAME: &str = "early.sock";

/// A place to wait for a start; whether anybody waits there is for [`StartSocket::connect`] to find out.
#[derive(Clone, Debug)]
pub struct StartSocket {
    folder: PathBuf,
}

impl StartSocket {
    pub(super) fn in_folder(folder: &Path) -> StartSocket {
        StartSocket { folder: folder.to_owned() }
    }

    /// Whether it was made and not removed: the process has not been started.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folder.join(NAME).exists()
    }

    /// Whether it was made and not announced: the process is being set up.
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.folder.join(EARLY_NAME).exists()
    }

    /// The process waits there: from now on it can be started.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn announce(&self) -> Result<(), StateError> {
        let early = self.folder.join(EARLY_NAME);
        std::fs::rename(&early, self.folder.join(NAME)).map_err(|source| StateError::Io { path: early, source })
    }

    /// Makes the socket, listening, to be announced. It is bound by way of the folder's descriptor, since a container's ID
    /// alone may be longer than the 108 bytes of a socket address (unix(7)).
    ///
    /// # Errors
    /// The file system refuses.
    pub fn listen(&self) -> Result<OwnedFd, StateError> {
        self.with_address(EARLY_NAME, |socket, address| {
            rustix::net::bind(socket, address)?;
            rustix::net::listen(socket, 1)
        })
        .map_err(|errno| StateError::Io { path: self.folder.join(EARLY_NAME), source: errno.into() })
    }

    /// Connects: this alone starts the program. What is read from the connection are its last reports.
    ///
    /// # Errors
    /// ENOENT: started already; ECONNREFUSED: gone.
    pub fn connect(&self) -> Result<OwnedFd, Errno> {
        self.with_address(NAME, |socket, address| rustix::net::connect(socket, address))
    }

    /// Removes the socket: the program was started, or can be no more.
    pub fn remove(&self) {
        // Missing is what is wanted; any other reason will show when the folder is removed.
        for name in [NAME, EARLY_NAME] {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
    }

    fn with_address(
        &self,
        name: &str,
        act: impl FnOnce(&OwnedFd, &SocketAddrUnix) -> Result<(), Errno>,
    ) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.folder, flags, Mode::empty())?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        act(&socket, &address)?;
        Ok(socket)
    }
}
