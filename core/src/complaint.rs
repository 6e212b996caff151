//! One line in the log for what happens again and again, whoever makes it happen.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::limits::COMPLAINT_PAUSE_S;

/// A complaint that is made at most every [`COMPLAINT_PAUSE_S`].
#[derive(Debug, Default)]
pub struct Complaint {
    last: Cell<Option<Instant>>,
    silent: Cell<u64>,
}

impl Complaint {
    /// Whether to log it now; then how often it was not logged since the last time.
    pub fn now(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    /// What it was about is over. True when it was logged at all.
    pub fn is_over(&self) -> bool {
        self.silent.set(0);
        self.last.take().is_some()
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let pause = Duration::from_secs(COMPLAINT_PAUSE_S);
        if self.last.get().is_some_and(|last| now.duration_since(last) < pause) {
            self.silent.set(self.silent.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.silent.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while_with_the_number_of_those_in_between() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        let at = |seconds| complaint.at(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(1), at(2)], [Some(0), None, None]);
        assert_eq!(at(COMPLAINT_PAUSE_S), Some(2));
        assert!(complaint.is_over() && !complaint.is_over());
        assert_eq!(at(COMPLAINT_PAUSE_S + 1), Some(0), "the next time is a first time");
    }
}
