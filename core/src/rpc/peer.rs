//! What is kept of one client: who it is, and what it holds, each within its bound.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use capnp::Error;
use tokio::sync::{Notify, Semaphore};

use super::meter::{Census, Meter, Pool, Seat, Share};
use crate::limits::{
    CONNECTIONS_MAX, CONNECTIONS_PER_PROCESS_MAX, ENTRIES_OWN, ENTRIES_SHARED, HANDLES_PER_CONNECTION_MAX,
    LARGE_MESSAGES_BYTES_MAX, OUTPUT_SHARED_BYTES, QUESTIONS_PER_CONNECTION_MAX, READER_PATIENCE_S, REPLIES_OWN_BYTES,
    REPLIES_PER_CONNECTION_MAX, REPLIES_SHARED_BYTES, SUBSCRIPTIONS_PER_CONNECTION_MAX, TICKETS_PER_CONNECTION_MAX,
};

/// How long the last words to a client may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What all clients share.
pub(super) struct Commons {
    pub(super) seats: Rc<Census>,
    /// Bytes of large messages.
    pub(super) large: std::sync::Arc<Semaphore>,
    /// Bytes of captured output.
    pub(super) output: Rc<Pool>,
    questions: Rc<Pool>,
    handles: Rc<Pool>,
    replies: Rc<Pool>,
    /// Nobody draws on this one: for what has only a bound per connection.
    nothing: Rc<Pool>,
}

impl Commons {
    pub(super) fn new() -> Rc<Commons> {
        Rc::new(Commons {
            seats: Census::new(CONNECTIONS_MAX, CONNECTIONS_PER_PROCESS_MAX),
            large: std::sync::Arc::new(Semaphore::new(LARGE_MESSAGES_BYTES_MAX)),
            output: Pool::new(OUTPUT_SHARED_BYTES),
            questions: Pool::new(ENTRIES_SHARED),
            handles: Pool::new(ENTRIES_SHARED),
            replies: Pool::new(REPLIES_SHARED_BYTES),
            nothing: Pool::new(0),
        })
    }
}

/// A client.
pub(super) struct Peer {
    pub(super) commons: Rc<Commons>,
    questions: RefCell<HashMap<u32, Question>>,
    asked: Rc<Meter>,
    handles: Rc<Meter>,
    subscriptions: Rc<Meter>,
    tickets: Rc<Meter>,
    /// Bytes that wait for it to read them.
    replies: Rc<Meter>,
    /// It has read something, or something waits for it.
    moved: Notify,
    /// Why its connection is to end, and by when it has to be over.
    ended: Cell<Option<Ended>>,
    ending: Notify,
    _seat: Option<Seat>,
}

struct Question {
    _share: Share,
    finished: bool,
    returned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Its last words may still be read.
    Politely,
    /// Nothing more is sent.
    AtOnce,
}

impl Peer {
    pub(super) fn new(commons: &Rc<Commons>, seat: Option<Seat>) -> Rc<Peer> {
        let entries = |pool, max| Meter::new(pool, ENTRIES_OWN, max);
        let own = |max| Meter::new(&commons.nothing, max, max);
        Rc::new(Peer {
            questions: RefCell::default(),
            asked: entries(&commons.questions, QUESTIONS_PER_CONNECTION_MAX),
            handles: entries(&commons.handles, HANDLES_PER_CONNECTION_MAX),
            subscriptions: own(SUBSCRIPTIONS_PER_CONNECTION_MAX),
            tickets: own(TICKETS_PER_CONNECTION_MAX),
            replies: Meter::new(&commons.replies, REPLIES_OWN_BYTES, REPLIES_PER_CONNECTION_MAX),
            moved: Notify::new(),
            ended: Cell::new(None),
            ending: Notify::new(),
            commons: commons.clone(),
            _seat: seat,
        })
    }

    /// Room for one more handle.
    ///
    /// # Errors
    /// There is none: the client has to release some.
    pub(super) fn handle(&self) -> capnp::Result<Share> {
        self.handles.hold(1).ok_or_else(|| overloaded("handles"))
    }

    /// Room for one more subscription, as [`Peer::handle`].
    pub(super) fn subscription(&self) -> capnp::Result<Share> {
        self.subscriptions.hold(1).ok_or_else(|| overloaded("subscriptions"))
    }

    /// Room for one more ticket, as [`Peer::handle`].
    pub(super) fn ticket(&self) -> capnp::Result<Share> {
        self.tickets.hold(1).ok_or_else(|| overloaded("stdio tickets"))
    }

