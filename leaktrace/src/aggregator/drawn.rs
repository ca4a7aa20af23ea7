//! Some of the live blocks of each site, drawn so that what is read of them holds for all.

use super::Aggregator;
use super::sampled::Sampled;
use super::scale::Scale;
use super::snapshot::{SiteSnapshot, Snapshot};

/// Blocks of one site that are drawn at least, where it has as many, and at most.
const OF_A_SITE: std::ops::RangeInclusive<usize> = 8..=256;

/// A live block that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawnBlock {
    /// Where it begins.
    pub address: u64,
    /// Requested bytes.
    pub size: u64,
    /// How many blocks it stands for among those that were drawn of its site.
    pub weight: f64,
}

/// How many blocks of each of `sites` to draw, so that there are `most` in all; nothing of those with the fewest live bytes
/// where that is too few.
#[must_use]
pub fn allowances(sites: &[SiteSnapshot], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sites.len()).collect();
    order.retain(|&index| sites[index].counts.live_blocks() > 0);
    order.sort_by_key(|&index| std::cmp::Reverse(sites[index].counts.live_bytes()));
    let each = (most / order.len().max(1)).clamp(*OF_A_SITE.start(), *OF_A_SITE.end());
    let mut allowances = vec![0; sites.len()];
    let mut left = most;
    for index in order {
        let live = usize::try_from(sites[index].counts.live_blocks()).unwrap_or(usize::MAX);
        allowances[index] = each.min(live).min(left);
        left -= allowances[index];
    }
    allowances
}

/// As many of a row of unknown length as there is room for, each with the same probability (Vitter's algorithm R).
struct Reservoir {
    room: usize,
    seen: u64,
    blocks: Vec<DrawnBlock>,
}

impl Reservoir {
    const fn new(room: usize) -> Self {
        Self { room, seen: 0, blocks: Vec::new() }
    }

    fn offer(&mut self, random: &mut dyn FnMut() -> u64, block: impl FnOnce() -> DrawnBlock) {
        self.seen += 1;
        if self.blocks.len() < self.room {
            self.blocks.push(block());
        } else if self.room > 0
            && let Some(place) = self.blocks.get_mut((random() % self.seen) as usize)
        {
            *place = block();
        }
    }
}

fn reservoirs(allowances: &[usize]) -> Vec<Reservoir> {
    allowances.iter().copied().map(Reservoir::new).collect()
}

fn drawn(reservoirs: Vec<Reservoir>) -> Vec<Vec<DrawnBlock>> {
    reservoirs.into_iter().map(|reservoir| reservoir.blocks).collect()
}

impl Aggregator {
    /// Draws as many of each site's live blocks as it is allowed; sites are in the order of [`Snapshot::sites`]. `random`
    /// gives 64 random bits each time.
    #[must_use]
    pub fn draw(
        &self,
        allowances: &[usize],
        random: &mut dyn FnMut() -> u64,
    ) -> Vec<Vec<DrawnBlock>> {
        let mut reservoirs = reservoirs(allowances);
        for (address, block) in self.live.blocks() {
            if let Some(reservoir) = reservoirs.get_mut(block.site as usize) {
                let drawn = || DrawnBlock { address, size: block.size, weight: 1.0 };
                reservoir.offer(random, drawn);
            }
        }
        drawn(reservoirs)
    }
}

impl Sampled {
    /// Draws as many of the sampled blocks that live as each site of `shown` is allowed; each stands for as many as `scale`
    /// makes of it.
    #[must_use]
    pub fn draw(
        &self,
        shown: &Snapshot,
        scale: &Scale,
        allowances: &[usize],
        random: &mut dyn FnMut() -> u64,
    ) -> Vec<Vec<DrawnBlock>> {
        let mut places = vec![None; self.site_count()];
        for (place, site) in shown.sites.iter().enumerate() {
            for index in self.indices_of(site) {
                places[index] = Some(place);
            }
        }
        let mut reservoirs = reservoirs(allowances);
        for (site, block) in self.weighed(scale) {
            let place = places.get(site).copied().flatten();
            if let Some(reservoir) = place.and_then(|place| reservoirs.get_mut(place)) {
                reservoir.offer(random, || block);
            }
        }
        drawn(reservoirs)
    }
}
