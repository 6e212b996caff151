//! A client of the daemon's RPC that keeps to no rule: it speaks the bytes itself (capnproto.org: "Encoding Spec",
//! rpc.capnp), so that it can say what no Cap'n Proto library would.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Interface numbers of `schema/brood.capnp`.
pub const BROOD: u64 = 0xc3e5_c305_b888_efa2;
/// `Brood.version`, the cheapest call there is.
pub const VERSION: u16 = 0;
/// `Brood.get`
pub const GET: u16 = 2;
/// `Brood.list`
pub const LIST: u16 = 3;
/// `Brood.events`
pub const EVENTS: u16 = 5;

/// Tags of `Message` in rpc.capnp.
pub mod tag {
    /// `Message.abort`
    pub const ABORT: u16 = 1;
    /// `Message.call`
    pub const CALL: u16 = 2;
    /// `Message.return`
    pub const RETURN: u16 = 3;
    /// `Message.finish`
    pub const FINISH: u16 = 4;
    /// `Message.resolve`
    pub const RESOLVE: u16 = 5;
    /// `Message.bootstrap`
    pub const BOOTSTRAP: u16 = 8;
    /// `Message.disembargo`
    pub const DISEMBARGO: u16 = 13;
}

/// How long a write to a full socket may wait before it counts as refused.
const WRITE_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a word.
const WORD: usize = 8;

/// A message of one segment, word by word. Pointers are set by the index of their word.
#[derive(Clone, Debug)]
pub struct Message {
    words: Vec<u64>,
}

impl Default for Message {
    fn default() -> Self {
        Self { words: vec![0] }
    }
}

impl Message {
    /// An RPC message of this kind, and the index of the first word of the struct in it.
    #[must_use]
    pub fn rpc(tag: u16, data: u16, pointers: u16) -> (Self, usize) {
        let mut message = Self::default();
        let root = message.structure(0, 1, 1);
        message.words[root] = tag.into();
        let body = message.structure(root + 1, data, pointers);
        (message, body)
    }

    /// A struct at the end, and a pointer to it. Returns the index of its first word.
    pub fn structure(&mut self, pointer: usize, data: u16, pointers: u16) -> usize {
        let start = self.words.len();
        self.words.resize(start + usize::from(data + pointers), 0);
        self.words[pointer] = struct_pointer(start - pointer - 1, data, pointers);
        start
    }

    /// A list of structs at the end, and a pointer to it. Returns the index of the first one's first word.
    pub fn list(&mut self, pointer: usize, count: usize, data: u16, pointers: u16) -> usize {
        const COMPOSITE: u64 = 7;
        let (start, words) = (self.words.len(), count * usize::from(data + pointers));
        self.words.resize(start + 1 + words, 0);
        self.words[pointer] = (start - pointer - 1) as u64 * 4 + 1 + ((COMPOSITE + words as u64 * 8) << 32);
        self.words[start] = struct_pointer(count, data, pointers);
        start + 1
    }

    /// A text at the end, and a pointer to it.
    pub fn text(&mut self, pointer: usize, text: &str) {
        const BYTES: u64 = 2;
        let (start, length) = (self.words.len(), text.len() + 1);
        self.words.resize(start + length.div_ceil(WORD), 0);
        self.words[pointer] = (start - pointer - 1) as u64 * 4 + 1 + ((BYTES + length as u64 * 8) << 32);
        for (at, byte) in text.bytes().enumerate() {
            self.words[start + at / WORD] |= u64::from(byte) << (at % WORD * 8);
        }
    }

    /// Sets a word.
    pub fn set(&mut self, at: usize, word: u64) {
        self.words[at] = word;
    }

    /// Sets a word to a pointer to an earlier (or the same) struct: what makes a cycle.
    pub fn point_back(&mut self, pointer: usize, to: usize, data: u16, pointers: u16) {
        let offset = (to as i64 - pointer as i64 - 1) as i32;
        self.words[pointer] = u64::from((offset << 2) as u32) | struct_pointer(0, data, pointers);
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(self.words.len() as u32);
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }
}

fn struct_pointer(offset: usize, data: u16, pointers: u16) -> u64 {
    (offset as u64 * 4) | (u64::from(data) << 32) | (u64::from(pointers) << 48)
}

/// The beginning of a message of one segment with so many words.
#[must_use]
pub fn header(words: u32) -> Vec<u8> {
    [0u32.to_le_bytes(), words.to_le_bytes()].concat()
}

