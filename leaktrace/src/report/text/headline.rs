//! What a reader should know if one sentence is all that is read.

use super::super::document::{Growth, Report};
use super::place::place_of;
use super::rows::Row;
use super::units::{bytes, count, counted, duration};

/// The first sentences of the report.
#[must_use]
pub(super) fn headline(report: &Report, rows: &[Row<'_>]) -> String {
    let seconds = duration(report.session.duration_s);
    let leaking: Vec<_> = of_verdict(rows, "leaking").collect();
    let growing: Vec<_> = of_verdict(rows, "growing").collect();
    if let Some(worst) = leaking.first() {
        leak(worst, leaking.len() - 1, &seconds)
    } else if rows.is_empty() {
        nothing(report, &seconds)
    } else if !rows.iter().any(Row::is_judged) {
        too_short(report, rows.len(), &seconds)
    } else if let Some(fastest) = growing.first() {
        growth(fastest, growing.len(), rows.len(), &seconds)
    } else {
        no_growth(rows, &seconds)
    }
}

fn leak(worst: &Row<'_>, others: usize, seconds: &str) -> String {
    let others = match others {
        0 => String::new(),
        1 => " One more line leaks.".to_owned(),
        more => format!(" {} more lines leak.", count(more as u64)),
    };
    format!(
        "LEAK: {} leaks {}; after {seconds} it holds {} in {}.{others}",
        place_of(worst.sites[0]),
        worst.growth.map_or_else(|| "memory".to_owned(), |growth| sure_rate(&growth)),
        bytes(worst.live_bytes as f64),
        counted(worst.live_blocks, "block"),
    )
}

fn sure_rate(growth: &Growth) -> String {
    let hourly = |rate: f64| bytes(rate * 3600.0);
    let (low, high) = (hourly(growth.low), hourly(growth.high));
    format!("{}/h (95 % sure: {low} to {high})", hourly(growth.estimate))
}

fn nothing(report: &Report, seconds: &str) -> String {
    let session = &report.session;
    if session.allocations_seen > 0 {
        let allocations = counted(session.allocations_seen, "allocation");
        return format!("Cannot tell: none of {allocations} in {seconds} could be tracked.");
    }
    let sees_all = session.coverage_pct.is_none_or(|percent| percent >= 100.0);
    let as_far = if sees_all && session.events_lost == 0 { "" } else { ", as far as can be seen" };
    format!(
        "Nothing was allocated in {seconds}{as_far}: there is nothing to judge. Trace while the process works."
    )
}

fn too_short(report: &Report, lines: usize, seconds: &str) -> String {
    let none = match lines {
        1 => "the one line that allocates was not seen".to_owned(),
        _ => format!("none of {} lines that allocate was seen", count(lines as u64)),
    };
    let advice = if report.session.duration_s < 60.0 { "a minute or longer" } else { "longer" };
    format!(
        "Too short to tell: in {seconds} {none} for long enough to judge it. Trace for {advice}."
    )
}

fn growth(fastest: &Row<'_>, growing: usize, lines: usize, seconds: &str) -> String {
    let grow = match (growing, lines) {
        (1, 1) => "the one line that allocates grows".to_owned(),
        (1, _) => format!("one of {} lines that allocate grows", count(lines as u64)),
        _ => {
            format!("{} of {} lines that allocate grow", count(growing as u64), count(lines as u64))
        }
    };
    let which = if growing == 1 { "It" } else { "The fastest" };
    let rate = fastest
        .growth
        .map_or_else(String::new, |growth| format!(", by {}/h", bytes(growth.estimate * 3600.0)));
    format!(
        "No leak proved in {seconds}: {grow}, without enough evidence to call it a leak. {which} is {}{rate}. \
         A longer trace will tell.",
        place_of(fastest.sites[0]),
    )
}

fn no_growth(rows: &[Row<'_>], seconds: &str) -> String {
    let none = match rows.len() {
        1 => "the one line that allocates does not keep growing".to_owned(),
        lines => format!("of {} lines that allocate, none keeps growing", count(lines as u64)),
    };
    let brief = match rows.iter().filter(|row| !row.is_judged()).count() {
        0 => String::new(),
        1 => "; one was seen too briefly to judge".to_owned(),
        more => format!("; {} were seen too briefly to judge", count(more as u64)),
    };
    format!("No leak found in {seconds}: {none}{brief}.")
}

fn of_verdict<'a, 'b>(
    rows: &'a [Row<'b>],
    verdict: &'static str,
) -> impl Iterator<Item = &'a Row<'b>> {
    rows.iter().filter(move |row| row.verdict() == verdict)
}
