//! The connection to a daemon, for the command line and for other Rust programs.
//!
//! Must be used inside a tokio `LocalSet`: Cap'n Proto's futures stay on their thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use brood_launcher::checkpoint::named::Checkpoint;
use brood_launcher::plan::Stdio;
use brood_launcher::report::errno_text;
use brood_launcher::state::ExitRecord;
use brood_launcher::zygote::frame;
use brood_schema::brood_capnp as schema;
use capnp_rpc::RpcSystem;
use capnp_rpc::rpc_twoparty_capnp::Side;
use rustix::io::Errno;
use rustix::net::SocketType;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::registry::Failure;
use crate::rpc;
use crate::rpc::TAKEN;
use crate::watch::watch;

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon is there, or it is not ours to use.
    #[error("cannot reach the daemon at unix://{}: {}", path.display(), errno_text(*errno))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// ENOENT or ECONNREFUSED: nobody there. EACCES: not for us.
        errno: Errno,
    },
    /// The daemon says no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The connection broke, or the daemon refuses to talk to us.
    #[error("{}", .0.extra)]
    Rpc(#[from] capnp::Error),
    /// The connection broke while something was being made, and there is no trace of it.
    #[error("{0}: the daemon died while it was being made; whether its program has begun is not known")]
    Unknown(String),
    /// Descriptors could not be handed over.
    #[error("hand descriptors to the daemon: {}", errno_text(*.0))]
    Stdio(Errno),
}

impl ClientError {
    /// Whether nothing was begun, since the daemon is being upgraded.
    #[must_use]
    pub fn is_postponed(&self) -> bool {
        matches!(self, ClientError::Refused(failure) if failure.message == crate::supervisor::UPGRADING)
    }

    /// Whether the connection broke: a call may or may not have been carried out.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, ClientError::Rpc(error) if error.kind == capnp::ErrorKind::Disconnected)
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A connection.
#[derive(Clone)]
pub struct Client {
    /// The bootstrap handle, for calls that have no method here.
    pub brood: schema::brood::Client,
    /// An earlier connection broke: what is asked for may have been done already.
    pub again: bool,
    /// Closed when the connection ends.
    ended: tokio::sync::watch::Receiver<()>,
}

/// What to create; the fields are those of `CreateRequest`.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Name.
    pub id: String,
    /// Where the configuration comes from.
    pub source: CreateSource,
    /// A ticket from [`Client::hand_over`]; without one the output goes to files.
    pub stdio: Option<Vec<u8>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Run at once.
    pub start: bool,
    /// Delete at the end.
    pub auto_remove: bool,
    /// Go on without what is not supported.
    pub ignore_unsupported: bool,
    /// Go on from this checkpoint: directory of checkpoints (empty for that of the bundle) and name.
    pub checkpoint: Option<(PathBuf, String)>,
}

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub enum CreateSource {
    /// Absolute path of a bundle.
    Bundle(PathBuf),
    /// The text of a config.json.
    Config {
        /// The text.
        text: Vec<u8>,
        /// The root is a layer over the host's.
        host_overlay: bool,
    },
}

impl Default for CreateSource {
    fn default() -> Self {
        CreateSource::Bundle(PathBuf::new())
    }
}

/// What to run in a container; the fields are those of `ExecRequest`.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// Name; empty for one that the daemon makes up.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment beside the container's own.
    pub env: Vec<String>,
    /// Working directory; empty for the container's own.
    pub cwd: String,
    /// User; `None` for the container's own.
    pub uid: Option<u32>,
    /// Group; `None` for the container's own.
    pub gid: Option<u32>,
    /// A terminal of this many rows and columns (zeros leave them to the kernel).
    pub terminal: Option<(u16, u16)>,
    /// Added capabilities.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// A ticket from [`Client::hand_over`]; without one the output goes to files.
    pub stdio: Option<Vec<u8>>,
    /// Run at once.
    pub start: bool,
    /// Delete at the end.
    pub auto_remove: bool,
    /// Go on without what is not supported.
    pub ignore_unsupported: bool,
}

