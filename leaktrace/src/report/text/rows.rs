//! The sites of a report by line: what people look for is a line, whatever paths lead there.

use super::super::document::{Growth, Report, Site};
use super::place::user_frame;
use std::collections::HashMap;

/// The sites whose place is the same line.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    /// The worst first.
    pub sites: Vec<&'a Site>,
    /// Of those that grow, if one does; none where nothing was seen for long enough.
    pub growth: Option<Growth>,
    /// Of all its sites.
    pub live_bytes: u64,
    /// Of all its sites.
    pub live_blocks: u64,
    /// In how many processes, where there are several.
    pub processes: Option<usize>,
}

/// One row for each line, the worst first.
#[must_use]
pub(super) fn rows(report: &Report) -> Vec<Row<'_>> {
    let mut lines: Vec<Vec<&Site>> = Vec::new();
    let mut known = HashMap::new();
    for site in &report.sites {
        let line = user_frame(site).map(|frame| (&frame.file, frame.line, &frame.function));
        let at = *known.entry(line).or_insert(lines.len());
        if at == lines.len() {
            lines.push(Vec::new());
        }
        lines[at].push(site);
    }
    let mut rows: Vec<Row<'_>> = lines.into_iter().map(Row::of).collect();
    // The report's sites come in the order of their verdicts, hence the rows do.
    for alike in rows.chunk_by_mut(|a, b| a.verdict() == b.verdict()) {
        let estimate = |row: &Row<'_>| row.growth.map_or(f64::NEG_INFINITY, |it| it.estimate);
        alike.sort_by(|a, b| {
            estimate(b).total_cmp(&estimate(a)).then(b.live_bytes.cmp(&a.live_bytes))
        });
    }
    rows
}

impl<'a> Row<'a> {
    fn of(sites: Vec<&'a Site>) -> Self {
        let worst_grows = sites.first().is_some_and(|site| grows(site));
        // The estimate of a site that is not clear of zero is noise, which must not hide a leak beside it.
        let counted = sites.iter().filter(|site| site.judged && (grows(site) || !worst_grows));
        Self {
            growth: counted.filter_map(|site| site.growth_bytes_per_s).reduce(sum),
            live_bytes: total(sites.iter().map(|site| site.live_bytes)),
            live_blocks: total(sites.iter().map(|site| site.live_blocks)),
            processes: None,
            sites,
        }
    }

    /// The worst of its sites.
    #[must_use]
    pub(super) fn verdict(&self) -> &'static str {
        self.sites.first().map_or("stable", |site| site.verdict)
    }

    /// Whether one of its sites was seen for long enough.
    #[must_use]
    pub(super) fn is_judged(&self) -> bool {
        self.sites.iter().any(|site| site.judged)
    }
}

/// Sizes come from the target.
fn total(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn grows(site: &Site) -> bool {
    matches!(site.verdict, "leaking" | "growing")
}

/// The ends of the intervals add up to an interval that is rather too wide, whatever the two have to do with each other.
fn sum(a: Growth, b: Growth) -> Growth {
    Growth { estimate: a.estimate + b.estimate, low: a.low + b.low, high: a.high + b.high }
}
