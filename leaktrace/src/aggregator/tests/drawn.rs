//! Blocks that are drawn out of those of each site.

use fastrand::Rng;

use super::super::{
    Aggregator, Born, Domain, Options, Sample, Sampled, Snapshot, Weight, allowances,
};
use crate::stack::{Frame, Stack};
use leaktrace_common::event::{Alloc, Event, Head, domain, kind};
use std::sync::Arc;

fn stack(line: u32) -> Stack {
    let frame = Frame { function: Arc::from("f"), file: Arc::from("app.py"), line: Some(line) };
    Stack { frames: [frame].into(), truncated: false }
}

/// Sites with so many blocks each, of `64 << site` bytes; block `n` of a site lies at `site << 32 | n * 16`.
fn aggregator(blocks: &[u64]) -> Aggregator {
    let mut aggregator =
        Aggregator::new(Options { max_memory: 1 << 28, started_at_ns: 0, raw_free_seen: true });
    for (site, &count) in (0..).zip(blocks) {
        aggregator.define_stack(site + 1, stack(site as u32));
        for n in 1..=count {
            let head = Head { kind: kind::ALLOC, domain: domain::OBJ, tid: 1, at_ns: n };
            let (block, size, stack) = ((site << 32) | (n * 16), 64 << site, site + 1);
            aggregator.apply(&Event::Alloc(Alloc { head, block, size, stack }));
        }
    }
    aggregator
}

fn allowed(blocks: &[u64], most: usize) -> Vec<usize> {
    allowances(&aggregator(blocks).snapshot(1).sites, most)
}

#[test]
fn the_sites_with_the_most_bytes_come_first_and_no_more_is_drawn_than_there_is() {
    assert_eq!(allowed(&[1000, 3, 500], 16_384), [256, 3, 256]);
    assert_eq!(allowed(&[1000, 1000, 1000], 60), [20, 20, 20]);
    // Eight of a site at least: then nothing is left for the smallest.
    assert_eq!(allowed(&[1000, 1000, 1000], 20), [4, 8, 8]);
    assert_eq!(allowed(&[1000, 1000, 1000], 16), [0, 8, 8]);
}

#[test]
fn every_block_of_a_site_is_as_likely_to_be_drawn() {
    let aggregator = aggregator(&[40, 4]);
    let mut random = Rng::with_seed(5);
    let mut drawn = vec![0_u32; 41];
    const ROUNDS: u32 = 4_000;
    for _ in 0..ROUNDS {
        let sites = aggregator.draw(&[10, 8], &mut || random.u64(..));
        assert_eq!((sites[0].len(), sites[1].len()), (10, 4));
        assert!(sites[1].iter().all(|block| block.size == 128 && block.weight == 1.0));
        sites[0].iter().for_each(|block| drawn[(block.address / 16) as usize] += 1);
    }
    for &count in &drawn[1..] {
        // 1,000 expected, with a standard deviation of 27.
        assert!(count.abs_diff(ROUNDS / 4) < 140, "{drawn:?}");
    }
}

fn sampled(blocks: &[(u32, u64, u64)]) -> (Sampled, Snapshot) {
    let seen = aggregator(&[1, 1, 1]).snapshot(10);
    let mut sampled = Sampled::new(1 << 24, 0);
    for (address, &(line, class, births)) in (16..).step_by(16).zip(blocks) {
        let weight = Weight { births, dense: false };
        let stack = &stack(line);
        let (domain, size, born_ns, window) = (Domain::Obj, class - 4, 1, 1);
        let sample = Sample { address, stack, domain, size, class, born_ns, weight, window };
        assert!(sampled.enter(&sample, 2));
    }
    (sampled, seen)
}

#[test]
fn sampled_blocks_stand_for_what_the_heap_says_of_their_class() {
    // Lines in another order than the sites'.
    let blocks: Vec<_> = [(2, 32, 100); 50].into_iter().chain([(0, 64, 100); 50]).collect();
    let (sampled, seen) = sampled(&blocks);
    let born: Born = [(32, 10_000.0), (64, 5_000.0)].into();
    let mut random = Rng::with_seed(5);
    let scale = sampled.scale(Some(&born));
    let sites = sampled.draw(&seen, &scale, &[50, 50, 50], &mut || random.u64(..));
    assert_eq!(sites.iter().map(Vec::len).collect::<Vec<_>>(), [50, 0, 50]);
    let sum = |site: usize| sites[site].iter().map(|block| block.weight).sum::<f64>();
    assert!((sum(0) - 5_000.0).abs() < 50.0 && (sum(2) - 10_000.0).abs() < 400.0);
    assert_eq!(sites[2][0].size, 28);
}

#[test]
fn a_scale_from_earlier_holds_for_what_came_later() {
    let (mut sampled, seen) = sampled(&[(0, 32, 100); 60]);
    let scale = sampled.scale(Some(&[(32, 12_000.0)].into()));
    let sample = Sample {
        address: 1 << 40,
        stack: &stack(0),
        domain: Domain::Obj,
        size: 28,
        class: 32,
        born_ns: 5,
        weight: Weight { births: 600, dense: false },
        window: 2,
    };
    assert!(sampled.enter(&sample, 6));
    let (snapshot, _) = sampled.estimate(&seen, &scale, false);
    let live = snapshot.sites[0].counts.live_blocks() as f64;
    // The heap had twice what the weights say: 6,600 stand for some 13,000.
    assert!((12_600.0..13_300.0).contains(&live), "{live}");
}
