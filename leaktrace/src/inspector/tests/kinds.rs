//! Types: their names, how long they are known, and what lies before their objects.

use super::super::object::Presize;
use super::memory::{Made, TYPE};
use super::{FIRST, POOL, inspector};
use crate::cpython::layout::Layout;

const KIND: u64 = 0x7f00_3001_0000;
const HAVE_GC: u64 = 1 << 14;
const MANAGED_DICT: u64 = 1 << 4;
const MANAGED_WEAKREF: u64 = 1 << 3;

/// A pool whose first block holds an object of a type at [`KIND`].
fn made(name: &str) -> Made {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[]);
    made.add_type(KIND, TYPE, name, 40, 0);
    made.words(FIRST, &[1, KIND]);
    made
}

fn name_of(made: &Made) -> Option<String> {
    let mut inspector = inspector(12);
    let found = inspector.identify(made, &[(FIRST, 40)])[0];
    found.and_then(|found| inspector.type_name(found.type_address)).map(str::to_owned)
}

#[test]
fn a_name_is_read_to_its_end_or_cut_between_characters() {
    for name in ["a", "package.module.Class", &"n".repeat(200), "naïve.Straße"] {
        assert_eq!(name_of(&made(name)).as_deref(), Some(name));
    }
    // 256 bytes are read, and the last one is half a character.
    let long = format!("n{}", "é".repeat(200));
    assert_eq!(name_of(&made(&long)), Some(format!("n{}", "é".repeat(127))));
    // It ends where its memory does.
    let made = made("short");
    made.map(KIND + 4096, 4096);
    made.set(KIND + 24, KIND + 4096 + 4090);
    made.write(KIND + 4096 + 4090, b"near\0");
    assert_eq!(name_of(&made).as_deref(), Some("near"));
}

#[test]
fn a_type_that_was_freed_and_made_again_has_its_new_name() {
    let made = made("Before");
    let mut inspector = inspector(12);
    let mut name = || {
        let _identities = inspector.identify(&made, &[(FIRST, 40)]);
        inspector.type_name(KIND).map(str::to_owned)
    };
    assert_eq!(name().as_deref(), Some("Before"));
    made.write(KIND + 600, b"After\0");
    made.set(KIND + 24, KIND + 600);
    assert_eq!(name().as_deref(), Some("After"));
    made.set(KIND + 8, 0);
    assert_eq!(name(), None);
}

#[test]
fn what_lies_before_an_object_is_what_its_version_puts_there() {
    let of = |minor, free_threaded, shift, flags| {
        let layout = if free_threaded {
            Layout::for_free_threaded(3, minor)
        } else {
            Layout::for_version(3, minor)
        };
        Presize::new(&layout.unwrap(), shift).of(flags)
    };
    let managed = HAVE_GC | MANAGED_DICT;
    assert_eq!(of(7, false, Some(3), HAVE_GC), 24);
    assert_eq!(of(7, false, Some(4), HAVE_GC), 32);
    assert_eq!(of(8, false, Some(4), HAVE_GC), 16);
    assert_eq!(of(10, false, Some(4), managed), 16);
    assert_eq!(of(11, false, Some(4), managed), 32);
    assert_eq!(of(11, false, Some(4), HAVE_GC | MANAGED_WEAKREF), 16);
    assert_eq!(of(12, false, Some(4), HAVE_GC | MANAGED_WEAKREF), 32);
    assert_eq!(of(15, false, Some(4), managed | MANAGED_WEAKREF), 32);
    assert_eq!(of(14, true, None, managed), 16);
    assert_eq!(of(14, true, None, HAVE_GC), 0);
    assert_eq!(of(14, false, Some(4), 0), 0);
}
