//! Sets the windows: when the next one opens, how many hits it may take, and how long.
//!
//! A hit has a price, so a window ends by its hits: what it costs the target does not depend on how fast that
//! allocates. Its length is bounded as well, which holds also where the price is wrong: in no time can the target lose
//! more than that time. A target that is quiet enough pays for its hits out of what comes in meanwhile: its window is
//! prolonged again and again, and nothing goes unseen.

use super::Account;

/// What one window may cost, where the budget does not ask for less or more often: nobody notices that a request took
/// so much longer.
const WINDOW_NS: f64 = 250_000.0;

/// Windows are not cut into smaller ones than that come so often.
const SPACING_NS: f64 = 25e6;

/// The longest window at the largest budgets.
const LONGEST_NS: f64 = 1e6;

/// What may be saved up, as time: a target that was quiet for so long may be seen for longer afterwards.
const SAVED_NS: f64 = 200e6;

/// How much longer than its hits are expected to take a window may be.
const PATIENCE: f64 = 1.5;

/// The least share of what a window costs that goes into its hits, not into its opening: larger ones come less often.
const OPENINGS: f64 = 3.0;

/// The longest window where opening one costs that much.
const LONGEST_DEAR_NS: f64 = 2e6;

/// See [`Controller::pause_ns`].
const PAUSE: f64 = 2.0;

/// What a window may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hits.
    pub hits: u64,
    /// Nanoseconds.
    pub length_ns: u64,
}

/// What a window, or a part of it, has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell {
    /// Hits.
    pub hits: u64,
    /// Nanoseconds that the gate was open.
    pub open_ns: u64,
    /// Whether it ended by its hits: the target hardly did anything but run into probes.
    pub by_hits: bool,
}

/// Sets the windows of one target.
#[derive(Clone, Debug)]
pub struct Controller {
    share: f64,
    /// What opening and closing cost the target.
    opening_ns: f64,
    account: Account,
    hit_ns: f64,
    /// The least time that one hit of a dense window took lately: no hit costs more.
    bound_ns: f64,
}

impl Controller {
    /// For a budget of `share` of the target's time from `now_ns` on, where a hit is expected to cost `hit_ns`, and opening
    /// and closing a window `opening_ns`.
    #[must_use]
    pub fn new(share: f64, hit_ns: f64, opening_ns: f64, now_ns: u64) -> Self {
        let mut account = Account::new(share, most_ns(share, opening_ns), now_ns);
        // A quiet target is seen from the start on.
        account.save_up();
        Self { share, opening_ns, account, hit_ns: hit_ns.max(1.0), bound_ns: f64::INFINITY }
    }

    /// Another budget from `now_ns` on. A window that is due already may still come at the old one's time; what that is too
    /// much or too little for the new one, the next ones make up for.
    pub fn set_share(&mut self, share: f64, now_ns: u64) {
        self.share = share;
        self.account.set_share(share, most_ns(share, self.opening_ns), now_ns);
    }

    /// What a hit costs, as it was measured lately.
    pub fn set_hit_ns(&mut self, ns: f64) {
        self.hit_ns = ns.max(1.0);
    }

    /// What a hit is taken to cost.
    #[must_use]
    pub fn hit_ns(&self) -> f64 {
        self.hit_ns.min(self.bound_ns)
    }

    /// How long to wait for the next window; `random` is from 0 to 1, and different each time, so that nothing in the
    /// target that comes again and again meets the windows in step.
    pub fn wait_ns(&mut self, now_ns: u64, random: f64) -> u64 {
        let price = (self.window_ns() + self.opening_ns) * (0.5 + random);
        self.account.wait_ns(now_ns, price)
    }

    /// Nanoseconds between two hits of a target that pays for all of them out of half of its budget.
    #[must_use]
    pub fn pause_ns(&self) -> u64 {
        (PAUSE * self.hit_ns() / self.share) as u64
    }

    /// Nanoseconds from one window to the next, on average, of a target that makes calls without pause.
    #[must_use]
    pub fn period_ns(&self) -> f64 {
        (self.window_ns() + self.opening_ns) / self.share
    }

    /// What a window may take that opens now; `random` is from 0 to 1, and different each time: where calls come in bursts,
    /// behind work that makes none, windows that all end after the same number of hits never see the end of a burst.
    pub fn open(&mut self, random: f64) -> Limits {
        self.account.spend(self.opening_ns);
        let usual = self.window_ns();
        let price = usual * (0.5 + random);
        let hits = (price / self.hit_ns()).max(1.0);
        Limits { hits: hits as u64, length_ns: (price.max(usual) * PATIENCE) as u64 }
    }

    fn window_ns(&self) -> f64 {
        window_ns(self.share, self.opening_ns)
    }

    /// How many hits more an open window may take at `now_ns`, in which there were some and all are paid for; 0 where
    /// it must be closed.
    pub fn prolonged(&mut self, now_ns: u64) -> u64 {
        (self.account.balance_ns(now_ns) / self.hit_ns()).max(0.0) as u64
    }

