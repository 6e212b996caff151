//! `start.sock`: where a process that is set up waits for its start. The connection alone starts the program, and carries
//! its last reports. Until it is set up the socket has another name: whoever looks at the folder sees that it is being made.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::SocketType;

use super::StateError;
use crate::socket;

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

    /// Makes the socket, listening, to be announced.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn listen(&self) -> Result<OwnedFd, StateError> {
        let path = self.folder.join(EARLY_NAME);
        let listening = socket::at(&path, SocketType::SEQPACKET, |socket, address| {
            rustix::net::bind(socket, address)?;
            rustix::net::listen(socket, 1)
        });
        listening.map_err(|errno| StateError::Io { path, source: errno.into() })
    }

    /// Connects: this alone starts the program. What is read from the connection are its last reports.
    ///
    /// # Errors
    /// ENOENT: started already; ECONNREFUSED: gone.
    pub fn connect(&self) -> Result<OwnedFd, Errno> {
        socket::connect(&self.folder.join(NAME), SocketType::SEQPACKET)
    }

    /// Removes the socket: the program was started, or can be no more.
    pub fn remove(&self) {
        // Missing is what is wanted; any other reason will show when the folder is removed.
        for name in [NAME, EARLY_NAME] {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
    }
}
