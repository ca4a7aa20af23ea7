//! `leaktrace ps`: the CPythons of this host, and which of them can be traced.

use std::cmp::Reverse;
use std::io::{self, IsTerminal as _};

use anyhow::Context as _;

use super::output::Output;
use crate::cli::{self, ListFormat, PsOptions};
use crate::host::{Host, PythonProcess};
use crate::report::processes::{self, Container, Process, Processes, SCHEMA};
use crate::report::{self, Cmdline};

/// Columns of a list that goes to no terminal: command lines are not cut there.
const NO_TERMINAL: usize = usize::MAX;

/// Runs the command.
pub(super) fn run(options: PsOptions) -> anyhow::Result<u8> {
    super::start_logging(false);
    let host = Host::look().context("cannot list the processes in `/proc`")?;
    let list = list(host, options.cmdline);
    let mut bytes = Vec::new();
    match options.format {
        ListFormat::Json => processes::json(&list, &mut bytes)?,
        ListFormat::Text => processes::text(&list, width(), &mut bytes)?,
    }
    Output::Stdout.write(&bytes)?;
    Ok(cli::EXIT_DONE)
}

fn width() -> usize {
    let terminal = terminal_size::terminal_size().filter(|_| io::stdout().is_terminal());
    terminal.map_or(NO_TERMINAL, |(width, _)| usize::from(width.0))
}

fn list(mut host: Host, cmdline: Cmdline) -> Processes {
    host.pythons.sort_by_key(|python| (Reverse(python.entry.rss), python.pid));
    Processes {
        schema: SCHEMA,
        leaktrace: env!("CARGO_PKG_VERSION"),
        hostname: rustix::system::uname().nodename().to_str().ok().map(str::to_owned),
        processes: host.pythons.into_iter().map(|python| process(python, cmdline)).collect(),
        hidden: host.hidden as u64,
        warnings: host.refusal.into_iter().collect(),
    }
}

fn process(python: PythonProcess, cmdline: Cmdline) -> Process {
    let PythonProcess { pid, entry, version, placement, cgroup, cmdline: arguments, obstacle } =
        python;
    Process {
        pid,
        parent_pid: Some(entry.parent).filter(|&parent| parent > 0),
        user: Some(entry.user),
        name: entry.name,
        python: version,
        unit: placement.unit,
        container: placement
            .container
            .map(|container| Container { id: container.id, runtime: container.runtime }),
        pod: placement.pod,
        cgroup,
        rss: Some(entry.rss),
        cmdline: report::cmdline(&arguments, cmdline),
        traceable: obstacle.is_none(),
        obstacle: obstacle.as_ref().map(|obstacle| obstacle.word),
        reason: obstacle.map(|obstacle| obstacle.reason),
    }
}
