//! The account of what the target may be made to pay: a share of the time that passes, saved up to a bound.
//!
//! Whatever was spent is booked, also what went beyond the balance: a window that was closed late is made up for by later
//! ones. Over any time T the target pays at most `share * T`, and the bound, and what one window went too far.

/// Nanoseconds of the target's time.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    share: f64,
    most_ns: f64,
    balance_ns: f64,
    at_ns: u64,
    spent_ns: f64,
}

impl Account {
    /// An account that `share` of the time from `at_ns` on is paid into, up to `most_ns`; empty.
    #[must_use]
    pub fn new(share: f64, most_ns: f64, at_ns: u64) -> Self {
        Self { share, most_ns, balance_ns: 0.0, at_ns, spent_ns: 0.0 }
    }

    /// Has as much saved up as may be.
    pub const fn save_up(&mut self) {
        self.save(f64::INFINITY);
    }

    /// Has so much saved up, or as much as may be.
    pub const fn save(&mut self, ns: f64) {
        self.balance_ns = ns.min(self.most_ns);
    }

    /// From `now_ns` on another share is paid in, up to another bound. What was saved before or is owed stays so.
    pub fn set_share(&mut self, share: f64, most_ns: f64, now_ns: u64) {
        self.balance_ns(now_ns);
        (self.share, self.most_ns) = (share, most_ns);
        self.balance_ns = self.balance_ns.min(most_ns);
    }

    /// What may be spent at `now_ns`; negative where too much was.
    pub fn balance_ns(&mut self, now_ns: u64) -> f64 {
        let passed = now_ns.saturating_sub(self.at_ns) as f64;
        self.at_ns = self.at_ns.max(now_ns);
        self.balance_ns = (self.balance_ns + self.share * passed).min(self.most_ns);
        self.balance_ns
    }

    /// Books what was spent.
    pub fn spend(&mut self, ns: f64) {
        self.balance_ns -= ns;
        self.spent_ns += ns;
    }

    /// How long it takes from `now_ns` on until `ns` may be spent.
    pub fn wait_ns(&mut self, now_ns: u64, ns: f64) -> u64 {
        let missing = ns.min(self.most_ns) - self.balance_ns(now_ns);
        if missing <= 0.0 { 0 } else { (missing / self.share).ceil() as u64 }
    }

    /// All that was spent.
    #[must_use]
    pub const fn spent_ns(&self) -> f64 {
        self.spent_ns
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn a_share_of_the_time_is_paid_in_up_to_the_bound() {
        let mut account = Account::new(0.01, 1_000.0, 5);
        assert!(account.balance_ns(5).abs() < 1e-9);
        assert!((account.balance_ns(10_005) - 100.0).abs() < 1e-9);
        assert!((account.balance_ns(10_000_005) - 1_000.0).abs() < 1e-9);
        assert!((account.balance_ns(3) - 1_000.0).abs() < 1e-9, "time does not go back");
        account.spend(700.0);
        account.save_up();
        assert!((account.balance_ns(10_000_005) - 1_000.0).abs() < 1e-9);
    }

    #[test]
    fn what_went_too_far_is_made_up_for() {
        let mut account = Account::new(0.01, 1_000.0, 0);
        account.spend(500.0);
        assert_eq!(account.wait_ns(0, 200.0), 70_000);
        assert_eq!(account.wait_ns(70_000, 200.0), 0);
        assert_eq!(
            account.wait_ns(70_000, 5_000.0),
            80_000,
            "no more than the bound is waited for"
        );
        assert!((account.spent_ns() - 500.0).abs() < 1e-9);
    }
    #[test]
    fn another_share_counts_from_when_it_is_set() {
        let mut account = Account::new(0.01, 1_000.0, 0);
        account.spend(50.0);
        account.set_share(0.001, 300.0, 10_000);
        assert!((account.balance_ns(20_000) - 60.0).abs() < 1e-9);
        assert_eq!(account.wait_ns(20_000, 160.0), 100_000);
        account.balance_ns(1_000_000);
        account.set_share(0.01, 100.0, 1_000_000);
        assert!((account.balance_ns(1_000_000) - 100.0).abs() < 1e-9, "the bound holds at once");
    }
}
