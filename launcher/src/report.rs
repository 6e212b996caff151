//! What a child tells about its way to execve: fixed 8-byte records on a close-on-exec descriptor.
//!
//! ```text
//! launched without park:   Execing, end of file                     the program runs
//! before either, questions: Asked, whereupon the reader writes one byte
//! created, then started:   Ready, end of file | (on the connection of `start`) Execing, end of file
//! a step failed:           ... Failed { step, op, errno }, end of file
//! a hook failed:           ... Said, Said, ..., Failed { step, op, errno }, end of file
//! killed on the way:       end of file without Execing or Ready
//! ```
//!
//! A record is smaller than `PIPE_BUF`, so it is written whole or not at all, and the child needs no buffer for it.

use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;

use crate::config::one_line;
use crate::plan::{Plan, Step, Target};

/// Length of an encoded [`Report`], bytes.
pub const REPORT_LEN: usize = 8;

/// One record from the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Set up to the last step, now waiting for `start`.
    Ready,
    /// The next system call is execve(2); end of file after this record says that it succeeded.
    Execing,
    /// The child waits for an [`answer`].
    Asked(Question),
    /// A piece of what a hook that failed has written to its standard error.
    Said(Said),
    /// A step failed and the child is about to exit.
    Failed {
        /// Position in [`Plan::steps`].
        step: u16,
        /// What within the step.
        op: Op,
        /// Why.
        errno: Errno,
    },
}

/// What is to be done for a child that has no right to it, or not the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The namespaces are there: the `prestart` and `createRuntime` hooks are to run.
    RuntimeHooks,
    /// A mount is to get identity maps ([`crate::plan::AskedMaps`]).
    MapIds {
        /// Which maps.
        number: u16,
        /// The child's descriptor of the mount.
        tree: RawFd,
    },
}

/// A piece of text that fits into a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    length: u8,
    bytes: [u8; Said::BYTES_MAX],
}

impl Said {
    /// Most bytes in one record.
    pub const BYTES_MAX: usize = REPORT_LEN - 2;

    /// The first [`Said::BYTES_MAX`] bytes of a text.
    #[must_use]
    pub fn of(text: &[u8]) -> Said {
        let mut bytes = [0; Said::BYTES_MAX];
        let mut length = 0;
        for (place, byte) in bytes.iter_mut().zip(text) {
            (*place, length) = (*byte, length + 1);
        }
        Said { length, bytes }
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

/// Most of a hook's standard error that is told, in bytes.
pub const SAID_BYTES_MAX: usize = 252;

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $text:literal;)*) => {
        /// The operation within a step that failed: the words between the step's object and the errno in a message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Op { $($(#[$doc])* $variant = $code,)* }

        impl Op {
            /// Every operation, for tests and documents.
            pub const ALL: &'static [Op] = &[$(Op::$variant,)*];

            /// The operation in the words of an error message.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Op::$variant => $text,)* }
            }

            fn from_code(code: u8) -> Option<Op> {
                match code { $($code => Some(Op::$variant),)* _ => None }
            }
        }
    };
}