/// Who answers.
#[derive(Clone, Debug)]
pub struct Version {
    /// Of the binary.
    pub version: String,
    /// Number of the newest changes to the schema.
    pub api: u32,
    /// io_uring or epoll.
    pub reactor: String,
    /// Living zygotes.
    pub zygotes: u16,
    /// Of the supervisor.
    pub pid: i32,
}

/// A handle on a container.
#[derive(Clone)]
pub struct Container(pub schema::container::Client);

/// A handle on an exec.
#[derive(Clone)]
pub struct Process(pub schema::process::Client);

impl Client {
    /// Connects to the socket of a daemon.
    ///
    /// # Errors
    /// [`ClientError::Connect`]
    pub async fn connect(path: &Path) -> Result<Client> {
        let fail = |errno| ClientError::Connect { path: path.to_owned(), errno };
        let socket = brood_launcher::socket::connect(path, SocketType::STREAM).map_err(fail)?;
        let io_fail = |error: std::io::Error| fail(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        rustix::io::ioctl_fionbio(&socket, true).map_err(fail)?;
        let stream = UnixStream::from_std(socket.into()).map_err(io_fail)?;
        let mut system = RpcSystem::new(Box::new(rpc::network(stream, Side::Client)), None);
        let brood = system.bootstrap(Side::Server);
        let (end, ended) = tokio::sync::watch::channel(());
        tokio::task::spawn_local(async move {
            // Why it ended is told by the calls that were under way.
            let _ = system.await;
            drop(end);
        });
        Ok(Client { brood, again: false, ended })
    }

    /// Creates a container. The handle may be used before the creation is complete; the future says how it went.
    pub fn create(&self, create: &Create) -> (Container, impl Future<Output = Result<()>> + use<>) {
        let mut request = self.brood.create_request();
        put_create(request.get().init_request(), create);
        let sent = request.send();
        let container = Container(sent.pipeline.get_container());
        let outcome = async move {
            let response = sent.promise.await?;
            outcome(response.get()?.get_outcome()?)
        };
        (container, outcome)
    }

    /// A handle on the container of this name; calls on it fail if there is none.
    #[must_use]
    pub fn get(&self, id: &str) -> Container {
        let mut request = self.brood.get_request();
        request.get().init_request().set_id(id);
        Container(request.send().pipeline.get_container())
    }

    /// The exit of a process as the journal has it, if it was after `since`, in nanoseconds since the epoch.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn recorded_exit(&self, id: &str, process: &str, since: u64) -> Result<Option<ExitRecord>> {
        let (replay, found) = Replay::of(process);
        let mut request = self.brood.events_request();
        request.get().set_sink(capnp_rpc::new_client(replay));
        let mut fields = request.get().init_request();
        fields.set_since(since.max(1));
        fields.set_id(id);
        let response = request.send().promise.await?;
        let _subscription = response.get()?.get_subscription()?;
        // The connection alone holds the sink, which goes with it.
        Ok(found.await.map_err(|_| capnp::Error::disconnected("the connection broke".to_owned()))?)
    }

