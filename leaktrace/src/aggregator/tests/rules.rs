//! The rules, one by one.

use super::*;
use crate::aggregator::series::MAX_INTERVALS;

#[test]
fn a_block_counts_at_its_site_until_it_is_freed() {
    let mut seen = after(&[obj_alloc(0x10, 100, 1), obj_alloc(0x20, 50, 1)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (2, 0, 2, 150));
    seen.apply(&obj_free(0x10));
    assert_eq!(numbers(&seen, 1, Domain::Obj), (2, 1, 1, 50));
    assert_eq!((seen.totals().allocations_seen, seen.totals().frees_seen), (2, 1));
}

#[test]
fn the_raw_free_behind_an_obj_free_is_the_same_free() {
    let seen = after(&[raw_alloc(0x10, 1000, 1), obj_free(0x10), raw_free(0x10)]);
    assert_eq!(numbers(&seen, 1, Domain::Raw), (1, 1, 0, 0));
    assert_eq!((seen.totals().frees_seen, seen.totals().frees_of_older_blocks), (1, 0));
}

#[test]
fn a_free_that_passes_one_function_twice_is_one_free() {
    let seen = after(&[raw_alloc(0x10, 1000, 1), raw_free(0x10), raw_free(0x10)]);
    assert_eq!(numbers(&seen, 1, Domain::Raw), (1, 1, 0, 0));
    assert_eq!((seen.totals().frees_seen, seen.totals().frees_of_older_blocks), (1, 0));
}

#[test]
fn what_debug_hooks_free_in_turn_is_the_same_block() {
    let seen = after(&[raw_alloc(0x110, 1000, 1), obj_free(0x110), raw_free(0x100)]);
    assert_eq!(numbers(&seen, 1, Domain::Raw), (1, 1, 0, 0));
    assert_eq!((seen.totals().frees_seen, seen.totals().frees_of_older_blocks), (1, 0));
}

#[test]
fn an_older_block_freed_through_both_gates_is_one_older_raw_block() {
    let seen = after(&[obj_free(0x10), raw_free(0x10)]);
    assert_eq!((seen.totals().frees_seen, seen.totals().frees_of_older_blocks), (1, 1));
    let older = seen.snapshot(0).older_frees[0];
    assert_eq!((older.obj, older.raw), (0, 1));
}

#[test]
fn a_raw_free_after_another_threads_obj_free_is_a_free_of_its_own() {
    let seen = after(&[
        raw_alloc(0x10, 1000, 1),
        obj_free(0x10),
        alloc(domain::RAW, 2, 0x10, 2000, 2),
        raw_free(0x10),
    ]);
    assert_eq!(numbers(&seen, 2, Domain::Raw), (1, 1, 0, 0));
    assert_eq!(seen.totals().frees_seen, 2);
}

#[test]
fn the_raw_allocation_behind_an_obj_allocation_is_the_same_block() {
    let seen = after(&[obj_alloc(0x10, 600, 1), raw_alloc(0x10, 600, 1)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 0, 1, 600));
    assert_eq!((seen.totals().allocations_seen, seen.totals().missed_frees), (1, 0));
}

#[test]
fn a_realloc_is_one_free_and_one_allocation() {
    let seen = after(&[obj_alloc(0x10, 100, 1), realloc(1, 0x10, 0x20, 200, 2)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 2, Domain::Obj), (1, 0, 1, 200));
    assert_eq!((seen.totals().allocations_seen, seen.totals().frees_seen), (2, 1));
}

#[test]
fn a_realloc_on_the_spot_takes_the_new_size_and_site() {
    let seen = after(&[obj_alloc(0x10, 100, 1), realloc(1, 0x10, 0x10, 110, 2)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 2, Domain::Obj), (1, 0, 1, 110));
    assert_eq!(seen.totals().missed_frees, 0);
}

#[test]
fn a_realloc_of_null_is_an_allocation() {
    let seen = after(&[realloc(1, 0, 0x10, 100, 1)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 0, 1, 100));
    assert_eq!(seen.totals().frees_seen, 0);
}

#[test]
fn a_block_that_leaves_pymalloc_is_freed_and_its_new_place_allocated() {
    let seen =
        after(&[obj_alloc(0x10, 100, 1), realloc(1, 0x10, 0, 1000, 2), raw_alloc(0x8000, 1000, 2)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 2, Domain::Raw), (1, 0, 1, 1000));
    assert_eq!((seen.totals().allocations_seen, seen.totals().frees_seen), (2, 1));
}

#[test]
fn the_malloc_and_free_inside_a_realloc_are_not_counted_again() {
    let moved = [obj_alloc(0x10, 100, 1), realloc(1, 0x10, 0x20, 200, 2)];
    for nested in [
        vec![obj_alloc(0x20, 200, 2), obj_free(0x10)],
        vec![obj_alloc(0x20, 200, 2)],
        vec![obj_free(0x10)],
    ] {
        let seen = after(&[&moved[..], &nested].concat());
        assert_eq!(numbers(&seen, 2, Domain::Obj), (1, 0, 1, 200));
        let totals = seen.totals();
        assert_eq!((totals.allocations_seen, totals.frees_seen, totals.missed_frees), (2, 1, 0));
    }
}

#[test]
fn the_free_inside_a_realloc_that_leaves_pymalloc_is_not_counted_again() {
    let seen = after(&[
        obj_alloc(0x10, 100, 1),
        realloc(1, 0x10, 0, 1000, 2),
        raw_alloc(0x8000, 1000, 2),
        obj_free(0x10),
    ]);
    assert_eq!((seen.totals().frees_seen, seen.totals().frees_of_older_blocks), (1, 0));
}

#[test]
fn a_free_after_a_realloc_of_a_block_that_another_thread_got_counts() {
    let seen = after(&[
        obj_alloc(0x10, 100, 1),
        realloc(1, 0x10, 0x20, 200, 2),
        alloc(domain::OBJ, 2, 0x10, 90, 3),
        obj_free(0x10),
    ]);
    assert_eq!(numbers(&seen, 3, Domain::Obj), (1, 1, 0, 0));
}

#[test]
fn a_realloc_that_took_a_raw_block_for_pymallocs_is_ignored() {
    let seen = after(&[
        raw_alloc(0x8000, 1000, 1),
        realloc(1, 0x8000, 0x20, 2000, 2),
        realloc_free(0x8000),
        raw_alloc(0x9000, 2000, 2),
    ]);
    assert_eq!(numbers(&seen, 1, Domain::Raw), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 2, Domain::Raw), (1, 0, 1, 2000));
    assert_eq!((seen.totals().allocations_seen, seen.totals().frees_seen), (2, 1));
}

