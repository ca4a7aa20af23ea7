//! Keeps watch over the blocks that were sampled: looks at each again and again, at ages that grow, until it is found
//! dead or seen freed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::super::now_ns;
use super::sight::Sight;
use super::weights::Part;
use crate::aggregator::{Aggregator, ClassSums, Domain, FIRST_LOOK_NS, Sample, Sampled, Weight};
use crate::inspector::{Identity, Question};

const SECOND_NS: u64 = 1_000_000_000;

/// From one look at a block to the next. Whatever lives at the first one counts.
const AGES_NS: [u64; 7] = [
    FIRST_LOOK_NS,
    2 * SECOND_NS,
    6 * SECOND_NS,
    18 * SECOND_NS,
    54 * SECOND_NS,
    162 * SECOND_NS,
    486 * SECOND_NS,
];

/// Blocks that are watched at most. When there are more, every second one is dropped, and the others stand for twice as
/// many.
const MOST_WATCHED: usize = 200_000;

/// How long all are looked at in the end.
const LAST_LOOKS: Duration = Duration::from_secs(2);

/// Blocks that are looked at in one go.
const BATCH: usize = 2_000;

/// A block that was handed out in a window and lived when that ended.
#[derive(Clone, Copy, Debug)]
struct Watched {
    born: u32,
    size: u64,
    class: u64,
    is_raw: bool,
    identity: Option<Identity>,
    /// Whether it was looked at and held no object.
    held_none: bool,
    /// Whether it was found alive, and counts.
    entered: bool,
    weight: Weight,
    window: u32,
    born_ns: u64,
}

impl Watched {
    const fn question(&self, address: u64) -> Question {
        let &Self { size, is_raw, identity, held_none, .. } = self;
        Question { address, size, is_raw, identity, held_none }
    }
}

/// Whose frees go unseen now and then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gaps {
    /// Of objects.
    pub(super) objects: bool,
    /// Of raw blocks.
    pub(super) raw: bool,
}

/// A look that is to come.
#[derive(Clone, Copy, Debug)]
struct Due {
    at_ns: u64,
    address: u64,
    born_ns: u64,
}

/// All sampled blocks.
pub(super) struct Sampling {
    watched: FxHashMap<u64, Watched>,
    looks: [VecDeque<Due>; AGES_NS.len()],
    pub(super) sampled: Sampled,
    class_shift: Option<u64>,
    /// How often every second block was dropped: so seldom is a new one watched.
    thinned: u32,
}

impl Sampling {
    pub(super) fn new(sampled: Sampled, class_shift: Option<u64>) -> Self {
        Self {
            watched: FxHashMap::default(),
            looks: std::array::from_fn(|_| VecDeque::new()),
            sampled,
            class_shift,
            thinned: 0,
        }
    }

    /// Bytes of the size class of a request.
    fn class(&self, size: u64, is_raw: bool) -> u64 {
        match self.class_shift {
            Some(shift) if !is_raw && (1..=512).contains(&size) => {
                (((size - 1) >> shift) + 1) << shift
            }
            _ => 0,
        }
    }

    /// These blocks were handed out in `part`, and live as far as `seen` knows.
    pub(super) fn admit(
        &mut self,
        born: &[u64],
        identities: &FxHashMap<u64, Option<Identity>>,
        part: &Part,
        seen: &Aggregator,
    ) {
        if self.watched.len() >= MOST_WATCHED {
            self.thin(part.ended_ns);
        }
        for &address in born {
            self.forget(address, part.ended_ns);
            let Some(block) = seen.block(address).filter(|_| self.is_drawn()) else { continue };
            let Some((_, domain)) = seen.site(block.site) else { continue };
            let is_raw = domain == Domain::Raw;
            let looked_at = identities.get(&address);
            let watched = Watched {
                born: block.born,
                size: block.size,
                class: self.class(block.size, is_raw),
                is_raw,
                identity: looked_at.copied().flatten(),
                held_none: looked_at.is_some_and(Option::is_none),
                entered: false,
                weight: Weight { births: part.weight.births << self.thinned, ..part.weight },
                window: part.number,
                born_ns: part.ended_ns,
            };
            self.watched.insert(address, watched);
            self.plan(0, address, part.ended_ns, part.ended_ns);
        }
    }

    fn is_drawn(&self) -> bool {
        (0..self.thinned).all(|_| fastrand::bool())
    }

    /// Drops every second block.
    fn thin(&mut self, at_ns: u64) {
        self.thinned += 1;
        let (kept, dropped): (Vec<u64>, Vec<u64>) =
            self.watched.keys().partition(|_| fastrand::bool());
        // First more, then fewer: what lives of a site must not seem to have fallen.
        for address in kept {
            if let Some(watched) = self.watched.get_mut(&address) {
                watched.weight.births *= 2;
            }
            self.sampled.double(address);
        }
        dropped.iter().for_each(|&address| self.forget(address, at_ns));
        self.looks.iter_mut().for_each(|looks| {
            looks.retain(|due| self.watched.contains_key(&due.address));
        });
    }

