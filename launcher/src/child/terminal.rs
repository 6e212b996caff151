//! The container's terminal: a pseudo-terminal of its own devpts.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize};

use super::mount::attach;
use super::target::open_or_make_path;
use super::{Child, Done, During, Failure};
use crate::plan::{FdIndex, TargetKind};
use crate::report::Op;
use crate::sys;

/// Sent with the master, since a message needs a byte; receivers take it for the terminal's name.
const NAME: &[u8] = b"/dev/ptmx";

/// `f_type` of devpts (linux/magic.h).
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;

impl Child<'_> {
    pub(super) fn terminal(
        &self,
        socket: FdIndex,
        size: (u16, u16),
        uid: u32,
        console: bool,
        keep_line_ends: bool,
    ) -> Done {
        let master = self.open_master()?;
        // By the master's own ioctl, not by name: /dev/pts/N could be swapped (CVE-2025-52565).
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).during(Op::OpenTerminal)?;
        let (ws_row, ws_col) = size;
        if size != (0, 0) {
            let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&master, size).during(Op::WindowSize)?;
        }
        if keep_line_ends {
            let mut modes = rustix::termios::tcgetattr(&slave).during(Op::TerminalModes)?;
            modes.output_modes.remove(OutputModes::ONLCR);
            rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes).during(Op::TerminalModes)?;
        }
        // The gid= of the devpts mount stays, and with it the group's right to write.
        rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).during(Op::Own)?;
        if console {
            self.bind_console(slave.as_fd())?;
        }
        for number in 0..3 {
            sys::dup_to(slave.as_fd(), number).during(Op::Duplicate)?;
        }
        rustix::process::ioctl_tiocsctty(&slave).during(Op::ControllingTerminal)?;
        send_master(self.fd(socket)?, master.as_fd()).during(Op::SendTerminal)?;
        self.close_the_rest_on_exec()
    }

    /// The multiplexer of the container's devpts. What an image put in its place is looked at before it is believed.
    fn open_master(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let master = rustix::fs::openat2(self.root()?, c"/dev/pts/ptmx", flags, Mode::empty(), resolve);
        let master = master.during(Op::OpenTerminal)?;
        let stat = rustix::fs::fstat(&master).during(Op::OpenTerminal)?;
        let is_multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(5, 2)
            && rustix::fs::fstatfs(&master).during(Op::OpenTerminal)?.f_type == DEVPTS_SUPER_MAGIC;
        if !is_multiplexer {
            return Err(Failure { op: Op::WrongObject, errno: Errno::NODEV });
        }
        rustix::fs::fcntl_setfl(&master, OFlags::empty()).during(Op::OpenTerminal)?;
        rustix::pty::unlockpt(&master).during(Op::OpenTerminal)?;
        Ok(master)
    }

    /// A link in place of /dev/console is not followed: it would make a file elsewhere (CVE-2026-88264).
    fn bind_console(&self, slave: BorrowedFd<'_>) -> Done {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = rustix::mount::open_tree(slave, c"", flags).during(Op::CloneMount)?;
        let place = open_or_make_path(self.root()?, c"/dev/console", TargetKind::File, OFlags::empty(), true)?;
        attach(mount.as_fd(), place.as_fd())
    }
}

fn send_master(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[IoSlice::new(NAME)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}
