//! The event journal: `<root>/events.log`, one line per event, and the last of them in memory for subscribers.
//!
//! ```text
//! 9ae0daaf {"seq":12,"time":1764000000000000000,"type":"exit","id":"a","process":"init","pid":77,"exit":{...}}
//! ^ CRC-32 of the JSON text
//! ```
//!
//! Appended by one write(2), so a kill at any moment leaves at most one torn line, at the end. Lines that are torn or
//! damaged are counted, reported and skipped; they never stop the daemon. The file is rewritten with the events that
//! are kept (`--retain-count`) when it holds twice as many.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use brood_launcher::state::ExitRecord;
use serde::{Deserialize, Serialize};

/// Name of the file below the state root.
pub const FILE_NAME: &str = "events.log";

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEvent {
    /// From 1, without gaps, across restarts.
    pub seq: u64,
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// `create`, `start-container`, `exit`, `delete` and others: docs/rpc.md.
    #[serde(rename = "type")]
    pub kind: String,
    /// The container.
    pub id: String,
    /// `init`, or an exec's name.
    pub process: String,
    /// In the supervisor's pid namespace.
    pub pid: i32,
    /// Of a process that has ended: with the pid its name for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// Of an exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    /// `None` for an embedded supervisor, which has no subscribers and no second life.
    path: Option<PathBuf>,
    /// `None` as long as it cannot be opened for appending.
    file: Option<std::fs::File>,
    kept: VecDeque<Rc<JournalEvent>>,
    retain: usize,
    last_seq: u64,
    /// Lines in the file.
    lines: usize,
    /// Bytes of whole lines in the file.
    length: u64,
    /// How many of the last events are not in the file, because that could not be written.
    unwritten: usize,
    changed: Rc<tokio::sync::Notify>,
}

/// What a reader gets.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, in order.
    pub events: Vec<Rc<JournalEvent>>,
    /// Set when events before this number were asked for and are not kept any more.
    pub lagged_to: Option<u64>,
}

impl Journal {
    /// A journal in memory only.
    #[must_use]
    pub fn in_memory(retain: usize) -> Journal {
        let kept = VecDeque::new();
        Journal {
            path: None,
            file: None,
            kept,
            retain: retain.max(1),
            last_seq: 0,
            lines: 0,
            length: 0,
            unwritten: 0,
            changed: Rc::default(),
        }
    }

    /// Opens the journal of a state root and reads what is kept. The second value counts damaged lines. One that cannot be
    /// written now (the disk is full, or read-only by now) is as good as one that cannot be written later: see
    /// [`Journal::append`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(root: &Path, retain: usize) -> std::io::Result<(Journal, usize)> {
        let path = root.join(FILE_NAME);
        let mut journal = Journal::in_memory(retain);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            read => read.unwrap_or_default(),
        };
        let mut damaged = 0;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let (whole, torn) = bytes.split_at(whole);
        let lines = whole.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        for line in lines.chain(Some(torn).filter(|torn| !torn.is_empty())) {
            let is_torn = std::ptr::eq(line, torn);
            journal.lines += usize::from(!is_torn);
            match decode(line) {
                Some(event) if event.seq > journal.last_seq => {
                    journal.keep(event);
                    // One that lacks nothing but its end of line is written once more.
                    journal.unwritten = usize::from(is_torn);
                }
                _ => damaged += 1,
            }
        }
        journal.length = whole.len() as u64;
        journal.path = Some(path);
        if let Err(error) = journal.catch_up() {
            tracing::error!(%error, "journal: not written; trying again");
        }
        Ok((journal, damaged))
    }

    /// Opens the file, and cuts off a torn line, which would swallow the next one.
    fn reopen(path: &Path, length: u64) -> std::io::Result<std::fs::File> {
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        Ok(file)
    }

    /// Appends an event; it is in the file before this returns. Returns its sequence number.
    ///
    /// # Errors
    /// The file cannot be written. The event is kept in memory all the same, and goes to the file with the next one or by
    /// [`Journal::catch_up`], in order, as long as it is kept.
    pub fn append(&mut self, mut event: JournalEvent) -> std::io::Result<u64> {
        event.seq = self.last_seq + 1;
        self.keep(event);
        self.unwritten += 1;
        self.changed.notify_waiters();
        self.catch_up()?;
        Ok(self.last_seq)
    }

    /// Writes what is not in the file yet.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn catch_up(&mut self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Journal::reopen(path, self.length)?),
        };
        let missing = self.unwritten.min(self.kept.len());
        if missing > 0 {
            let text: String = self.kept.range(self.kept.len() - missing..).map(|event| encode(event)).collect();
            if let Err(error) = file.write_all(text.as_bytes()) {
                // A part of a line would swallow the next one.
                let _ = file.set_len(self.length);
                return Err(error);
            }
            self.length += text.len() as u64;
            self.lines += missing;
        }
        self.unwritten = 0;
        if self.lines > self.retain.saturating_mul(2).max(self.retain + 64) { self.rewrite() } else { Ok(()) }
    }

    fn keep(&mut self, event: JournalEvent) {
        self.last_seq = event.seq;
        self.kept.push_back(Rc::new(event));
        while self.kept.len() > self.retain {
            self.kept.pop_front();
        }
    }

    fn rewrite(&mut self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let text: String = self.kept.iter().map(|event| encode(event)).collect();
        brood_launcher::state::replace_file(path, text.as_bytes(), 0o600).map_err(std::io::Error::other)?;
        (self.lines, self.length) = (self.kept.len(), text.len() as u64);
        // Not the one that was replaced, even if this fails.
        self.file = None;
        self.file = Some(Journal::reopen(path, self.length)?);
        Ok(())
    }

    /// Number of the last event; 0 when there was none.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The events that are kept, in order.
    pub fn events(&self) -> impl Iterator<Item = &JournalEvent> {
        self.kept.iter().map(Rc::as_ref)
    }

    /// Whether the container that has this name now is known to have run out of memory.
    #[must_use]
    pub fn tells_of_oom(&self, id: &str) -> bool {
        let mut events = self.kept.iter().rev().filter(|event| event.id == id);
        events.find(|event| matches!(event.kind.as_str(), "oom" | "create")).is_some_and(|event| event.kind == "oom")
    }

    /// At most `limit` events after `cursor`.
    #[must_use]
    pub fn after(&self, cursor: u64, limit: usize) -> Page {
        let Some(first) = self.kept.front().map(|event| event.seq) else { return Page::default() };
        let lagged_to = (cursor + 1 < first).then_some(first);
        // Numbers in memory have no gaps but those of damaged lines, so this never starts too late.
        let skip = self.kept.partition_point(|event| event.seq <= cursor);
        Page { events: self.kept.iter().skip(skip).take(limit).cloned().collect(), lagged_to }
    }

    /// The cursor before the first event recorded at this time or later.
    #[must_use]
    pub fn cursor_at(&self, time: u64) -> u64 {
        self.kept.iter().find(|event| event.time >= time).map_or(self.last_seq, |event| event.seq - 1)
    }

    /// Wakes at the next append.
    #[must_use]
    pub fn changed(&self) -> Rc<tokio::sync::Notify> {
        self.changed.clone()
    }
}