#[test]
fn a_realloc_of_an_older_block_is_a_birth() {
    let seen = after(&[realloc(1, 0x10, 0x20, 200, 2)]);
    assert_eq!(numbers(&seen, 2, Domain::Obj), (1, 0, 1, 200));
    assert_eq!(seen.totals().frees_of_older_blocks, 1);
}

#[test]
fn the_birth_by_a_realloc_that_turns_out_raw_is_undone() {
    let seen = after(&[
        obj_alloc(0x20, 30, 1),
        realloc(1, 0x8000, 0x20, 2000, 2),
        realloc_free(0x8000),
        raw_alloc(0x9000, 2000, 2),
    ]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 0, 1, 30), "the displaced block is back");
    assert_eq!(numbers(&seen, 2, Domain::Obj), (0, 0, 0, 0));
    assert_eq!(site(&seen, 2, Domain::Obj).sizes, None);
    assert_eq!(numbers(&seen, 2, Domain::Raw), (1, 0, 1, 2000));
    let totals = seen.totals();
    assert_eq!((totals.allocations_seen, totals.frees_seen), (2, 1));
    assert_eq!((totals.frees_of_older_blocks, totals.missed_frees), (1, 0));
}

#[test]
fn a_raw_realloc_is_one_free_and_one_allocation() {
    let seen = after(&[raw_alloc(0x10, 1000, 1), realloc_free(0x10), raw_alloc(0x10, 3000, 2)]);
    assert_eq!(numbers(&seen, 1, Domain::Raw), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 2, Domain::Raw), (1, 0, 1, 3000));
}

#[test]
fn a_failed_raw_realloc_changes_nothing() {
    let seen =
        after(&[at(raw_alloc(0x10, 1000, 1), 1000), realloc_free(0x10), realloc_failed(0x10)]);
    let before = after(&[at(raw_alloc(0x10, 1000, 1), 1000)]);
    assert_eq!(seen.totals(), before.totals());
    assert_eq!(seen.live.get(0x10), before.live.get(0x10));
    let (seen, before) = (site(&seen, 1, Domain::Raw), site(&before, 1, Domain::Raw));
    assert_eq!((seen.counts, &seen.points), (before.counts, &before.points));
}

#[test]
fn a_failed_raw_realloc_of_an_older_block_changes_nothing() {
    let seen = after(&[realloc_free(0x10), realloc_failed(0x10)]);
    assert_eq!(seen.totals(), aggregator().totals());
}

