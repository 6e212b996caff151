//! Coming to an end before an upgrade: nothing new is begun, and what is under way is waited for.

use std::rc::Rc;
use std::time::Duration;

use super::Supervisor;
use crate::registry::{Failure, FailureKind};

/// The refusal of what comes while another supervisor is about to take over: nothing of it was begun.
pub const UPGRADING: &str = "the daemon is being upgraded: try again";

/// A captured run, or a checkpoint, that is under way.
pub struct Capturing(Rc<Supervisor>);

impl Drop for Capturing {
    fn drop(&mut self) {
        self.0.captures.set(self.0.captures.get() - 1);
        self.0.settled.notify_one();
    }
}

impl Supervisor {
    /// Begins nothing new, and returns when all that is under way has come to its end, captured runs among it, or when that
    /// takes too long: false.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.draining.set(true);
        let idle = async {
            while self.captures.get() > 0 || self.core.borrow().changing() > 0 {
                self.settled.notified().await;
            }
        };
        tokio::time::timeout(patience, idle).await.is_ok()
    }

    /// Refuses what an upgrade would have to wait for.
    pub(super) fn insist_on_staying(&self) -> Result<(), Failure> {
        if self.draining.get() { Err(Failure::new(FailureKind::Overloaded, UPGRADING.to_owned())) } else { Ok(()) }
    }

    /// Counts a captured run, whose output would be lost with us, or a checkpoint, for as long as the guard lives.
    #[must_use]
    pub fn capturing(self: &Rc<Self>) -> Capturing {
        self.captures.set(self.captures.get() + 1);
        Capturing(self.clone())
    }
}
