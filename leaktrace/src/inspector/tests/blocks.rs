//! Blocks in pools.

use super::super::{Allocators, Answer, Counts, Death, Inspector, Reason};
use super::memory::{Made, TYPE};
use super::{FIRST, POOL, inspector, look, question};
use crate::cpython::census::Resident;
use crate::cpython::layout::Layout;

const OTHER: u64 = POOL + (1 << 20);

fn block(number: u64) -> u64 {
    FIRST + 64 * number
}

fn one(made: &Made, address: u64, size: u64) -> Answer {
    look(made, &[question(address, size)])[0]
}

#[test]
fn blocks_on_the_list_and_beyond_the_highest_are_dead_and_the_rest_lives() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[3, 9, 7]);
    // The first word of a live block may look like a link.
    made.set(block(4), block(5));
    made.set(block(6), 0);
    let numbers = [9, 0, 3, 4, 10, 6, 7, 200];
    let questions = numbers.map(|number| question(block(number), 60));
    let free = Answer::Dead(Death::FreeList);
    let beyond = Answer::Dead(Death::HighWater);
    let expected = [free, Answer::Alive, free, Answer::Alive, beyond, Answer::Alive, free, beyond];
    assert_eq!(look(&made, &questions), expected);
}

#[test]
fn one_read_of_a_pool_answers_all_its_questions_and_none_is_needed_for_what_cannot_be_a_link() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[3]);
    made.add_pool(OTHER, 64, 10, &[]);
    (0..10).for_each(|number| made.set(OTHER + 48 + 64 * number, 0));
    let mut inspector = inspector(12);
    let count = |inspector: &mut Inspector, questions: &[_]| {
        inspector.look(&made, &Resident::default(), questions);
        inspector.counts().pools_read
    };
    assert_eq!(count(&mut inspector, &[question(block(0), 64), question(OTHER + 48, 64)]), 0);
    made.set(block(0), 0);
    made.set(block(1), 0);
    let questions = [question(block(0), 64), question(block(1), 64)];
    assert_eq!(count(&mut inspector, &questions), 1);
    assert_eq!(inspector.counts().looks, 4);
}

#[test]
fn a_pool_that_serves_another_size_or_nobody_held_no_such_block() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[]);
    assert_eq!(one(&made, block(1), 32), Answer::Dead(Death::OtherClass));
    assert_eq!(one(&made, block(1), 65), Answer::Dead(Death::OtherClass));
    assert_eq!(one(&made, block(1) + 16, 64), Answer::Dead(Death::OtherClass));
    // What `realloc` leaves in its place: more than three quarters.
    assert_eq!(one(&made, block(1), 49), Answer::Alive);
    assert_eq!(one(&made, block(1), 48), Answer::Dead(Death::OtherClass));
    made.add_pool(POOL, 64, 3, &[0, 2, 1]);
    assert_eq!(one(&made, block(1), 64), Answer::Dead(Death::PoolGone));
    made.map(POOL, 16 << 10);
    made.write(POOL, &[0xaa; 64]);
    assert_eq!(one(&made, block(1), 64), Answer::Dead(Death::PoolGone));
    made.unmap(POOL);
    assert_eq!(one(&made, block(1), 64), Answer::Dead(Death::Unmapped));
}

#[test]
fn a_list_that_is_not_whole_is_unknown() {
    let broken: &[(u64, u64)] = &[
        // In a circle, out of the pool, off the blocks, into the header, shorter and longer than the header says.
        (block(7), block(3)),
        (block(3), OTHER + 48),
        (block(3), block(9) + 8),
        (block(3), POOL + 16),
        (block(3), 0),
        (block(7), block(1)),
    ];
    for &(place, link) in broken {
        let made = Made::new();
        made.add_pool(POOL, 64, 10, &[3, 9, 7]);
        made.set(block(1), 0);
        made.set(place, link);
        let mut inspector = inspector(12);
        let answers = inspector.look(&made, &Resident::default(), &[question(block(9), 64)]);
        assert_eq!(answers, [Answer::Unknown(Reason::Torn)], "{link:#x}");
        assert_eq!(inspector.counts().torn, 4);
        // That one is handed out needs no list.
        assert_eq!(one(&made, block(0), 64), Answer::Alive);
    }
}

#[test]
fn a_list_that_was_torn_once_is_read_again() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[3, 9, 7]);
    made.set(block(3), block(7));
    made.set_later(4, block(3), block(9));
    let mut inspector = inspector(12);
    let answers = inspector.look(&made, &Resident::default(), &[question(block(9), 64)]);
    assert_eq!(answers, [Answer::Dead(Death::FreeList)]);
    assert_eq!(inspector.counts(), Counts { looks: 1, pools_read: 3, swapped_pages: 0, torn: 1 });
}

#[test]
fn a_pool_that_makes_no_sense_once_is_read_again() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[]);
    made.set(POOL + 8, 13);
    made.set_later(3, POOL + 8, 0);
    assert_eq!(one(&made, block(2), 64), Answer::Alive);
}

#[test]
fn what_only_one_look_calls_dead_is_not() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[3]);
    // It is handed out between the looks: the header and the block's first word change after three reads.
    made.set_later(3, POOL + 8, 0);
    made.set_later(3, POOL, 10);
    assert_eq!(one(&made, block(3), 64), Answer::Alive);
}

#[test]
fn without_pools_nothing_is_known_of_small_blocks() {
    let layout = Layout::for_version(3, 12).unwrap();
    let none = Allocators { class_shift: None, glibc: false };
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[]);
    let mut inspector = Inspector::new(&layout, none, None);
    let questions = [question(block(1), 64), question(block(1), 600)];
    let answers = inspector.look(&made, &Resident::default(), &questions);
    assert_eq!(answers, [Answer::Unknown(Reason::OtherAllocator); 2]);
}

#[test]
fn a_target_that_has_ended_tells_nothing() {
    let made = Made::new();
    let mut inspector = inspector(12);
    let mut ask =
        |made: &Made| inspector.look(made, &Resident::default(), &[question(block(1), 64)])[0];
    assert_eq!(ask(&made), Answer::Dead(Death::Unmapped));
    made.unmap(TYPE);
    assert_eq!(ask(&made), Answer::Unknown(Reason::Ended));
}

#[test]
fn what_is_swapped_out_is_not_read() {
    let made = Made::new();
    made.add_pool(POOL, 64, 200, &[150, 1]);
    made.add_pool(OTHER, 64, 10, &[1]);
    let resident = super::swapped(&[block(150)]);
    let mut inspector = inspector(12);
    let questions =
        [question(block(150), 64), question(block(0), 64), question(OTHER + 48 + 64, 64)];
    let answers = inspector.look(&made, &resident, &questions);
    let expected = [Answer::Unknown(Reason::Swapped), Answer::Alive, Answer::Dead(Death::FreeList)];
    assert_eq!(answers, expected);
    assert!(inspector.counts().swapped_pages > 0);
}
