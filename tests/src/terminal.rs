//! A terminal for a program that wants one, and the receiver of a container's.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// The user's end: keyboard and window.
#[derive(Debug)]
pub struct Terminal {
    master: File,
}

/// The program's end, while it is handed over. The program alone must hold it: when it goes, the terminal is at its
/// end.
pub(crate) struct Device {
    slave: OwnedFd,
}

impl Terminal {
    /// A new pair.
    pub(crate) fn open() -> (Self, Device) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("/dev/ptmx");
        grantpt(&master).expect("a fresh terminal");
        unlockpt(&master).expect("a fresh terminal");
        let name = ptsname(&master, Vec::new()).expect("a fresh terminal");
        let slave =
            open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("/dev/pts");
        let terminal = Self { master: master.into() };
        terminal.resize(24, 80);
        (terminal, Device { slave })
    }

    /// Types on it.
    ///
    /// # Panics
    /// When nobody is there any more.
    pub fn type_text(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).expect("somebody at the other end");
    }

    /// Changes the size of the window; the foreground process is told by SIGWINCH.
    ///
    /// # Panics
    /// When it is no terminal, which it is.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("a terminal");
    }

    /// Another descriptor of the user's end.
    pub(crate) fn reader(&self) -> OwnedFd {
        self.master.try_clone().expect("a free descriptor").into()
    }
}

impl Device {
    /// One of the program's three descriptors.
    pub(crate) fn stdio(&self) -> Stdio {
        self.slave.try_clone().expect("a free descriptor").into()
    }
}

/// Accepts one connection and takes the descriptor that comes on it, as whoever names a `--console-socket` does.
///
/// # Panics
/// When none comes.
#[must_use]
pub fn receive(listener: &UnixListener) -> OwnedFd {
    let (connection, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let got =
        rustix::net::recvmsg(&connection, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    assert!(got.unwrap().bytes > 0, "a message without a byte");
    let fds = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.expect("a descriptor")
}