    /// It asks question number so.
    pub(super) fn asks(&self, id: u32) -> capnp::Result<()> {
        let share = self.asked.hold(1).ok_or_else(|| overloaded("questions"))?;
        // A number that is in use already is the library's to refuse.
        self.questions.borrow_mut().insert(id, Question { _share: share, finished: false, returned: false });
        Ok(())
    }

    /// It is done with question number so.
    pub(super) fn finishes(&self, id: u32) {
        self.close(id, |question| question.finished = true);
    }

    /// Question number so is answered; with `for_good` it need not be finished.
    pub(super) fn answered(&self, id: u32, for_good: bool) {
        self.close(id, |question| {
            question.returned = true;
            question.finished |= for_good;
        });
    }

    fn close(&self, id: u32, change: impl FnOnce(&mut Question)) {
        let mut questions = self.questions.borrow_mut();
        let Some(question) = questions.get_mut(&id) else { return };
        change(question);
        if question.finished && question.returned {
            questions.remove(&id);
        }
    }

    /// So many bytes are to be sent to it.
    pub(super) fn sends(&self, bytes: usize) {
        if !self.replies.take(bytes) {
            self.end(Ended::AtOnce);
        }
        self.moved.notify_waiters();
    }

    /// So many bytes have been taken by its socket.
    pub(super) fn sent(&self, bytes: usize) {
        self.replies.give(bytes);
        self.moved.notify_waiters();
    }

    /// Whether it should read before it is listened to again.
    pub(super) fn is_behind(&self) -> bool {
        self.replies.used() > REPLIES_OWN_BYTES
    }

    /// Resolves when it is behind.
    pub(super) async fn falls_behind(&self) {
        while !self.is_behind() {
            self.moved.notified().await;
        }
    }

    /// Resolves when it is not behind (any more).
    ///
    /// # Errors
    /// It reads nothing at all for long.
    pub(super) async fn catches_up(&self) -> capnp::Result<()> {
        while self.is_behind() {
            let before = self.replies.used();
            let moved = tokio::time::timeout(Duration::from_secs(READER_PATIENCE_S), async {
                while self.replies.used() >= before {
                    self.moved.notified().await;
                }
            });
            if moved.await.is_err() {
                self.end(Ended::AtOnce);
                return Err(Error::overloaded(format!("nothing was read of {before} bytes in {READER_PATIENCE_S} s")));
            }
        }
        Ok(())
    }

    /// Nothing more will be heard of it.
    pub(super) fn hung_up(&self) {
        if self.ended.get().is_none() {
            self.end(Ended::Politely);
        }
    }

    fn end(&self, how: Ended) {
        self.ended.set(Some(how));
        self.ending.notify_waiters();
    }

    /// Resolves when its connection has to be over.
    pub(super) async fn is_over(&self) {
        loop {
            match self.ended.get() {
                None => self.ending.notified().await,
                Some(Ended::Politely) => {
                    // At once, should it come to that meanwhile.
                    let _ = tokio::time::timeout(FAREWELL, self.ending.notified()).await;
                    return;
                }
                Some(Ended::AtOnce) => return,
            }
        }
    }
}

fn overloaded(what: &str) -> Error {
    Error::overloaded(format!("this connection has too many {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_held_until_it_is_answered_and_finished() {
        let peer = Peer::new(&Commons::new(), None);
        for id in 0..4 {
            peer.asks(id).unwrap();
        }
        peer.answered(0, true);
        peer.answered(1, false);
        peer.finishes(2);
        assert_eq!(peer.asked.used(), 3);
        peer.finishes(1);
        peer.answered(2, false);
        peer.finishes(99);
        assert_eq!(peer.asked.used(), 1);
    }

    #[test]
    fn one_question_too_many_ends_it() {
        let peer = Peer::new(&Commons::new(), None);
        for id in 0..QUESTIONS_PER_CONNECTION_MAX as u32 {
            peer.asks(id).unwrap();
        }
        assert!(peer.asks(u32::MAX).is_err());
    }

    #[test]
    fn replies_beyond_the_bound_end_it_at_once() {
        let peer = Peer::new(&Commons::new(), None);
        peer.sends(REPLIES_OWN_BYTES);
        assert!(!peer.is_behind());
        peer.sends(REPLIES_PER_CONNECTION_MAX - REPLIES_OWN_BYTES);
        assert!(peer.is_behind() && peer.ended.get().is_none());
        peer.sends(1);
        assert!(peer.ended.get() == Some(Ended::AtOnce));
    }
}
