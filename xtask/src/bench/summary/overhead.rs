//! The pairs of all workloads -> what leaktrace costs them, and what it takes itself.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{number, shown, table};
use crate::bench::environment::{Environment, Planned};
use crate::bench::folder::Folder;
use crate::bench::latencies::Pool;
use crate::bench::records::{Half, Kind, Pair, Tracing};
use crate::bench::statistics::{Estimate, bootstrap, median, median_of};

/// What throughput may lose in the median, and the upper bound of its interval, in percent.
const MEDIAN_LIMIT_PCT: f64 = 1.0;
const BOUND_LIMIT_PCT: f64 = 2.0;

/// What the 99th percentile of latencies may go up: the larger of both.
const LATENCY_LIMIT_PCT: f64 = 5.0;
const LATENCY_LIMIT_MS: f64 = 0.3;

/// How often pairs are drawn anew for the interval of a pooled quantile: each time all their requests are pooled.
const LATENCY_RESAMPLES: usize = 300;

/// The pairs of one workload.
struct Measured {
    planned: Planned,
    traced: Vec<Pair>,
    null: Vec<Pair>,
}

/// The part of the summary on leaktrace's overhead.
///
/// # Errors
/// The raw data cannot be read.
pub(super) fn section(folder: &Folder, environment: &Environment) -> Result<String> {
    let mut all = Vec::new();
    for planned in &environment.plan.workloads {
        let pairs = folder.pairs(&planned.name)?.records;
        let (traced, null): (Vec<_>, Vec<_>) =
            pairs.into_iter().partition(|pair| pair.kind == Kind::Traced);
        if !traced.is_empty() {
            all.push(Measured { planned: planned.clone(), traced, null });
        }
    }
    let latencies: Vec<_> = all.iter().map(latency_row).collect::<Result<Vec<_>>>()?;
    Ok(losses(&all)
        + &latency_table(&latencies.into_iter().flatten().collect::<Vec<_>>())
        + &own(&all))
}

fn losses(all: &[Measured]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|measured| {
            let loss = loss_pct(&measured.traced);
            let null = loss_pct(&measured.null);
            let mark = if measured.planned.is_paced { " (paced)" } else { "" };
            vec![
                format!("{}{mark}: {}", measured.planned.name, measured.planned.about),
                count(&measured.traced),
                shown(loss, "%"),
                shown(null, "%"),
                shown(extra_cpu_pct(&measured.traced), "%"),
                shown(extra_cpu_pct(&measured.null), "%"),
                if is_within(loss, null) { "yes" } else { "**no**" }.to_owned(),
            ]
        })
        .collect();
    table(
        "Throughput",
        "How much less work a traced half did than the other half of its pair: the median over pairs, with a bootstrap \
         interval of 95 %. Of workloads of their own pace, as a multiple of what a twin without leaktrace does that \
         shares the processor: what the host does to both does not count. The null column is the same of pairs without \
         leaktrace: what lies within it is noise. Extra CPU: how much more processor time a unit of work took. A paced workload does the same work in a second however \
         slow it becomes: there the processor time is what counts. Within: at most 1 % in the median, and the upper bound \
         at most 2 %, or the null pairs' own where that is larger.",
        &["workload", "pairs", "loss", "null", "extra CPU", "null", "within"],
        &rows,
    )
}

/// How many pairs there are. A run that was interrupted goes on with a new target: that is said.
fn count(pairs: &[Pair]) -> String {
    let targets: BTreeSet<u64> = pairs.iter().map(|pair| pair.target).collect();
    match targets.len() {
        0 | 1 => pairs.len().to_string(),
        targets => format!("{} of {targets} targets", pairs.len()),
    }
}

fn is_within(loss: Option<Estimate>, null: Option<Estimate>) -> bool {
    let bound = null.map_or(BOUND_LIMIT_PCT, |null| null.high.max(BOUND_LIMIT_PCT));
    loss.is_some_and(|loss| loss.value <= MEDIAN_LIMIT_PCT && loss.high <= bound)
}

/// How much less was done, in percent.
fn loss_pct(pairs: &[Pair]) -> Option<Estimate> {
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|pair| {
            let (reference, compared) = pair.split();
            compared.speed() / reference.speed()
        })
        .collect();
    median_of(&ratios).map(|estimate| estimate.map(|ratio| (1.0 - ratio) * 100.0))
}

/// How much more processor time a unit took, in percent.
fn extra_cpu_pct(pairs: &[Pair]) -> Option<Estimate> {
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|pair| {
            let (reference, compared) = pair.split();
            compared.effort() / reference.effort()
        })
        .collect();
    median_of(&ratios).map(|estimate| estimate.map(|ratio| (ratio - 1.0) * 100.0))
}

fn latency_table(rows: &[Vec<String>]) -> String {
    table(
        "Latency",
        "Of all requests of all pairs, from when each was due; the interval of the difference by drawing pairs. Unanswered: \
         requests without an answer, or too late to be sent, without leaktrace and with it. Within: the 99th percentile at \
         most 5 % or 0.3 ms up, whichever is larger.",
        &[
            "workload",
            "requests",
            "p50",
            "p50 traced",
            "p99",
            "p99 traced",
            "p99 up",
            "null",
            "unanswered",
            "within",
        ],
        rows,
    )
}