    /// Books what a window came to, or a part of one.
    pub fn book(&mut self, spell: Spell) {
        let Spell { hits, open_ns, by_hits } = spell;
        if by_hits && hits > 0 {
            let bound = open_ns as f64 / hits as f64;
            // Forgotten slowly: the host may get slower.
            self.bound_ns = (self.bound_ns * 1.001).min(bound);
        }
        self.account.spend(hits as f64 * self.hit_ns());
    }

    /// Books what came beside windows.
    pub fn spend(&mut self, ns: f64) {
        self.account.spend(ns);
    }

    /// All that the target paid, in nanoseconds.
    #[must_use]
    pub const fn spent_ns(&self) -> f64 {
        self.account.spent_ns()
    }
}

/// What may be saved up at a budget.
fn most_ns(share: f64, opening_ns: f64) -> f64 {
    (share * SAVED_NS).max((window_ns(share, opening_ns) + opening_ns) * 1.5)
}

/// What the hits of a window may cost at a budget.
fn window_ns(share: f64, opening_ns: f64) -> f64 {
    let usual = (share * SPACING_NS).clamp(WINDOW_NS, LONGEST_NS);
    usual.max((opening_ns * OPENINGS).min(LONGEST_DEAR_NS))
}

#[cfg(test)]
mod tests {
    use super::{Controller, Limits, Spell};

    /// A target that makes `rate` hits a second when it is not traced, each of which costs `cost_ns` then.
    struct Made {
        rate: f64,
        cost_ns: f64,
    }

    /// The share of its time that the target lost, and the share of the time that was traced.
    fn run(controller: &mut Controller, made: &Made, from_ns: u64, seconds: f64) -> (f64, f64) {
        let end = from_ns + (seconds * 1e9) as u64;
        let (mut now, mut lost, mut traced, mut step) = (from_ns, 0.0, 0.0, 0_u64);
        let work = 1e9 / made.rate;
        while now < end {
            step += 1;
            now += controller.wait_ns(now, (step as f64 * 0.618).fract());
            let Limits { hits: most, .. } = controller.open((step as f64 * 0.414).fract());
            let mut most = most;
            loop {
                // Looked at every 5 ms.
                let hits = (5e6 / (work + made.cost_ns)).min(most as f64);
                let by_hits = hits as u64 >= most;
                let open = if by_hits { hits * (work + made.cost_ns) } else { 5e6 };
                now += open as u64;
                lost += hits * made.cost_ns;
                traced += open;
                controller.book(Spell { hits: hits as u64, open_ns: open as u64, by_hits });
                most = controller.prolonged(now);
                if by_hits || most == 0 || now >= end {
                    break;
                }
            }
        }
        let all = (now - from_ns) as f64;
        (lost / all, traced / all)
    }

    #[test]
    fn a_target_that_allocates_without_pause_loses_its_budget_and_no_more() {
        for share in [0.001, 0.01, 0.05] {
            let made = Made { rate: 8e6, cost_ns: 2_000.0 };
            let mut controller = Controller::new(share, 2_200.0, 3_000.0, 0);
            let (lost, _) = run(&mut controller, &made, 0, 10.0);
            assert!(lost <= share * 1.02 && lost > share * 0.7, "{lost} of {share}");
        }
    }

    #[test]
    fn a_quiet_target_is_traced_all_the_time() {
        let made = Made { rate: 2_500.0, cost_ns: 2_000.0 };
        let mut controller = Controller::new(0.01, 2_200.0, 3_000.0, 0);
        let (lost, traced) = run(&mut controller, &made, 0, 10.0);
        assert!(traced > 0.99, "{traced}");
        assert!(lost < 0.01);
    }

    #[test]
    fn the_budget_holds_through_a_burst() {
        let mut controller = Controller::new(0.01, 2_200.0, 3_000.0, 0);
        let quiet = Made { rate: 3_000.0, cost_ns: 2_000.0 };
        let burst = Made { rate: 300_000.0, cost_ns: 2_000.0 };
        for second in 0..10_u64 {
            let made = if second % 2 == 0 { &quiet } else { &burst };
            let (lost, _) = run(&mut controller, made, second * 1_000_000_000, 1.0);
            assert!(lost <= 0.0125, "{lost} in second {second}");
        }
    }

    #[test]
    fn another_budget_holds_from_when_it_is_set() {
        let made = Made { rate: 8e6, cost_ns: 2_000.0 };
        let mut controller = Controller::new(0.01, 2_200.0, 3_000.0, 0);
        for (from_s, share) in [(0, 0.01), (10, 0.0025), (20, 0.05), (30, 0.01)] {
            let from_ns = from_s * 1_000_000_000;
            controller.set_share(share, from_ns);
            let (lost, _) = run(&mut controller, &made, from_ns, 10.0);
            assert!(lost <= share * 1.03 && lost > share * 0.7, "{lost} of {share}");
        }
    }

    #[test]
    fn a_price_that_is_too_high_gives_way_to_what_dense_windows_show() {
        let made = Made { rate: 8e6, cost_ns: 1_000.0 };
        let mut controller = Controller::new(0.01, 5_000.0, 3_000.0, 0);
        run(&mut controller, &made, 0, 1.0);
        assert!(controller.hit_ns() < 1_200.0);
    }
}
