//! Samples of services whose every block is known: how far the estimates are from the truth, and how often their
//! intervals hold it.

use fastrand::Rng;

use super::super::{
    Aggregator, Born, Domain, FIRST_LOOK_NS, Options, Sample, Sampled, Snapshot, Weight,
};
use crate::stack::{Frame, Stack};
use leaktrace_common::event::{Alloc, Event, Head, domain, kind};
use std::sync::Arc;

const SECOND_NS: u64 = 1_000_000_000;

/// Blocks that one line keeps: how many a second, and of which size class.
#[derive(Clone, Copy)]
struct Leak {
    per_s: f64,
    class: u64,
}

/// A service that keeps blocks, sampled for some time.
struct Made {
    sampled: Sampled,
    seen: Snapshot,
    /// What each line keeps in truth.
    kept: Vec<u64>,
    born: Born,
}

fn stack(line: u32) -> Stack {
    let frame = Frame { function: Arc::from("f"), file: Arc::from("app.py"), line: Some(line) };
    Stack { frames: [frame].into(), truncated: false }
}

/// A Poisson-distributed number (Knuth's method, in steps that do not underflow).
fn poisson(random: &mut Rng, mean: f64) -> u64 {
    let (mut left, mut count) = (mean, 0);
    loop {
        let step = left.min(50.0);
        let (limit, mut product) = ((-step).exp(), random.f64());
        while product > limit {
            product *= random.f64();
            count += 1;
        }
        left -= step;
        if left <= 0.0 {
            return count;
        }
    }
}

impl Made {
    /// Runs for `seconds`; one of `weight` blocks is sampled. Windows make all weights wrong by the same `error`.
    fn run(random: &mut Rng, leaks: &[Leak], seconds: u64, weight: u64, error: f64) -> Self {
        let mut aggregator =
            Aggregator::new(Options { max_memory: 1 << 30, started_at_ns: 0, raw_free_seen: true });
        let mut sampled = Sampled::new(1 << 30, 0);
        let (mut kept, mut born, mut address) = (vec![0; leaks.len()], Born::new(), 0);
        let told = ((weight as f64 * error).round() as u64).max(1);
        for second in 0..seconds {
            for (line, leak) in leaks.iter().enumerate() {
                let new = poisson(random, leak.per_s);
                kept[line] += new;
                *born.entry(leak.class).or_default() += new as f64;
                for _ in 0..poisson(random, new as f64 / weight as f64) {
                    address += 16;
                    let at_ns = second * SECOND_NS + random.u64(..SECOND_NS);
                    let sample = Sample {
                        address,
                        stack: &stack(line as u32),
                        domain: Domain::Obj,
                        size: leak.class,
                        class: leak.class,
                        born_ns: at_ns,
                        weight: Weight { births: told, dense: true },
                        window: address as u32,
                    };
                    // It is looked at some time after its birth, or in the end.
                    let looked_at = (at_ns + FIRST_LOOK_NS).min(seconds * SECOND_NS);
                    assert!(sampled.enter(&sample, looked_at));
                }
            }
        }
        for line in 0..leaks.len() {
            aggregator.define_stack(line as u64 + 1, stack(line as u32));
            let head = Head { kind: kind::ALLOC, domain: domain::OBJ, tid: 1, at_ns: 0 };
            let (block, size, stack) = (16 * line as u64 + 16, 16, line as u64 + 1);
            aggregator.apply(&Event::Alloc(Alloc { head, block, size, stack }));
        }
        let seen = aggregator.snapshot(seconds * SECOND_NS);
        Self { sampled, seen, kept, born }
    }

    /// Of each line the estimate of what it keeps a second, its interval, and the truth.
    fn rates(&self, seconds: f64, known: bool) -> Vec<(f64, f64, f64, f64)> {
        let scale = self.sampled.scale(known.then_some(&self.born));
        let (snapshot, _) = self.sampled.estimate(&self.seen, &scale, false);
        let rate = |(site, &kept): (&super::super::SiteSnapshot, &u64)| {
            let rate = site.sampling.as_ref().expect("it is sampled").blocks_per_s;
            (rate.estimate, rate.low, rate.high, kept as f64 / seconds)
        };
        snapshot.sites.iter().zip(&self.kept).map(rate).collect()
    }
}

/// The mean of estimate over truth, and the share of intervals that hold the truth, of the first line of many services.
fn run_many(leaks: &[Leak], weight: u64, error: f64) -> (f64, f64) {
    let (mut ratios, mut held) = (0.0, 0.0);
    const RUNS: u64 = 4_000;
    for seed in 0..RUNS {
        let made = Made::run(&mut Rng::with_seed(seed), leaks, 40, weight, error);
        let (estimate, low, high, truth) = made.rates(40.0, true)[0];
        ratios += estimate / truth;
        held += f64::from(u8::from(low <= truth && truth <= high));
    }
    (ratios / RUNS as f64, held / RUNS as f64)
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say_and_estimates_are_not_biased() {
    // A leak among others of its size class, and one that has it nearly for itself.
    let crowded = [Leak { per_s: 100.0, class: 64 }, Leak { per_s: 400.0, class: 64 }];
    let even = [Leak { per_s: 300.0, class: 64 }, Leak { per_s: 300.0, class: 64 }];
    for (name, leaks, weight) in
        [("crowded", crowded, 100), ("even", even, 100), ("few", crowded, 300)]
    {
        let (ratio, held) = run_many(&leaks, weight, 1.0);
        println!("{name}: estimate / truth {ratio:.4}, {:.1} % held", 100.0 * held);
        assert!((0.93..=0.97).contains(&held), "{name}: {held}");
        assert!((ratio - 1.0).abs() < 0.01, "{name}: {ratio}");
    }
}

#[test]
fn the_heap_sets_the_scale_of_dense_windows() {
    let leaks = [Leak { per_s: 200.0, class: 64 }, Leak { per_s: 200.0, class: 128 }];
    for error in [0.2, 5.0] {
        let made = Made::run(&mut Rng::with_seed(7), &leaks, 40, 50, error);
        for (estimate, _, _, truth) in made.rates(40.0, true) {
            assert!((estimate / truth - 1.0).abs() < 0.1, "{estimate} of {truth} by {error}");
        }
        let (estimate, _, _, truth) = made.rates(40.0, false)[0];
        assert!((estimate / truth / error - 1.0).abs() < 0.2, "weights alone are as wrong");
    }
}

#[test]
fn a_block_that_is_found_dead_leaves_its_site() {
    let mut made =
        Made::run(&mut Rng::with_seed(1), &[Leak { per_s: 50.0, class: 32 }], 10, 10, 1.0);
    let all = made.sampled.len();
    (1..=all as u64).for_each(|n| made.sampled.leave(16 * n, 10 * SECOND_NS));
    assert!(made.sampled.is_empty());
    let scale = made.sampled.scale(Some(&made.born));
    let (snapshot, living) = made.sampled.estimate(&made.seen, &scale, false);
    assert_eq!(snapshot.sites[0].counts.live_blocks(), 0);
    assert_eq!(snapshot.sites[0].points.last().map(|point| point.live_blocks), Some(0));
    assert!(living.is_empty(), "{living:?}");
}
