//! One RPC connection to a daemon, kept open, and the calls that the benchmarks make on it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use brood::client::{Client, ClientError, Container, Create, CreateSource, Version};
use brood_launcher::plan::Stdio;
use brood_schema::brood_capnp::run_outcome;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::contenders::LAUNCH_LIMIT;

/// A connection with the single-threaded runtime that drives it. Fields are dropped in their order.
pub struct Session {
    client: Client,
    local: LocalSet,
    runtime: Runtime,
}

impl Session {
    /// Connects, and waits until a supervisor answers.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot make a runtime")?;
        let local = LocalSet::new();
        let client = local.block_on(&runtime, Client::connect(socket))?;
        let session = Self { client, local, runtime };
        session.version()?;
        Ok(session)
    }

    /// The connection, for futures that are then given to [`Session::run`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One more connection, driven along with this one.
    pub fn another(&self, socket: &Path) -> Result<Client> {
        self.run(async { Ok(Client::connect(socket).await?) })
    }

    /// Drives a future to its end, but no longer than any launch may take.
    pub fn run<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.run_within(LAUNCH_LIMIT, future)
    }

    /// The same with another limit.
    pub fn run_within<T>(&self, limit: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
        let limited = async { tokio::time::timeout(limit, future).await };
        let outcome = self.local.block_on(&self.runtime, limited);
        outcome.with_context(|| format!("no answer from the daemon within {} s", limit.as_secs()))?
    }

    /// What the daemon says it is.
    pub fn version(&self) -> Result<String> {
        let Version { version, reactor, zygotes, .. } = self.run(async { Ok(self.client.version().await?) })?;
        Ok(format!("brood {version}, {reactor}, {zygotes} zygotes"))
    }

    /// Asks for the list of containers: how many there are.
    pub fn list(&self) -> Result<u32> {
        self.run(async {
            let response = self.client.brood.list_request().send().promise.await?;
            Ok(response.get()?.get_reply()?.get_containers()?.len())
        })
    }

    /// Runs a container with its output in the file, and removes it.
    pub fn run_with_output(&self, id: String, bundle: PathBuf, output: &File) -> Result<()> {
        let null = File::open("/dev/null").context("/dev/null")?;
        let stdio =
            Stdio { stdin: null.into(), stdout: output.try_clone()?.into(), stderr: output.try_clone()?.into() };
        self.run(async {
            let ticket = self.client.hand_over(&stdio).await?;
            let create = Create { stdio: Some(ticket), ..to_run(id, bundle) };
            launch(&self.client, &create).await.map(drop)
        })
    }
}

/// The whole life of one container in two round trips: create, start and wait in the first, delete in the second.
/// Returns the time from sending the first request to the answer to the last.
pub async fn launch(client: &Client, create: &Create) -> Result<Duration> {
    let started = Instant::now();
    let (container, created) = client.create(create);
    // On its way before the creation is answered.
    let exit = container.wait();
    created.await?;
    match exit.await {
        Ok(exit) if exit.status == 0 => {}
        Ok(exit) => {
            remove(&container).await;
            bail!("exit status {}: {}", exit.status, exit.reason.as_deref().unwrap_or("the program's own"));
        }
        Err(error) => {
            remove(&container).await;
            return Err(error.into());
        }
    }
    container.delete(false).await?;
    Ok(started.elapsed())
}

/// Runs one more process in a container, its output captured: the time from sending the request to the answer.
pub async fn exec(client: &Client, id: &str, program: &str) -> Result<Duration> {
    let started = Instant::now();
    let mut request = client.get(id).0.exec_sync_request();
    request.get().init_request().init_exec().init_args(1).set(0, program);
    let response = request.send().promise.await?;
    match response.get()?.get_outcome()?.which()? {
        run_outcome::Done(done) => match done?.get_exit()?.get_status() {
            0 => Ok(started.elapsed()),
            status => bail!("exit status {status}"),
        },
        run_outcome::Failure(failure) => bail!("{}", failure?.get_message()?.to_str()?),
    }
}

/// Brings a container up that stays: the time until the daemon says that its program runs.
pub async fn start(client: &Client, create: &Create) -> Result<Duration> {
    let started = Instant::now();
    client.create(create).1.await?;
    Ok(started.elapsed())
}

/// What to ask for: run at once, input empty, output to files in the state directory.
pub fn to_run(id: String, bundle: PathBuf) -> Create {
    Create { id, source: CreateSource::Bundle(bundle), start: true, ..Create::default() }
}

/// Best effort after a failure that is reported anyway.
async fn remove(container: &Container) {
    let _: std::result::Result<(), ClientError> = container.delete(true).await;
}
