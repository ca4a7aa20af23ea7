//! The walk that BPF runs and the naming of its frames, on captured memory of real interpreters: no root, no kernel,
//! no Python.
//!
//! `cargo xtask images` captures the images anew; it names the interpreters in `LEAKTRACE_CAPTURE`, one a line.

mod capture;
mod image;

use std::collections::BTreeSet;
use std::path::Path;

use leaktrace_common::event::stack_end;
use leaktrace_common::limits::{MAX_FRAMES, MAX_STEPS};
use leaktrace_common::thread::NoStack;
use leaktrace_common::unwind::Walked;

use image::{Captured, Image, POINTER, lines, named, thread, walk_from};

/// The shapes of stacks: functions of `stacks.py`.
const CASES: &[&str] = &[
    "plain",
    "deep",
    "deep_through_c",
    "extension",
    "generator",
    "coroutine",
    "async_generator",
    "async_comprehension",
    "class_body",
    "comprehension",
    "executed",
    "lambdas",
    "decorated",
    "in_thread",
    "descriptor",
    "context",
    "handler",
    "finalizer",
    "frozen",
    "names",
];

/// The minor versions that there are images of.
const MINORS: std::ops::RangeInclusive<u8> = 6..=15;

#[test]
fn the_stacks_of_captured_interpreters_are_what_python_said() {
    if capture_if_wanted() {
        return;
    }
    let images = Captured::all();
    assert_eq!(images.len(), CASES.len() * MINORS.count());
    let minors: BTreeSet<u8> = images.iter().map(|image| image.minor).collect();
    assert!(minors.into_iter().eq(MINORS));
    for captured in images {
        let (frames, walked) = captured.walk(&captured.image);
        let (stack, whole_pct) = named(&captured.image, &captured.layout(), &frames, walked);
        assert_eq!(whole_pct, Some(100.0), "{}", captured.name);
        let seen = lines(&stack);
        assert_eq!(seen, captured.expected[..seen.len()], "{}", captured.name);
        assert_eq!(stack.truncated, seen.len() < captured.expected.len(), "{}", captured.name);
        match walked.end {
            // Frames of the C stack count as steps: then a stack is cut before it has as many of Python.
            stack_end::LIMIT => assert!(captured.name.starts_with("deep_through_c")),
            end => {
                assert_eq!(end, stack_end::COMPLETE, "{}", captured.name);
                assert_eq!(seen.len(), captured.expected.len().min(MAX_FRAMES));
            }
        }
    }
}

#[test]
fn a_stack_deeper_than_the_limit_keeps_its_innermost_frames() {
    for captured in Captured::all().iter().filter(|image| image.name.starts_with("deep")) {
        let (frames, walked) = captured.walk(&captured.image);
        let (stack, _) = named(&captured.image, &captured.layout(), &frames, walked);
        assert!(stack.frames.len() >= MAX_STEPS as usize / 2 - 1, "{}", captured.name);
        assert!(stack.frames[0].function.starts_with("stop"));
        assert_eq!(stack.truncated, stack.frames.len() < captured.expected.len());
    }
}

#[test]
fn a_stack_with_a_page_that_is_not_there_is_cut_there_and_marked() {
    for captured in Captured::all() {
        let addresses = captured.addresses();
        let (whole, _) = captured.walk(&captured.image);
        let outermost = *addresses.last().expect("there are frames");
        for &address in [addresses[1], addresses[addresses.len() / 2], outermost].iter() {
            let cut = captured.image.without_page_of(address);
            let (frames, walked) = walk_from(&cut, &captured.layout(), addresses[0]);
            assert_eq!(walked.end, stack_end::FAULT, "{}", captured.name);
            assert_eq!(frames, whole[..frames.len()], "{}", captured.name);
            let (stack, _) = named(&captured.image, &captured.layout(), &frames, walked);
            // The outermost frame may be one of the C stack, which no name is lost with.
            assert!(stack.truncated, "{}", captured.name);
            assert_eq!(lines(&stack), captured.expected[..stack.frames.len()], "{}", captured.name);
        }
    }
}

#[test]
fn a_stack_whose_links_run_in_a_circle_ends_at_the_limit() {
    for captured in Captured::all() {
        let addresses = captured.addresses();
        let link = captured.layout().frame_layout().previous;
        for length in [1, 2, addresses.len()] {
            let circle = captured.image.with_word(addresses[length - 1] + link, addresses[0]);
            let (frames, walked) = captured.walk(&circle);
            assert_eq!(walked, Walked { depth: MAX_STEPS, end: stack_end::LIMIT });
            assert!(frames.iter().zip(&frames[length..]).all(|(one, next)| one == next));
            let (stack, _) = named(&circle, &captured.layout(), &frames, walked);
            assert!(stack.truncated && stack.frames.len() <= MAX_FRAMES);
        }
    }
}

#[test]
fn a_thread_that_does_not_hold_the_gil_has_no_stack() {
    for captured in Captured::all() {
        let layout = captured.layout();
        let read = |image: &Image, pointer| thread(image, &layout, pointer).map(drop);
        assert_eq!(read(&captured.image, captured.pointer), Ok(()));
        assert_eq!(read(&captured.image, captured.pointer + 8), Err(NoStack::Foreign));
        let none = captured.image.with_word(POINTER, 0);
        assert_eq!(read(&none, captured.pointer), Err(NoStack::NoThread));
        let gone = captured.image.with_word(POINTER, 0x1000);
        assert_eq!(read(&gone, captured.pointer), Err(NoStack::Fault));
    }
}

#[test]
fn memory_that_changes_under_the_reader_never_makes_it_panic_or_run_for_ever() {
    let images = Captured::all();
    let mut random = fastrand::Rng::with_seed(7);
    for captured in &images {
        let (first, layout) = (captured.innermost(), captured.layout());
        let addresses: Vec<u64> = captured.image.0.keys().copied().collect();
        for _ in 0..6 {
            let mut image = captured.image.clone();
            for _ in 0..random.usize(1..40) {
                let address = addresses[random.usize(..addresses.len())];
                match random.u8(..4) {
                    0 => drop(image.0.remove(&address)),
                    1 => drop(image.0.insert(address, random.u8(..))),
                    2 => {
                        image = image
                            .with_word(address & !7, addresses[random.usize(..addresses.len())])
                    }
                    _ => image = image.with_word(address & !7, random.u64(..)),
                }
            }
            let (frames, walked) = walk_from(&image, &layout, first);
            assert!(frames.len() == walked.depth as usize && walked.depth <= MAX_STEPS);
            let (stack, _) = named(&image, &layout, &frames, walked);
            assert!(stack.frames.len() <= MAX_FRAMES);
        }
    }
}

/// `LEAKTRACE_CAPTURE` holds the interpreters, one a line, which are run with `LEAKTRACE_CAPTURE_ROOT` as their root.
fn capture_if_wanted() -> bool {
    let Ok(pythons) = std::env::var("LEAKTRACE_CAPTURE") else { return false };
    let root = std::env::var_os("LEAKTRACE_CAPTURE_ROOT");
    for python in pythons.lines() {
        capture::capture(root.as_deref(), Path::new(python), CASES);
    }
    true
}
