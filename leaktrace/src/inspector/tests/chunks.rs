//! Blocks in glibc's heap.

use super::super::{Answer, Death, Question, Reason};
use super::memory::Made;
use super::{inspector, look, question};
use crate::cpython::census::Resident;

const HEAP: u64 = 0x7f00_2000_0000;
const BLOCK: u64 = HEAP + 0x1010;
/// Of a request of 1000 bytes.
const CHUNK: u64 = 1008;

/// A heap with one chunk of 1008 bytes, and another behind it.
fn heap(size: u64, before: u64, next: u64) -> Made {
    let made = Made::new();
    made.map(HEAP, 0x4000);
    made.set(BLOCK - 8, size);
    made.words(BLOCK - 16 + (size & !7), &[before, next]);
    made
}

fn one(made: &Made) -> Answer {
    look(made, &[question(BLOCK, 1000)])[0]
}

#[test]
fn the_next_chunk_tells_whether_a_chunk_is_free() {
    assert_eq!(one(&heap(CHUNK | 1, 0, 0x101)), Answer::Alive);
    assert_eq!(one(&heap(CHUNK | 5, 77, 0x105)), Answer::Alive);
    assert_eq!(one(&heap((CHUNK + 16) | 1, 77, 0x101)), Answer::Alive);
    let free = Answer::Dead(Death::ChunkFree);
    assert_eq!(one(&heap(CHUNK | 1, CHUNK, 0x100)), free);
    // It was joined with the one before, or with the one behind.
    assert_eq!(one(&heap(CHUNK | 1, CHUNK + 64, 0x100)), free);
    assert_eq!(one(&heap(2032 | 1, 2032, 0x100)), free);
    // Or with the end of the heap.
    let made = Made::new();
    made.map(HEAP, 0x4000);
    made.set(BLOCK - 8, 0x3001);
    assert_eq!(one(&made), free);
}

#[test]
fn what_is_no_chunk_is_unknown() {
    let unknown = Answer::Unknown(Reason::NoChunk);
    for made in [
        heap(0, 0, 0),
        heap(CHUNK | 8, 0, 0x101),
        heap(CHUNK | 1, 0, 0),
        heap(CHUNK | 1, 0, 0x109),
        heap(CHUNK | 1, 16, 0x100),
        heap(CHUNK | 2, 0, 0x101),
    ] {
        assert_eq!(one(&made), unknown);
    }
    let made = heap(CHUNK | 1, 0, 0x101);
    assert_eq!(look(&made, &[question(BLOCK + 8, 1000)]), [unknown]);
    assert_eq!(one(&heap(2032 | 1, 0, 0x101)), Answer::Unknown(Reason::Resized));
    assert_eq!(one(&heap(32 | 1, 0, 0x101)), Answer::Unknown(Reason::Resized));
}

#[test]
fn a_chunk_that_was_mapped_on_its_own_dies_with_its_mapping() {
    let made = Made::new();
    made.map(HEAP, 0x3_1000);
    made.set(HEAP + 8, 0x3_1000 | 2);
    let ask = |size| look(&made, &[question(HEAP + 16, size)])[0];
    assert_eq!(ask(200_000), Answer::Alive);
    assert_eq!(ask(300_000), Answer::Unknown(Reason::Resized));
    made.set(HEAP + 8, 0x3_1010 | 2);
    assert_eq!(ask(200_000), Answer::Unknown(Reason::NoChunk));
    made.unmap(HEAP);
    assert_eq!(ask(200_000), Answer::Dead(Death::Unmapped));
}

#[test]
fn the_key_of_cached_blocks_counts_once_several_agree() {
    let resident = Resident::default();
    let mut inspector = inspector(12);
    for (key, needed) in [(0x9e37_79b9_7f4a_7c15, 4), (0x5555_5555_9010, 16)] {
        let made = heap(CHUNK | 1, 0, 0x101);
        made.set(BLOCK + 8, key);
        for seen in 0..needed {
            let answers = inspector.look(&made, &resident, &[question(BLOCK, 1000)]);
            assert_eq!(answers, [Answer::Alive], "{seen}");
            // One that is free in the heap's own books has other words there.
            made.words(BLOCK - 16 + CHUNK, &[CHUNK, 0x100]);
            inspector.learn_freed(&made, BLOCK, 1000);
            made.words(BLOCK - 16 + CHUNK, &[0, 0x101]);
            inspector.learn_freed(&made, BLOCK, 1000);
        }
        let raw = Question { is_raw: true, ..question(BLOCK, 1000) };
        let answers = inspector.look(&made, &resident, &[question(BLOCK, 1000), raw]);
        assert_eq!(answers, [Answer::Dead(Death::ChunkFree); 2]);
    }
}

#[test]
fn a_small_block_of_the_raw_domain_is_no_block_of_a_pool() {
    let made = heap(64 | 1, 0, 0x101);
    let raw = Question { is_raw: true, ..question(BLOCK, 50) };
    assert_eq!(
        look(&made, &[raw, question(BLOCK, 50)]),
        [Answer::Alive, Answer::Dead(Death::PoolGone)]
    );
}
