//! An attacker who exchanges two names again and again, while containers start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// A thread that exchanges two files, directories or links with `RENAME_EXCHANGE` for as long as this lives.
#[derive(Debug)]
pub struct Racer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Racer {
    /// Begins. Both names must be there, on one file system, and are there at any moment.
    #[must_use]
    pub fn exchanging(one: &Path, other: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, one, other) = (Arc::clone(&stop), one.to_owned(), other.to_owned());
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !seen.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).expect("both names are there");
                count += 1;
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it never exchanged anything: then there was no race.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.take().expect("stopped once").join().expect("the racer did not fail");
        assert!(count > 100, "{count} exchanges are no race");
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
