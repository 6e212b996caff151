//! Our own binary as a sealed memory file, and the roles in which it is started again.
//!
//! A process that is about to become a container runs our binary for a moment, and a hostile image can make it run
//! again inside the container (`#!/proc/self/exe`). Were that the file on disk, it could be overwritten from inside
//! (CVE-2019-5736). The copy is made once per daemon, not once per container.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};

/// What a process of ours is; `ps` shows it, and it is how the binary is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Parent and safety net of the supervisor.
    Keeper,
    /// Parent of the containers.
    Supervisor,
    /// Clones containers.
    Zygote,
}

impl Role {
    const ALL: [Role; 3] = [Role::Keeper, Role::Supervisor, Role::Zygote];

    /// The process's name: its argv\[0\].
    #[must_use]
    pub fn argv0(self) -> &'static str {
        match self {
            Role::Keeper => "brood: keeper",
            Role::Supervisor => "brood: supervisor",
            Role::Zygote => "brood: zygote",
        }
    }

    /// The role that this argv\[0\] asks for; `None` for the command line.
    #[must_use]
    pub fn of(argv0: &std::ffi::OsStr) -> Option<Role> {
        Role::ALL.into_iter().find(|role| argv0 == role.argv0())
    }
}

/// The sealed copy.
#[derive(Debug)]
pub struct SealedExe {
    /// `None`: this process runs from a sealed copy already.
    copy: Option<OwnedFd>,
}

impl SealedExe {
    /// Copies the running binary, unless it is a sealed copy itself.
    ///
    /// # Errors
    /// No memory, or /proc is missing.
    pub fn make() -> std::io::Result<SealedExe> {
        let file = std::fs::File::open("/proc/self/exe")?;
        let wanted = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        if rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(wanted)) {
            return Ok(SealedExe { copy: None });
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let copy = rustix::fs::memfd_create(c"brood", flags | MemfdFlags::EXEC).or_else(|errno| match errno {
            // MFD_EXEC is Linux 6.3; before it every memory file may be executed.
            rustix::io::Errno::INVAL => rustix::fs::memfd_create(c"brood", flags),
            errno => Err(errno),
        })?;
        let mut left = file.metadata()?.len() as usize;
        while left > 0 {
            match rustix::fs::sendfile(&copy, &file, None, left)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                sent => left -= sent,
            }
        }
        rustix::fs::fcntl_add_seals(&copy, wanted)?;
        Ok(SealedExe { copy: Some(copy) })
    }

    /// A path that execve(2) takes, in this process and in its forks.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.copy {
            Some(copy) => format!("/proc/self/fd/{}", copy.as_raw_fd()).into(),
            None => "/proc/self/exe".into(),
        }
    }
}
