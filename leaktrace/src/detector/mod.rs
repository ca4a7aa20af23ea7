//! Turns the series of a site into a verdict with its evidence.
//!
//! Knows nothing of the kernel, the clock or the screen. A site is `leaking` only if everything speaks for it:
//!
//! - the lower envelope of its live blocks has a slope whose 95 % interval is clear of zero (see [`slope`]);
//! - it rose in at least half of twelve equal parts of the time, and what it gave back is under 15 %;
//! - the last third grows at a comparable rate: a cache that fills slows down;
//! - of the blocks by which it grew in the first and in the second third, at least 60 % live: a buffer that is cleared
//!   now and then, a queue and a working set let their old blocks die;
//! - there are enough points, time and blocks ([`MIN_POINTS`], [`MIN_SECONDS`], [`MIN_BLOCKS`]);
//! - nothing that the trace could not see explains it (see [`Losses`]).
//!
//! A site that grows and lacks some of this is `growing`, with what is lacking as its evidence.

#![forbid(unsafe_code)]

mod series;
mod shape;
#[cfg(test)]
mod tests;
mod trend;

pub use series::{Losses, Observation, SiteSeries};
pub use trend::{Growth, slope};

use crate::aggregator::{Rate, Sampling, SiteSnapshot, Snapshot};
use shape::{Envelope, Shape};

/// Points that a site needs to be called leaking.
pub const MIN_POINTS: usize = 20;

/// Seconds from its first block to the end that a site needs to be called leaking.
pub const MIN_SECONDS: f64 = 5.0;

/// Blocks that a site must have grown by to be called leaking.
pub const MIN_BLOCKS: f64 = 20.0;

/// Sampled blocks that a site needs to be called leaking, where not every call is seen.
pub const MIN_SAMPLED: u64 = 8;

/// What a site does. In the order of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Its memory only grows, and all evidence is there.
    Leaking,
    /// It grows, but there is not enough evidence yet.
    Growing,
    /// It is freed periodically. Not given by this version.
    Sawtooth,
    /// It grew while warming up, and stopped. Not given by this version.
    Plateaued,
    /// None of these.
    #[default]
    Stable,
}

/// A verdict and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// What the site does.
    pub verdict: Verdict,
    /// Growth of its live bytes, per second; none for too few points.
    pub growth_bytes_per_s: Option<Growth>,
    /// Growth of its live blocks, per second; none for too few points.
    pub growth_blocks_per_s: Option<Growth>,
    /// Sentences: for a leak what speaks for it, for a growing site what is lacking.
    pub evidence: Vec<String>,
}

impl Verdict {
    /// The name in reports and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaking => "leaking",
            Self::Growing => "growing",
            Self::Sawtooth => "sawtooth",
            Self::Plateaued => "plateaued",
            Self::Stable => "stable",
        }
    }
}

/// What a judgement rests on.
struct Facts {
    points: usize,
    span_s: f64,
    growth: Option<Growth>,
    shape: Shape,
    survival: [(f64, f64); 2],
    sampled: Option<u64>,
}

/// Judges every site of a snapshot, in its order.
#[must_use]
pub fn judge_all(snapshot: &Snapshot) -> Vec<Judgement> {
    let judge_site = |site: &SiteSnapshot| {
        let losses = Losses::of(snapshot, site.domain);
        judge_sampled(&SiteSeries::of(snapshot, site), &losses, site.sampling.as_ref())
    };
    snapshot.sites.iter().map(judge_site).collect()
}

/// Judges a site that may rest on samples: what these say of its growth is closer than a line through its points, and
/// few of them prove nothing.
fn judge_sampled(series: &SiteSeries, losses: &Losses, sampling: Option<&Sampling>) -> Judgement {
    let Some(sampling) = sampling else { return judge(series, losses) };
    let mut judgement = judge_with(series, losses, Some(sampling.blocks));
    let growth = |rate: Rate| Growth { estimate: rate.estimate, low: rate.low, high: rate.high };
    // Of nothing that was sampled nothing is known.
    let is_known = sampling.blocks > 0;
    judgement.growth_bytes_per_s = is_known.then(|| growth(sampling.bytes_per_s));
    judgement.growth_blocks_per_s = is_known.then(|| growth(sampling.blocks_per_s));
    judgement
}

/// Judges one site.
#[must_use]
pub fn judge(series: &SiteSeries, losses: &Losses) -> Judgement {
    judge_with(series, losses, None)
}