#[test]
fn an_allocation_at_a_live_address_ends_the_old_block_and_counts_as_a_missed_free() {
    let seen = after(&[obj_alloc(0x10, 100, 1), obj_free(0x30), obj_alloc(0x10, 40, 2)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 2, Domain::Obj), (1, 0, 1, 40));
    assert_eq!((seen.totals().missed_frees, seen.totals().frees_seen), (1, 1));
}

#[test]
fn blocks_over_four_gigabytes_keep_their_size() {
    let big = 5 << 30;
    let mut seen = after(&[raw_alloc(0x10, big, 1), raw_alloc(0x20, u64::from(u32::MAX), 1)]);
    assert_eq!(numbers(&seen, 1, Domain::Raw), (2, 0, 2, big + u64::from(u32::MAX)));
    assert_eq!(site(&seen, 1, Domain::Raw).sizes.unwrap().max, big);
    seen.apply(&raw_free(0x10));
    seen.apply(&raw_free(0x20));
    assert_eq!(numbers(&seen, 1, Domain::Raw), (2, 2, 0, 0));
}

#[test]
fn ids_of_the_same_stack_share_a_site() {
    let mut seen = aggregator();
    seen.define_stack(77, stack(1));
    seen.apply(&obj_alloc(0x10, 1, 1));
    seen.apply(&obj_alloc(0x20, 1, 77));
    assert_eq!(numbers(&seen, 1, Domain::Obj), (2, 0, 2, 2));
}

#[test]
fn an_id_that_is_redefined_means_the_new_stack_from_then_on() {
    let mut seen = after(&[obj_alloc(0x10, 1, 1)]);
    seen.define_stack(1, stack(500));
    seen.apply(&obj_alloc(0x20, 1, 1));
    seen.apply(&obj_free(0x10));
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 1, 0, 0));
    assert_eq!(numbers(&seen, 500, Domain::Obj), (1, 0, 1, 1));
}

#[test]
fn blocks_of_an_undefined_stack_are_counted_at_the_empty_stack() {
    let seen = after(&[obj_alloc(0x10, 7, 4711), obj_alloc(0x20, 8, 0)]);
    let sites = seen.snapshot(0).sites;
    assert_eq!((sites.len(), &sites[0].stack), (1, &Stack::default()));
    assert_eq!((sites[0].counts.live_bytes(), seen.totals().undefined_stacks), (15, 1));
}

#[test]
fn the_same_stack_in_two_domains_is_two_sites() {
    let seen = after(&[obj_alloc(0x10, 1, 1), raw_alloc(0x20, 2, 1)]);
    assert_eq!(numbers(&seen, 1, Domain::Obj), (1, 0, 1, 1));
    assert_eq!(numbers(&seen, 1, Domain::Raw), (1, 0, 1, 2));
}

#[test]
fn the_bound_of_memory_holds_and_what_it_drops_is_counted() {
    let bound = 1 << 20;
    let mut seen = bounded(bound);
    for block in 1..=200_000_u64 {
        seen.apply(&obj_alloc(block * 16, 8, 1));
        assert!(seen.memory() <= bound);
    }
    let totals = seen.totals();
    assert_eq!(totals.allocations_seen, 200_000);
    assert_eq!(totals.untracked_blocks + seen.live_blocks() as u64, 200_000);
    assert!(seen.live_blocks() > bound / 80, "{} blocks fit", seen.live_blocks());
}

#[test]
fn more_sites_than_fit_are_dropped_and_counted() {
    let bound = 4 << 20;
    let mut seen = bounded(bound);
    for id in 100..20_100_u64 {
        seen.define_stack(id, stack(id as u32));
        seen.apply(&obj_alloc(id * 16, 8, id));
    }
    assert!(seen.memory() <= bound, "{} bytes", seen.memory());
    let empty = &seen.snapshot(0).sites;
    let counted: u64 = empty.iter().map(|site| site.counts.allocations).sum();
    assert_eq!(counted + seen.totals().untracked_blocks, 20_000);
    assert!(empty.len() > 500, "{} sites", empty.len());
}

#[test]
fn busy_sites_get_a_coarser_axis_when_memory_is_short() {
    let bound = 16 << 20;
    let mut seen = bounded(bound);
    for n in 0..1_000_000_u64 {
        if n < 10_000 {
            seen.define_stack(100 + n, stack(n as u32));
        }
        let block = 16 * (1 + n % 2000);
        seen.apply(&at(obj_alloc(block, n % 100, 100 + n % 10_000), n * SECOND / 10_000));
        seen.apply(&at(obj_free(block), n * SECOND / 10_000));
    }
    assert!(seen.memory() <= bound, "{} bytes", seen.memory());
    let snapshot = seen.snapshot(100 * SECOND);
    assert!(snapshot.sites.len() > 1000, "{} sites", snapshot.sites.len());
    assert!(snapshot.sites.iter().all(|site| !site.points.is_empty()));
}

