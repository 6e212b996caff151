//! What survives a supervisor: the state folders and the journal. Whatever was written is there, all of it.

use std::collections::BTreeMap;

use brood_launcher::state::{ExitRecord, PidRecord};

use super::Uid;
use super::supervisor::Place;
use crate::registry::EventKind;

/// The folder of one process.
#[derive(Clone, Debug)]
pub struct ProcessFolder {
    /// Whose it is; the real one has no such thing.
    pub uid: Uid,
    /// `pid`.
    pub pid: Option<PidRecord>,
    /// `exit`.
    pub exit: Option<ExitRecord>,
    /// `start.sock` or `early.sock` is there.
    pub parked: bool,
    /// It is `early.sock`, or there is none since the program runs at once.
    pub untold: bool,
    /// In `pid` of an exec, in `state.json` of a container.
    pub auto_remove: bool,
}

/// The folder of a container.
#[derive(Clone, Debug)]
pub struct Folder {
    /// `init`.
    pub init: ProcessFolder,
    /// Its execs.
    pub execs: BTreeMap<String, ProcessFolder>,
}

/// What happened to a process, as told to subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// One of the events without content.
    Event(EventKind),
    /// It ended.
    Exit(ExitRecord),
}

/// State directory and journal.
#[derive(Debug, Default)]
pub struct Disk {
    /// By container.
    pub folders: BTreeMap<String, Folder>,
    /// The journal's last event, if it is an exit: of which process, and where its folder was.
    pub(super) last_exit: Option<(Place, PidRecord, ExitRecord)>,
}

impl Disk {
    /// The folder of a process: a container's init process, or one of its execs.
    pub fn process(&mut self, container: &str, exec: Option<&str>) -> Option<&mut ProcessFolder> {
        let folder = self.folders.get_mut(container)?;
        match exec {
            None => Some(&mut folder.init),
            Some(exec) => folder.execs.get_mut(exec),
        }
    }
}