ops! {
    /// The system call that the step is named after.
    Call = 1, "system call";
    /// Opening or resolving a path inside the root.
    Resolve = 2, "resolve path in the root";
    /// Making a missing mount point or device directory.
    MakeTarget = 3, "make mount point";
    /// fsopen(2): the file system type.
    FsOpen = 4, "open file system type";
    /// fsconfig(2): one of the options.
    FsConfig = 5, "set file system option";
    /// fsconfig(2) create: the superblock.
    FsCreate = 6, "create file system";
    /// fsmount(2).
    FsMount = 7, "mount file system";
    /// mount_setattr(2).
    MountAttributes = 8, "set mount attributes";
    /// move_mount(2).
    Attach = 9, "attach mount";
    /// open_tree(2).
    CloneMount = 10, "clone mount";
    /// Writing a file under /proc/self.
    ProcWrite = 11, "write to /proc/self";
    /// mknod(2).
    MakeNode = 12, "make device node";
    /// chown(2) or fchown(2).
    Own = 13, "change owner";
    /// chmod(2).
    Mode = 14, "change mode";
    /// pivot_root(2).
    Pivot = 15, "pivot_root";
    /// umount(2) of the old root.
    Unmount = 16, "unmount old root";
    /// chdir(2).
    ChangeDirectory = 17, "change directory";
    /// The working directory is not below the root.
    OutsideRoot = 18, "directory is outside the container's root";
    /// setgroups(2).
    SetGroups = 19, "set supplementary groups";
    /// setresgid(2).
    SetGid = 20, "set group";
    /// setresuid(2).
    SetUid = 21, "set user";
    /// capset(2).
    CapSet = 22, "set capabilities";
    /// `PR_CAP_AMBIENT`.
    Ambient = 23, "set ambient capabilities";
    /// dup2(2).
    Duplicate = 24, "duplicate descriptor";
    /// The parent's half was not done.
    AwaitParent = 25, "wait for the parent's half";
    /// accept(2) at the start socket.
    Accept = 26, "wait for start";
    /// execve(2).
    Execve = 27, "execve";
    /// Not a character device 1:3, or some other object than asked for.
    WrongObject = 28, "unexpected object";
    /// The plan names a descriptor that did not come with it.
    MissingFd = 29, "descriptor missing from the plan";
    /// The runtime's hooks failed, or the runtime died.
    AwaitHooks = 30, "wait for the runtime's hooks";
    /// The state for a hook could not be written.
    HookInput = 31, "write the state";
    /// A hook ended with this status, in place of an errno.
    HookExit = 32, "exit status";
    /// A hook died of this signal, in place of an errno.
    HookSignal = 33, "signal";
    /// A hook took longer than it may.
    HookTimeout = 34, "killed at its timeout";
    /// Opening a pseudo-terminal.
    OpenTerminal = 35, "open a pseudo-terminal";
    /// `TIOCSWINSZ`.
    WindowSize = 36, "set the window size";
    /// `TIOCSCTTY`.
    ControllingTerminal = 37, "set the controlling terminal";
    /// sendmsg(2) of the terminal's master.
    SendTerminal = 38, "send the terminal to the console socket";
    /// mount_setattr(2) with `MOUNT_ATTR_IDMAP`.
    IdMap = 39, "map identities";
    /// Filling a tmpfs with what it covers.
    CopyUp = 40, "copy what is there";
    /// Reading below /proc of whoever launches.
    ProcRead = 41, "read /proc/self";
    /// The helper could not be cloned, or sendmsg(2) of the filter's listener failed.
    SendListener = 42, "send the listener to linux.seccomp.listenerPath";
    /// `TCSETS`.
    TerminalModes = 43, "set the terminal's modes";
    /// Opening the source of a bind mount that earlier steps have mounted.
    Source = 44, "open the source inside the container";
    /// The destination of a mount is the root.
    OnRoot = 45, "mount on top of the root";
}

impl Report {
    /// The record as bytes: kind, op, step or number (le), errno or descriptor (le).
    #[must_use]
    pub fn encode(self) -> [u8; REPORT_LEN] {
        let mut bytes = [0; REPORT_LEN];
        match self {
            Report::Ready => bytes[0] = 1,
            Report::Execing => bytes[0] = 2,
            Report::Asked(Question::RuntimeHooks) => bytes[0] = 4,
            Report::Asked(Question::MapIds { number, tree }) => {
                bytes[0] = 6;
                bytes[2..4].copy_from_slice(&number.to_le_bytes());
                bytes[4..8].copy_from_slice(&tree.to_le_bytes());
            }
            Report::Said(Said { length, bytes: text }) => {
                bytes[0] = 5;
                bytes[1] = length;
                bytes[2..].copy_from_slice(&text);
            }
            Report::Failed { step, op, errno } => {
                bytes[0] = 3;
                bytes[1] = op as u8;
                bytes[2..4].copy_from_slice(&step.to_le_bytes());
                bytes[4..8].copy_from_slice(&errno.raw_os_error().to_le_bytes());
            }
        }
        bytes
    }

