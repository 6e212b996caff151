//! A connection that is made anew when it breaks: a supervisor that died or was replaced is back within a second, and the
//! socket waits for it.
//!
//! A call whose answer was lost is made again. Whether the first one was carried out is not known: [`Client::again`] says
//! that this may be so, and whoever calls knows what a second time then looks like.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brood_launcher::state::{ExitRecord, INIT};

use crate::client::{Client, ClientError};
use crate::registry::FailureKind;

/// How long nobody may listen: the keeper holds the socket while there is no supervisor, so this is for a daemon that is
/// started again as a whole.
const NOBODY_LISTENS: Duration = Duration::from_secs(5);
/// Pause between two tries to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a call is made once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke: it may have been carried out.
    Lost,
    /// It was not: the daemon is being upgraded.
    Postponed,
}

impl Trouble {
    /// Of this failure.
    #[must_use]
    pub fn of(error: &ClientError) -> Option<Trouble> {
        if error.is_lost() {
            return Some(Trouble::Lost);
        }
        error.is_postponed().then_some(Trouble::Postponed)
    }
}

/// A connection to a daemon, for as long as there is one.
pub struct Line {
    path: PathBuf,
    client: RefCell<Client>,
}

impl Line {
    /// Connects for the first time. That nobody is there is told at once.
    ///
    /// # Errors
    /// [`ClientError::Connect`]
    pub async fn connect(path: &Path) -> Result<Line, ClientError> {
        let client = Client::connect(path).await?;
        Ok(Line { path: path.to_owned(), client: client.into() })
    }

    /// The connection as it is now.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.borrow().clone()
    }

    /// Makes calls on the connection, all of them again on a new one when it breaks.
    ///
    /// # Errors
    /// What the calls fail with, other than by the connection; or there is no daemon any more.
    pub async fn call<T, E: From<ClientError>>(
        &self,
        calls: impl AsyncFn(Client) -> Result<T, E>,
        trouble: impl Fn(&E) -> Option<Trouble>,
    ) -> Result<T, E> {
        loop {
            match calls(self.client()).await {
                Err(error) => match trouble(&error) {
                    Some(Trouble::Lost) => self.again().await?,
                    Some(Trouble::Postponed) => tokio::time::sleep(PAUSE).await,
                    None => return Err(error),
                },
                done => return done,
            }
        }
    }

    /// Connects once more.
    ///
    /// # Errors
    /// Nobody has listened for a while.
    pub async fn again(&self) -> Result<(), ClientError> {
        let deadline = tokio::time::Instant::now() + NOBODY_LISTENS;
        loop {
            match Client::connect(&self.path).await {
                Ok(mut client) => {
                    tracing::debug!("connected to the daemon again");
                    client.again = true;
                    self.client.replace(client);
                    return Ok(());
                }
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The exit of a container's init process (or of one of its execs), which may have been removed meanwhile: then the
    /// journal says how it ended, if that was after `since` (nanoseconds since the epoch). `None`: there is none, and was
    /// none.
    ///
    /// # Errors
    /// There is no daemon any more, or it refuses for another reason.
    pub async fn exit_of(&self, id: &str, process: &str, since: u64) -> Result<Option<ExitRecord>, ClientError> {
        let ask = async |client: Client| {
            let container = client.get(id);
            let exit = match process {
                INIT => container.wait().await,
                exec => container.process(exec).wait().await,
            };
            match exit {
                Err(ClientError::Refused(failure)) if failure.kind == FailureKind::NotFound => {
                    client.recorded_exit(id, process, since).await
                }
                exit => exit.map(Some),
            }
        };
        self.call(ask, Trouble::of).await
    }
}
