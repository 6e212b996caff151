//! What is written down of exits and events, and what becomes of it when the disk does not take it.
//!
//! An exit that cannot be written is told all the same: whoever waits must not hang on a full disk. It is as safe as one
//! that is written: the keeper keeps it, as it keeps those that it has seen itself, and tells the next supervisor. Meanwhile
//! it is tried again every [`RECORD_PAUSE_MS`], and so is the journal; a container that is removed owes nothing any more.

use std::rc::Rc;
use std::time::Duration;

use brood_launcher::state::{ExitRecord, PidRecord, ProcessDir, StateError, now_ns};

use super::{Record, Supervisor};
use crate::fault;
use crate::journal::JournalEvent;
use crate::keeper::KeptExit;
use crate::limits::RECORD_PAUSE_MS;
use crate::registry::Instance;

/// An exit that is told and not written down.
pub(super) struct Debt {
    dir: ProcessDir,
    exit: KeptExit,
}

impl Debt {
    fn is_of(&self, process: PidRecord) -> bool {
        (self.exit.pid, self.exit.start_time) == (process.pid, process.start_time)
    }
}

impl Supervisor {
    /// Durable: the journal for everybody, the exit file for whoever comes after us and for the other face. After a crash
    /// between the two, recovery finds the exit in the journal.
    pub(super) fn record_exit(self: &Rc<Self>, instance: Instance, exit: ExitRecord) {
        let records = self.records.borrow();
        let Some(record) = records.get(&instance) else { return };
        fault::around("append to journal", || self.append(record, "exit", Some(exit.clone())));
        if let Err(error) = fault::around("write exit", || record.files.dir.write_exit(&exit)) {
            self.complain(record, &error);
            let exit = KeptExit { pid: record.pid, start_time: record.start_time, exit };
            self.owe(record.files.dir.clone(), exit);
        }
    }

    /// Has the keeper keep what could not be written, until it is.
    pub(super) fn owe(self: &Rc<Self>, dir: ProcessDir, exit: KeptExit) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(exit.clone());
        }
        self.debts.borrow_mut().push(Debt { dir, exit });
        self.pay_later();
    }

    pub(super) fn append(self: &Rc<Self>, record: &Record, kind: &str, exit: Option<ExitRecord>) {
        let time = exit.as_ref().map_or_else(now_ns, |exit| exit.time_ns);
        let (id, process) = (record.files.id.clone(), record.files.name.clone());
        let start_time = exit.as_ref().map(|_| record.start_time);
        let kind = kind.to_owned();
        let event = JournalEvent { seq: 0, time, kind, id, process, pid: record.pid, start_time, exit };
        let appended = self.journal.borrow_mut().append(event);
        if let Err(source) = appended {
            self.complain(record, &StateError::Io { path: self.root().join(crate::journal::FILE_NAME), source });
            self.pay_later();
        }
    }

    /// Whether the exit of this process is still to be written down.
    pub(super) fn owes(&self, process: PidRecord) -> bool {
        self.debts.borrow().iter().any(|debt| debt.is_of(process))
    }

    /// Its folder is gone: nothing is to be written there any more.
    pub(super) fn forget_debt(&self, instance: Instance) {
        let records = self.records.borrow();
        let Some(record) = records.get(&instance) else { return };
        let process = PidRecord { pid: record.pid, start_time: record.start_time };
        self.debts.borrow_mut().retain(|debt| {
            let is_its = debt.is_of(process);
            if is_its {
                self.settled_debt(debt);
            }
            !is_its
        });
    }

    /// After the keeper has died: another one is to keep what is owed.
    pub(super) fn entrust_debts(&self) {
        if let Some(keeper) = &self.keeper {
            self.debts.borrow().iter().for_each(|debt| keeper.keep(debt.exit.clone()));
        }
    }

    fn settled_debt(&self, debt: &Debt) {
        if let Some(keeper) = &self.keeper {
            keeper.recorded(debt.exit.pid, debt.exit.start_time);
        }
    }

    fn complain(&self, record: &Record, error: &StateError) {
        if let Some(silent) = self.unwritten.now() {
            let (container, process) = (&record.files.id, &record.files.name);
            tracing::error!(container, process, %error, silent, "not written down; trying again");
        }
    }

    /// Tries again until all is written; one task does it.
    fn pay_later(self: &Rc<Self>) {
        if self.paying.replace(true) {
            return;
        }
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            while !supervisor.pay() {
                tokio::time::sleep(Duration::from_millis(RECORD_PAUSE_MS)).await;
            }
            supervisor.paying.set(false);
            supervisor.unwritten.is_over();
            tracing::info!("all is written down again");
        });
    }

    /// True when nothing is owed any more.
    fn pay(&self) -> bool {
        self.debts.borrow_mut().retain(|debt| {
            let owes = debt.dir.write_exit(&debt.exit.exit).is_err();
            if !owes {
                self.settled_debt(debt);
            }
            owes
        });
        let journal = self.journal.borrow_mut().catch_up();
        journal.is_ok() && self.debts.borrow().is_empty()
    }
}
