//! From what the user says of a process to its pid.

use std::io::{self, Write as _};
use std::num::NonZeroU32;

use anyhow::Context as _;

use crate::cli::Wanted;
use crate::host::{self, Chosen, Host};

/// The pid of the process that is meant; of those that form one tree, its root where the `whole_tree` is wanted.
pub(super) fn pid(wanted: &Wanted, whole_tree: bool) -> anyhow::Result<NonZeroU32> {
    let selector = match wanted {
        Wanted::Pid(pid) => return Ok(*pid),
        Wanted::Selected(selector) => selector,
    };
    let host = Host::look().context("cannot list the processes in `/proc`")?;
    let chosen = host::choose(&host, selector, whole_tree)?;
    if chosen.below > 0 {
        let Chosen { pid, below } = chosen;
        // Whoever closed stderr does not want to know.
        let _ = writeln!(
            io::stderr(),
            "{} processes match `{selector}`: {pid}, and {below} that descend from it",
            below + 1
        );
    }
    NonZeroU32::new(chosen.pid).context("no process has pid 0")
}
