//! Processes that may be traced next, once it is clear that they stay and what they run.

use std::time::{Duration, Instant};

use crate::session::Forked;
use crate::target::process::Process;

/// How long a process must live before it is traced: what only does a short errand, or is about to run another program,
/// is left alone.
const GRACE: Duration = Duration::from_millis(250);

/// Candidates at the same time; more than that come and go too fast to be traced.
const MOST: usize = 1024;

/// The candidates.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    waiting: Vec<Candidate>,
    /// Those that ended first.
    pub(super) short_lived: u64,
    /// Those that were too many.
    pub(super) dropped: u64,
}

#[derive(Debug)]
struct Candidate {
    process: Process,
    since: Instant,
    shares_memory: bool,
}

impl Candidates {
    /// Adds one, unless it is there.
    pub(super) fn add(&mut self, forked: Forked, now: Instant) {
        let Ok(process) = Process::open(forked.pid) else {
            self.short_lived += 1;
            return;
        };
        if self.waiting.iter().any(|waiting| waiting.process.pid() == forked.pid) {
            return;
        }
        if self.waiting.len() == MOST {
            self.dropped += 1;
            return;
        }
        let shares_memory = forked.shares_memory;
        self.waiting.push(Candidate { process, since: now, shares_memory });
    }

    /// Takes those out that can be traced now.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<u32> {
        let mut ready = Vec::new();
        let before = self.waiting.len();
        self.waiting.retain(|candidate| candidate.process.is_alive());
        self.short_lived += (before - self.waiting.len()) as u64;
        self.waiting.retain(|candidate| {
            let stays = now.duration_since(candidate.since) >= GRACE && !candidate.still_shares();
            if stays {
                ready.push(candidate.process.pid());
            }
            !stays
        });
        ready
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Candidate {
    /// Whether it shares another process's memory: to trace it would be to trace that one.
    fn still_shares(&self) -> bool {
        self.shares_memory && self.process.runs_its_parents_program().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_ready_once_it_has_stayed_and_has_memory_of_its_own() {
        let mut child = Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().unwrap();
        // This very process was run by another program, and so shares nobody's memory any more.
        let (own, now) = (std::process::id(), Instant::now());
        let mut candidates = Candidates::default();
        for pid in [child.id(), own, own] {
            candidates.add(Forked { pid, shares_memory: pid == own }, now);
        }
        assert!(candidates.ready(now).is_empty());
        assert_eq!(candidates.ready(now + GRACE), [child.id(), own]);
        assert!(candidates.is_empty());
        candidates.add(Forked { pid: child.id(), shares_memory: false }, now);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(candidates.ready(now + GRACE).is_empty());
        assert_eq!((candidates.is_empty(), candidates.short_lived), (true, 1));
    }
}
