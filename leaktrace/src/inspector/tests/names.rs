//! What types are called, and what a block is said to hold.

use super::super::{Content, Inspector};
use super::memory::{Made, TYPE};
use super::{FIRST, POOL, inspector, question, swapped};
use crate::cpython::census::Resident;
use crate::cpython::layout::Layout;

const KIND: u64 = 0x7f00_3001_0000;
const STR: u64 = 0x7f00_3002_0000;
const DICT: u64 = 0x7f00_3003_0000;
const KEYS: u64 = 0x7f00_3004_0000;
const TEXTS: u64 = 0x7f00_3005_0000;

const HEAPTYPE: u64 = 1 << 9;

/// `tp_dict` of a `PyTypeObject`.
const TP_DICT: u64 = 264;

/// A pool whose first block holds an object of a type at [`KIND`], in a program whose strings are laid out so.
struct Program {
    made: Made,
    layout: Layout,
}

impl Program {
    fn new(minor: u8, name: &str, flags: u64) -> Self {
        let made = Made::new();
        made.add_pool(POOL, 64, 10, &[]);
        made.add_type(STR, TYPE, "str", 64, 1 << 28);
        made.add_type(KIND, TYPE, name, 40, flags);
        made.words(FIRST, &[1, KIND]);
        [DICT, KEYS, TEXTS].iter().for_each(|&address| made.map(address, 4096));
        Self { made, layout: Layout::for_version(3, minor).unwrap() }
    }

    /// Puts a string in ASCII at `address`.
    fn text(&self, address: u64, text: &str) {
        let fields = &self.layout.text;
        self.made.words(address, &[1, STR]);
        self.made.set(address + fields.length, text.len() as u64);
        let state = (1 << fields.kind_bit) | (1 << fields.compact_bit) | (1 << fields.ascii_bit);
        self.made.write(address + fields.state, &u32::to_le_bytes(state));
        self.made.write(address + fields.ascii_bytes, text.as_bytes());
    }

    /// Gives the type a dict with these entries (hash, key, value), in the form of its version.
    fn dict(&self, entries: &[[u64; 3]]) {
        self.made.set(KIND + TP_DICT, DICT);
        self.made.words(DICT, &[1, 0, entries.len() as u64, 0, KEYS, 0]);
        let count = entries.len() as u64;
        if self.layout.minor <= 10 {
            self.made.words(KEYS, &[1, 8, 0, 0, count, 0]);
            self.made.words(KEYS + 48, entries.as_flattened());
        } else {
            // Eight indices of a byte each, and strings alone as keys.
            self.made.words(KEYS, &[1, 0x01_03_03, 0, count, 0]);
            let pairs: Vec<u64> =
                entries.iter().flat_map(|&[_, key, value]| [key, value]).collect();
            self.made.words(KEYS + 40, &pairs);
        }
    }

    fn name(&self) -> Option<String> {
        // Without the allocator's books: pools are of another size up to 3.9.
        let allocators = super::Allocators { class_shift: None, glibc: false };
        let mut inspector = Inspector::new(&self.layout, allocators, Some(TYPE));
        let all = Resident::default();
        let found = inspector.contents(&self.made, &all, &[question(FIRST, 60)])[0];
        let Content::Object(kind) = found else { return None };
        inspector.full_name(&self.made, &all, kind)
    }
}

#[test]
fn a_class_has_its_module_and_other_types_have_it_already() {
    for minor in [6, 9, 10, 11, 12, 13, 15] {
        let program = Program::new(minor, "Order", HEAPTYPE);
        program.text(TEXTS, "color");
        program.text(TEXTS + 256, "__module__");
        program.text(TEXTS + 512, "shop.models");
        program.dict(&[[1, TEXTS, TEXTS], [2, TEXTS + 256, TEXTS + 512]]);
        assert_eq!(program.name().as_deref(), Some("shop.models.Order"), "3.{minor}");
        program.text(TEXTS + 512, "builtins");
        assert_eq!(program.name().as_deref(), Some("Order"), "3.{minor}");
    }
    for (name, flags, shown) in [
        ("collections.OrderedDict", 0, "collections.OrderedDict"),
        ("zoneinfo.ZoneInfo", HEAPTYPE, "zoneinfo.ZoneInfo"),
        ("builtins.thing", 0, "thing"),
        ("dict", 0, "dict"),
    ] {
        assert_eq!(Program::new(12, name, flags).name().as_deref(), Some(shown));
    }
}

#[test]
fn what_is_no_module_leaves_the_bare_name() {
    let program = Program::new(12, "Order", HEAPTYPE);
    let bare = |context: &str| assert_eq!(program.name().as_deref(), Some("Order"), "{context}");
    bare("without a dict");
    program.text(TEXTS, "__module__");
    program.text(TEXTS + 512, "shop");
    program.dict(&[[2, TEXTS, TEXTS + 512]]);
    assert_eq!(program.name().as_deref(), Some("shop.Order"));
    program.made.set(DICT + 40, TEXTS);
    bare("with values apart from its keys");
    program.made.set(DICT + 40, 0);
    program.text(TEXTS + 512, "sh\x1bop");
    bare("with a control character");
    program.text(TEXTS + 512, "shop");
    program.made.set(TEXTS + 512 + 8, KIND);
    bare("of another type than str");
    program.text(TEXTS + 512, "shop");
    program.made.set(TEXTS + 512 + program.layout.text.length, 1 << 40);
    bare("of any length");
    program.made.set(KEYS + 8, 0xff_ff_ff);
    bare("with a table of any size");
    program.dict(&[[2, 0x10, 0x18], [3, TEXTS + 8, TEXTS + 9]]);
    bare("with entries of anything");
}

#[test]
fn a_block_is_said_to_hold_what_can_be_told() {
    let made = Made::new();
    made.add_pool(POOL, 64, 10, &[3, 4]);
    made.add_type(KIND, TYPE, "Thing", 40, 0);
    made.words(FIRST, &[1, KIND]);
    made.words(FIRST + 64, &[KIND, KIND, KIND]);
    let far = POOL + (1 << 30);
    made.add_pool(far, 64, 10, &[]);
    made.words(far + 48, &[1, KIND]);
    let asked = [
        question(FIRST, 60),
        question(FIRST + 64, 60),
        question(FIRST + 3 * 64, 60),
        question(far + 48, 60),
    ];
    let contents = |resident: &Resident| inspector(12).contents(&made, resident, &asked);
    let object = Content::Object(KIND);
    let all = [object, Content::NoObject, Content::Gone, object];
    assert_eq!(contents(&Resident::default()), all);
    let some = [object, Content::NoObject, Content::Gone, Content::Unknown];
    assert_eq!(contents(&swapped(&[far])), some);
    // Without the type it cannot be told what its objects are.
    assert_eq!(contents(&swapped(&[KIND]))[0], Content::Unknown);
}
