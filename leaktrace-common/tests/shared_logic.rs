//! The logic that BPF runs, run on memory made by hand: shapes of several CPython versions, and chains gone wrong.

use std::collections::BTreeMap;

use leaktrace_common::event::{Frame, stack_end};
use leaktrace_common::layout::{
    FrameLayout, PymallocLayout, THREAD_POINTER, THREAD_TLS, THREAD_VECTOR, ThreadLayout,
};
use leaktrace_common::limits::MAX_STEPS;
use leaktrace_common::memory::{Fault, Memory};
use leaktrace_common::pymalloc::{self, Prediction, Resize};
use leaktrace_common::thread::{self, NoStack, Thread};
use leaktrace_common::unwind::{FrameSink, StackHash, Walked, walk};

#[derive(Default)]
struct Image(BTreeMap<u64, u64>);

impl Image {
    fn set(&mut self, address: u64, word: u64) -> &mut Self {
        self.0.insert(address, word);
        self
    }

    /// Maps `bytes` of zeros.
    fn map(&mut self, address: u64, bytes: u64) -> &mut Self {
        for offset in (0..bytes).step_by(8) {
            self.0.entry(address + offset).or_insert(0);
        }
        self
    }
}

impl Memory for Image {
    fn read<const N: usize>(
        &self,
        address: u64,
        bytes: u64,
        words: &mut [u64; N],
    ) -> Result<(), Fault> {
        for (index, word) in words.iter_mut().enumerate().take((bytes / 8) as usize) {
            *word = *self.0.get(&(address + 8 * index as u64)).ok_or(Fault)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Frames(Vec<Frame>);

impl FrameSink for Frames {
    fn frame(&mut self, index: u32, frame: Frame) {
        assert_eq!(index as usize, self.0.len());
        self.0.push(frame);
    }
}

const OLD: FrameLayout = FrameLayout {
    bytes: 112,
    previous: 24,
    code: 32,
    position: 108,
    owner: 0,
    first_shim_owner: 0,
    code_start: 0,
    lasti_unit: 2,
    code_tag: 0,
};

const NEW: FrameLayout = FrameLayout {
    bytes: 80,
    previous: 8,
    code: 0,
    position: 56,
    owner: 70,
    first_shim_owner: 3,
    code_start: 200,
    lasti_unit: 0,
    code_tag: 1,
};

fn frames(image: &Image, layout: &FrameLayout, first: u64) -> (Vec<Frame>, Walked) {
    let mut sink = Frames::default();
    let walked = walk(image, layout, first, &mut sink);
    (sink.0, walked)
}

#[test]
fn frames_up_to_3_10_give_their_last_instruction() {
    let mut image = Image::default();
    image.map(0x1000, 112).set(0x1018, 0x2000).set(0x1020, 0xc0de0).set(0x1068, 7 << 32);
    image.map(0x2000, 112).set(0x2020, 0xc0de8).set(0x2068, 0xffff_ffff << 32);
    let (frames, walked) = frames(&image, &OLD, 0x1000);
    assert_eq!(walked, Walked { depth: 2, end: stack_end::COMPLETE });
    assert_eq!(frames[0], Frame { code: 0xc0de0, offset: 14, owner: 0 });
    assert_eq!(frames[1].offset, -2, "not started yet");
}

#[test]
fn frames_from_3_11_count_from_the_start_of_the_code_and_mark_entry_frames() {
    let mut image = Image::default();
    let code = 0x7000;
    image.map(0x1000, 80).set(0x1000, code | 1).set(0x1008, 0x2000).set(0x1038, code + 200 + 36);
    image.map(0x2000, 80).set(0x2008, 0x3000).set(0x2040, 3 << 48);
    image.map(0x3000, 80).set(0x3000, code).set(0x3038, code + 200).set(0x3040, 1 << 48);
    let (frames, walked) = frames(&image, &NEW, 0x1000);
    assert_eq!(walked.depth, 3);
    assert_eq!(frames[0], Frame { code, offset: 36, owner: 0 });
    assert_eq!(frames[1], Frame { code: 0, offset: 0, owner: 3 });
    assert_eq!(frames[2], Frame { code, offset: 0, owner: 1 });
}

#[test]
fn a_chain_that_runs_in_a_circle_ends_at_the_limit() {
    let mut image = Image::default();
    image.map(0x1000, 80).set(0x1008, 0x1000);
    let (_, walked) = frames(&image, &NEW, 0x1000);
    assert_eq!(walked, Walked { depth: MAX_STEPS, end: stack_end::LIMIT });
}

#[test]
fn a_frame_that_cannot_be_read_ends_the_stack_there() {
    let mut image = Image::default();
    image.map(0x1000, 80).set(0x1008, 0xdead_0000);
    let (frames, walked) = frames(&image, &NEW, 0x1000);
    assert_eq!((frames.len(), walked.end), (1, stack_end::FAULT));
}

#[test]
fn the_id_tells_apart_order_position_and_how_the_walk_ended() {
    let id = |frames: &[(u64, i32)], end| {
        let mut hash = StackHash::new();
        for (index, &(code, offset)) in frames.iter().enumerate() {
            hash.frame(index as u32, Frame { code, offset, owner: 0 });
        }
        hash.id(Walked { depth: frames.len() as u32, end })
    };
    let ids = [
        id(&[(1, 2), (3, 4)], 0),
        id(&[(3, 4), (1, 2)], 0),
        id(&[(1, 2), (3, 5)], 0),
        id(&[(1, 2), (3, 4)], 1),
        id(&[(1, 2)], 0),
    ];
    for (index, id) in ids.iter().enumerate() {
        assert!(*id != 0 && !ids[..index].contains(id));
    }
}

#[test]
fn a_thread_state_counts_only_for_its_own_thread() {
    let layout = ThreadLayout {
        source: THREAD_POINTER,
        location: 0x100,
        vector_entry: 0,
        interp: 16,
        thread_id: 24,
        frame: 32,
        indirect: 1,
        cframe_current_frame: 8,
    };
    let mut image = Image::default();
    image
        .set(0x100, 0x1000)
        .map(0x1000, 64)
        .set(0x1010, 0xaaa)
        .set(0x1018, 0xf5)
        .set(0x1020, 0x2000);
    image.map(0x2000, 16).set(0x2008, 0xbbb);
    let found = Thread { interpreter: 0xaaa, frame: 0xbbb };
    assert_eq!(thread::current(&image, &layout, 0xf5), Ok(found));
    assert_eq!(thread::current(&image, &layout, 0xf6), Err(NoStack::Foreign));
    assert_eq!(thread::gil_holder(&image, &layout, 0xf6), Ok(found), "it has the GIL");
    let tls = ThreadLayout { source: THREAD_TLS, location: 0x100 - 0xf5, ..layout };
    assert_eq!(thread::current(&image, &tls, 0xf5), Ok(found));
    image.set(0x1018, 0xf6);
    assert_eq!(thread::current(&image, &tls, 0xf5), Ok(found), "another thread made it");
    image.set(0x100, 0);
    assert_eq!(thread::current(&image, &layout, 0xf5), Err(NoStack::NoThread));
    assert_eq!(thread::current(&Image::default(), &layout, 0xf5), Err(NoStack::Fault));
}

#[test]
fn a_thread_state_is_found_by_the_threads_own_vector() {
    let layout = ThreadLayout {
        source: THREAD_VECTOR,
        location: 0x40,
        vector_entry: 0x30,
        interp: 16,
        thread_id: 24,
        frame: 32,
        ..ThreadLayout::default()
    };
    let mut image = Image::default();
    image.set(0xf8, 0x700).set(0x730, 0x800).set(0x840, 0x1000).map(0x1000, 64);
    image.set(0x1010, 0xaaa).set(0x1018, 0xf0).set(0x1020, 0xbbb);
    let found = Thread { interpreter: 0xaaa, frame: 0xbbb };
    assert_eq!(thread::current(&image, &layout, 0xf0), Ok(found));
    assert_eq!(thread::gil_holder(&image, &layout, 0xf0), Ok(found));
    assert_eq!(thread::current(&image, &layout, 0xf1), Err(NoStack::Fault));
    image.set(0x1018, 0xf8);
    assert_eq!(thread::current(&image, &layout, 0xf0), Err(NoStack::Foreign), "too short a vector");
    for no_block in [0, u64::MAX] {
        image.set(0x730, no_block);
        assert_eq!(thread::current(&image, &layout, 0xf0), Err(NoStack::NoThread));
    }
}

const POOLS: PymallocLayout = PymallocLayout {
    usedpools: 0x10_0000,
    interpreter: 0,
    state: 0,
    used: 0,
    feature_flags: 0,
    pool_bytes: 4096,
    pool_header: 48,
    class_shift: 4,
};
const POOL: u64 = 0x20_0000;

/// A pool of class 1 (17 to 32 bytes) in which `out` blocks are handed out, with this free list.
fn pool(out: u64, carved: u64, free: &[u64]) -> Image {
    let mut image = Image::default();
    image.map(POOL, 4096).set(POOLS.usedpools + 16, POOL).set(POOL, out);
    image.set(POOL + 32, 1 << 32).set(POOL + 40, 48 + 32 * carved);
    let mut link = POOL + 8;
    for &index in free {
        let block = POOL + 48 + 32 * index;
        image.set(link, block);
        link = block;
    }
    image.set(link, 0);
    image
}

#[test]
fn the_next_block_is_the_head_of_the_first_used_pools_free_list() {
    let image = pool(2, 5, &[3, 0, 4]);
    assert_eq!(pymalloc::predict(&image, &POOLS, 32), Ok(Prediction::Block(POOL + 48 + 96)));
    assert_eq!(pymalloc::predict(&image, &POOLS, 64), Err(Fault), "that class is not mapped");
    let mut empty = Image::default();
    empty.set(POOLS.usedpools + 16, POOLS.usedpools);
    assert_eq!(pymalloc::predict(&empty, &POOLS, 17), Ok(Prediction::FreshPool));
}

#[test]
fn an_interpreter_allocates_from_its_own_pools_or_from_the_main_ones() {
    let mut image = Image::default();
    image.set(0x3000 + 0x18, 1 << 5).set(0x4000 + 0x18, 0).set(0x4000 + 0x20, 0x9000);
    let used =
        |layout: PymallocLayout, interpreter| pymalloc::usedpools_of(&image, &layout, interpreter);
    assert_eq!(used(POOLS, 0x4000), Some(POOLS.usedpools), "all share");
    let main = PymallocLayout { interpreter: 0x1000, ..POOLS };
    assert_eq!(used(main, 0x1000), Some(POOLS.usedpools));
    assert_eq!(used(main, 0x4000), None, "nobody knows where");
    let embedded = PymallocLayout { state: 0x40, feature_flags: 0x18, ..main };
    assert_eq!(used(embedded, 0x3000), Some(POOLS.usedpools), "by its flags");
    assert_eq!(used(embedded, 0x4000), Some(0x4040));
    assert_eq!(used(embedded, 0x5000), None, "not mapped");
    let pointer = PymallocLayout { state: 0x20, used: 8, ..main };
    assert_eq!(used(pointer, 0x4000), Some(0x9008));
    image.set(0x4000 + 0x20, 0);
    assert_eq!(pymalloc::usedpools_of(&image, &pointer, 0x4000), None, "no allocation yet");
}

#[test]
fn the_first_block_of_a_fresh_pool_is_the_one_that_is_not_free() {
    for (carved, free, out) in
        [(2, &[1][..], 0), (5, &[3, 0, 4, 1], 2), (1, &[], 0), (4, &[2, 1, 0], 3)]
    {
        let found = pymalloc::fresh_block(&pool(1, carved, free), &POOLS, 20);
        assert_eq!(found, Some(POOL + 48 + 32 * out), "{free:?}");
    }
    assert_eq!(pymalloc::fresh_block(&pool(2, 3, &[1]), &POOLS, 20), None, "two are out");
    assert_eq!(
        pymalloc::fresh_block(&pool(1, 3, &[1]), &POOLS, 20),
        None,
        "one too few on the list"
    );
    let mut circle = pool(1, 3, &[1, 2]);
    circle.set(POOL + 48 + 64, POOL + 48 + 32);
    assert_eq!(pymalloc::fresh_block(&circle, &POOLS, 20), None, "a list without an end");
}

#[test]
fn a_resize_follows_the_three_quarters_rule() {
    let image = pool(1, 3, &[1, 2]);
    let block = POOL + 48;
    let resize = |size| pymalloc::resize(&image, &POOLS, block, size);
    assert_eq!(resize(32), Resize::Stays);
    assert_eq!(resize(25), Resize::Stays);
    assert_eq!(resize(24), Resize::Moves, "saves a quarter");
    assert_eq!(resize(33), Resize::Moves);
    assert_eq!(resize(512), Resize::Moves);
    assert_eq!(resize(513), Resize::Leaves);
    assert_eq!(resize(0), Resize::Leaves);
    for (wrong, why) in [
        (block + 16, "inside a block"),
        (POOL + 16, "in the header"),
        (POOL + 48 + 96, "not carved"),
    ] {
        assert_eq!(pymalloc::resize(&image, &POOLS, wrong, 32), Resize::NotPymalloc, "{why}");
    }
    assert_eq!(pymalloc::resize(&Image::default(), &POOLS, block, 32), Resize::NotPymalloc);
}

#[test]
fn every_small_request_has_a_class_and_no_other() {
    let narrow = PymallocLayout { class_shift: 3, ..POOLS };
    for size in 1..=512 {
        assert!(pymalloc::is_small(size));
        assert_eq!(pymalloc::size_class(&POOLS, size), size.div_ceil(16) - 1);
        assert_eq!(pymalloc::size_class(&narrow, size), size.div_ceil(8) - 1, "before 3.8");
    }
    for size in [0, 513, u64::MAX] {
        assert!(!pymalloc::is_small(size));
    }
}