fn encode(event: &JournalEvent) -> String {
    // Serialization of this type cannot fail: it has no maps and no foreign types.
    let text = serde_json::to_string(event).unwrap_or_default();
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
}

fn decode(line: &[u8]) -> Option<JournalEvent> {
    let (checksum, text) = line.split_at_checked(9)?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc32fast::hash(text) == checksum).then(|| serde_json::from_slice(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> JournalEvent {
        let (kind, process) = ("exit".to_owned(), "init".to_owned());
        JournalEvent { seq: 0, time: 5, kind, id: id.into(), process, pid: 1, start_time: None, exit: None }
    }

    #[test]
    fn events_come_back_in_order_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(root.path(), 10).unwrap();
        for id in ["a", "b", "c"] {
            journal.append(event(id)).unwrap();
        }
        let (mut journal, damaged) = Journal::open(root.path(), 10).unwrap();
        assert_eq!((journal.last_seq(), damaged), (3, 0));
        assert_eq!(journal.append(event("d")).unwrap(), 4);
        let ids: Vec<_> = journal.after(1, 2).events.iter().map(|event| event.id.clone()).collect();
        assert_eq!(ids, ["b", "c"]);
    }

    #[test]
    fn a_journal_cut_or_damaged_anywhere_loses_only_that_line() {
        let root = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(root.path(), 10).unwrap();
        for id in ["a", "b", "c"] {
            journal.append(event(id)).unwrap();
        }
        let path = root.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        let third = whole.len() / 3;
        for cut in 2 * third + 1..whole.len() - 1 {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, damaged) = Journal::open(root.path(), 10).unwrap();
            assert_eq!((journal.last_seq(), damaged), (2, 1), "cut at {cut}");
            journal.append(event("after")).unwrap();
            assert_eq!(Journal::open(root.path(), 10).unwrap().0.last_seq(), 3);
        }
        // Nothing but the end of the line is missing.
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let (journal, damaged) = Journal::open(root.path(), 10).unwrap();
        assert_eq!((journal.last_seq(), journal.lines, damaged), (3, 3, 0));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        for at in 0..third - 1 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let (journal, damaged) = Journal::open(root.path(), 10).unwrap();
            assert_eq!((journal.last_seq(), damaged), (3, 1), "flipped {at}");
        }
    }

    #[test]
    fn what_is_not_kept_is_told() {
        let root = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(root.path(), 3).unwrap();
        for _ in 0..500 {
            journal.append(event("a")).unwrap();
        }
        let page = journal.after(0, 100);
        assert_eq!((page.lagged_to, page.events.len()), (Some(498), 3));
        assert_eq!(journal.after(497, 100).lagged_to, None);
        let lines = std::fs::read_to_string(root.path().join(FILE_NAME)).unwrap().lines().count();
        assert!(lines <= 3 + 64 + 1, "{lines} lines");
    }
}
