//! Whether the runtime has a thread for what blocks.
//!
//! tokio's `spawn_blocking` panics when it has no thread at all and cannot start one, and that would end the supervisor. With
//! one that is there already the work waits its turn.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// For so long after its work a thread is there for certain: tokio lets it go after 10 s.
const WARM: Duration = Duration::from_secs(8);

/// How long until it is tried again to start one.
const PAUSE: Duration = Duration::from_millis(50);

/// When a thread worked last.
#[derive(Default)]
pub(super) struct Warmth(Cell<Option<Instant>>);

impl Warmth {
    /// Makes sure that a thread is there or can be started.
    ///
    /// # Errors
    /// It cannot: EAGAIN (pthread_create(3)).
    pub(super) fn insist(&self) -> std::io::Result<()> {
        if self.0.get().is_some_and(|worked| worked.elapsed() < WARM) {
            return Ok(());
        }
        std::thread::Builder::new().spawn(|| ()).map(|probe| drop(probe.join()))
    }

    /// Waits until a thread is there or can be started, for what cannot be given up.
    pub(super) async fn sometime(&self) {
        while self.insist().is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        self.has_worked();
    }

    /// A thread has worked just now.
    pub(super) fn has_worked(&self) {
        self.0.set(Some(Instant::now()));
    }
}