    /// The blocks at these addresses were given back, or others were handed out there.
    pub(super) fn died(&mut self, addresses: &[u64], at_ns: u64) {
        addresses.iter().for_each(|&address| self.forget(address, at_ns));
    }

    fn forget(&mut self, address: u64, at_ns: u64) {
        if self.watched.remove(&address).is_some_and(|watched| watched.entered) {
            self.sampled.leave(address, at_ns);
        }
    }

    fn plan(&mut self, level: usize, address: u64, born_ns: u64, now_ns: u64) {
        let at_ns = now_ns + AGES_NS[level];
        self.looks[level].push_back(Due { at_ns, address, born_ns });
    }

    /// Looks at the blocks whose time has come, and has `seen` forget those that are dead, if frees go unseen. Returns whether
    /// there are more of them.
    pub(super) fn look(
        &mut self,
        sight: &mut Sight<'_>,
        seen: &mut Aggregator,
        gaps: Gaps,
    ) -> bool {
        let (now_ns, mut is_more) = (now_ns(), false);
        for level in 0..AGES_NS.len() {
            let due = self.due(level, now_ns);
            if due.is_empty() {
                continue;
            }
            is_more |= due.len() >= BATCH;
            let addresses: Vec<u64> = due.iter().map(|due| due.address).collect();
            self.ask(sight, seen, &addresses, (now_ns, gaps));
            let next = (level + 1).min(AGES_NS.len() - 1);
            for Due { address, born_ns, .. } in due {
                if self.lives(address, born_ns) {
                    self.plan(next, address, born_ns, now_ns);
                }
            }
        }
        is_more
    }

    /// The first of those whose time has come.
    fn due(&mut self, level: usize, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < BATCH {
            let Some(&next) = self.looks[level].front().filter(|next| next.at_ns <= now_ns) else {
                break;
            };
            self.looks[level].pop_front();
            if self.lives(next.address, next.born_ns) {
                due.push(next);
            }
        }
        due
    }

    fn lives(&self, address: u64, born_ns: u64) -> bool {
        self.watched.get(&address).is_some_and(|watched| watched.born_ns == born_ns)
    }

    /// The weights of the blocks that live but are too young to have been looked at, by their size class.
    pub(super) fn young(&self, sight: &mut Sight<'_>) -> ClassSums {
        let is_young = |watched: &Watched| !watched.entered && watched.class > 0;
        let young = self.watched.iter().filter(|(_, watched)| is_young(watched));
        // Of many some, which stand for the others.
        let step = young.clone().count().div_ceil(BATCH).max(1);
        let asked: Vec<(Question, Watched)> = young
            .step_by(step)
            .map(|(&address, &watched)| (watched.question(address), watched))
            .collect();
        let questions: Vec<Question> = asked.iter().map(|(question, _)| *question).collect();
        let mut sums = ClassSums::new();
        for ((_, watched), answer) in asked.iter().zip(sight.look(&questions)) {
            if !answer.is_gone() {
                let Weight { births, dense } = watched.weight;
                sums.entry(watched.class).or_default().add(births * step as u64, dense);
            }
        }
        sums
    }

    /// Looks at every block once more, the youngest too: the end has come at `now_ns`.
    pub(super) fn look_at_all(
        &mut self,
        sight: &mut Sight<'_>,
        seen: &mut Aggregator,
        gaps: Gaps,
        now_ns: u64,
    ) {
        let began = Instant::now();
        let all: Vec<u64> = self.watched.keys().copied().collect();
        for some in all.chunks(BATCH) {
            // A report does not wait for ever; the others count as they did when they were looked at last.
            if began.elapsed() > LAST_LOOKS {
                break;
            }
            self.ask(sight, seen, some, (now_ns, gaps));
        }
    }

    fn ask(
        &mut self,
        sight: &mut Sight<'_>,
        seen: &mut Aggregator,
        addresses: &[u64],
        (now_ns, gaps): (u64, Gaps),
    ) {
        let question = |&address: &u64| Some(self.watched.get(&address)?.question(address));
        let questions: Vec<Question> = addresses.iter().filter_map(question).collect();
        for (question, answer) in questions.iter().zip(sight.look(&questions)) {
            if !answer.is_gone() {
                // What cannot be told to be dead counts as long as nothing says so.
                self.enter(question.address, seen, now_ns);
                continue;
            }
            self.forget(question.address, now_ns);
            // As long as all frees are seen, they tell.
            let unseen = if question.is_raw { gaps.raw } else { gaps.objects };
            if unseen {
                seen.find_dead(question.address);
            }
        }
    }

    /// Counts a block that was found alive, if it does not yet.
    fn enter(&mut self, address: u64, seen: &Aggregator, now_ns: u64) {
        let Some(watched) = self.watched.get_mut(&address).filter(|watched| !watched.entered)
        else {
            return;
        };
        let block = seen.block(address).filter(|block| block.born == watched.born);
        let Some((stack, domain)) = block.and_then(|block| seen.site(block.site)) else { return };
        watched.entered = self.sampled.enter(
            &Sample {
                address,
                stack,
                domain,
                size: watched.size,
                class: watched.class,
                born_ns: watched.born_ns,
                weight: watched.weight,
                window: watched.window,
            },
            now_ns,
        );
    }
}
