//! The roles in which our binary is started again, always from a sealed copy ([`brood_launcher::seal`]).

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

    /// Whether a process has this role, or is a child of one that has not come as far as its program.
    #[must_use]
    pub fn is_of(self, pid: i32) -> bool {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.split(|byte| *byte == 0).next() == Some(self.argv0().as_bytes())
    }

    /// The role that this argv\[0\] asks for; `None` for the command line.
    #[must_use]
    pub fn of(argv0: &std::ffi::OsStr) -> Option<Role> {
        Role::ALL.into_iter().find(|role| argv0 == role.argv0())
    }
}