    /// What the daemon says it is.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn version(&self) -> Result<Version> {
        let response = self.brood.version_request().send().promise.await?;
        let reply = response.get()?.get_reply()?;
        Ok(Version {
            version: reply.get_version()?.to_string().map_err(capnp::Error::from)?,
            api: reply.get_api_version(),
            reactor: reply.get_reactor()?.to_string().map_err(capnp::Error::from)?,
            zygotes: reply.get_zygotes(),
            pid: reply.get_pid() as i32,
        })
    }

    /// The IDs of all containers, sorted.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ids(&self) -> Result<Vec<String>> {
        let response = self.brood.list_request().send().promise.await?;
        let containers = response.get()?.get_reply()?.get_containers()?;
        Ok(containers.iter().map(|state| Ok(state.get_id()?.to_string()?)).collect::<capnp::Result<_>>()?)
    }

    /// Hands three descriptors to the daemon; the ticket goes into [`Create::stdio`].
    ///
    /// # Errors
    /// The daemon or its descriptor socket refuses.
    pub async fn hand_over(&self, stdio: &Stdio) -> Result<Vec<u8>> {
        self.hand_over_all(&[stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()]).await
    }

    /// Hands a connected unix socket to the daemon, to which a process that asks for a terminal sends its master.
    ///
    /// # Errors
    /// As [`Client::hand_over`].
    pub async fn hand_over_console(&self, socket: BorrowedFd<'_>) -> Result<Vec<u8>> {
        self.hand_over_all(&[socket]).await
    }

    async fn hand_over_all(&self, fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>> {
        let response = self.brood.stdio_ticket_request().send().promise.await?;
        let reply = response.get()?.get_reply()?;
        let (ticket, path) =
            (reply.get_ticket()?.to_vec(), PathBuf::from(reply.get_path()?.to_string().map_err(capnp::Error::from)?));
        let sent = async {
            let socket = brood_launcher::socket::connect(&path, SocketType::SEQPACKET)?;
            frame::send(socket.as_fd(), &ticket, fds)?;
            acknowledged(socket).await
        };
        // What was sent may wait for a supervisor that has died; the next one does not know the ticket.
        let ended = async {
            let mut ended = self.ended.clone();
            while ended.changed().await.is_ok() {}
        };
        let error = tokio::select! {
            sent = sent => match sent {
                Ok(()) => return Ok(ticket),
                Err(errno) => ClientError::Stdio(errno),
            },
            () = ended => ClientError::Stdio(Errno::CONNRESET),
        };
        // The connection may have ended as well, which then is the reason.
        self.version().await.and(Err(error))
    }
}

/// Looks through recorded events for the last exit of a process.
struct Replay {
    process: String,
    last: Cell<Option<ExitRecord>>,
    found: Cell<Option<oneshot::Sender<Option<ExitRecord>>>>,
}

impl Replay {
    fn of(process: &str) -> (Replay, oneshot::Receiver<Option<ExitRecord>>) {
        let (sender, receiver) = oneshot::channel();
        (Replay { process: process.to_owned(), last: Cell::new(None), found: Cell::new(Some(sender)) }, receiver)
    }
}

impl schema::event_sink::Server for Replay {
    async fn push(
        self: Rc<Self>,
        params: schema::event_sink::PushParams,
        _: schema::event_sink::PushResults,
    ) -> capnp::Result<()> {
        for event in params.get()?.get_batch()?.get_events()? {
            if event.get_type()?.to_str()? == "exit" && event.get_process()?.to_str()? == self.process {
                self.last.set(Some(rpc::exit_from(event.get_exit()?)?));
            }
        }
        Ok(())
    }

    async fn done(
        self: Rc<Self>,
        _: schema::event_sink::DoneParams,
        _: schema::event_sink::DoneResults,
    ) -> capnp::Result<()> {
        if let Some(found) = self.found.take() {
            // Nobody waits any more, and that is all right.
            drop(found.send(self.last.take()));
        }
        Ok(())
    }
}

/// Waits for the one byte of the daemon's answer: 1, or the number of its error.
async fn acknowledged(socket: OwnedFd) -> std::result::Result<(), Errno> {
    let broken = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    rustix::io::ioctl_fionbio(&socket, true)?;
    let socket = watch(socket, Interest::READABLE).map_err(broken)?;
    let mut answer = [0; 1];
    loop {
        let mut ready = socket.readable().await.map_err(broken)?;
        match (rustix::net::recv(socket.get_ref(), &mut answer, rustix::net::RecvFlags::empty()), answer) {
            (Ok((1, _)), [TAKEN]) => return Ok(()),
            (Ok((1, _)), [errno]) => return Err(Errno::from_raw_os_error(errno.into())),
            (Ok(_), _) => return Err(Errno::CONNRESET),
            (Err(Errno::AGAIN), _) => ready.clear_ready(),
            (Err(errno), _) => return Err(errno),
        }
    }
}

fn put_create(mut to: schema::create_request::Builder<'_>, from: &Create) {
    to.set_id(&from.id);
    match &from.source {
        CreateSource::Bundle(path) => to.reborrow().init_source().set_bundle(path.to_string_lossy().as_ref()),
        CreateSource::Config { text, host_overlay } => {
            to.reborrow().init_source().set_config(text);
            to.set_host_overlay(*host_overlay);
        }
    }
    put_stdio(to.reborrow().init_stdio(), from.stdio.as_deref());
    let mut labels = to.reborrow().init_labels(from.labels.len() as u32);
    for (index, (key, value)) in (0..).zip(&from.labels) {
        let mut entry = labels.reborrow().get(index);
        entry.set_key(key);
        entry.set_value(value);
    }
    to.set_start(from.start);
    to.set_auto_remove(from.auto_remove);
    to.set_ignore_unsupported(from.ignore_unsupported);
    if let Some((directory, name)) = &from.checkpoint {
        to.set_checkpoint(name);
        to.set_checkpoint_directory(directory.to_string_lossy().as_ref());
    }
}

