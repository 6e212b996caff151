//! Who may hold how much: every client a modest share of its own, and more of what all share as long as there is any.
//! So the sum is bounded, and no client can take the share of another.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// What all clients share of one kind of thing.
#[derive(Debug)]
pub(super) struct Pool {
    left: Cell<usize>,
}

impl Pool {
    pub(super) fn new(size: usize) -> Rc<Pool> {
        Rc::new(Pool { left: Cell::new(size) })
    }
}

/// What one client holds of one kind of thing.
#[derive(Debug)]
pub(super) struct Meter {
    pool: Rc<Pool>,
    /// So much it may hold whatever others do.
    own: usize,
    /// More than this it may never hold.
    max: usize,
    used: Cell<usize>,
}

impl Meter {
    pub(super) fn new(pool: &Rc<Pool>, own: usize, max: usize) -> Rc<Meter> {
        Rc::new(Meter { pool: pool.clone(), own, max, used: Cell::new(0) })
    }

    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    /// Takes so much; false, and nothing is taken, when it is more than there is for this client.
    pub(super) fn take(&self, amount: usize) -> bool {
        let used = self.used.get().saturating_add(amount);
        let drawn = self.drawn(used) - self.drawn(self.used.get());
        if used > self.max || drawn > self.pool.left.get() {
            return false;
        }
        self.pool.left.set(self.pool.left.get() - drawn);
        self.used.set(used);
        true
    }

    /// Gives back what was taken.
    pub(super) fn give(&self, amount: usize) {
        let used = self.used.get().saturating_sub(amount);
        let returned = self.drawn(self.used.get()) - self.drawn(used);
        self.pool.left.set(self.pool.left.get() + returned);
        self.used.set(used);
    }

    /// Takes so much until the share is dropped.
    pub(super) fn hold(self: &Rc<Meter>, amount: usize) -> Option<Share> {
        self.take(amount).then(|| Share { meter: self.clone(), amount })
    }

    /// What of so much comes from the pool.
    fn drawn(&self, used: usize) -> usize {
        used.saturating_sub(self.own)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.give(self.used.get());
    }
}

/// What was taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    meter: Rc<Meter>,
    amount: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.meter.give(self.amount);
    }
}

/// Seats for connections: so many in all, and so many for one process.
#[derive(Debug)]
pub(super) struct Census {
    max: usize,
    max_per_process: usize,
    taken: RefCell<HashMap<i32, usize>>,
    total: Cell<usize>,
}

impl Census {
    pub(super) fn new(max: usize, max_per_process: usize) -> Rc<Census> {
        Rc::new(Census { max, max_per_process, taken: RefCell::default(), total: Cell::new(0) })
    }

    /// A seat for a connection of this process, unless there is none.
    pub(super) fn admit(self: &Rc<Census>, pid: i32) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        if self.total.get() >= self.max || taken.get(&pid).is_some_and(|count| *count >= self.max_per_process) {
            return None;
        }
        *taken.entry(pid).or_default() += 1;
        self.total.set(self.total.get() + 1);
        Some(Seat { census: self.clone(), pid })
    }
}

/// A seat, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    census: Rc<Census>,
    pid: i32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.census.taken.borrow_mut();
        if let Some(count) = taken.get_mut(&self.pid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.pid);
            }
        }
        self.census.total.set(self.census.total.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clients_greed_leaves_others_their_own() {
        let pool = Pool::new(10);
        let (greedy, modest) = (Meter::new(&pool, 4, 100), Meter::new(&pool, 4, 100));
        assert!(greedy.take(14), "its own and all that is shared");
        assert!(!greedy.take(1));
        assert!(modest.take(4));
        assert!(!modest.take(1), "the pool is empty");
        greedy.give(5);
        assert!(modest.take(5));
        drop(modest);
        assert_eq!((pool.left.get(), greedy.used()), (5, 9));
        drop(greedy);
        assert_eq!(pool.left.get(), 10, "all comes back");
    }

    #[test]
    fn a_client_has_a_bound_of_its_own() {
        let meter = Meter::new(&Pool::new(1000), 1, 8);
        let share = meter.hold(8).expect("as much as it may");
        assert!(meter.hold(1).is_none());
        assert!(!meter.take(usize::MAX));
        drop(share);
        assert_eq!(meter.used(), 0);
    }

    #[test]
    fn seats_are_counted_by_process_and_in_all() {
        let census = Census::new(3, 2);
        let seats: Vec<Seat> = [7, 7, 8].map(|pid| census.admit(pid).expect("a seat")).into();
        assert!(census.admit(9).is_none(), "all are taken");
        drop(seats);
        let _two = [7, 7].map(|pid| census.admit(pid).expect("a seat"));
        assert!(census.admit(7).is_none(), "a third one of one process");
        assert!(census.admit(8).is_some());
        assert_eq!(census.taken.borrow().len(), 1, "nothing is kept of a process without connections");
    }
}
