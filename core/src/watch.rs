//! Descriptors under the loop: the one place where tokio is handed a raw registration.

#![expect(unsafe_code, reason = "AsyncFd::register asks that the descriptor outlives the registration")]

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Puts a descriptor under the loop. It should be non-blocking; must be called inside the runtime.
///
/// # Errors
/// The epoll set refuses it.
pub fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd that the AsyncFd owns stays open until the AsyncFd, registration first, is dropped.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(std::io::Error::from)
}
