//! What keeper and supervisor say to each other: JSON, one message per packet of a SEQPACKET socket.
//!
//! | message | direction | meaning |
//! | --- | --- | --- |
//! | `{"exit": {...}}` | to the supervisor | a process that the keeper inherited has ended |
//! | the same | to the keeper | it has ended, and that cannot be written down now: to be kept like one's own |
//! | `{"synced": true}` | to the supervisor | these were all exits that are kept |
//! | `{"sync": true}` | to the keeper | reap what has ended, tell of it, then say `synced` again |
//! | `{"ready": true}` | to the keeper | it listens; start-up has succeeded |
//! | `{"recorded": [pid, start time]}` | to the keeper | that exit is durable and need not be kept |

use std::os::fd::OwnedFd;

use brood_launcher::state::ExitRecord;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};

/// Longest message.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How an inherited process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptExit {
    /// Its pid, by now free again.
    pub pid: i32,
    /// Tells it apart from later ones with the same pid.
    pub start_time: u64,
    /// The exit.
    pub exit: ExitRecord,
}

/// A message in either direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// In either direction.
    Exit(KeptExit),
    /// To the supervisor.
    Synced(bool),
    /// To the keeper.
    Sync(bool),
    /// To the keeper.
    Ready(bool),
    /// To the keeper: pid and start time.
    Recorded((i32, u64)),
}

pub(super) fn send(socket: &OwnedFd, message: &Message) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).unwrap_or_default();
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL).map(drop)
}

/// The next message; `None` at the end of file. EAGAIN when there is none on a non-blocking socket.
pub(super) fn receive(socket: &OwnedFd) -> Result<Option<Message>, Errno> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
        Ok((0, _)) | Err(Errno::CONNRESET) => Ok(None),
        Ok((length, _)) => serde_json::from_slice(&buffer[..length]).map(Some).map_err(|_| Errno::PROTO),
        Err(errno) => Err(errno),
    }
}