#[test]
fn a_series_has_the_lowest_point_of_each_interval() {
    let mut seen = aggregator();
    let tenth = SECOND / 10;
    seen.apply(&at(obj_alloc(0x10, 100, 1), 1));
    seen.apply(&at(obj_alloc(0x20, 50, 1), tenth + 1));
    seen.apply(&at(obj_free(0x10), tenth + 2));
    seen.apply(&at(obj_alloc(0x10, 200, 1), tenth + 3));
    seen.sample(2 * tenth);
    let points = site(&seen, 1, Domain::Obj).points;
    let seen: Vec<_> =
        points.iter().map(|point| (point.index, point.live_bytes, point.low_bytes)).collect();
    assert_eq!(seen, [(0, 100, 0), (1, 250, 50)]);
}

#[test]
fn a_block_that_only_moves_does_not_lower_its_site() {
    let mut seen = aggregator();
    seen.apply(&raw_alloc(0x10, 1000, 1));
    seen.sample(SECOND);
    seen.apply(&at(realloc_free(0x10), SECOND));
    seen.apply(&at(raw_alloc(0x20, 2000, 1), SECOND));
    seen.sample(2 * SECOND);
    assert_eq!(site(&seen, 1, Domain::Raw).points[1].low_bytes, 1000);
}

#[test]
fn a_series_never_grows_beyond_its_limit() {
    let mut seen = aggregator();
    for step in 0..100_000_u64 {
        seen.apply(&at(obj_alloc(16 * (step + 1), 1, 1), step * SECOND));
    }
    let snapshot = seen.snapshot(100_000 * SECOND);
    let points = &snapshot.sites[0].points;
    assert!((150..=MAX_INTERVALS as usize).contains(&points.len()), "{}", points.len());
    assert!(points.windows(2).all(|pair| pair[0].index < pair[1].index));
    assert!(points.windows(2).all(|pair| pair[1].low_bytes == pair[0].live_bytes));
    assert_eq!(points.last().unwrap().live_bytes, 100_000);
    let survivors: u64 = points.iter().map(|point| u64::from(point.survivors)).sum();
    assert_eq!(survivors, 100_000);
}

#[test]
fn a_site_that_nothing_happens_to_has_no_new_points() {
    let mut seen = after(&[obj_alloc(0x10, 1, 1)]);
    (1..1000).for_each(|tenth| seen.sample(tenth * SECOND / 10));
    assert_eq!(site(&seen, 1, Domain::Obj).points.len(), 1);
}

#[test]
fn ages_are_those_of_the_blocks_that_live() {
    let mut seen = aggregator();
    for block in 1..=10_u64 {
        seen.apply(&at(obj_alloc(16 * block, 1, 1), block * SECOND));
    }
    seen.apply(&at(obj_free(16), 10 * SECOND));
    let ages = seen.snapshot(12 * SECOND).sites[0].ages_ns.unwrap();
    let rounded = |age: u64| (age as f64 / SECOND as f64).round() as u64;
    assert_eq!((rounded(ages.p50), rounded(ages.p90), rounded(ages.max)), (6, 10, 10));
}

#[test]
fn sizes_are_exact_for_few_and_close_for_many() {
    let mut few = aggregator();
    (1..=10_u64).for_each(|size| few.apply(&obj_alloc(16 * size, size, 1)));
    let sizes = site(&few, 1, Domain::Obj).sizes.unwrap();
    assert_eq!((sizes.p50, sizes.p90, sizes.max), (5, 9, 10));
    let mut many = aggregator();
    (1..=1000_u64).for_each(|size| many.apply(&obj_alloc(16 * size, size, 1)));
    let sizes = site(&many, 1, Domain::Obj).sizes.unwrap();
    assert!((480..=520).contains(&sizes.p50) && (870..=930).contains(&sizes.p90), "{sizes:?}");
    assert_eq!(sizes.max, 1000);
}

#[test]
fn garbage_events_do_no_harm() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut seen = aggregator();
    for _ in 0..200_000 {
        let mut record: Vec<u8> = (0..48)
            .map(|_| if random.bool() { random.u8(..) } else { 255 * random.u8(..2) })
            .collect();
        record[0] = random.u8(0..8);
        record[1] = 0;
        if let Ok(event) = Event::parse(&record) {
            seen.apply(&event);
        }
    }
    assert!(seen.snapshot(u64::MAX).sites.len() > 1);
}
