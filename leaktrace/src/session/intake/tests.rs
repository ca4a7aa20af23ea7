//! What is told of a made-up target's records, and with which names.

use super::world::{ALWAYS, Listener, MINOR, Memory, TIME, World, clock, intake, names, round};
use super::*;
use crate::cpython::code::CodeCache;
use crate::cpython::code::made::layout;

/// How many targets of each kind there are.
const SEEDS: u64 = 10;

#[test]
fn code_that_lives_has_its_name() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["f00001", "f00001"]);
}

#[test]
fn code_that_is_freed_before_its_name_is_read_has_none() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    for _ in 0..2 {
        world.borrow_mut().make(0);
        world.borrow_mut().run(&[0]);
        world.borrow_mut().free(0);
    }
    world.borrow_mut().make(0);
    world.borrow_mut().known.clear();
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["?", "?", "f00003"]);
    assert_eq!(intake.symbolizer.unresolved()[&crate::cpython::code::Reason::Freed], 1);
}

#[test]
fn code_that_is_replaced_while_its_name_is_read_has_none() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    world.borrow_mut().acts = vec![|_| {}, |world| {
        world.free(0);
        world.make(0);
        world.known.clear();
        world.run(&[0]);
    }];
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["?"]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["?", "f00002"]);
}

#[test]
fn code_that_was_named_before_keeps_its_name_until_it_is_freed() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    // A new stack, and it is the last of this code.
    world.borrow_mut().run(&[0, 0]);
    world.borrow_mut().free(0);
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0, 0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["f00001", "f00001", "?"], "the last has the id of freed code");
    world.borrow_mut().run(&[0, 0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard)[3], "f00002");
}

#[test]
fn a_record_that_is_still_being_written_is_waited_for() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    world.borrow_mut().acts = vec![|_| {}, |world| {
        world.busy_from = world.records.len();
        world.free(0);
        world.make(0);
    }];
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert!(heard.told.is_empty(), "it could be a free");
    world.borrow_mut().busy_from = usize::MAX;
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["?"]);
}

#[test]
fn where_frees_are_lost_a_name_is_given_that_was_the_same_before() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().make(1);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().loses = true;
    for _ in 0..2 {
        // Another one's free is lost each time, at the latest when names are read.
        world.borrow_mut().acts = vec![|_| {}, |world| {
            world.make(2);
            world.free(2);
        }];
        world.borrow_mut().run(&[0]);
        world.borrow_mut().run(&[1]);
        round(&mut intake, &world, &ALWAYS, &mut heard);
    }
    assert_eq!(names(&heard), ["f00001", "f00001", "?", "f00001", "f00002"]);
}

#[test]
fn where_the_free_of_named_code_is_lost_its_name_ends() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().loses = true;
    world.borrow_mut().free(0);
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["f00001", "?"]);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["f00001", "?", "f00002"]);
}

#[test]
fn where_a_lost_free_is_counted_and_not_yet_done_the_name_ends_once_it_is() {
    // Without the GIL, references do not tell that code is about to be freed.
    let mut shared = layout(MINOR);
    shared.object.refcnt = None;
    let mut intake = Intake::new(Symbolizer::new(CodeCache::new(shared, None, true)));
    let (world, mut heard) = (World::new(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().lost += 1;
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0, 0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["f00001", "f00002"], "new stacks have no name that was");
    world.borrow_mut().lost += 1;
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().make(0);
    TIME.with_borrow_mut(|time| *time += 30_000_000);
    world.borrow_mut().run(&[0, 0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard)[2..], ["?"]);
    world.borrow_mut().run(&[0, 0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard)[3..], ["f00003"]);
}

#[test]
fn where_the_free_of_named_code_came_to_no_probe_its_name_ends() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().misses = true;
    world.borrow_mut().free(0);
    world.borrow_mut().make(0);
    intake.frees_unseen(false);
    world.borrow_mut().run(&[0]);
    world.borrow_mut().run(&[0, 0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard), ["f00001", "?", "?"]);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard)[3..], ["f00002"]);
}

