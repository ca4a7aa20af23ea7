//! What blocks hold, and whether it is still that.

use super::super::{Answer, Death, Identity, Inspector, Question, Reason};
use super::memory::{Made, TYPE};
use super::{FIRST, POOL, again, inspector, question, swapped};
use crate::target::memory::ReadMemory as _;

const INT: u64 = 0x0091_0000;
const STR: u64 = 0x0092_0000;
const TUPLE: u64 = 0x0093_0000;
const META: u64 = 0x7f00_3000_0000;
const THING: u64 = 0x7f00_3001_0000;
const OTHER: u64 = 0x7f00_3002_0000;

const HEAPTYPE: u64 = 1 << 9;
const HAVE_GC: u64 = 1 << 14;
const MANAGED_DICT: u64 = 1 << 4;
const CLASS: u64 = HEAPTYPE | HAVE_GC | MANAGED_DICT;

/// A full pool of blocks of 64 bytes, and some types.
fn made() -> Made {
    let made = Made::new();
    made.add_pool(POOL, 64, 255, &[]);
    made.add_type(INT, TYPE, "int", 24, 1 << 24);
    made.set(INT + 40, 4);
    made.add_type(STR, TYPE, "str", 64, 1 << 28);
    made.add_type(TUPLE, TYPE, "tuple", 24, HAVE_GC | (1 << 26));
    made.set(TUPLE + 40, 8);
    made.add_type(META, TYPE, "Meta", 920, HEAPTYPE | HAVE_GC | (1 << 31));
    made.add_type(THING, META, "Thing", 16, CLASS);
    made.add_type(OTHER, TYPE, "Other", 16, CLASS);
    made
}

fn identify(inspector: &mut Inspector, made: &Made) -> Option<Identity> {
    inspector.identify(made, &[(FIRST, 60)])[0]
}

/// The objects at their distances: none, a collector's words, and those of a managed dict.
#[test]
fn an_object_is_found_where_its_type_puts_it() {
    let made = made();
    let mut inspector = inspector(12);
    let cases = [(0, INT, "int"), (16, TUPLE, "tuple"), (32, THING, "Thing")];
    for (offset, type_address, name) in cases {
        made.write(FIRST, &[0; 64]);
        made.words(FIRST + offset, &[1, type_address, 8]);
        let found = identify(&mut inspector, &made).unwrap();
        assert_eq!((found.offset, found.type_address), (offset, type_address));
        assert_eq!(inspector.type_name(type_address), Some(name));
        // At another distance there is none.
        made.words(FIRST, &[0; 8]);
        made.words(FIRST + (offset + 16) % 48, &[1, type_address, 8]);
        assert_eq!(identify(&mut inspector, &made), None, "{name}");
    }
}

#[test]
fn what_is_no_object_has_no_identity() {
    let made = made();
    let mut inspector = inspector(12);
    // The storage of a list of types, in a program that lies high in memory and in one that lies low.
    for words in [[THING, INT, STR, 0], [INT, STR, INT, STR], [0; 4], [1, 0xdead_bee8, 1, 0]] {
        made.words(FIRST, &words);
        assert_eq!(identify(&mut inspector, &made), None, "{words:x?}");
    }
    // What looks like a type but is of no metaclass, has no name, or none that is text, or objects too large.
    for (wrong, word) in [(8, INT), (24, 0), (24, INT + 900), (32, 1 << 40)] {
        made.words(FIRST, &[1, INT, 8, 7]);
        assert!(identify(&mut inspector, &made).is_some());
        let before = made.read_u64(INT + wrong).unwrap();
        made.set(INT + wrong, word);
        assert_eq!(identify(&mut inspector, &made), None, "{wrong}");
        made.set(INT + wrong, before);
    }
    assert_eq!(inspector.identify(&made, &[(0x10_0000, 60), (FIRST, 0)]), [None, None]);
}

#[test]
fn where_type_is_not_known_it_is_what_has_itself_as_its_type() {
    let layout = crate::cpython::layout::Layout::for_version(3, 12).unwrap();
    let allocators = super::Allocators { class_shift: Some(4), glibc: true };
    let mut inspector = Inspector::new(&layout, allocators, None);
    let made = made();
    made.words(FIRST, &[0, 0, 0, 0, 1, THING]);
    assert_eq!(identify(&mut inspector, &made).map(|found| found.type_address), Some(THING));
    made.set(INT + 8, INT);
    made.set(INT + 168, (1 << 31) | (1 << 24));
    made.words(FIRST, &[1, INT, 8, 7, 0, 0]);
    assert_eq!(identify(&mut inspector, &made), None);
}

