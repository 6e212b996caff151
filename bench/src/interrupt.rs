//! Ctrl-C and SIGTERM: a flag that the run looks at between two launches, so that everything is cleaned up as usual.
#![expect(unsafe_code, reason = "installing a signal handler")]

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Exit status as a shell says it of a program that SIGINT ended.
pub const STATUS: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: i32) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the process.
pub fn install() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic and nothing else, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot install a handler for {signal}"))?;
    }
    Ok(())
}

/// Whether the user wants the run to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
