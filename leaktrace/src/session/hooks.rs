//! Keeps watch over the allocator tables while they are traced: other tools' hooks come and go.
//!
//! Hooks that keep the table whole behind their context pass calls on to the gate point in it: nothing is missed. Where
//! calls do not come to the probes any more, the gate is opened again as soon as its slots hold their functions, and
//! the report says from when to when nothing was seen.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::STRAGGLERS;
use crate::gate::{Gate, Outcome, Way};

/// What has happened to the tables since the gate was opened.
#[derive(Debug)]
pub(super) struct HookWatch {
    way: Way,
    looked_at: Duration,
    behind: Spells,
    unseen: Spells,
    misses: bool,
    opened_again: u32,
}

/// Spells of time, as the looks at the tables tell them.
#[derive(Debug, Default)]
struct Spells {
    count: u32,
    first: Option<Duration>,
    last: Duration,
    total: Duration,
}

impl Spells {
    fn add(&mut self, begins: bool, from: Duration, to: Duration) {
        self.count += u32::from(begins);
        self.first.get_or_insert(from);
        self.last = to;
        self.total += to.saturating_sub(from);
    }

    /// `2 times between 1.2 s and 3.4 s after the start, for 0.4 s in all`; nothing if there was none.
    fn words(&self) -> Option<String> {
        let first = self.first?.as_secs_f64();
        let times =
            if self.count == 1 { "once".to_owned() } else { format!("{} times", self.count) };
        Some(format!(
            "{times} between {first:.1} s and {:.1} s after the start, for {:.1} s in all",
            self.last.as_secs_f64(),
            self.total.as_secs_f64(),
        ))
    }
}

impl HookWatch {
    /// One whose gate was just opened; `misses` says that calls of some slot do not come to their probe even so.
    pub(super) fn start(misses: bool) -> Self {
        Self {
            way: Way::Direct,
            looked_at: Duration::ZERO,
            behind: Spells::default(),
            unseen: Spells::default(),
            misses,
            opened_again: 0,
        }
    }

    /// Looks at the tables, `elapsed` since the start, and opens again what was closed by others. Returns whether calls
    /// may have been missed since the look before.
    pub(super) fn look(&mut self, gate: &mut Gate, elapsed: Duration) -> bool {
        let mut missed = self.misses;
        let mut way = gate.look();
        if way == Way::None {
            // A table that is just being replaced can be seen half done: only what is found twice counts.
            way = gate.look();
        }
        if way == Way::None {
            // Somebody put back a table that was saved while the gate was closed, or took hooks off that were there
            // before: what holds its function again is opened.
            let written = gate.open().is_ok_and(|outcomes| {
                let written = |outcome: &Outcome| {
                    matches!(outcome, Outcome::Written | Outcome::WrittenBehindHook)
                };
                outcomes.iter().any(written)
            });
            self.opened_again += u32::from(written);
            self.unseen.add(self.way != Way::None, self.looked_at, elapsed);
            missed = true;
            way = if written { gate.look() } else { way };
        } else if way == Way::BehindHooks {
            self.behind.add(self.way != Way::BehindHooks, self.looked_at, elapsed);
        }
        self.way = way;
        self.misses = way == Way::None;
        self.looked_at = elapsed;
        missed
    }

    /// Whether calls are missed now, as far as the last look tells.
    pub(super) fn misses(&self) -> bool {
        self.misses
    }

    /// What the reader should know of all that.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(spells) = self.behind.words() {
            warnings.push(format!(
                "hooks of another tool (tracemalloc, a profiler, debug hooks) stood over the allocator tables {spells}: \
                 the calls that they passed on were seen, with what they add to them"
            ));
        }
        if let Some(spells) = self.unseen.words() {
            let again = match self.opened_again {
                _ if self.way == Way::None => "to the end".to_owned(),
                0 => "then they were seen again".to_owned(),
                1 => "then the gate was opened again".to_owned(),
                times => format!("the gate was opened again {times} times"),
            };
            warnings.push(format!(
                "somebody else changed the allocator tables (tracemalloc, another profiler, debug hooks), and calls may \
                 have been missed {spells}; {again}"
            ));
        }
        warnings
    }
}

/// Calls that hit probes which a closed gate should keep them from. A few are threads on their way through; more come
/// where somebody in the target calls through a copy of the open tables.
#[derive(Debug)]
pub(super) struct UnwantedHits {
    /// How long the probes were in place before the gate was opened.
    attaching: Duration,
    /// When the first slot of the gate was about to be opened.
    opening_ns: u64,
    early: u64,
    late: u64,
}

/// Unwanted hits a second that something is done about, and that are told of.
const MANY: f64 = 1000.0;

impl UnwantedHits {
    /// None yet. The first probe was put in place at `attach_began`, the gate was opened from `opening_ns` on, and is open
    /// now.
    pub(super) fn since(attach_began: Instant, opening_ns: u64) -> Self {
        Self { attaching: attach_began.elapsed(), opening_ns, early: 0, late: 0 }
    }

