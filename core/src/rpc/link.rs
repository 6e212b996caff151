//! A client's connection as the RPC library sees it: messages are read one after the other and only as fast as their
//! answers are read, judged (`gate`), and counted (`peer`). Writing is the library's.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use capnp::Error;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator, Reader};
use capnp::serialize::{OwnedSegments, SegmentLengthsBuilder};
use capnp_rpc::rpc_capnp::{message, return_};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork, twoparty};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, BufWriter};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::gate::{Verdict, judge};
use super::peer::Peer;
use super::{BUFFER_BYTES, reader_options};
use crate::limits::{
    MESSAGE_PATIENCE_S, MESSAGES_PER_TURN, RPC_TRAVERSAL_WORDS_MAX, SEGMENTS_MAX, SMALL_MESSAGE_BYTES,
};

const WORD: usize = 8;
const PATIENCE: Duration = Duration::from_secs(MESSAGE_PATIENCE_S);

/// The library's network, of which only the writing half is used.
type Writing = twoparty::VatNetwork<Compat<tokio::io::Empty>>;

/// The network that consists of one client.
pub(super) struct Link<R> {
    reading: Option<Reading<R>>,
    writing: Writing,
    peer: Rc<Peer>,
}

impl<R: AsyncRead + Unpin + 'static> Link<R> {
    pub(super) fn new<W: AsyncWrite + Unpin + 'static>(reader: R, writer: W, peer: &Rc<Peer>) -> Link<R> {
        let writer = Counted { writer, peer: peer.clone() };
        let writer = BufWriter::with_capacity(BUFFER_BYTES, writer).compat_write();
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Link {
            reading: Some(Reading { reader, peer: peer.clone(), heard: 0 }),
            writing: Writing::new(tokio::io::empty().compat(), writer, Side::Server, reader_options()),
            peer: peer.clone(),
        }
    }
}

impl<R: AsyncRead + Unpin + 'static> VatNetwork<Side> for Link<R> {
    fn connect(&mut self, _: Side) -> Option<Box<dyn Connection<Side>>> {
        // The daemon calls clients by the handles that they give it, never by themselves.
        None
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let Some(reading) = self.reading.take() else { return Promise::from_future(std::future::pending()) };
        let (writing, peer) = (self.writing.accept(), self.peer.clone());
        Promise::from_future(async move {
            let (reading, writing) = (RefCell::new(Some(reading)).into(), RefCell::new(writing.await?).into());
            Ok(Box::new(Line { reading, writing, peer }) as Box<dyn Connection<Side>>)
        })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.writing.drive_until_shutdown()
    }
}

/// The one connection of the network.
struct Line<R> {
    /// Taken while a message is being read.
    reading: Rc<RefCell<Option<Reading<R>>>>,
    writing: Rc<RefCell<Box<dyn Connection<Side>>>>,
    peer: Rc<Peer>,
}

impl<R: AsyncRead + Unpin + 'static> Connection<Side> for Line<R> {
    fn get_peer_vat_id(&self) -> Side {
        Side::Client
    }

    fn new_outgoing_message(&mut self, first_segment_words: u32) -> Box<dyn OutgoingMessage> {
        let message = self.writing.borrow_mut().new_outgoing_message(first_segment_words);
        Box::new(Outgoing { message, peer: self.peer.clone() })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let Some(mut reading) = self.reading.borrow_mut().take() else {
            return Promise::err(Error::failed("two messages are read at once".to_owned()));
        };
        let mut line = Line { reading: self.reading.clone(), writing: self.writing.clone(), peer: self.peer.clone() };
        Promise::from_future(async move {
            let received = loop {
                match reading.next().await {
                    Ok(Some((message, Verdict::Unimplemented))) => {
                        send_unimplemented(line.new_outgoing_message(0), &message)?;
                    }
                    received => break received,
                }
            };
            if !matches!(received, Ok(Some(_))) {
                line.peer.hung_up();
            }
            line.reading.replace(Some(reading));
            Ok(received?.map(|(message, _)| Box::new(message) as Box<dyn IncomingMessage>))
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.writing.borrow_mut().new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        self.writing.borrow_mut().shutdown(result)
    }
}

fn send_unimplemented(mut answer: Box<dyn OutgoingMessage>, message: &Incoming) -> capnp::Result<()> {
    let mut root: message::Builder<'_> = answer.get_body()?.init_as();
    root.set_unimplemented(message.get_body()?.get_as()?)?;
    drop(answer.send());
    Ok(())
}

/// The reading half.
struct Reading<R> {
    reader: BufReader<R>,
    peer: Rc<Peer>,
    /// Messages so far.
    heard: usize,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    /// The next message, judged and counted; `None` at the end.
    async fn next(&mut self) -> capnp::Result<Option<(Incoming, Verdict)>> {
        if self.heard % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        if !self.begins().await? {
            return Ok(None);
        }
        let message = self.message().await?;
        self.heard += 1;
        let root = message.get_body()?.get_as()?;
        let verdict = judge(root, message.bytes)?;
        match verdict {
            Verdict::Asks(id) => self.peer.asks(id)?,
            Verdict::Finishes(id) => self.peer.finishes(id),
            Verdict::Passes | Verdict::Unimplemented => {}
        }
        Ok(Some((message, verdict)))
    }

    /// Waits for the first byte of a message, as long as the client reads what it is told. False at the end.
    async fn begins(&mut self) -> capnp::Result<bool> {
        loop {
            self.peer.catches_up().await?;
            let bytes = tokio::select! {
                biased;
                () = self.peer.falls_behind() => continue,
                bytes = patiently(self.heard > 0, self.reader.fill_buf()) => bytes??,
            };
            return Ok(!bytes.is_empty());
        }
    }

    /// Reads a message that has begun. (capnproto.org, "Encoding Spec", "Serialization Over a Stream")
    async fn message(&mut self) -> capnp::Result<Incoming> {
        let lengths = patiently(false, read_table(&mut self.reader)).await??;
        let bytes = lengths.total_words() * WORD;
        let large = if bytes > SMALL_MESSAGE_BYTES { Some(self.turn(bytes).await?) } else { None };
        let mut segments = lengths.into_owned_segments();
        patiently(false, self.reader.read_exact(&mut segments[..])).await??;
        Ok(Incoming { message: Reader::new(segments, reader_options()), bytes, _large: large })
    }

    /// Waits until there is room for a large message.
    async fn turn(&self, bytes: usize) -> capnp::Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let turn = self.peer.commons.large.clone().acquire_many_owned(permits);
        let turn = tokio::time::timeout(PATIENCE, turn).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| Error::overloaded("too many large messages at once".to_owned()))
    }
}

