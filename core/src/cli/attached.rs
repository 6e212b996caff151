//! A process in a daemon, and this command as its foreground: its descriptors, signals and exit, over as many connections as it
//! takes.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use brood_launcher::state::{ExitRecord, INIT, now_ns};
use futures::future::LocalBoxFuture;

use super::run::{Signals, Wired, status, stdio};
use super::terminal::Console;
use crate::client::{Client, ClientError, Container, Create, Exec};
use crate::line::{Line, Trouble};
use crate::registry::FailureKind;

/// What is to run.
pub(super) enum Job {
    /// A container.
    Run(Create),
    /// One more process in this one.
    Exec(String, Exec),
}

/// Pause before a daemon that is being upgraded is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// The answer to a wait.
type Exit = LocalBoxFuture<'static, Result<ExitRecord, ClientError>>;

impl Job {
    /// The container.
    fn id(&self) -> &str {
        match self {
            Job::Run(create) => &create.id,
            Job::Exec(container, _) => container,
        }
    }

    /// What an error calls it.
    fn full_name(&self) -> String {
        match self {
            Job::Run(create) => create.id.clone(),
            Job::Exec(container, exec) => format!("{container}/{}", exec.id),
        }
    }

    /// The name of the process in it.
    fn process(&self) -> &str {
        match self {
            Job::Run(_) => INIT,
            Job::Exec(_, exec) => &exec.id,
        }
    }

    /// Orders it, and its exit in the same breath, so that even the quickest is not missed.
    async fn order(&mut self, client: &Client, ticket: Vec<u8>) -> Result<Exit, ClientError> {
        match self {
            Job::Run(create) => {
                create.stdio = Some(ticket);
                let (container, created) = client.create(create);
                let exit = container.wait();
                created.await?;
                Ok(Box::pin(exit))
            }
            Job::Exec(container, exec) => {
                exec.stdio = Some(ticket);
                let (process, created) = client.get(container).exec(exec);
                let exit = process.wait();
                created.await?;
                Ok(Box::pin(exit))
            }
        }
    }

    /// Whether the daemon has it.
    async fn is_there(&self, line: &Line) -> Result<bool, ClientError> {
        let ask = async |client: Client| {
            let container = client.get(self.id());
            let known = match self {
                Job::Run(_) => container.exists().await,
                Job::Exec(_, exec) => container.process(&exec.id).exists().await,
            };
            match known {
                Err(ClientError::Refused(failure)) if failure.kind == FailureKind::NotFound => Ok(false),
                known => known.map(|()| true),
            }
        };
        line.call(ask, Trouble::of).await
    }
}

/// Runs it to its end.
pub(super) async fn attached(line: Rc<Line>, mut job: Job, tty: bool, interactive: bool) -> anyhow::Result<ExitCode> {
    let (began, signals) = (now_ns(), Signals::new()?);
    let (console, exit) = loop {
        let (console, ordered) = begin(&line, &mut job, tty, interactive).await?;
        let error = match ordered {
            Ok(exit) => break (console, Some(exit)),
            Err(error) => error,
        };
        match Trouble::of(&error) {
            None => return Err(error.into()),
            Some(Trouble::Postponed) => tokio::time::sleep(PAUSE).await,
            Some(Trouble::Lost) => {
                line.again().await?;
                // Made, and the answer lost; or it ran and is removed already. Twice it must not run.
                if job.is_there(&line).await? {
                    break (console, None);
                }
                let exit = line.exit_of(job.id(), job.process(), began).await?;
                return Ok(status(&exit.ok_or_else(|| ClientError::Unknown(job.full_name()))?));
            }
        }
    };
    let relay = console.map(Console::relay).transpose()?;
    let forwarding = {
        let (container, exec) = (job.id().to_owned(), job.process().to_owned());
        let remote = Wired::Remote { line: line.clone(), container, exec: Some(exec).filter(|exec| exec != INIT) };
        tokio::task::spawn_local(remote.forward(signals))
    };
    let exit = ended(&line, &job, exit, began).await?;
    forwarding.abort();
    if let Some(relay) = relay {
        relay.finish().await;
    }
    if let Job::Run(Create { auto_remove: true, .. }) = &job {
        removed(&line, job.id()).await;
    }
    Ok(status(&exit))
}

/// How it ended. Of an order whose answer was lost there is no wait under way.
async fn ended(line: &Line, job: &Job, wait: Option<Exit>, began: u64) -> anyhow::Result<ExitRecord> {
    if let Some(wait) = wait {
        match wait.await {
            Err(error) if error.is_lost() => line.again().await?,
            exit => return Ok(exit?),
        }
    }
    let exit = line.exit_of(job.id(), job.process(), began).await?;
    // Gone without an exit: it was undone.
    Ok(exit.ok_or_else(|| ClientError::Unknown(job.full_name()))?)
}

/// Creates a container; after the loss of a connection, says whether that has happened.
pub(super) async fn create_once(client: &Client, create: &Create) -> Result<(), ClientError> {
    if client.again {
        return made(&create.id, client.get(&create.id).exists().await);
    }
    client.create(create).1.await
}

/// The same for an exec.
pub(super) async fn exec_once(client: &Client, id: &str, exec: &Exec) -> Result<(), ClientError> {
    let container = client.get(id);
    if client.again {
        return made(&exec.id, container.process(&exec.id).exists().await);
    }
    container.exec(exec).1.await
}

fn made(name: &str, exists: Result<(), ClientError>) -> Result<(), ClientError> {
    exists.map_err(|error| match error {
        ClientError::Refused(_) => ClientError::Unknown(name.to_owned()),
        error => error,
    })
}

/// Hands the descriptors over and orders the job. A connection that broke is told apart, with the terminal that the process
/// may have by now.
async fn begin(
    line: &Line,
    job: &mut Job,
    tty: bool,
    interactive: bool,
) -> anyhow::Result<(Option<Console>, Result<Exit, ClientError>)> {
    loop {
        let client = line.client();
        let (console, handed) = if tty {
            let (ours, theirs) = Console::open()?;
            (Some(ours), client.hand_over_console(theirs.as_fd()).await)
        } else {
            (None, client.hand_over(&stdio(interactive)?).await)
        };
        let ordered = match handed {
            Ok(ticket) => job.order(&client, ticket).await,
            // Nothing has been ordered.
            Err(error) if error.is_lost() => {
                line.again().await?;
                continue;
            }
            Err(error) => Err(error),
        };
        return Ok((console, ordered));
    }
}

/// Waits until the daemon has removed what it was told to remove at its end: joins that removal, if it is not through.
/// Whatever becomes of it, the run has a status by now.
async fn removed(line: &Line, id: &str) {
    let delete = async |client: Client| Container::delete(&client.get(id), true).await;
    match line.call(delete, Trouble::of).await {
        Err(ClientError::Refused(failure)) if failure.kind == FailureKind::NotFound => {}
        Err(error) => tracing::warn!("--rm: {error}"),
        Ok(()) => {}
    }
}