    /// Counts an event `at_ns` that lies outside of the `window` in which the gate was open.
    pub(super) fn count(&mut self, at_ns: u64, window: &Range<u64>) {
        if at_ns < self.opening_ns {
            self.early += 1;
        } else if at_ns >= window.end.saturating_add(STRAGGLERS.as_nanos() as u64) {
            self.late += 1;
        }
    }

    /// Hits a second after the gate was closed, of which that was `since`, if they are many. They are forgotten.
    pub(super) fn many_late(&mut self, since: Duration) -> Option<f64> {
        let per_second = std::mem::take(&mut self.late) as f64 / since.as_secs_f64().max(0.001);
        (per_second > MANY).then_some(per_second)
    }

    /// What to say of hits before the gate was opened.
    pub(super) fn early_words(&self) -> Option<String> {
        let per_second = self.early as f64 / self.attaching.as_secs_f64().max(0.001);
        (per_second > MANY).then(|| {
            format!(
                "{} calls came by the gate before it was opened: something in the target keeps a copy of tables that were \
                 open",
                self.early
            )
        })
    }

    /// What to say of `per_second` hits after the gate was closed for good.
    pub(super) fn late_words(per_second: f64) -> String {
        format!(
            "{per_second:.0} calls a second still came by the gate after it was closed twice: something in the target \
             keeps a copy of the open tables; the probes are taken off, and the target goes on a little slower"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::cpython::tables::Slot as Function;
    use crate::gate::Slot;
    use crate::target::memory::ProcessMemory;

    const CLOSED: u64 = 0x1010;
    const OPEN: u64 = 0x100c;
    const FOREIGN: u64 = 0x2000;

    #[test]
    fn a_spell_in_which_calls_are_missed_lasts_until_they_are_seen_again() {
        let table: [AtomicU64; 5] = std::array::from_fn(|_| AtomicU64::new(0));
        let memory = ProcessMemory::open(std::process::id()).unwrap();
        let slot = Slot {
            function: Function::Free,
            table: table.as_ptr() as u64,
            closed: CLOSED,
            open: OPEN,
            raw: false,
        };
        let free = &table[Function::Free.offset() as usize / 8];
        let mut gate = Gate::new(Arc::new(memory), vec![slot]);
        let mut hooks = HookWatch::start(false);
        let mut look = |holds| {
            free.store(holds, Ordering::Relaxed);
            let missed = hooks.look(&mut gate, Duration::ZERO);
            (missed, hooks.misses())
        };
        assert_eq!(look(OPEN), (false, false));
        assert_eq!(look(FOREIGN), (true, true));
        assert_eq!(look(FOREIGN), (true, true));
        assert_eq!(look(OPEN), (true, false), "some were missed after the look before");
        assert_eq!(look(OPEN), (false, false));
        assert_eq!(look(CLOSED), (true, false), "it is opened again");
        assert_eq!(free.load(Ordering::Relaxed), OPEN);
        let mut hooks = HookWatch::start(true);
        assert!(hooks.look(&mut gate, Duration::ZERO), "it was opened around somebody's hook");
        assert!(!hooks.misses());
    }

    #[test]
    fn spells_are_told_with_their_times() {
        let mut spells = Spells::default();
        assert_eq!(spells.words(), None);
        let at = Duration::from_millis;
        spells.add(true, at(1200), at(1300));
        spells.add(false, at(1300), at(1400));
        assert_eq!(
            spells.words().unwrap(),
            "once between 1.2 s and 1.4 s after the start, for 0.2 s in all"
        );
        spells.add(true, at(3300), at(3400));
        assert_eq!(
            spells.words().unwrap(),
            "2 times between 1.2 s and 3.4 s after the start, for 0.3 s in all"
        );
    }

    #[test]
    fn hits_count_as_unwanted_only_outside_of_the_window_and_its_stragglers() {
        let second = Duration::from_secs(1);
        let opening_ns = 900_000_000;
        let mut hits = UnwantedHits { attaching: second, opening_ns, early: 0, late: 0 };
        let window = 1_000_000_000..2_000_000_000;
        for _ in 0..1500 {
            hits.count(899_999_999, &window);
            // While slot after slot is opened, which a busy machine may interrupt.
            hits.count(999_999_999, &window);
            hits.count(2_000_000_000, &window);
        }
        assert_eq!(hits.many_late(second), None);
        assert!(hits.early_words().is_some_and(|words| words.starts_with("1500 calls")));
        hits.attaching = 2 * second;
        assert_eq!(hits.early_words(), None);
        for _ in 0..1500 {
            hits.count(2_500_000_000, &window);
        }
        assert_eq!(hits.many_late(second), Some(1500.0));
        assert_eq!(hits.many_late(second), None);
    }
}