/// Waits for a client: for ever, or for [`MESSAGE_PATIENCE_S`].
async fn patiently<T>(for_ever: bool, work: impl Future<Output = T>) -> capnp::Result<T> {
    if for_ever {
        return Ok(work.await);
    }
    let late = |_| Error::failed(format!("the rest of a message has not come within {MESSAGE_PATIENCE_S} s"));
    tokio::time::timeout(PATIENCE, work).await.map_err(late)
}

/// Reads how many segments a message has and how long they are.
async fn read_table<R: AsyncRead + Unpin>(reader: &mut BufReader<R>) -> capnp::Result<SegmentLengthsBuilder> {
    let count = reader.read_u32_le().await?.wrapping_add(1) as usize;
    if !(1..=SEGMENTS_MAX).contains(&count) {
        return Err(Error::failed(format!("a message of {count} segments")));
    }
    let mut lengths = SegmentLengthsBuilder::with_capacity(count);
    for _ in 0..count {
        lengths.try_push_segment(reader.read_u32_le().await? as usize)?;
        // Before anything is allocated for it.
        if lengths.total_words() > RPC_TRAVERSAL_WORDS_MAX {
            return Err(Error::failed(format!("a message of more than {} bytes", RPC_TRAVERSAL_WORDS_MAX * WORD)));
        }
    }
    if count.is_multiple_of(2) {
        reader.read_u32_le().await?; // to a whole word
    }
    Ok(lengths)
}

/// A message from the client.
struct Incoming {
    message: Reader<OwnedSegments>,
    bytes: usize,
    /// The room of a large one, until it is acted on.
    _large: Option<OwnedSemaphorePermit>,
}

impl IncomingMessage for Incoming {
    fn get_body(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_root()
    }
}

/// A message to the client, counted when it is sent.
struct Outgoing {
    message: Box<dyn OutgoingMessage>,
    peer: Rc<Peer>,
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let Outgoing { message, peer } = *self;
        if let Ok(Some((id, for_good))) = answers(message.as_ref()) {
            peer.answered(id, for_good);
        }
        let (sent, message) = message.send();
        peer.sends(capnp::serialize::compute_serialized_size_in_words(&message) * WORD);
        (sent, message)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message.take()
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}

/// The question that a message answers, and whether that is the last that is heard of it.
fn answers(message: &dyn OutgoingMessage) -> capnp::Result<Option<(u32, bool)>> {
    let root: message::Reader<'_> = message.get_body_as_reader()?.get_as()?;
    let Ok(message::Return(answer)) = root.which() else { return Ok(None) };
    let answer: return_::Reader<'_> = answer?;
    Ok(Some((answer.get_answer_id(), answer.get_no_finish_needed())))
}

/// Tells the peer what its socket has taken.
struct Counted<W> {
    writer: W,
    peer: Rc<Peer>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Counted<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.writer).poll_write(context, bytes))?;
        self.peer.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
