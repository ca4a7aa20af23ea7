//! How much memory each of several traces may take, so that all together stay within one bound.
//!
//! Half is divided equally. The other half is for whoever comes first: what is left of it is given out by eighths.

use std::collections::HashMap;

/// The bound, and what is given out of it.
#[derive(Debug)]
pub(super) struct Shares {
    equal: u64,
    left: u64,
    given: HashMap<u32, u64>,
}

impl Shares {
    /// Of `total` bytes among up to `most` processes.
    pub(super) fn new(total: u64, most: usize) -> Self {
        let half = total / 2;
        Self { equal: half / most.max(1) as u64, left: half, given: HashMap::new() }
    }

    /// The share of `pid`, until it is given back.
    pub(super) fn give(&mut self, pid: u32) -> u64 {
        let more = self.left / 8;
        self.left -= more;
        self.left += self.given.insert(pid, more).unwrap_or(0);
        self.equal + more
    }

    /// Takes the share of `pid` back.
    pub(super) fn take_back(&mut self, pid: u32) {
        self.left += self.given.remove(&pid).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_stay_within_the_bound() {
        let mut shares = Shares::new(1 << 30, 64);
        let given: Vec<u64> = (0..64).map(|pid| shares.give(pid)).collect();
        assert!(given.iter().sum::<u64>() <= 1 << 30);
        assert!(given[0] >= 64 << 20 && given[63] >= 8 << 20, "{given:?}");
        for pid in 0..64 {
            shares.take_back(pid);
        }
        assert_eq!(shares.give(64), given[0]);
    }
}