#[test]
fn while_frees_come_to_no_probe_a_name_is_given_that_was_the_same_before() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().misses = true;
    intake.frees_unseen(true);
    for _ in 0..2 {
        world.borrow_mut().make(0);
        for _ in 0..3 {
            world.borrow_mut().run(&[0]);
            round(&mut intake, &world, &ALWAYS, &mut heard);
        }
        world.borrow_mut().free(0);
    }
    assert_eq!(names(&heard), ["?", "f00001", "f00001", "?", "?", "f00002"]);
    // They are seen, and once more they are not, when a name was read that is not told yet.
    intake.frees_unseen(false);
    round(&mut intake, &world, &ALWAYS, &mut heard);
    world.borrow_mut().make(1);
    world.borrow_mut().run(&[1]);
    world.borrow_mut().acts = vec![|_| {}, |world| {
        world.busy_from = world.records.len();
        world.run(&[1]);
    }];
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(heard.told.len(), 6);
    intake.frees_unseen(false);
    world.borrow_mut().busy_from = usize::MAX;
    round(&mut intake, &world, &ALWAYS, &mut heard);
    assert_eq!(names(&heard)[6..], ["?"]);
}

#[test]
fn outside_of_the_window_new_stacks_have_no_names() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().make(1);
    world.borrow_mut().run(&[0]);
    let begins = clock() + 1;
    round(&mut intake, &world, &(begins..u64::MAX), &mut heard);
    world.borrow_mut().run(&[0]);
    round(&mut intake, &world, &(begins..u64::MAX), &mut heard);
    let ends = clock();
    world.borrow_mut().run(&[0]);
    world.borrow_mut().run(&[1]);
    round(&mut intake, &world, &(begins..ends), &mut heard);
    assert_eq!(names(&heard), ["?", "f00001", "f00001", "?"]);
}

#[test]
fn what_waits_is_told_in_the_end() {
    let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
    world.borrow_mut().make(0);
    world.borrow_mut().run(&[0]);
    world.borrow_mut().acts = vec![|_| {}, |world| {
        world.make(1);
        world.run(&[1]);
        world.busy_from = world.records.len();
        world.run(&[0]);
    }];
    round(&mut intake, &world, &ALWAYS, &mut heard);
    let memory = Memory(&world);
    let now = Now { memory: &memory, window: &ALWAYS, clock };
    intake.give_up(&now, |told| heard.hear(told));
    assert_eq!(names(&heard), ["?", "?"]);
}

#[test]
fn no_name_is_wrong_whatever_the_target_does_meanwhile() {
    // How often it does something, whether frees are lost, and for how many rounds.
    let cases = [
        (10, false, 3_000),
        (20, false, 3_000),
        (50, false, 2_000),
        (80, false, 200),
        (20, true, 3_000),
        (50, true, 1_000),
    ];
    let seeds = |case| (0..SEEDS).map(move |seed| (case, seed));
    for ((restless, loses, rounds), seed) in cases.into_iter().flat_map(seeds) {
        let (world, mut intake, mut heard) = (World::new(), intake(), Listener::default());
        world.borrow_mut().random = seed;
        for number in 0..rounds {
            {
                let mut world = world.borrow_mut();
                world.restless = if number % 3 == 0 { 0 } else { restless };
                world.loses = loses && world.below(4) == 0;
                let is_busy = world.below(10) == 0;
                world.busy_from = if is_busy { world.records.len() } else { usize::MAX };
            }
            round(&mut intake, &world, &ALWAYS, &mut heard);
        }
        world.borrow_mut().restless = 0;
        world.borrow_mut().busy_from = usize::MAX;
        (0..5).for_each(|_| round(&mut intake, &world, &ALWAYS, &mut heard));
        assert_eq!(heard.told.len(), world.borrow().truth.len());
        let (right, all) = (heard.right(&world.borrow()), heard.told.iter().flatten().count());
        // At the worst, nearly all code is gone before anybody can look.
        assert!(all > 100 && right > 0, "{right} of {all}, {restless} {loses} {seed}");
    }
}