    /// The record in these bytes; `None` when no child of ours wrote them.
    #[must_use]
    pub fn decode(bytes: [u8; REPORT_LEN]) -> Option<Report> {
        let short = u16::from_le_bytes([bytes[2], bytes[3]]);
        let long = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        match bytes[0] {
            1 => Some(Report::Ready),
            2 => Some(Report::Execing),
            3 => Some(Report::Failed {
                step: short,
                op: Op::from_code(bytes[1])?,
                errno: Errno::from_raw_os_error(long),
            }),
            4 => Some(Report::Asked(Question::RuntimeHooks)),
            5 => Some(Report::Said(Said::of(bytes.get(2..2 + usize::from(bytes[1]))?))),
            6 => Some(Report::Asked(Question::MapIds { number: short, tree: long })),
            _ => None,
        }
    }
}

/// How a child's way to execve ended, put together from its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// execve(2) succeeded: the program runs.
    Running,
    /// Parked: waiting for `start`.
    Parked,
    /// A step failed.
    Failed(StepError),
    /// The child went away (a signal, most likely) between two steps.
    Vanished,
}

/// A failed step in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// [`Step::name`].
    pub step: String,
    /// [`Step::object`]; may be empty.
    pub object: String,
    /// The operation within the step.
    pub op: Op,
    /// The kernel's reason.
    pub errno: Errno,
    /// Of a hook: what it has written to its standard error, cut off at [`SAID_BYTES_MAX`].
    pub said: String,
}

impl std::error::Error for StepError {}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.step)?;
        if let Some((field, program)) = self.sought_program() {
            let reason = errno_text(self.errno);
            // Callers of OCI runtimes look for these words, which are Go's.
            return match (self.errno, program.contains('/')) {
                (Errno::NOENT, false) => write!(f, ": {field}: exec: {program:?}: executable file not found in $PATH"),
                (Errno::NOENT, true) => write!(f, ": {field}: exec: {program:?}: stat {program}: {reason}"),
                _ => write!(f, ": {field}: exec: {program:?}: {reason}"),
            };
        }
        if let (Op::Execve, Some((field, program))) = (self.op, self.object.split_once(' ')) {
            // Go's words too; most often it is the interpreter of a script that is missing.
            return write!(f, ": {field}: exec {program}: {}", errno_text(self.errno));
        }
        if !self.object.is_empty() {
            write!(f, ": {}", self.object)?;
        }
        match self.op {
            Op::Call if self.step == "scheduler" && self.errno == Errno::PERM => {
                write!(f, ": {}: {SCHEDULER_REFUSED}", errno_text(self.errno))
            }
            Op::Call | Op::Execve => write!(f, ": {}", errno_text(self.errno)),
            // Most often the filter's doing.
            Op::HookSignal if self.errno.raw_os_error() == libc::SIGSYS => f.write_str(": signal: bad system call"),
            Op::HookExit | Op::HookSignal => {
                write!(f, ": {} {}, stderr: {}", self.op.text(), self.errno.raw_os_error(), self.said)
            }
            op => write!(f, ": {}: {}", op.text(), errno_text(self.errno)),
        }
    }
}

/// Why sched_setattr(2) may refuse, which the errno does not tell apart; the first in runc's words.
const SCHEDULER_REFUSED: &str = "a process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus), \
    nor without CAP_SYS_NICE";

/// The kernel's reason in the C library's words, without Rust's `(os error N)`, and in lower case as Go and crun have it:
/// callers of OCI runtimes look for such words.
#[must_use]
pub fn errno_text(errno: Errno) -> String {
    plain_text(&std::io::Error::from(errno).to_string())
}