/// `None` for a workload that nobody asks.
fn latency_row(measured: &Measured) -> Result<Option<Vec<String>>> {
    let halves = |compared: bool| {
        measured.traced.iter().map(move |pair| {
            let (reference, other) = pair.split();
            if compared { other } else { reference }
        })
    };
    if halves(false).all(|half| half.latencies.is_none()) {
        return Ok(None);
    }
    let pooled = |compared| Pool::of(halves(compared).filter_map(|half| half.latencies.as_ref()));
    let missing = |compared: bool| -> u64 {
        halves(compared).filter_map(|half| half.latencies.as_ref()).map(|it| it.missing).sum()
    };
    let (without, with) = (pooled(false)?, pooled(true)?);
    let up = p99_up_ms(&measured.traced);
    let limit = LATENCY_LIMIT_MS.max(without.quantile_ms(0.99) * LATENCY_LIMIT_PCT / 100.0);
    let ms = |value: f64| format!("{value:.2} ms");
    Ok(Some(vec![
        measured.planned.name.clone(),
        (without.len() + with.len()).to_string(),
        ms(without.quantile_ms(0.5)),
        ms(with.quantile_ms(0.5)),
        ms(without.quantile_ms(0.99)),
        ms(with.quantile_ms(0.99)),
        shown(up, "ms"),
        shown(p99_up_ms(&measured.null), "ms"),
        format!("{}, {}", missing(false), missing(true)),
        if up.is_some_and(|up| up.value <= limit) { "yes" } else { "**no**" }.to_owned(),
    ]))
}

/// By how much the 99th percentile of the pooled requests went up.
fn p99_up_ms(pairs: &[Pair]) -> Option<Estimate> {
    bootstrap(pairs, LATENCY_RESAMPLES, |drawn| {
        let p99 = |pick: fn(&Pair) -> &Half| {
            let pool = Pool::of(drawn.iter().filter_map(|pair| pick(pair).latencies.as_ref()));
            pool.ok().filter(|pool| pool.len() > 0).map(|pool| pool.quantile_ms(0.99))
        };
        Some(p99(|pair| pair.split().1)? - p99(|pair| pair.split().0)?)
    })
}

fn own(all: &[Measured]) -> String {
    let rows: Vec<_> = all.iter().map(own_row).collect();
    table(
        "leaktrace itself",
        "Processor time of leaktrace, as a share of one core, while the target was measured; its memory and its time to \
         attach; and what its report says: medians over the traced halves, the most of memory, the sum of overruns and lost \
         events. Beside a twin the target has half of a processor, and so half of the budget.",
        &[
            "workload",
            "CPU",
            "peak memory",
            "attach",
            "its estimate of the cost",
            "traced fraction",
            "allocations seen /s",
            "overruns",
            "lost",
        ],
        &rows,
    )
}

fn own_row(measured: &Measured) -> Vec<String> {
    let tracings: Vec<(&Half, &Tracing)> = measured
        .traced
        .iter()
        .flat_map(|pair| &pair.halves)
        .filter_map(|half| Some((half, half.tracing.as_ref()?)))
        .collect();
    let of_all = |pick: &dyn Fn(&Tracing) -> Option<f64>| -> Vec<f64> {
        tracings.iter().filter_map(|(_, tracing)| pick(tracing)).collect()
    };
    let said = |name: &'static str| of_all(&|tracing| tracing.session.get(name)?.as_f64());
    let seen_per_s = of_all(&|tracing| {
        let session = &tracing.session;
        Some(session.get("allocations_seen")?.as_f64()? / session.get("duration_s")?.as_f64()?)
    });
    // Seconds that were measured: of the units and their rate.
    let seconds = |half: &Half| half.work.units as f64 / half.work.rate;
    let cpu: Vec<f64> =
        tracings.iter().map(|(half, it)| it.window_cpu_s / seconds(half) * 100.0).collect();
    let peak = tracings.iter().map(|(_, it)| it.usage.peak_rss_bytes).max().unwrap_or(0);
    let shown = |numbers: &[f64], unit: &str| {
        median(numbers).map_or("-".to_owned(), |value| format!("{}{unit}", number(value)))
    };
    let sum = |numbers: Vec<f64>| match numbers.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.0}", numbers.iter().sum::<f64>()),
    };
    vec![
        measured.planned.name.clone(),
        shown(&cpu, " %"),
        format!("{:.1} MiB", peak as f64 / f64::from(1 << 20)),
        shown(&of_all(&|tracing| Some(tracing.attach_s)), " s"),
        shown(&said("overhead_pct"), " %"),
        median(&said("traced_fraction")).map_or("-".to_owned(), |value| format!("{value:.4}")),
        median(&seen_per_s).map_or("-".to_owned(), |value| format!("{value:.0}")),
        sum(said("window_overruns")),
        sum(said("events_lost")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::meter::Work;

    fn null_pair(number: u32, rates: [f64; 2]) -> Pair {
        let half = |rate| Half {
            work: Work { units: 10, rate, cpu_share: 0.5 },
            twin: None,
            latencies: None,
            tracing: None,
        };
        Pair { kind: Kind::Null, number, target: 0, halves: rates.map(half) }
    }

    #[test]
    fn a_loss_is_what_the_compared_half_did_less() {
        let pairs = [null_pair(0, [100.0, 90.0]), null_pair(2, [200.0, 180.0])];
        let loss = loss_pct(&pairs).unwrap();
        assert!((loss.value - 10.0).abs() < 1e-9);
        let extra = extra_cpu_pct(&pairs).unwrap();
        assert!((extra.value - 100.0 / 9.0).abs() < 1e-9);
        assert_eq!(count(&pairs), "2");
    }

    #[test]
    fn a_bound_over_two_percent_is_within_only_where_noise_alone_has_it() {
        let estimate = |value: f64, high: f64| Some(Estimate { value, low: -1.0, high });
        assert!(is_within(estimate(0.5, 1.9), None));
        assert!(!is_within(estimate(1.1, 1.9), None));
        assert!(!is_within(estimate(0.5, 3.0), estimate(0.0, 2.5)));
        assert!(is_within(estimate(0.5, 3.0), estimate(0.0, 3.5)));
        assert!(!is_within(None, None));
    }
}