/// Judges one site; `sampled` is how many blocks of it were sampled, where not all were seen.
fn judge_with(series: &SiteSeries, losses: &Losses, sampled: Option<u64>) -> Judgement {
    let envelope = Envelope::of(series);
    let growth_blocks_per_s = slope(&envelope.at_s, &envelope.blocks);
    let growth_bytes_per_s = slope(&envelope.at_s, &envelope.bytes);
    let begin_s = envelope.at_s.first().copied().unwrap_or(series.end_s);
    let facts = Facts {
        points: series.observations.len(),
        span_s: series.end_s - begin_s,
        growth: growth_blocks_per_s,
        shape: Shape::of(&envelope.at_s, &envelope.blocks),
        survival: envelope.survival(),
        sampled,
    };
    let bytes = Shape::of(&envelope.at_s, &envelope.bytes);
    let grows = rises(growth_blocks_per_s, &facts.shape) || rises(growth_bytes_per_s, &bytes);
    let (verdict, evidence) = if !grows || facts.old_blocks_are_gone(&bytes) {
        (Verdict::Stable, Vec::new())
    } else {
        let doubts = facts.doubts(losses);
        if doubts.is_empty() {
            (Verdict::Leaking, facts.evidence())
        } else {
            (Verdict::Growing, doubts)
        }
    };
    Judgement { verdict, growth_bytes_per_s, growth_blocks_per_s, evidence }
}

fn rises(growth: Option<Growth>, shape: &Shape) -> bool {
    growth.is_some_and(|growth| growth.low > 0.0) && !shape.has_stopped()
}

impl Facts {
    /// A buffer on its way up again: hardly a block of the first two thirds lives.
    fn old_blocks_are_gone(&self, bytes: &Shape) -> bool {
        let survivors: f64 = self.survival.iter().map(|(_, survivors)| survivors).sum();
        // Where the blocks do not grow in number, it is their resizing that makes them young.
        self.shape.growth >= MIN_BLOCKS
            && survivors < 0.05 * self.shape.growth
            && bytes.growth > 0.0
    }

    fn doubts(&self, losses: &Losses) -> Vec<String> {
        let mut doubts = Vec::new();
        self.doubt_amount(&mut doubts);
        self.doubt_shape(&mut doubts);
        self.doubt_sight(losses, &mut doubts);
        doubts
    }

    fn doubt_amount(&self, doubts: &mut Vec<String>) {
        if self.span_s < MIN_SECONDS || self.points < MIN_POINTS {
            doubts.push(format!("seen for {:.1} s only: trace for longer", self.span_s.max(0.0)));
        }
        if let Some(sampled) = self.sampled.filter(|&sampled| sampled < MIN_SAMPLED) {
            doubts.push(format!("only {sampled} of its blocks were sampled: trace for longer"));
        }
        if self.shape.growth < MIN_BLOCKS {
            let blocks = self.shape.growth.max(0.0);
            doubts.push(format!("grew by {blocks:.0} blocks only: too few to tell"));
        } else if self.growth.is_none_or(|growth| growth.low <= 0.0) {
            doubts.push("the growth in blocks is not clear of zero".to_owned());
        }
    }

    fn doubt_shape(&self, doubts: &mut Vec<String>) {
        let (rises, parts) = (self.shape.rises(), self.shape.rates.len());
        if rises * 2 < parts {
            doubts.push(format!("grew in steps: in {rises} of {parts} parts of the time"));
        }
        let fallen = self.shape.fallen_share();
        if fallen > 0.15 {
            let percent = 100.0 * fallen;
            doubts.push(format!("not monotone: gave {percent:.0} % of its growth back in between"));
        }
        if self.shape.slows_down(self.sampled) {
            let Shape { early, late, .. } = self.shape;
            doubts.push(format!(
                "slows down: {late:.1} blocks/s in the last third, {early:.1} before"
            ));
        }
        let dying = self.survival.iter().find(|(growth, survivors)| *survivors < 0.6 * growth);
        if let Some((growth, survivors)) = dying {
            doubts.push(format!(
                "old blocks are freed: of {growth:.0} blocks of growth in an earlier third, {survivors:.0} live"
            ));
        }
    }

    fn doubt_sight(&self, losses: &Losses, doubts: &mut Vec<String>) {
        let lost = losses.events_lost.saturating_add(losses.missed_frees);
        if lost > 0 && self.shape.growth <= lost as f64 {
            doubts.push(format!("{lost} lost events could explain the growth"));
        }
        let rate = self.growth.map_or(0.0, |growth| growth.estimate);
        if losses.older_frees_per_s > 0.0 && losses.older_frees_per_s >= 0.5 * rate {
            let older = losses.older_frees_per_s;
            doubts.push(format!(
                "blocks older than the trace are freed at {older:.1}/s: these may be taking their place; trace for longer"
            ));
        }
        if losses.frees_unseen {
            doubts.push("the frees of this domain cannot be seen in this Python".to_owned());
        }
    }

    fn evidence(&self) -> Vec<String> {
        let Shape { growth, early, late, .. } = self.shape;
        let (rises, parts) = (self.shape.rises(), self.shape.rates.len());
        let span = self.span_s;
        let survivors: f64 = self.survival.iter().map(|(_, survivors)| survivors).sum();
        let old: f64 = self.survival.iter().map(|(growth, _)| growth).sum();
        vec![
            format!(
                "grew by {growth:.0} blocks in {span:.0} s, in {rises} of {parts} parts of the time"
            ),
            format!("still growing: {late:.1} blocks/s in the last third, {early:.1} before"),
            format!(
                "old blocks stay: the first two thirds added {old:.0}, {survivors:.0} born then live"
            ),
        ]
    }
}
