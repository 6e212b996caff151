//! Subscriptions: each reads the journal at its own pace, by cursor. There is no queue per subscriber, so a slow one
//! costs nothing; one that falls behind what is kept is told how far.

use std::rc::Rc;

use brood_schema::brood_capnp as schema;

use super::convert::put_event;
use super::meter::Share;
use crate::journal::Page;
use crate::limits::EVENTS_PER_BATCH;
use crate::supervisor::Supervisor;

/// The handle: dropping it ends the task.
pub(super) struct Subscription {
    flow: tokio::task::AbortHandle,
    _share: Share,
}

impl schema::subscription::Server for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.flow.abort();
    }
}

pub(super) fn subscribe(
    supervisor: Rc<Supervisor>,
    request: schema::events_request::Reader<'_>,
    sink: schema::event_sink::Client,
    share: Share,
) -> capnp::Result<Subscription> {
    let id = request.get_id()?.to_string()?;
    let cursor = {
        let journal = supervisor.journal();
        match (request.get_after_seq(), request.get_since()) {
            (0, 0) => journal.last_seq(),
            (0, since) => journal.cursor_at(since),
            // A supervisor that died with a full disk has told of events that are not in the file: their numbers come again.
            (after, _) => after.min(journal.last_seq()),
        }
    };
    let flow = Flow { supervisor, sink, id, cursor, follow: request.get_follow() };
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = flow.run().await {
            tracing::debug!(%error, "subscriber");
        }
    });
    Ok(Subscription { flow: task.abort_handle(), _share: share })
}

struct Flow {
    supervisor: Rc<Supervisor>,
    sink: schema::event_sink::Client,
    id: String,
    cursor: u64,
    follow: bool,
}

impl Flow {
    async fn run(mut self) -> capnp::Result<()> {
        let changed = self.supervisor.journal().changed();
        loop {
            // Registered before reading: an event in between wakes us.
            let news = changed.notified();
            let page = self.supervisor.journal().after(self.cursor, EVENTS_PER_BATCH);
            match page.events.last() {
                Some(last) => {
                    self.cursor = last.seq;
                    self.push(page).await?;
                }
                None if self.follow => news.await,
                None => return self.sink.done_request().send().promise.await.map(drop),
            }
        }
    }

    async fn push(&self, mut page: Page) -> capnp::Result<()> {
        page.events.retain(|event| self.id.is_empty() || event.id == self.id);
        if page.events.is_empty() && page.lagged_to.is_none() {
            return Ok(());
        }
        let mut request = self.sink.push_request();
        let mut batch = request.get().init_batch();
        batch.set_lagged_to(page.lagged_to.unwrap_or(0));
        let mut events = batch.init_events(page.events.len() as u32);
        for (index, event) in (0..).zip(&page.events) {
            put_event(events.reborrow().get(index), event);
        }
        request.send().promise.await.map(drop)
    }
}