/// As [`errno_text`], of the text of an [`std::io::Error`]. Any other text stays as it is.
#[must_use]
pub fn plain_text(error: &str) -> String {
    let Some((text, _)) = error.split_once(" (os error") else { return error.to_owned() };
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // Not "RPC ..." or ".lib ...".
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain([second]).chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

impl StepError {
    /// The field and the program, if that is what was looked for ([`crate::plan::Step::object`]).
    fn sought_program(&self) -> Option<(&str, &str)> {
        (self.step == "find executable").then(|| self.object.split_once(' ')).flatten()
    }

    /// Exit status of a command that could not be started: 127 not found, 126 not executable, 125 everything else
    /// (the convention of sh(1) and `docker run`).
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        let about_program = self.step == "find executable" || self.step == "exec";
        match self.errno {
            Errno::NOENT | Errno::NOTDIR if about_program => 127,
            _ if about_program => 126,
            _ => 125,
        }
    }
}

/// Lets a child go on, or fail where it is. Should it be gone meanwhile, its end of file says so.
pub fn answer(status: &OwnedFd, result: Result<(), Errno>) {
    let byte = match result {
        Ok(()) => 0,
        Err(errno) => u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX),
    };
    let _ = rustix::net::send(status, &[byte], rustix::net::SendFlags::NOSIGNAL);
}

/// Collects a child's records until its end of file.
#[derive(Debug, Default)]
pub struct ReportReader {
    pending: Vec<u8>,
    last: Option<Report>,
    said: Vec<u8>,
}

