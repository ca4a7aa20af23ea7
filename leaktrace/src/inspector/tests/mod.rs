//! The inspector on made-up memory. Against real interpreters it is tested in `leaktrace/tests/inspector.rs`.

mod blocks;
mod chunks;
mod draws;
mod kinds;
mod memory;
mod names;
mod objects;

use std::os::unix::fs::FileExt as _;

use super::{Allocators, Answer, Identity, Inspector, Question};
use crate::cpython::census::Resident;
use crate::cpython::layout::Layout;
use memory::Made;

const POOL: u64 = 0x7f00_0010_0000;
const FIRST: u64 = POOL + 48;

fn inspector(minor: u8) -> Inspector {
    let layout = Layout::for_version(3, minor).unwrap();
    Inspector::new(&layout, Allocators { class_shift: Some(4), glibc: true }, Some(memory::TYPE))
}

const fn question(address: u64, size: u64) -> Question {
    Question { address, size, is_raw: false, identity: None, held_none: false }
}

fn look(made: &Made, questions: &[Question]) -> Vec<Answer> {
    inspector(12).look(made, &Resident::default(), questions)
}

/// All addresses that the tests ask about are below.
const END: u64 = POOL + (1 << 32);

/// What is known where the pages of `addresses` are swapped out.
fn swapped(addresses: &[u64]) -> Resident {
    let pagemap = tempfile::tempfile().unwrap();
    pagemap.set_len(END / 4096 * 8).unwrap();
    for address in addresses {
        pagemap.write_all_at(&(1_u64 << 62).to_le_bytes(), address / 4096 * 8).unwrap();
    }
    Resident::from_pagemap(pagemap)
}

/// What is found of one block that was `identity` before.
fn again(
    inspector: &mut Inspector,
    made: &Made,
    address: u64,
    size: u64,
    identity: Identity,
) -> Answer {
    let question = Question { identity: Some(identity), ..question(address, size) };
    inspector.look(made, &Resident::default(), &[question])[0]
}
