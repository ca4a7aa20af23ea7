//! What each of several processes may be made to pay, so that all together pay no more than the user allows.
//!
//! All that may have an open gate get the same: those that idle leave their part unused, since nobody can know when they
//! will need it.

use std::collections::BTreeSet;

use tokio::sync::watch::{Receiver, Sender};

/// A budget for each process, and maybe one for all of them.
#[derive(Debug)]
pub(super) struct Purse {
    each_pct: f64,
    total_pct: Option<f64>,
    paying: BTreeSet<u32>,
    share_pct: Sender<f64>,
}

impl Purse {
    /// For processes that pay up to `each_pct` percent of their time, and `total_pct` added up over all of them.
    pub(super) fn new(each_pct: f64, total_pct: Option<f64>) -> Self {
        let share_pct = Sender::new(share(each_pct, total_pct, 1));
        Self { each_pct, total_pct, paying: BTreeSet::new(), share_pct }
    }

    /// One more pays: the others must leave it its part, before it begins.
    pub(super) fn join(&mut self, pid: u32) {
        self.paying.insert(pid);
        self.divide();
    }

    /// One pays no more; the others have its part. Nothing happens where that was said before.
    pub(super) fn leave(&mut self, pid: u32) {
        self.paying.remove(&pid);
        self.divide();
    }

    /// What each may pay now, in percent of its time, and whenever that changes.
    pub(super) fn share_pct(&self) -> Receiver<f64> {
        self.share_pct.subscribe()
    }

    fn divide(&self) {
        let share = share(self.each_pct, self.total_pct, self.paying.len());
        self.share_pct.send_if_modified(|told| std::mem::replace(told, share) != share);
    }
}

fn share(each_pct: f64, total_pct: Option<f64>, paying: usize) -> f64 {
    total_pct.map_or(each_pct, |total| each_pct.min(total / paying.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::Purse;

    #[test]
    fn a_total_is_divided_among_those_that_pay_as_they_come_and_go() {
        let mut purse = Purse::new(1.0, Some(2.0));
        let mut share = purse.share_pct();
        let mut told = |purse: &mut Purse, joins: &[u32], leaves: &[u32]| {
            joins.iter().for_each(|&pid| purse.join(pid));
            leaves.iter().for_each(|&pid| purse.leave(pid));
            *share.borrow_and_update()
        };
        assert_eq!(told(&mut purse, &[1], &[]), 1.0, "no more than its own budget");
        assert_eq!(told(&mut purse, &[2], &[]), 1.0);
        assert_eq!(told(&mut purse, &[3, 4], &[]), 0.5);
        assert_eq!(told(&mut purse, &[], &[2, 2, 9]), 2.0 / 3.0, "each leaves once");
        assert_eq!(told(&mut purse, &[5, 6], &[1, 3]), 2.0 / 3.0);
        assert_eq!(told(&mut purse, &[], &[4, 5, 6]), 1.0);
    }

    #[test]
    fn nobody_is_told_of_what_does_not_change() {
        let mut purse = Purse::new(1.0, None);
        let share = purse.share_pct();
        (0..100).for_each(|pid| purse.join(pid));
        assert!(!share.has_changed().unwrap());
        assert_eq!(*share.borrow(), 1.0);
    }
}
