//! The raw domain's slots of the gate: open all the time, for as long as their hits are within their share of the budget.
//!
//! Blocks over 512 bytes are few beside objects, and hold most of the memory: as long as all of their allocations and frees
//! are seen, their numbers are exact, whatever goes unseen of objects. Once it was too much they are sampled in windows like
//! the others, for the rest of the trace.

use super::limits::Closer;
use crate::budget::Account;

/// The part of the budget that raw hits may take.
const SHARE: f64 = 0.5;

/// For how long that may be saved up: a budget holds over any ten seconds. And how much of that there is at the very beginning,
/// so that what comes then does not end it at once, nor takes what is for windows.
const SAVED_NS: f64 = 10e9;
const SAVED_FIRST_NS: f64 = 2e9;

/// How often it is looked at; and where the guard is alone, which counts no hits.
const TEND_EVERY_NS: u64 = 30_000_000;
const TEND_OFTEN_NS: u64 = 20_000_000;

/// How often it is looked whether they are still open, and the guard is told that they are to stay so: well within what it
/// waits for. Each time costs a target on the guard's processor a switch to it and back.
const RENEW_EVERY_NS: u64 = 60_000_000;

/// How it stands with the raw slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They are like any others.
    None,
    /// They are to be opened with the first window.
    Waiting,
    /// They are open.
    Open {
        /// Since when.
        since_ns: u64,
    },
    /// They were open once.
    Fallen {
        /// The time.
        since_ns: u64,
        /// And its end.
        until_ns: u64,
    },
}

/// The raw slots of one target.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    state: State,
    account: Account,
    hits: u64,
    tended_ns: u64,
    tend_every_ns: u64,
    renewed_ns: u64,
}

impl Lane {
    /// For a budget of `share` of the target's time. Not `possible` where raw functions are not all seen by the gate alone.
    pub(super) fn new(share: f64, possible: bool, closer: Closer, now_ns: u64) -> Self {
        let state = if possible { State::Waiting } else { State::None };
        let mut account = Account::new(share * SHARE, share * SHARE * SAVED_NS, now_ns);
        account.save(share * SHARE * SAVED_FIRST_NS);
        let tend_every_ns = match closer {
            Closer::Kernel => TEND_EVERY_NS,
            Closer::Guard => TEND_OFTEN_NS,
        };
        Self { state, account, hits: 0, tended_ns: now_ns, tend_every_ns, renewed_ns: now_ns }
    }

    /// Another budget from `now_ns` on.
    pub(super) fn set_share(&mut self, share: f64, now_ns: u64) {
        self.account.set_share(share * SHARE, share * SHARE * SAVED_NS, now_ns);
    }

    /// Whether the slots are to be opened now, and stay open.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether all raw calls since the trace began were seen.
    pub(super) const fn is_whole(&self) -> bool {
        self.is_waiting() || self.is_open()
    }

    /// Whether some raw calls since the trace began went unseen, after others were seen all the time.
    pub(super) const fn has_fallen(&self) -> bool {
        matches!(self.state, State::Fallen { .. })
    }

    /// The slots are open from `now_ns` on, after so many hits.
    pub(super) fn open(&mut self, now_ns: u64, hits: u64) {
        self.state = State::Open { since_ns: now_ns };
        (self.tended_ns, self.hits, self.renewed_ns) = (now_ns, hits, now_ns);
    }

    /// Whether it is time to look whether the slots are open, and to have them left so for longer.
    pub(super) fn is_to_be_renewed(&mut self, now_ns: u64) -> bool {
        let is_due = now_ns >= self.renewed_ns + RENEW_EVERY_NS;
        if is_due {
            self.renewed_ns = now_ns;
        }
        is_due
    }

    /// The slots are closed, and are like any others from now on.
    pub(super) fn fall(&mut self, now_ns: u64) {
        if let State::Open { since_ns } = self.state {
            self.state = State::Fallen { since_ns, until_ns: now_ns };
        } else {
            self.state = State::None;
        }
    }

    /// When it is to be looked at next, if ever.
    pub(super) fn tend_at_ns(&self) -> Option<u64> {
        self.is_open().then_some(self.tended_ns + self.tend_every_ns)
    }

    /// Whether it is time to look at it, or soon will be: whoever is awake need not be woken again for that.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.tend_at_ns().is_some_and(|at_ns| now_ns + self.tend_every_ns / 3 >= at_ns)
    }

    /// Takes note of all hits so far, each of which costs `hit_ns`. Returns how many are new, and whether there may be more.
    pub(super) fn tend(&mut self, now_ns: u64, hits: u64, hit_ns: f64) -> (u64, bool) {
        let new = hits.saturating_sub(self.hits);
        (self.hits, self.tended_ns) = (hits, now_ns);
        self.account.spend(new as f64 * hit_ns);
        (new, self.account.balance_ns(now_ns) >= 0.0)
    }

    /// How many hits are paid for.
    pub(super) fn left(&mut self, now_ns: u64, hit_ns: f64) -> u64 {
        (self.account.balance_ns(now_ns) / hit_ns).max(1.0) as u64
    }

    /// Whether a raw call was seen for certain at this time.
    pub(super) fn contains(&self, at_ns: u64) -> bool {
        match self.state {
            State::None | State::Waiting => false,
            State::Open { since_ns } => at_ns >= since_ns,
            State::Fallen { since_ns, until_ns } => (since_ns..until_ns).contains(&at_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Closer, Lane};

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn it_stays_open_while_its_hits_are_within_half_of_the_budget() {
        let mut lane = Lane::new(0.01, true, Closer::Kernel, 0);
        assert!(lane.is_waiting() && lane.is_whole());
        lane.open(0, 7);
        // 4 ms of each second.
        for second in 1..100 {
            let (new, goes_on) = lane.tend(second * SECOND_NS, 7 + second * 1_000, 4_000.0);
            assert_eq!(new, 1_000);
            assert!(goes_on, "{second}");
        }
        assert!(lane.contains(5) && lane.is_whole());
    }

    #[test]
    fn a_burst_is_paid_for_and_a_flood_ends_it() {
        let mut lane = Lane::new(0.01, true, Closer::Kernel, 0);
        lane.open(0, 0);
        // 44 ms at once, after eight seconds: within what ten seconds may cost. At the very beginning that is too much.
        assert!(!lane.clone().tend(30_000_000, 11_000, 4_000.0).1);
        assert!(lane.tend(8 * SECOND_NS, 11_000, 4_000.0).1);
        assert!(!lane.tend(8 * SECOND_NS + 30_000_000, 22_000, 4_000.0).1);
        lane.fall(60_000_000);
        assert!(!lane.is_whole() && lane.tend_at_ns().is_none());
        assert!(lane.contains(59_999_999) && !lane.contains(60_000_000));
    }

    #[test]
    fn without_a_gate_for_all_of_them_there_is_none() {
        let lane = Lane::new(0.01, false, Closer::Kernel, 0);
        assert!(!lane.is_waiting() && !lane.is_whole() && !lane.contains(0));
    }
}