fn put_stdio(mut to: schema::stdio::Builder<'_>, ticket: Option<&[u8]>) {
    match ticket {
        Some(ticket) => to.set_passed(ticket),
        None => to.set_file(()),
    }
}

fn put_exec(mut to: schema::exec_request::Builder<'_>, from: &Exec) {
    to.set_id(&from.id);
    put_texts(to.reborrow().init_args(from.args.len() as u32), &from.args);
    put_texts(to.reborrow().init_env(from.env.len() as u32), &from.env);
    to.set_cwd(&from.cwd);
    if let Some(uid) = from.uid {
        to.reborrow().get_uid().set_value(uid);
    }
    if let Some(gid) = from.gid {
        to.reborrow().get_gid().set_value(gid);
    }
    if let Some((rows, columns)) = from.terminal {
        to.set_terminal(true);
        to.set_rows(rows);
        to.set_columns(columns);
    }
    put_texts(to.reborrow().init_capabilities(from.capabilities.len() as u32), &from.capabilities);
    to.set_no_new_privileges(from.no_new_privileges);
    put_stdio(to.reborrow().init_stdio(), from.stdio.as_deref());
    to.set_start(from.start);
    to.set_auto_remove(from.auto_remove);
    to.set_ignore_unsupported(from.ignore_unsupported);
}

fn put_texts(mut to: capnp::text_list::Builder<'_>, from: &[String]) {
    for (index, text) in (0..).zip(from) {
        to.set(index, text);
    }
}

fn outcome(from: schema::outcome::Reader<'_>) -> Result<()> {
    match from.which().map_err(capnp::Error::from)? {
        schema::outcome::Ok(()) => Ok(()),
        schema::outcome::Failure(failure) => Err(rpc::failure_from(failure?)?.into()),
    }
}

fn exit(from: schema::wait_outcome::Reader<'_>) -> Result<ExitRecord> {
    match from.which().map_err(capnp::Error::from)? {
        schema::wait_outcome::Exit(exit) => Ok(rpc::exit_from(exit?)?),
        schema::wait_outcome::Failure(failure) => Err(rpc::failure_from(failure?)?.into()),
    }
}

impl Container {
    /// Makes an exec. The handle may be used before it is complete; the future says how it went.
    pub fn exec(&self, exec: &Exec) -> (Process, impl Future<Output = Result<()>> + use<>) {
        let mut request = self.0.exec_request();
        put_exec(request.get().init_request(), exec);
        let sent = request.send();
        let process = Process(sent.pipeline.get_process());
        (process, async move { outcome(sent.promise.await?.get()?.get_outcome()?) })
    }

    /// A handle on the exec of this name; calls on it fail if there is none.
    #[must_use]
    pub fn process(&self, name: &str) -> Process {
        let mut request = self.0.process_request();
        request.get().init_request().set_name(name);
        Process(request.send().pipeline.get_process())
    }

    /// Whether it is there: refused if not.
    pub fn exists(&self) -> impl Future<Output = Result<()>> + use<> {
        let sent = self.0.state_request().send();
        async move {
            match sent.promise.await?.get()?.get_outcome()?.which().map_err(capnp::Error::from)? {
                schema::state_outcome::State(_) => Ok(()),
                schema::state_outcome::Failure(failure) => Err(rpc::failure_from(failure?)?.into()),
            }
        }
    }

    /// Sends a signal to the init process, or to all.
    pub fn kill(&self, signal: u8, all: bool) -> impl Future<Output = Result<()>> + use<> {
        self.send_kill(signal, all)
    }

