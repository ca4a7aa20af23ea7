//! What a judgement looks at: one site along the time axis, and what the trace could not see.

use crate::aggregator::{Domain, SiteSnapshot, Snapshot};

const SECOND_NS: f64 = 1e9;

/// One interval of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// When the interval begins, in seconds since the trace began.
    pub at_s: f64,
    /// The fewest live blocks within it.
    pub low_blocks: f64,
    /// The fewest live bytes within it.
    pub low_bytes: f64,
    /// Blocks born within it.
    pub births: f64,
    /// Of these, how many are live at the end of the trace.
    pub survivors: f64,
    /// The fewest live blocks within it, counted as `survivors` are: where not every call is seen, `low_blocks` knows the
    /// heap as well.
    pub low_counted: f64,
}

/// A site from its first block to the end of the trace, at equal intervals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteSeries {
    /// In order of time.
    pub observations: Vec<Observation>,
    /// The end, in seconds since the trace began.
    pub end_s: f64,
}

/// What the trace could not see, as far as it bears on one site.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Allocations and frees that never arrived.
    pub events_lost: u64,
    /// Blocks whose free was not seen, as a later block at the same address showed.
    pub missed_frees: u64,
    /// Frees of blocks older than the trace, per second of its second half, in the site's domain. Where a full cache
    /// replaces old entries by new ones, the new ones seem to grow as fast as the old ones go.
    pub older_frees_per_s: f64,
    /// Whether the frees of the site's domain cannot be seen at all.
    pub frees_unseen: bool,
}

impl SiteSeries {
    /// The series of one site of a snapshot: an interval without a point is as the one before ended.
    #[must_use]
    pub fn of(snapshot: &Snapshot, site: &SiteSnapshot) -> Self {
        let interval_ns = snapshot.interval_ns.max(1);
        let now_ns = snapshot.at_ns.saturating_sub(snapshot.started_at_ns);
        let end_s = now_ns as f64 / SECOND_NS;
        let Some(first) = site.points.first() else {
            return Self { observations: Vec::new(), end_s };
        };
        let by_windows = site.sampling.as_ref().and_then(|it| it.by_windows.as_deref());
        let mut points = site.points.iter().enumerate().peekable();
        let (mut blocks, mut bytes, mut births, mut counted) = (0.0, 0.0, 0_u64, 0.0);
        let last = (now_ns / interval_ns).min(u64::from(u32::MAX) - 1) as u32;
        let mut observations = Vec::new();
        for index in first.index..=last.max(first.index).min(first.index.saturating_add(1000)) {
            let at_s = f64::from(index) * interval_ns as f64 / SECOND_NS;
            let mut seen = Observation {
                at_s,
                low_blocks: blocks,
                low_bytes: bytes,
                low_counted: counted,
                ..Observation::default()
            };
            if let Some((place, point)) = points.next_if(|(_, point)| point.index == index) {
                let by_windows = by_windows.and_then(|all| all.get(place)).copied();
                let own = || (f64::from(point.low_blocks), f64::from(point.live_blocks));
                (seen.low_counted, counted) = by_windows.unwrap_or_else(own);
                seen.low_blocks = f64::from(point.low_blocks);
                seen.low_bytes = point.low_bytes as f64;
                seen.births = point.births.saturating_sub(births) as f64;
                seen.survivors = f64::from(point.survivors);
                (blocks, bytes) = (f64::from(point.live_blocks), point.live_bytes as f64);
                births = point.births;
            }
            observations.push(seen);
        }
        Self { observations, end_s }
    }
}

impl Losses {
    /// What the trace could not see of a domain.
    #[must_use]
    pub fn of(snapshot: &Snapshot, domain: Domain) -> Self {
        let raw = matches!(domain, Domain::Raw | Domain::Native);
        let count = |older: &crate::aggregator::OlderFrees| if raw { older.raw } else { older.obj };
        let half_ns = snapshot.at_ns.saturating_sub(snapshot.started_at_ns) / 2;
        let middle = half_ns / snapshot.interval_ns.max(1);
        let until = |index: u64| {
            let before = snapshot.older_frees.iter().rev();
            before.clone().find(|older| u64::from(older.index) <= index).map_or(0, count)
        };
        let late = until(u64::MAX).saturating_sub(until(middle));
        let half_s = half_ns as f64 / SECOND_NS;
        Self {
            events_lost: snapshot.totals.events_lost,
            missed_frees: snapshot.totals.missed_frees,
            older_frees_per_s: if half_s > 0.0 { late as f64 / half_s } else { 0.0 },
            frees_unseen: raw && !snapshot.raw_free_seen,
        }
    }
}
