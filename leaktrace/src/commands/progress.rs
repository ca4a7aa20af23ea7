//! How a trace is getting on, on stderr: a line now and then, and on a terminal the worst sites so far.

use std::io::{self, Write as _};
use std::time::Duration;

use crate::detector::{Judgement, Verdict, judge_all};
use crate::session::Session;

/// How often the line comes on a terminal, where it is overwritten.
const LINE_ON_TERMINAL: Duration = Duration::from_secs(1);

/// How often it comes elsewhere, where it stays.
const LINE_ELSEWHERE: Duration = Duration::from_secs(10);

/// How often the worst sites are shown, on a terminal.
const WORST_EVERY: Duration = Duration::from_secs(10);

/// How many of them.
const WORST: usize = 5;

/// The progress of one trace.
#[derive(Debug)]
pub(super) struct ProgressLine {
    terminal: bool,
    next_line: Duration,
    next_worst: Duration,
    seen: (Duration, u64),
}

impl ProgressLine {
    /// For stderr that is a `terminal`, or not.
    pub(super) fn new(terminal: bool) -> Self {
        let next_line = if terminal { LINE_ON_TERMINAL } else { LINE_ELSEWHERE };
        Self { terminal, next_line, next_worst: WORST_EVERY, seen: (Duration::ZERO, 0) }
    }

    /// Says what is due.
    pub(super) fn tick(&mut self, session: &Session) {
        let progress = session.progress();
        if progress.elapsed >= self.next_line {
            let line = self.line(session);
            self.next_line =
                progress.elapsed + if self.terminal { LINE_ON_TERMINAL } else { LINE_ELSEWHERE };
            self.say(&line);
        }
        if self.terminal && progress.elapsed >= self.next_worst {
            self.next_worst = progress.elapsed + WORST_EVERY;
            self.worst(session);
        }
    }

    /// Takes the line off a terminal, where the report comes next.
    pub(super) fn finish(&self) {
        if self.terminal {
            self.say("");
        }
    }

    fn line(&mut self, session: &Session) -> String {
        let progress = session.progress();
        let totals = progress.totals;
        let events = totals.allocations_seen + totals.frees_seen;
        let (then, before) = self.seen;
        let rate = (events - before) as f64 / (progress.elapsed - then).as_secs_f64().max(0.001);
        self.seen = (progress.elapsed, events);
        let elapsed = progress.elapsed.as_secs();
        let sites = progress.aggregator.site_count();
        format!("{elapsed} s, {rate:.0} events/s, {sites} sites, {} lost", totals.events_lost)
    }

    fn say(&self, line: &str) {
        // Whoever closed stderr does not want to know.
        let _ = if self.terminal {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    fn worst(&self, session: &Session) {
        let snapshot = session.snapshot();
        let judgements = judge_all(&snapshot);
        let mut worst: Vec<(&Judgement, String)> = judgements
            .iter()
            .zip(&snapshot.sites)
            .filter(|(judgement, _)| judgement.verdict <= Verdict::Growing)
            .map(|(judgement, site)| (judgement, place(site)))
            .collect();
        worst.sort_by(|(a, _), (b, _)| {
            (a.verdict, -growth(a))
                .partial_cmp(&(b.verdict, -growth(b)))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        for (judgement, place) in worst.into_iter().take(WORST) {
            let kib = growth(judgement) * 3600.0 / 1024.0;
            self.say(&format!("{:>8} {kib:>10.0} KiB/h  {place}\n", judgement.verdict.name()));
        }
    }
}

fn growth(judgement: &Judgement) -> f64 {
    judgement.growth_bytes_per_s.as_ref().map_or(0.0, |growth| growth.estimate)
}

fn place(site: &crate::aggregator::SiteSnapshot) -> String {
    site.stack.frames.first().map_or_else(
        || "(no Python frame)".to_owned(),
        |frame| {
            let line = frame.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
            format!("{}:{line} {}", frame.file, frame.function)
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect()
        },
    )
}
