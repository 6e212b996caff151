//! The handle on one exec.

use std::rc::Rc;

use brood_schema::brood_capnp::process as schema;
use capnp::Error;

use super::brood::invalid;
use super::convert::{put_failure, put_outcome, put_process};
use super::handle::{Handle, signal};
use super::meter::Share;
use crate::registry::{Failure, FailureKind, ProcessCommand};

pub(super) struct ProcessServer {
    handle: Handle,
    _share: Share,
}

impl ProcessServer {
    pub(super) fn new(handle: Handle, share: Share) -> ProcessServer {
        ProcessServer { handle, _share: share }
    }

    /// What a call answers that is about something which only a client holds.
    fn not_held(&self, what: &str) -> Failure {
        let held = |_| Failure::new(FailureKind::WrongState, format!("the daemon holds no {what} of this process"));
        self.handle.target().map_or_else(|failure| failure, held)
    }
}

impl schema::Server for ProcessServer {
    async fn start(self: Rc<Self>, _: schema::StartParams, mut results: schema::StartResults) -> Result<(), Error> {
        self.handle.answer(ProcessCommand::Start, results.get().init_outcome()).await
    }

    async fn wait(self: Rc<Self>, _: schema::WaitParams, mut results: schema::WaitResults) -> Result<(), Error> {
        self.handle.wait(results.get().init_outcome()).await
    }

    async fn kill(self: Rc<Self>, params: schema::KillParams, mut results: schema::KillResults) -> Result<(), Error> {
        let request = params.get()?.get_request()?;
        let outcome = results.get().init_outcome();
        if request.get_all() {
            put_failure(outcome.init_failure(), &invalid("all: a signal to all processes is the container's `kill`"));
            return Ok(());
        }
        self.handle.answer(ProcessCommand::Kill { signal: signal(&request), all: false }, outcome).await
    }

    async fn delete(
        self: Rc<Self>,
        params: schema::DeleteParams,
        mut results: schema::DeleteResults,
    ) -> Result<(), Error> {
        let force = params.get()?.get_request()?.get_force();
        self.handle.answer(ProcessCommand::Delete { force }, results.get().init_outcome()).await
    }

    async fn state(self: Rc<Self>, _: schema::StateParams, mut results: schema::StateResults) -> Result<(), Error> {
        let gone = || Failure::new(FailureKind::NotFound, "exec does not exist".to_owned());
        let found = self.handle.target();
        let found = found.and_then(|(supervisor, instance)| supervisor.process_snapshot(instance).ok_or_else(gone));
        let outcome = results.get().init_outcome();
        match &found {
            Ok(snapshot) => put_process(outcome.init_state(), snapshot),
            Err(failure) => put_failure(outcome.init_failure(), failure),
        }
        Ok(())
    }

    async fn resize(self: Rc<Self>, _: schema::ResizeParams, mut results: schema::ResizeResults) -> Result<(), Error> {
        put_outcome(results.get().init_outcome(), Err(&self.not_held("terminal")));
        Ok(())
    }

    async fn close_stdin(
        self: Rc<Self>,
        _: schema::CloseStdinParams,
        mut results: schema::CloseStdinResults,
    ) -> Result<(), Error> {
        put_outcome(results.get().init_outcome(), Err(&self.not_held("input")));
        Ok(())
    }
}
