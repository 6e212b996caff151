//! What blocks, on threads of the runtime.
//!
//! tokio's `spawn_blocking` panics when it has no thread at all and cannot start one, and that would end the supervisor. With
//! one that is there already the work waits its turn.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{Supervisor, going_down};
use crate::registry::{Failure, FailureKind};

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
    }

    /// A thread has worked just now.
    pub(super) fn has_worked(&self) {
        self.0.set(Some(Instant::now()));
    }
}

impl Supervisor {
    /// Runs what may block on another thread; at most [`crate::limits::BLOCKING_THREADS_MAX`] at a time, whatever the runtime allows.
    ///
    /// # Errors
    /// No thread can be had, or the runtime is going down.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let _turn = self.blocking.acquire().await.ok();
        self.on_thread(work).await
    }

    /// The same without waiting for a turn.
    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.thread.insist().map_err(|error| {
            let message = format!("start a thread: {}", error.to_string().to_lowercase());
            Failure::new(FailureKind::Overloaded, message)
        })?;
        let done = tokio::task::spawn_blocking(work).await.map_err(going_down);
        self.thread.has_worked();
        done
    }
}