#[test]
fn an_object_of_another_type_is_another_one_unless_its_class_can_change() {
    let made = made();
    let mut inspector = inspector(12);
    made.words(FIRST, &[0, 0, 0, 0, 1, THING]);
    let thing = identify(&mut inspector, &made).unwrap();
    let mut ask = |word| {
        made.set(FIRST + 40, word);
        again(&mut inspector, &made, FIRST, 60, thing)
    };
    assert_eq!(ask(THING), Answer::Alive);
    assert_eq!(ask(OTHER), Answer::Unknown(Reason::ClassChanged));
    assert_eq!(ask(INT), Answer::Dead(Death::OtherObject));
    assert_eq!(ask(0), Answer::Dead(Death::OtherObject));
    // A class that cannot be left, or whose objects are larger.
    made.set(OTHER + 168, CLASS | (1 << 8));
    assert_eq!(ask(OTHER), Answer::Dead(Death::OtherObject));
    made.set(OTHER + 168, CLASS);
    made.set(OTHER + 32, 24);
    assert_eq!(ask(OTHER), Answer::Dead(Death::OtherObject));
}

#[test]
fn a_type_that_is_swapped_out_is_left_there() {
    let made = made();
    let mut inspector = inspector(12);
    made.words(FIRST, &[0, 0, 0, 0, 1, THING]);
    let thing = identify(&mut inspector, &made).unwrap();
    let question = Question { identity: Some(thing), ..question(FIRST, 60) };
    made.set(FIRST + 40, OTHER);
    let answers = inspector.look(&made, &swapped(&[OTHER]), &[question]);
    assert_eq!(answers, [Answer::Unknown(Reason::Swapped)]);
    // As long as the type is the same, it need not be read.
    made.set(FIRST + 40, THING);
    assert_eq!(inspector.look(&made, &swapped(&[THING]), &[question]), [Answer::Alive]);
}

#[test]
fn another_value_is_another_int_until_the_interpreter_adds_in_place() {
    for (minor, expected) in [
        (12, Answer::Dead(Death::OtherObject)),
        (14, Answer::Dead(Death::OtherObject)),
        (15, Answer::Unknown(Reason::Altered)),
    ] {
        let made = made();
        let mut inspector = inspector(minor);
        made.words(FIRST, &[1, INT, 8, 77]);
        let seven = identify(&mut inspector, &made).unwrap();
        // The number of references, the flag of small ones and what lies behind the value do not matter.
        made.words(FIRST, &[9, INT, 12, 77 | (5 << 32), 3]);
        assert_eq!(again(&mut inspector, &made, FIRST, 60, seven), Answer::Alive, "3.{minor}");
        made.set(FIRST + 24, 78);
        assert_eq!(again(&mut inspector, &made, FIRST, 60, seven), expected, "3.{minor}");
    }
}

#[test]
fn a_string_is_held_to_its_hash_once_it_has_one() {
    let made = made();
    let mut inspector = inspector(12);
    // Compact ASCII of one byte a character: bits 2, 5 and 6.
    let state = (1 << 2) | (1 << 5) | (1 << 6);
    made.words(FIRST, &[1, STR, 5, u64::MAX, state]);
    let fresh = identify(&mut inspector, &made).unwrap();
    assert_eq!(fresh.content, 0);
    made.set(FIRST + 16, 6);
    let altered = Answer::Unknown(Reason::Altered);
    assert_eq!(again(&mut inspector, &made, FIRST, 60, fresh), altered);
    made.words(FIRST + 16, &[5, 1234]);
    assert_eq!(again(&mut inspector, &made, FIRST, 60, fresh), Answer::Alive);
    let hashed = identify(&mut inspector, &made).unwrap();
    assert_ne!(hashed.content, 0);
    // Interned since: another bit of the state.
    made.set(FIRST + 32, state | 1);
    assert_eq!(again(&mut inspector, &made, FIRST, 60, hashed), Answer::Alive);
    made.set(FIRST + 24, 1235);
    let other = Answer::Dead(Death::OtherObject);
    assert_eq!(again(&mut inspector, &made, FIRST, 60, hashed), other);
    // One that is longer than its block is none.
    made.words(FIRST + 16, &[500, u64::MAX]);
    assert_eq!(identify(&mut inspector, &made), None);
}

#[test]
fn a_tuple_with_other_items_may_be_the_same() {
    let made = made();
    let mut inspector = inspector(12);
    made.words(FIRST, &[0, 0, 1, TUPLE, 2, INT, STR, 99]);
    let pair = identify(&mut inspector, &made).unwrap();
    made.set(FIRST + 56, 100);
    assert_eq!(again(&mut inspector, &made, FIRST, 60, pair), Answer::Alive);
    made.set(FIRST + 48, INT);
    let altered = Answer::Unknown(Reason::Altered);
    assert_eq!(again(&mut inspector, &made, FIRST, 60, pair), altered);
}
