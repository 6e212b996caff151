//! Calls to systemd over D-Bus, one at a time: no thread and no event loop, for a process that is about to clone.
//!
//! The connection is ours, since it is little: a line or two to authenticate, then messages of a header and a body, both
//! encoded by zbus (D-Bus specification, "Authentication Protocol", "Message Protocol"). systemd listens on a socket of its
//! own, where whoever connects talks to it alone; the bus is the other way, with a daemon in between.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};
use zbus::OwnedObjectPath;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{Endian, Type, Variant, to_bytes};

use crate::config::one_line;
use crate::report::errno_text;

/// Whom we talk to.
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// The bus itself.
const BUS: &str = "org.freedesktop.DBus";

/// How long systemd may take for a job, as with runc.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest message that is read. What systemd tells about its units is far below.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The longest line before the first message.
const LINE_BYTES_MAX: u64 = 4096;

/// Bytes of a header before its fields: four of one byte, then the body's length, the serial and the fields' length.
const FIXED_BYTES: usize = 16;

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody listens.
    #[error("systemd is not running: {0}")]
    NotRunning(String),
    /// It answered with an error.
    #[error("systemd: {member}: {text}")]
    Refused {
        /// The method that was called.
        member: String,
        /// `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// In its words.
        text: String,
    },
    /// A job of its ended otherwise than by being done.
    #[error("systemd: unit {unit}: {result}")]
    Job {
        /// The unit.
        unit: String,
        /// `failed`, `timeout`, `canceled` ...
        result: String,
    },
    /// The connection broke, or took too long.
    #[error("systemd: {0}")]
    Io(#[from] Error),
    /// What came over it was no D-Bus message, or not the one expected.
    #[error("systemd: {0}")]
    Wire(#[from] zbus::Error),
}

impl BusError {
    /// Whether it is systemd's answer of this name (`NoSuchUnit`).
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, BusError::Refused { name, .. } if name.rsplit('.').next() == Some(wanted))
    }

    /// Whether it says that there is no such unit, or none of that invocation any more.
    pub fn is_no_unit(&self) -> bool {
        ["NoSuchUnit", "NoUnitForInvocationID", "UnknownObject"].iter().any(|name| self.is(name))
    }
}

type Result<T> = std::result::Result<T, BusError>;

/// A socket to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Of the socket.
    pub path: PathBuf,
    /// Whether a bus listens there, and not systemd itself.
    pub is_bus: bool,
}

/// A connection to systemd.
pub struct Bus {
    stream: BufReader<UnixStream>,
    is_bus: bool,
    serial: u32,
    deadline: Instant,
    /// Jobs that ended while we waited for something else: path and result.
    ended: VecDeque<(OwnedObjectPath, String)>,
}

/// Field numbers of a header (D-Bus specification, "Header Fields").
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SIGNATURE: u8 = 8;
}

/// Kinds of messages.
mod kind {
    pub const CALL: u8 = 1;
    pub const REPLY: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const SIGNAL: u8 = 4;
}

/// As read: byte order, kind, flags, version, length of the body, serial, fields.
type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);

