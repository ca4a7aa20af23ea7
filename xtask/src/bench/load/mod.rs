//! Load on a service of this machine, from a client in a process of its own: what the client needs is not the service's.
//!
//! Requests are due at a fixed rate, whether the answers come or not, and a request's latency counts from when it was
//! due: a service that stands still for a while cannot hide that by keeping the client from asking.

mod client;
mod connection;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::latencies::Latencies;
use super::running::Running;

pub(super) use client::run;

/// The word that makes `cargo xtask bench` the client; not for people.
pub(super) const WORD: &str = "__load";

/// How long the client may take for an answer, beyond the time that it waits for requests itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client at work.
pub(super) struct Load {
    client: Running,
}

impl Load {
    /// Begins to ask the service on this port, so many times a second. It stops by itself after `lifetime`.
    ///
    /// # Errors
    /// The client does not start.
    pub(super) fn start(port: u16, rate: u32, lifetime: Duration) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", WORD, &port.to_string(), &rate.to_string()]);
        command.arg(lifetime.as_secs().to_string());
        let mut client = Running::start(command)?;
        client
            .wait_for(PATIENCE, |line| (line == client::READY).then_some(()))
            .context("the client does not start")?;
        Ok(Self { client })
    }

    /// The latencies of the requests that were due from one moment to another.
    ///
    /// # Errors
    /// The client has ended.
    pub(super) fn take(&mut self, from_ns: u64, to_ns: u64) -> Result<Latencies> {
        self.client.tell(&format!("{from_ns} {to_ns}"))?;
        self.client
            .wait_for(PATIENCE, |line| serde_json::from_str(line).ok())
            .context("the client does not answer")
    }

    /// Stops it.
    pub(super) fn stop(self) {
        self.client.end(Signal::TERM);
    }
}
