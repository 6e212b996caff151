//! A terminal for a program that wants one.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
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