/// Those of a header that is written: structures of a number and a variant.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    /// A text of type `s`, `o` or `g`.
    fn push(&mut self, number: u8, of: u8, text: &str) {
        let Fields(bytes) = self;
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend_from_slice(&[number, 1, of, 0]);
        match of {
            b'g' => bytes.push(text.len() as u8),
            _ => bytes.extend_from_slice(&(text.len() as u32).to_le_bytes()),
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
}

/// One that was read.
struct Message {
    kind: u8,
    reply_serial: Option<u32>,
    error_name: Option<String>,
    member: Option<String>,
    body: Data<'static, 'static>,
}

impl Bus {
    /// Connects to the first that listens.
    ///
    /// # Errors
    /// None does, or it does not let us in.
    pub fn connect(addresses: &[Address]) -> Result<Bus> {
        let mut refusals = Vec::new();
        for Address { path, is_bus } in addresses {
            match UnixStream::connect(path) {
                Ok(stream) => return Bus::greet(stream, *is_bus),
                Err(error) => {
                    let reason = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
                    let reason = reason.map_or_else(|| error.to_string(), errno_text);
                    refusals.push(format!("{}: {reason}", path.display()));
                }
            }
        }
        Err(BusError::NotRunning(refusals.join("; ")))
    }

    fn greet(stream: UnixStream, is_bus: bool) -> Result<Bus> {
        let mut bus = Bus {
            stream: BufReader::new(stream),
            is_bus,
            serial: 0,
            deadline: Instant::now() + PATIENCE,
            ended: VecDeque::new(),
        };
        bus.authenticate()?;
        if is_bus {
            let _: String = bus.ask(BUS, "/org/freedesktop/DBus", BUS, "Hello", &())?;
        }
        Ok(bus)
    }

    /// By the kernel's word for who we are. No uid is given: in a user namespace it is not the one that they see.
    ///
    /// All lines go in one piece, as those of sd-bus do: a message that came together with `BEGIN` would not be looked at by
    /// systemd before the next one.
    fn authenticate(&mut self) -> Result<()> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut answer = self.read_line()?;
        if answer.starts_with("DATA") {
            answer = self.read_line()?;
        }
        if !answer.starts_with("OK") {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("authentication failed: {answer}")).into());
        }
        Ok(())
    }

    /// From here on ends of jobs are heard of, by [`Bus::await_job`].
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn subscribe(&mut self) -> Result<()> {
        if self.is_bus {
            let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            self.call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", &rule)?;
        }
        self.manager("Subscribe", &()).map(drop)
    }

    /// Calls a method of systemd's manager.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn manager<B: Serialize + Type>(&mut self, member: &str, body: &B) -> Result<Data<'static, 'static>> {
        self.call(SYSTEMD, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", member, body)
    }

    /// Calls a method of a unit, which is told by its invocation and not by its name: that may be somebody else's by now.
    ///
    /// # Errors
    /// See [`BusError`]; [`BusError::is_no_unit`] when it has ended.
    pub fn unit<B: Serialize + Type>(
        &mut self,
        invocation: &str,
        member: &str,
        body: &B,
    ) -> Result<Data<'static, 'static>> {
        self.call(SYSTEMD, &object_of(invocation), "org.freedesktop.systemd1.Unit", member, body)
    }

    /// Waits until a job has ended, which a call has begun.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn await_job(&mut self, unit: &str, begun: &Data<'static, 'static>) -> Result<()> {
        let job: OwnedObjectPath = read(begun)?;
        loop {
            while let Some((ended, result)) = self.ended.pop_front() {
                match result.as_str() {
                    _ if ended != job => {}
                    "done" => return Ok(()),
                    _ => return Err(BusError::Job { unit: unit.to_owned(), result }),
                }
            }
            self.read_message()?;
        }
    }

    /// The object of a unit that is loaded.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn object(&mut self, unit: &str) -> Result<OwnedObjectPath> {
        read(&self.manager("GetUnit", &unit)?)
    }

    /// A property of an object of systemd's.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn property<T>(&mut self, object: &str, interface: &str, name: &str) -> Result<T>
    where
        T: TryFrom<Variant<'static>>,
        T::Error: Into<zbus::Error>,
    {
        let interface = format!("{SYSTEMD}.{interface}");
        let properties = "org.freedesktop.DBus.Properties";
        let value: zbus::OwnedVariant = self.ask(SYSTEMD, object, properties, "Get", &(interface, name))?;
        Ok(Variant::from(value).downcast::<T>()?)
    }

    fn ask<B: Serialize + Type, R: DeserializeOwned + Type>(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) -> Result<R> {
        read(&self.call(destination, path, interface, member, body)?)
    }

    fn call<B: Serialize + Type>(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) -> Result<Data<'static, 'static>> {
        self.serial += 1;
        let context = Context::new(Endian::Little, 0);
        let encoded = to_bytes(context, body)?;
        // A body is its arguments, not a structure of them.
        let signature = B::SIGNATURE.to_string_no_parens();
        let mut fields = Fields::default();
        fields.push(field::PATH, b'o', path);
        fields.push(field::INTERFACE, b's', interface);
        fields.push(field::MEMBER, b's', member);
        if self.is_bus {
            fields.push(field::DESTINATION, b's', destination);
        }
        if !signature.is_empty() {
            fields.push(field::SIGNATURE, b'g', &signature);
        }
        let Fields(fields) = fields;
        let mut message = vec![b'l', kind::CALL, 0, 1];
        for word in [encoded.len(), self.serial as usize, fields.len()] {
            message.extend_from_slice(&(word as u32).to_le_bytes());
        }
        message.extend_from_slice(&fields);
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend_from_slice(&encoded);
        self.write(&message)?;
        self.await_reply(member)
    }

    fn await_reply(&mut self, member: &str) -> Result<Data<'static, 'static>> {
        let serial = self.serial;
        loop {
            let Some(message) = self.read_message()?.filter(|message| message.reply_serial == Some(serial)) else {
                continue;
            };
            if message.kind == kind::REPLY {
                return Ok(message.body);
            }
            let name = message.error_name.unwrap_or_default();
            let text = read::<String>(&message.body).unwrap_or_else(|_| name.clone());
            let text = one_line(&text).into_owned();
            return Err(BusError::Refused { member: member.to_owned(), name, text });
        }
    }

    /// Reads one message; the end of a job is kept for whoever waits for it.
    fn read_message(&mut self) -> Result<Option<Message>> {
        let mut bytes = vec![0; FIXED_BYTES];
        self.read(&mut bytes)?;
        let endian = if bytes[0] == b'B' { Endian::Big } else { Endian::Little };
        let word = |at: usize| {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            (if endian == Endian::Big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }) as usize
        };
        let (body, fields) = (word(4), word(12));
        let header = (FIXED_BYTES + fields.min(MESSAGE_BYTES_MAX)).next_multiple_of(8);
        if header + body.min(MESSAGE_BYTES_MAX) >= MESSAGE_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidData, "a message of more than 1 MiB").into());
        }
        bytes.resize(header + body, 0);
        self.read(&mut bytes[FIXED_BYTES..])?;
        let context = Context::new(endian, 0);
        let body = Data::new(bytes.split_off(header), context);
        let header = Data::new(bytes, context);
        let ((_, kind, .., fields), _): (Header<'_>, usize) = header.deserialize()?;
        let mut message = Message { kind, reply_serial: None, error_name: None, member: None, body };
        for (number, value) in fields {
            match number {
                field::REPLY_SERIAL => message.reply_serial = value.downcast().ok(),
                field::ERROR_NAME => message.error_name = value.downcast().ok(),
                field::MEMBER => message.member = value.downcast().ok(),
                _ => {}
            }
        }
        if message.kind == kind::SIGNAL && message.member.as_deref() == Some("JobRemoved") {
            let (_, job, _, result): (u32, OwnedObjectPath, String, String) = read(&message.body)?;
            self.ended.push_back((job, result));
        }
        Ok(matches!(message.kind, kind::REPLY | kind::ERROR).then_some(message))
    }

    fn read_line(&mut self) -> Result<String> {
        let left = self.left()?;
        self.stream.get_ref().set_read_timeout(Some(left))?;
        let mut line = Vec::new();
        self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(late)?;
        if !line.ends_with(b"\r\n") {
            return Err(Error::new(ErrorKind::InvalidData, "no line in answer to ours").into());
        }
        Ok(one_line(String::from_utf8_lossy(&line).trim_end()).into_owned())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let left = self.left()?;
        self.stream.get_ref().set_read_timeout(Some(left))?;
        self.stream.read_exact(buffer).map_err(late)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        self.stream.get_ref().set_write_timeout(Some(left))?;
        self.stream.get_mut().write_all(bytes).map_err(late)
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late(ErrorKind::WouldBlock.into())) } else { Ok(left) }
    }
}

/// Where a unit is that has this invocation, in hexadecimal digits: systemd takes that in place of the name (since version 233).
/// Names of objects do not begin with a digit: it is written as its code.
pub(super) fn object_of(invocation: &str) -> String {
    let (first, rest) = invocation.split_at_checked(1).unwrap_or_default();
    match first.as_bytes() {
        [digit @ b'0'..=b'9'] => format!("/org/freedesktop/systemd1/unit/_{digit:x}{rest}"),
        _ => format!("/org/freedesktop/systemd1/unit/{first}{rest}"),
    }
}

/// The first argument, or all of them.
fn read<R: DeserializeOwned + Type>(body: &Data<'static, 'static>) -> Result<R> {
    Ok(body.deserialize()?.0)
}

/// In words of ours where a timeout was the reason.
fn late(error: Error) -> BusError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Error::new(ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs())).into()
        }
        ErrorKind::UnexpectedEof => Error::new(ErrorKind::UnexpectedEof, "closed the connection").into(),
        _ => error.into(),
    }
}
