//! The signals that end the tracing, and what becomes of them where leaktrace has started the target.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::cli;
use crate::launch::Heir;

/// How long a command that was handed on a signal may take to end before the report comes without its end.
const GRACE: Duration = Duration::from_secs(4);

/// The signals that end the tracing.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    leave: Arc<AtomicBool>,
    heir: Option<Heir>,
    grace: Option<Instant>,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        // First those that note a signal: what came between the two would be lost.
        let signals = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            leave: Arc::new(AtomicBool::new(false)),
            heir: None,
            grace: None,
        };
        for number in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            signal_hook::flag::register_conditional_shutdown(
                number,
                i32::from(cli::EXIT_ERROR),
                Arc::clone(&signals.leave),
            )?;
        }
        Ok(signals)
    }

    /// From now on `heir` gets the first signal: when it has ended, so has the tracing.
    pub(super) fn hand_on_to(&mut self, heir: Heir) {
        self.heir = Some(heir);
    }

    /// Returns when the tracing is to end.
    pub(super) async fn any(&mut self) {
        loop {
            let grace = self.grace;
            let number = tokio::select! {
                number = self.next() => number,
                () = at(grace) => return,
            };
            match self.heir.take() {
                Some(heir) => {
                    heir.hand_on(number);
                    self.grace = Some(Instant::now() + GRACE);
                }
                None => return,
            }
        }
    }

    /// Returns when a signal comes that is for leaktrace alone.
    pub(super) async fn own(&mut self) {
        self.leave.store(false, Ordering::SeqCst);
        self.grace = None;
        loop {
            let number = self.next().await;
            match self.heir.take() {
                Some(heir) => heir.hand_on(number),
                None => return,
            }
        }
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
            _ = self.hang_up.recv() => SIGHUP,
            _ = self.quit.recv() => SIGQUIT,
        }
    }

    /// The next signal ends the program.
    pub(super) fn leave_on_next(&self) {
        self.leave.store(true, Ordering::SeqCst);
    }
}

/// Returns at `deadline`, if there is one.
pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