    /// Makes a checkpoint, in `directory` or that of the bundle.
    pub fn checkpoint(&self, directory: &Path, checkpoint: &Checkpoint) -> impl Future<Output = Result<()>> + use<> {
        let mut request = self.0.checkpoint_request();
        let mut fields = request.get().init_request();
        fields.set_directory(directory.to_string_lossy().as_ref());
        rpc::put_checkpoint(fields.init_checkpoint(), checkpoint);
        let sent = request.send();
        async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
    }

    /// The checkpoints there, sorted by name.
    pub fn checkpoints(&self, directory: &Path) -> impl Future<Output = Result<Vec<Checkpoint>>> + use<> {
        let mut request = self.0.checkpoints_request();
        request.get().init_request().set_directory(directory.to_string_lossy().as_ref());
        let sent = request.send();
        async move {
            use schema::checkpoints_outcome::{Checkpoints, Failure};
            match sent.promise.await?.get()?.get_outcome()?.which().map_err(capnp::Error::from)? {
                Checkpoints(list) => Ok(list?.iter().map(rpc::checkpoint_from).collect::<capnp::Result<_>>()?),
                Failure(failure) => Err(rpc::failure_from(failure?)?.into()),
            }
        }
    }

    /// Removes one of them.
    pub fn delete_checkpoint(&self, directory: &Path, name: &str) -> impl Future<Output = Result<()>> + use<> {
        let mut request = self.0.delete_checkpoint_request();
        let mut fields = request.get().init_request();
        fields.set_directory(directory.to_string_lossy().as_ref());
        fields.set_name(name);
        let sent = request.send();
        async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
    }

    /// Stops all processes of the container.
    pub fn pause(&self) -> impl Future<Output = Result<()>> + use<> {
        let sent = self.0.pause_request().send();
        async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
    }

    /// Lets a paused container go on.
    pub fn resume(&self) -> impl Future<Output = Result<()>> + use<> {
        let sent = self.0.resume_request().send();
        async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
    }

    /// Changes limits; `resources` is the text of an OCI `linux.resources` object.
    pub fn update(&self, resources: &[u8]) -> impl Future<Output = Result<()>> + use<> {
        let mut request = self.0.update_request();
        request.get().init_request().set_resources_json(resources);
        let sent = request.send();
        async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
    }
}

impl Process {
    /// Whether it is there: refused if not.
    pub fn exists(&self) -> impl Future<Output = Result<()>> + use<> {
        let sent = self.0.state_request().send();
        async move {
            match sent.promise.await?.get()?.get_outcome()?.which().map_err(capnp::Error::from)? {
                schema::process_outcome::State(_) => Ok(()),
                schema::process_outcome::Failure(failure) => Err(rpc::failure_from(failure?)?.into()),
            }
        }
    }

    /// Sends a signal.
    pub fn kill(&self, signal: u8) -> impl Future<Output = Result<()>> + use<> {
        self.send_kill(signal, false)
    }
}

/// What the handles on containers and on execs have in common. To the schema they are two interfaces.
macro_rules! calls_on_a_process {
    ($($handle:ident)*) => {$(
        impl $handle {
            /// Starts the program of what was created without being started.
            pub fn start(&self) -> impl Future<Output = Result<()>> + use<> {
                let sent = self.0.start_request().send();
                async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
            }

            /// Waits for the exit, of a container that of its init process.
            pub fn wait(&self) -> impl Future<Output = Result<ExitRecord>> + use<> {
                let sent = self.0.wait_request().send();
                async move { exit(sent.promise.await?.get()?.get_outcome()?) }
            }

            /// Deletes what is kept of it; with `force` also what runs.
            pub fn delete(&self, force: bool) -> impl Future<Output = Result<()>> + use<> {
                let mut request = self.0.delete_request();
                request.get().init_request().set_force(force);
                let sent = request.send();
                async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
            }

            fn send_kill(&self, signal: u8, all: bool) -> impl Future<Output = Result<()>> + use<> {
                let mut request = self.0.kill_request();
                let mut fields = request.get().init_request();
                fields.set_signal(signal);
                fields.set_all(all);
                let sent = request.send();
                async move { outcome(sent.promise.await?.get()?.get_outcome()?) }
            }
        }
    )*};
}

calls_on_a_process! { Container Process }
