//! Blocks that were there before the trace began: a sample of them tells how many of all are still there.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::sight::Sight;
use crate::aggregator::Born;
use crate::cpython::census::{Census, Class};
use crate::inspector::{Identity, Question};

/// Blocks that are drawn.
const DRAWN: usize = 4_000;

/// How much a size class of which few were drawn follows all the others.
const PRIOR: f64 = 5.0;

/// The sample.
#[derive(Debug, Default)]
pub(super) struct Older {
    /// By address: the bytes of its size class and what it is.
    blocks: FxHashMap<u64, (u64, Option<Identity>)>,
    /// By bytes of a size class, how many of it were drawn.
    drawn: BTreeMap<u64, u64>,
}

impl Older {
    /// Draws out of the blocks that `census` has just counted.
    pub(super) fn draw(sight: &mut Sight<'_>, census: &Census) -> Self {
        let Sight { inspector, memory, resident } = sight;
        let mut random = || fastrand::u64(..);
        let drawn = inspector.draw(*memory, resident, &census.map, DRAWN, &mut random);
        let places: Vec<(u64, u64)> =
            drawn.iter().map(|block| (block.address, block.block_bytes)).collect();
        let identities = inspector.identify(*memory, &places);
        let mut older = Self::default();
        for ((address, class), identity) in places.into_iter().zip(identities) {
            older.blocks.insert(address, (class, identity));
            *older.drawn.entry(class).or_default() += 1;
        }
        older
    }

    /// The blocks at these addresses were given back, or others were handed out there.
    pub(super) fn died(&mut self, addresses: &[u64]) {
        for address in addresses {
            self.blocks.remove(address);
        }
    }

    /// Looks at all of them.
    pub(super) fn look(&mut self, sight: &mut Sight<'_>) {
        let questions: Vec<Question> = self
            .blocks
            .iter()
            .map(|(&address, &(size, identity))| Question {
                address,
                size,
                is_raw: false,
                identity,
                held_none: false,
            })
            .collect();
        for (question, answer) in questions.iter().zip(sight.look(&questions)) {
            if answer.is_gone() {
                self.blocks.remove(&question.address);
            }
        }
    }

    /// How many blocks live at `end` that were handed out since `start`.
    pub(super) fn born(&self, start: &Census, end: &Census) -> Born {
        let survival = self.survival();
        let born = |(&class, now): (&u64, &Class)| {
            let before = start.classes.get(&class).map_or(0, |class| class.live) as f64;
            (class, (now.live as f64 - before * survival(class)).max(0.0))
        };
        end.classes.iter().map(born).collect()
    }

    /// How many blocks that lived at `start` are gone.
    pub(super) fn gone(&self, start: &Census) -> Born {
        let survival = self.survival();
        let gone = |(&class, before): (&u64, &Class)| {
            (class, before.live as f64 * (1.0 - survival(class)))
        };
        start.classes.iter().map(gone).collect()
    }

    /// The share of a size class's older blocks that are still there.
    fn survival(&self) -> impl Fn(u64) -> f64 {
        let (left, drawn) = (self.left(), self.drawn.clone());
        let all: u64 = drawn.values().sum();
        let share = if all > 0 { self.blocks.len() as f64 / all as f64 } else { 1.0 };
        move |class| {
            let count =
                |counts: &BTreeMap<u64, u64>| counts.get(&class).copied().unwrap_or(0) as f64;
            (count(&left) + PRIOR * share) / (count(&drawn) + PRIOR)
        }
    }

    fn left(&self) -> BTreeMap<u64, u64> {
        let mut left = BTreeMap::new();
        for (class, _) in self.blocks.values() {
            *left.entry(*class).or_default() += 1;
        }
        left
    }
}
