//! The list of a host's CPythons: the document `leaktrace.ps/1`, and a table for people. Only additions are allowed to
//! the former.

#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};

use serde::Serialize;

pub use text::text;

/// The name and version of the document.
pub const SCHEMA: &str = "leaktrace.ps/1";

/// A list of CPythons.
#[derive(Clone, Debug, Serialize)]
pub struct Processes {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The version of leaktrace.
    pub leaktrace: &'static str,
    /// The host.
    pub hostname: Option<String>,
    /// Those that were found, the largest first.
    pub processes: Vec<Process>,
    /// Processes that could not be looked into: whether they are Pythons is not known.
    pub hidden: u64,
    /// What the reader should know, in sentences.
    pub warnings: Vec<String>,
}

/// A process that runs CPython.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Process {
    /// Its pid, as seen by leaktrace.
    pub pid: u32,
    /// Its parent's; null where that is out of sight.
    pub parent_pid: Option<u32>,
    /// Its user's number.
    pub user: Option<u32>,
    /// Its name, of at most 15 bytes.
    pub name: String,
    /// Version of CPython.
    pub python: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<Container>,
    /// The unique id of its Kubernetes pod.
    pub pod: Option<String>,
    /// The cgroup that accounts for its memory.
    pub cgroup: Option<String>,
    /// Resident bytes.
    pub rss: Option<u64>,
    /// Its command line, without secrets; null where it was not to be told.
    pub cmdline: Option<Vec<String>>,
    /// Whether it can be traced, as far as looking at it tells.
    pub traceable: bool,
    /// Why not; null where it can.
    pub reason: Option<String>,
    /// The same in a word or two. Not part of the document.
    #[serde(skip)]
    pub obstacle: Option<&'static str>,
}

/// A container.
#[derive(Clone, Debug, Serialize)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// `docker`, `containerd`, `cri-o`, `podman` or `buildkit`, where its cgroup's name says.
    pub runtime: Option<&'static str>,
}

/// Writes the list as one JSON document on one line.
///
/// # Errors
/// What the writer says.
pub fn json(processes: &Processes, mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut out, processes)?;
    out.write_all(b"\n")
}