/// What the daemon said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The results of this question.
    Results(u32),
    /// An exception in answer to it.
    Exception(u32),
    /// The connection is given up.
    Abort,
    /// Another message.
    Other,
}

/// A connection. The bootstrap is question 0 and has been asked.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    last: u32,
}

impl Wire {
    /// Connects and asks for the bootstrap.
    ///
    /// # Errors
    /// Nobody listens, or hangs up at once.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        stream.set_read_timeout(Some(crate::waiting::PATIENCE))?;
        let mut wire = Self { stream, last: 0 };
        let (bootstrap, _) = Message::rpc(tag::BOOTSTRAP, 1, 1);
        wire.send(&bootstrap)?;
        Ok(wire)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The daemon has hung up, or takes nothing more for now.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        self.stream.write_all(&message.bytes())
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// A call of the bootstrap, with the index of the pointer to its `request` and the number of the question.
    pub fn call(&mut self, method: u16) -> (Message, usize, u32) {
        self.last += 1;
        let (mut message, call) = Message::rpc(tag::CALL, 3, 3);
        message.set(call, u64::from(self.last) | u64::from(method) << 32);
        message.set(call + 1, BROOD);
        let target = message.structure(call + 3, 1, 1);
        message.set(target, 1 << 32); // promisedAnswer
        message.structure(target + 1, 1, 1); // of question 0, the bootstrap itself
        let payload = message.structure(call + 4, 0, 2);
        let sink = usize::from(method == EVENTS);
        let params = message.structure(payload, 0, 1 + sink as u16);
        (message, params, self.last)
    }

    /// `Brood.events` with the client's own capability of this number as the sink; `kind` is the tag of its
    /// `CapDescriptor` (1: hosted here, 2: a promise).
    pub fn events(&mut self, sink: u32, kind: u16, follow: bool) -> (Message, u32) {
        const CAPABILITY: u64 = 3;
        let (mut message, params, question) = self.call(EVENTS);
        let request = message.structure(params, 3, 2);
        message.set(request, 1); // since: all that is kept
        message.set(request + 2, follow.into());
        message.set(params + 1, CAPABILITY); // the first one of the table
        let payload = params - 2;
        let table = message.list(payload + 1, 1, 1, 1);
        message.set(table, u64::from(kind) | u64::from(sink) << 32);
        (message, question)
    }

    /// Sends `Brood.version` and waits for the answer.
    ///
    /// # Errors
    /// As [`Wire::hear`].
    pub fn version(&mut self) -> io::Result<bool> {
        let (message, _, question) = self.call(VERSION);
        self.send(&message)?;
        loop {
            match self.hear()? {
                Some(Heard::Results(id)) if id == question => return Ok(true),
                None | Some(Heard::Abort) => return Ok(false),
                Some(_) => {}
            }
        }
    }

    /// The next thing that the daemon says; `None` when it has hung up.
    ///
    /// # Errors
    /// It says nothing in time.
    pub fn hear(&mut self) -> io::Result<Option<Heard>> {
        let Some(first) = self.words(1)? else { return Ok(None) };
        let (segments, length) = ((first[0] as u32 + 1) as usize, (first[0] >> 32) as usize);
        let more = self.words(segments / 2)?.unwrap_or_default();
        let rest: usize = more.iter().flat_map(|word| [*word as u32, (word >> 32) as u32]).map(|n| n as usize).sum();
        let Some(words) = self.words(length + rest)? else { return Ok(None) };
        Ok(Some(heard(&words).unwrap_or(Heard::Other)))
    }

    /// Reads until the daemon has hung up; false when it does not in time.
    pub fn hung_up(&mut self) -> bool {
        loop {
            match self.hear() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn words(&mut self, count: usize) -> io::Result<Option<Vec<u64>>> {
        let mut bytes = vec![0; count * WORD];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        Ok(Some(bytes.chunks_exact(WORD).map(word).collect()))
    }
}

/// What a message says, as far as it is in its first segment.
fn heard(words: &[u64]) -> Option<Heard> {
    let follow = |at: usize| Some(at + 1 + ((*words.get(at)? as u32) >> 2) as usize);
    let root = follow(0)?;
    match *words.get(root)? as u16 {
        tag::ABORT => Some(Heard::Abort),
        tag::RETURN => {
            let word = *words.get(follow(root + 1)?)?;
            let (question, results) = (word as u32, (word >> 48) as u16 == 0);
            Some(if results { Heard::Results(question) } else { Heard::Exception(question) })
        }
        _ => Some(Heard::Other),
    }
}
