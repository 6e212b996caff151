//! Unix sockets at paths of any length.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Makes a socket and has something done with it and its address. `sun_path` holds 108 bytes only (unix(7)), so a longer
/// path goes by its directory's descriptor.
///
/// # Errors
/// As socket(2), as open(2) for the directory, and what `act` says.
pub fn at(
    path: &Path,
    kind: SocketType,
    act: impl FnOnce(&OwnedFd, &SocketAddrUnix) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let (_directory, address) = address(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    act(&socket, &address)?;
    Ok(socket)
}

/// Connects to a socket.
///
/// # Errors
/// As connect(2): ENOENT or ECONNREFUSED when nobody is there, EACCES when it is not ours to use.
pub fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd, Errno> {
    at(path, kind, |socket, address| rustix::net::connect(socket, address))
}

/// The descriptor must stay open as long as the address is used.
fn address(path: &Path) -> Result<(Option<OwnedFd>, SocketAddrUnix), Errno> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok((None, address));
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((Some(directory), SocketAddrUnix::new(&short)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for folder in [temp.path(), &deep] {
            let path = folder.join("socket");
            assert_eq!(connect(&path, SocketType::STREAM).unwrap_err(), Errno::NOENT);
            let listening = at(&path, SocketType::STREAM, |socket, address| {
                rustix::net::bind(socket, address)?;
                rustix::net::listen(socket, 1)
            });
            connect(&path, SocketType::STREAM).unwrap();
            drop(listening.unwrap());
            assert_eq!(connect(&path, SocketType::STREAM).unwrap_err(), Errno::CONNREFUSED);
        }
    }
}
