//! What leaktrace costs a workload: halves with it and without it, in turn, within one running target.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::options::Settings;
use super::records::{Half, Kind, Pair};
use super::target::{Both, Target};
use super::tracer::Tracer;
use super::workloads::Workload;

/// How long a target runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// How long attaching, and detaching, may still have an effect; it is over when a half begins. Longer than a unit of
/// any workload, of which the first that counts began in that time.
const SETTLE: Duration = Duration::from_millis(500);

/// How long leaktrace still traces behind what is measured.
const AFTERWARDS: Duration = Duration::from_millis(400);

/// More than a pair takes beyond its halves, with an attachment that takes long.
const PAIR_MARGIN: Duration = Duration::from_secs(15);

/// Measures what is missing of a workload.
///
/// # Errors
/// The workload or leaktrace fails.
pub(super) fn measure(bench: &Bench, workload: &Workload) -> Result<()> {
    let settings = &bench.options.settings;
    let mut log = bench.folder.pairs(workload.name)?;
    let mut missing = schedule(settings);
    missing.retain(|&(kind, number)| {
        !log.records.iter().any(|pair| pair.kind == kind && pair.number == number)
    });
    if missing.is_empty() || bench.is_over() {
        return Ok(());
    }
    println!("{}: {} pairs", workload.name, missing.len());
    let each = settings.half() * 2 + PAIR_MARGIN;
    let lifetime = WARM_UP + each * u32::try_from(missing.len())?;
    let mut target = Target::start(workload, &bench.place, &[], lifetime)?;
    if !workload.pace.is_fixed() {
        target.bring_twin(workload, &bench.place, lifetime)?;
    }
    thread::sleep(WARM_UP);
    for (kind, number) in missing {
        if bench.is_over() {
            break;
        }
        let pair = pair(bench, &mut target, kind, number)?;
        println!("  {kind:?} {number}: {:+.2} %", slower_pct(&pair));
        log.add(pair)?;
    }
    target.stop();
    Ok(())
}

/// All pairs, the null ones spread evenly among the others: noise is measured when the cost is.
fn schedule(settings: &Settings) -> Vec<(Kind, u32)> {
    let (pairs, nulls) = (settings.pairs, settings.null_pairs);
    let traced =
        (0..pairs).map(|number| (f64::from(number) / f64::from(pairs), Kind::Traced, number));
    let null = (0..nulls).map(|number| (f64::from(number) / f64::from(nulls), Kind::Null, number));
    let mut all: Vec<_> = traced.chain(null).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    all.into_iter().map(|(_, kind, number)| (kind, number)).collect()
}

fn pair(bench: &Bench, target: &mut Target, kind: Kind, number: u32) -> Result<Pair> {
    // Which half comes first alternates: what goes slowly up or down with time cancels out.
    let is_traced_first = number % 2 == 1;
    let mut half = |is_traced: bool| {
        if kind == Kind::Traced && is_traced {
            traced(bench, target)
        } else {
            untraced(bench, target)
        }
    };
    let halves = [half(is_traced_first)?, half(!is_traced_first)?];
    Ok(Pair { kind, number, target: target.started_ns, halves })
}

fn untraced(bench: &Bench, target: &mut Target) -> Result<Half> {
    thread::sleep(SETTLE);
    let (Both { work, twin }, due) = target.work(bench.options.settings.half())?;
    let latencies = target.latencies(due)?;
    Ok(Half { work, twin, latencies, tracing: None })
}

fn traced(bench: &Bench, target: &mut Target) -> Result<Half> {
    let settings = &bench.options.settings;
    let time = SETTLE + settings.half() + AFTERWARDS;
    let scratch = &bench.place.scratch;
    let mut tracer = Tracer::attach(&bench.leaktrace, &settings.flags, target.pid, time, scratch)?;
    thread::sleep(SETTLE);
    let before = tracer.cpu_s()?;
    let (Both { work, twin }, due) = target.work(settings.half())?;
    let used = tracer.cpu_s()? - before;
    let latencies = target.latencies(due)?;
    let tracing = tracer.finish(used)?;
    Ok(Half { work, twin, latencies, tracing: Some(tracing) })
}

/// By how much the compared half of a pair was slower, in percent: for whoever looks on.
fn slower_pct(pair: &Pair) -> f64 {
    let (reference, compared) = pair.split();
    (1.0 - compared.speed() / reference.speed()) * 100.0
}