impl ReportReader {
    /// Takes bytes as they come from the descriptor, in pieces of any length.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        while let Some((record, rest)) = self.pending.split_first_chunk::<REPORT_LEN>() {
            let report = Report::decode(*record);
            self.pending = rest.to_vec();
            if let Some(Report::Said(piece)) = report {
                let room = SAID_BYTES_MAX.saturating_sub(self.said.len());
                self.said.extend(piece.text().iter().take(room));
                continue;
            }
            // A failure after `Execing` (execve itself) replaces it; nothing follows a failure.
            if !matches!(self.last, Some(Report::Failed { .. })) {
                self.last = report.or(self.last);
            }
        }
    }

    /// Whether the child waits for an [`answer`].
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(self.last, Some(Report::Asked(_)))
    }

    /// What the child waits for, once.
    pub fn take_question(&mut self) -> Option<Question> {
        let Some(Report::Asked(question)) = self.last else { return None };
        self.last = None;
        Some(question)
    }

    /// Reads a blocking descriptor to its end, or to the point at which the child waits for an answer.
    ///
    /// # Errors
    /// As read(2).
    pub fn read_to_end(&mut self, from: &std::os::fd::OwnedFd) -> Result<(), Errno> {
        let mut buffer = [0; 4 * REPORT_LEN];
        loop {
            match rustix::io::read(from, &mut buffer) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(()),
                Ok(length) => {
                    self.push(buffer.get(..length).unwrap_or_default());
                    if self.is_asked() {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The outcome, once the descriptor is at its end.
    #[must_use]
    pub fn finish(&self, plan: &Plan) -> Outcome {
        self.finish_with(|step| plan.steps.get(step).map(|at| (at.name(), self.object(at))))
    }

    /// What the step was about; for a /proc or /sys that the image made something else of, in runc's words.
    fn object(&self, step: &Step) -> String {
        let object = step.object();
        match (step, self.last) {
            (
                Step::MountFilesystem { target: Target { no_symlinks: true, .. }, .. },
                Some(Report::Failed { errno: Errno::LOOP | Errno::NOTDIR, .. }),
            ) => format!("{object} must be mounted on ordinary directory"),
            _ => object,
        }
    }

    /// The outcome of a start: only hooks and the exec are left to fail.
    #[must_use]
    pub fn finish_start(&self) -> Outcome {
        self.finish_with(|_| match self.last {
            Some(Report::Failed { op: Op::HookInput | Op::HookExit | Op::HookSignal | Op::HookTimeout, .. }) => {
                Some(("hook", "error running startContainer hook".to_owned()))
            }
            _ => Some(("exec", "process.args[0]".to_owned())),
        })
    }

    fn finish_with(&self, describe: impl FnOnce(usize) -> Option<(&'static str, String)>) -> Outcome {
        match self.last {
            Some(Report::Execing) => Outcome::Running,
            Some(Report::Ready) => Outcome::Parked,
            None | Some(Report::Asked(_) | Report::Said(_)) => Outcome::Vanished,
            Some(Report::Failed { step, op, errno }) => {
                let (step, object) = describe(usize::from(step)).unwrap_or_else(|| ("unknown step", String::new()));
                let said = one_line(String::from_utf8_lossy(&self.said).trim()).into_owned();
                Outcome::Failed(StepError { step: step.to_owned(), object, op, errno, said })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire() {
        let failed = |op| Report::Failed { step: 513, op, errno: Errno::NOENT };
        let said = [&b""[..], b"no", b"cannot"].map(|text| Report::Said(Said::of(text)));
        let questions = [Question::RuntimeHooks, Question::MapIds { number: 258, tree: 70_000 }].map(Report::Asked);
        let all = [Report::Ready, Report::Execing]
            .into_iter()
            .chain(questions)
            .chain(said)
            .chain(Op::ALL.iter().map(|op| failed(*op)));
        for report in all {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode([9; REPORT_LEN]), None);
        assert_eq!(Report::decode([5, 7, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn what_a_hook_says_is_quoted_in_one_line_and_not_without_end() {
        let mut reader = ReportReader::default();
        reader.push(&Report::Execing.encode());
        for piece in b"no such\nthing".chunks(Said::BYTES_MAX).chain(std::iter::repeat_n(&b"......"[..], 100)) {
            reader.push(&Report::Said(Said::of(piece)).encode());
        }
        reader.push(&Report::Failed { step: 0, op: Op::HookExit, errno: Errno::from_raw_os_error(3) }.encode());
        let Outcome::Failed(error) = reader.finish_start() else { panic!("{reader:?}") };
        let text = error.to_string();
        assert!(text.starts_with("hook: error running startContainer hook: exit status 3, stderr: no such\\nthing..."));
        assert!(text.len() < 400, "{text}");
    }

    #[test]
    fn records_split_anywhere_give_the_same_outcome() {
        let plan = Plan { steps: vec![Step::NewSession, Step::PivotRoot], ..Plan::default() };
        let mut bytes = Report::Execing.encode().to_vec();
        bytes.extend(Report::Failed { step: 1, op: Op::Pivot, errno: Errno::INVAL }.encode());
        for cut in 0..bytes.len() {
            let mut reader = ReportReader::default();
            reader.push(&bytes[..cut]);
            reader.push(&bytes[cut..]);
            let Outcome::Failed(error) = reader.finish(&plan) else { panic!("cut at {cut}") };
            assert_eq!(error.to_string(), "pivot root: pivot_root: invalid argument");
        }
        assert_eq!(ReportReader::default().finish(&plan), Outcome::Vanished);
    }
    #[test]
    fn a_program_that_cannot_run_is_told_in_the_words_that_callers_know() {
        let step = |candidates: &[&str]| Step::FindExecutable {
            candidates: candidates.iter().map(|path| std::ffi::CString::new(*path).unwrap()).collect(),
        };
        let (by_name, by_path) = (step(&["/bin/foo", "/sbin/foo"]), step(&["/bin/foo"]));
        for (step, errno, expected) in [
            (&by_name, Errno::NOENT, "exec: \"foo\": executable file not found in $PATH"),
            (&by_name, Errno::ACCESS, "exec: \"foo\": permission denied"),
            (&by_path, Errno::NOENT, "exec: \"/bin/foo\": stat /bin/foo: no such file or directory"),
            (&by_path, Errno::NOTDIR, "exec: \"/bin/foo\": not a directory"),
            (&by_path, Errno::ACCESS, "exec: \"/bin/foo\": permission denied"),
        ] {
            let object = step.object();
            let error = StepError { step: step.name().into(), object, op: Op::Call, errno, said: String::new() };
            assert_eq!(error.to_string(), format!("find executable: process.args[0]: {expected}"));
        }
    }

    #[test]
    fn only_the_systems_own_texts_are_changed() {
        assert_eq!(errno_text(Errno::NOEXEC), "exec format error");
        assert_eq!(plain_text("RPC version wrong (os error 1)"), "RPC version wrong");
        assert_eq!(plain_text("No such thing"), "No such thing");
    }
}
