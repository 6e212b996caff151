//! The start of a parked process.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use brood_launcher::hooks::{List, Point};
use brood_launcher::report::{Outcome, ReportReader, errno_text};
use brood_launcher::state::StartSocket;
use rustix::io::Errno;
use tokio::io::Interest;

use super::act::internal;
use super::launch::{read_reports, watch_reports};
use super::{ContainerFiles, Deadline, Files, Supervisor};
use crate::fault;
use crate::registry::{Event, Failure, FailureKind, Instance};
use crate::watch::watch;

/// How long a process that was killed may take to end before its start is answered all the same.
const END_PATIENCE: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(super) fn release(self: &Rc<Self>, instance: Instance) {
        let found = self.records.borrow().get(&instance).map(|record| {
            let Files { start_socket, container, .. } = &record.files;
            (start_socket.clone(), container.clone(), record.pid)
        });
        let Some((socket, container, pid)) = found else { return };
        let supervisor = self.clone();
        tokio::task::spawn_local(async move {
            let event = match supervisor.connect(socket).await {
                Ok(connection) => {
                    let started = supervisor.run_program(connection, container, pid).await;
                    if started.is_err() {
                        supervisor.end(instance).await;
                    }
                    Event::Released(started)
                }
                Err(event) => event,
            };
            supervisor.event(instance, event);
        });
    }

    /// Connects to the parked process. Once connected it is started, whatever becomes of us.
    async fn connect(&self, socket: StartSocket) -> Result<OwnedFd, Event> {
        let connected =
            self.blocking(move || fault::around("connect", || socket.connect()).inspect(|_| socket.remove())).await;
        match connected {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(Errno::CONNREFUSED | Errno::NOENT)) => Err(Event::Released(Err(gone()))),
            Ok(Err(errno)) => Err(Event::NotReleased(internal(&format!("start.sock: {}", errno_text(errno))))),
            Err(failure) => Err(Event::NotReleased(failure)),
        }
    }

    /// Waits until the program runs and its `poststart` hooks have run. The process must not live on after a failure: its
    /// `startContainer` hooks may take too long, or a `poststart` hook may have failed (runtime-spec 1.3, runtime,
    /// "Lifecycle", 9).
    async fn run_program(
        &self,
        connection: OwnedFd,
        container: Option<ContainerFiles>,
        pid: i32,
    ) -> Result<(), Failure> {
        let deadline = Deadline::after(self.settings.start_timeout, "started");
        let broken = |error: std::io::Error| internal(&format!("start.sock: {error}"));
        let connection = watch_reports(connection).map_err(broken)?;
        let mut reader = ReportReader::default();
        let heard = deadline.keep(read_reports(&connection, &mut reader));
        fault::around_async("hear start", heard).await?.map_err(broken)?;
        match reader.finish_start() {
            Outcome::Running => {}
            Outcome::Failed(error) => return Err(Failure::of_step(&error)),
            Outcome::Parked | Outcome::Vanished => return Err(gone()),
        }
        let Some(ContainerFiles { dir, state }) = container else { return Ok(()) };
        let kept = self.blocking(move || dir.read_kept()).await?;
        let kept = kept.map_err(|error| internal(&error.to_string()))?;
        self.run_hooks(List::of(&kept, Point::Poststart, &state, pid), Some(deadline)).await
    }

    /// Kills what could not be started, and waits for its end: whoever hears of the failure finds it stopped.
    async fn end(self: &Rc<Self>, instance: Instance) {
        let (pidfd, all) = {
            let records = self.records.borrow();
            let Some(record) = records.get(&instance) else { return };
            (record.pidfd.as_ref().map(OwnedFd::try_clone), record.files.container.is_some())
        };
        // Most often it has ended by itself.
        let _ = self.signal(instance, libc::SIGKILL, all);
        if let Some(Ok(Ok(pidfd))) = pidfd.map(|pidfd| pidfd.map(|pidfd| watch(pidfd, Interest::READABLE))) {
            let ended = tokio::time::timeout(END_PATIENCE, pidfd.readable()).await.is_ok();
            if ended {
                self.on_exit(instance);
            }
        }
    }
}

fn gone() -> Failure {
    Failure::new(FailureKind::WrongState, "cannot start what has stopped".to_owned())
}
