//! Which pages of the target are swapped out: to read those would bring them back, at the target's cost.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Bytes of a page on x86-64.
const PAGE: u64 = 4096;

/// `PM_SWAP` of `fs/proc/task_mmu.c`, documented in `Documentation/admin-guide/mm/pagemap.rst`.
const SWAPPED: u64 = 1 << 62;

/// Tells pages that are in memory from others.
#[derive(Debug, Default)]
pub struct Resident {
    pagemap: Option<File>,
}

impl Resident {
    /// What is known of `pid`: nothing is asked where nothing of it is swapped out.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let swap = procfs::process::Process::new(pid.cast_signed())
            .and_then(|process| process.status())
            .ok()
            .and_then(|status| status.vmswap);
        let any = swap.is_some_and(|kib| kib > 0);
        let open = || File::open(format!("/proc/{pid}/pagemap")).ok();
        Self { pagemap: any.then(open).flatten() }
    }

    /// What a file says that is laid out as `/proc/PID/pagemap`.
    #[cfg(test)]
    pub(crate) const fn from_pagemap(pagemap: File) -> Self {
        Self { pagemap: Some(pagemap) }
    }

    /// Whether nothing was swapped out, so that no page need be asked for.
    pub(crate) const fn is_whole(&self) -> bool {
        self.pagemap.is_none()
    }

    /// The first addresses of the pages of `range` that are swapped out.
    pub(crate) fn swapped(&self, range: Range<u64>) -> BTreeSet<u64> {
        let Some(pagemap) = &self.pagemap else { return BTreeSet::new() };
        let pages = range.end.saturating_sub(range.start).div_ceil(PAGE);
        let mut entries = vec![0; 8 * pages as usize];
        if pagemap.read_exact_at(&mut entries, range.start / PAGE * 8).is_err() {
            return BTreeSet::new();
        }
        let entries = entries.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let addresses = (range.start..).step_by(PAGE as usize);
        addresses
            .zip(entries)
            .filter(|(_, entry)| entry & SWAPPED != 0)
            .map(|(address, _)| address)
            .collect()
    }
}
