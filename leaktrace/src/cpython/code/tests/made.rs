//! Code objects, names and whole stacks in memory that is made up: what live interpreters rarely have.

use std::collections::BTreeMap;

use leaktrace_common::memory::Fault;

use crate::cpython::code::{CodeCache, Reason, Resolved, read};
use crate::cpython::layout::Layout;
use crate::target::memory::ReadMemory;

/// Memory that a test makes up.
#[derive(Default)]
struct Made(BTreeMap<u64, Vec<u8>>);

impl Made {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        self.0.insert(address, bytes.to_vec());
    }
}

impl ReadMemory for Made {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let (start, bytes) = self.0.range(..=address).next_back().ok_or(Fault)?;
        let skip = usize::try_from(address - start).map_err(|_too_large| Fault)?;
        let end = skip.checked_add(buffer.len()).ok_or(Fault)?;
        buffer.copy_from_slice(bytes.get(skip..end).ok_or(Fault)?);
        Ok(())
    }
}

const TYPE: u64 = 0x1000;
const STR: u64 = 0x2000;
const BYTES: u64 = 0x3000;
const CODE: u64 = 0x1_0000;
const NAME: u64 = 0x2_0000;
const FILE: u64 = 0x3_0000;
const LINES: u64 = 0x4_0000;

fn set(bytes: &mut [u8], offset: u64, value: u64) {
    bytes[offset as usize..][..8].copy_from_slice(&value.to_le_bytes());
}

/// A compact ASCII string.
fn string(layout: &Layout, text: &str) -> Vec<u8> {
    let mut bytes = vec![0; layout.text.ascii_bytes as usize];
    set(&mut bytes, layout.object.kind, STR);
    set(&mut bytes, layout.text.length, text.len() as u64);
    let state =
        1 << layout.text.kind_bit | 1 << layout.text.compact_bit | 1 << layout.text.ascii_bit;
    set(&mut bytes, layout.text.state, state);
    bytes.extend(text.as_bytes());
    bytes
}

/// A code object `name` in `app.py`, with its types.
fn made(layout: &Layout, name: &str) -> Made {
    let mut memory = Made::default();
    for (address, flags, type_name) in
        [(TYPE, 0, "code\0"), (STR, 1 << 28, "str\0"), (BYTES, 1 << 27, "bytes\0")]
    {
        let mut bytes = vec![0; 0x200];
        set(&mut bytes, layout.object.type_flags, flags);
        set(&mut bytes, layout.object.type_name, address + 0x180);
        bytes[0x180..][..type_name.len()].copy_from_slice(type_name.as_bytes());
        memory.put(address, &bytes);
    }
    let mut code = vec![0; 0x200];
    set(&mut code, layout.object.refcnt.unwrap(), 1);
    set(&mut code, layout.code.first_line, 10);
    set(&mut code, layout.object.kind, TYPE);
    set(&mut code, layout.code.qualname.unwrap_or(layout.code.name), NAME);
    set(&mut code, layout.code.filename, FILE);
    set(&mut code, layout.code.lines, LINES);
    layout.code.first_traceable.inspect(|&offset| set(&mut code, offset, 3));
    memory.put(CODE, &code);
    memory.put(NAME, &string(layout, name));
    memory.put(FILE, &string(layout, "app.py"));
    let mut lines = vec![0; layout.object.bytes_start as usize + 1];
    set(&mut lines, layout.object.kind, BYTES);
    memory.put(LINES, &lines);
    memory
}

fn layout(minor: u8) -> Layout {
    Layout::for_version(3, minor).unwrap()
}

fn function(resolved: &Resolved) -> &str {
    match resolved {
        Resolved::Frame(frame) => &frame.function,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_code_object_at_an_old_address_is_noticed() {
    let mut memory = made(&layout(12), "old");
    let mut cache = CodeCache::new(layout(12), None);
    assert_eq!(function(&cache.resolve(&memory, CODE, 8, 0)), "old");
    assert_eq!(function(&cache.resolve(&memory, CODE, 9, 0)), "old");
    assert_eq!((cache.stats().reads, cache.stats().replaced), (1, 0));
    let mut code = memory.0[&CODE].clone();
    set(&mut code, layout(12).code.qualname.unwrap(), NAME + 0x1000);
    memory.put(CODE, &code);
    memory.put(NAME + 0x1000, &string(&layout(12), "new"));
    assert_eq!(function(&cache.resolve(&memory, CODE, 8, 0)), "new");
    assert_eq!((cache.stats().reads, cache.stats().replaced), (2, 1));
}

#[test]
fn a_freed_code_object_is_forgotten() {
    let memory = made(&layout(12), "f");
    let mut cache = CodeCache::new(layout(12), None);
    assert!(!cache.contains(CODE));
    cache.resolve(&memory, CODE, 8, 0);
    assert!(cache.contains(CODE));
    cache.forget(CODE);
    assert!(!cache.contains(CODE));
    let gone = cache.resolve(&Made::default(), CODE, 8, 0);
    assert_eq!(gone, Resolved::Unknown(Reason::Unreadable));
}

#[test]
fn equal_names_are_shared() {
    let mut memory = made(&layout(12), "app.py");
    let code = memory.0[&CODE].clone();
    memory.put(CODE + 0x1000, &code);
    let mut cache = CodeCache::new(layout(12), Some(TYPE));
    let frames: Vec<_> = [CODE, CODE + 0x1000]
        .map(|address| cache.resolve(&memory, address, 8, 0))
        .into_iter()
        .filter_map(|resolved| match resolved {
            Resolved::Frame(frame) => Some(frame),
            _ => None,
        })
        .collect();
    assert!(std::sync::Arc::ptr_eq(&frames[0].function, &frames[1].function));
    assert!(std::sync::Arc::ptr_eq(&frames[0].function, &frames[0].file));
}

#[test]
fn a_frame_that_is_being_set_up_is_no_frame_unless_it_is_a_generator() {
    let memory = made(&layout(12), "f");
    let mut cache = CodeCache::new(layout(12), None);
    assert_eq!(cache.resolve(&memory, CODE, 5, 0), Resolved::Incomplete);
    assert_eq!(cache.resolve(&memory, CODE, -2, 2), Resolved::Incomplete);
    assert_eq!(function(&cache.resolve(&memory, CODE, 5, 1)), "f");
    assert_eq!(function(&cache.resolve(&memory, CODE, 6, 0)), "f");
    let memory = made(&layout(9), "f");
    let mut cache = CodeCache::new(layout(9), None);
    assert_eq!(function(&cache.resolve(&memory, CODE, -1, 0)), "f");
}

#[test]
fn what_is_no_code_object_has_a_reason() {
    let layout = layout(11);
    let cases: [(u64, u64, u64, Reason); 6] = [
        (CODE, layout.object.kind, STR, Reason::NotCode),
        (CODE, layout.object.kind, 1, Reason::NotCode),
        (CODE, layout.code.filename, LINES, Reason::NotText),
        (CODE, layout.code.lines, FILE, Reason::NotBytes),
        (CODE, layout.code.lines, u64::MAX, Reason::Unreadable),
        (NAME, layout.text.length, u64::MAX, Reason::NotText),
    ];
    for (object, offset, value, reason) in cases {
        let mut memory = made(&layout, "f");
        let mut bytes = memory.0[&object].clone();
        set(&mut bytes, offset, value);
        memory.put(object, &bytes);
        assert_eq!(read(&memory, &layout, CODE, None), Err(reason), "{offset} = {value:#x}");
    }
    assert_eq!(read(&Made::default(), &layout, u64::MAX, None), Err(Reason::Unreadable));
}

#[test]
fn a_freed_code_object_whose_content_is_still_there_is_none() {
    for (references, alive) in [
        (0, false),
        (0x7f12_3456_7890, false),
        (0xdddd_dddd_dddd_dddd, false),
        (1, true),
        (u64::from(u32::MAX), true),
        (0x0004_0000_c000_0000, true),
    ] {
        let mut memory = made(&layout(12), "f");
        let mut bytes = memory.0[&CODE].clone();
        set(&mut bytes, layout(12).object.refcnt.unwrap(), references);
        memory.put(CODE, &bytes);
        let found = read(&memory, &layout(12), CODE, None);
        assert_eq!(found.is_ok(), alive, "{references:#x}");
    }
}

#[test]
fn a_name_that_is_too_long_is_cut_and_marked() {
    let name = "n".repeat(4096);
    for (given, wanted) in [(name.clone(), name.clone()), (name.clone() + "n", name + "\u{2026}")] {
        let memory = made(&layout(12), &given);
        assert_eq!(&*read(&memory, &layout(12), CODE, None).unwrap().function, wanted);
    }
    // A length that no memory is behind.
    let mut memory = made(&layout(12), "short");
    let mut bytes = memory.0[&NAME].clone();
    set(&mut bytes, layout(12).text.length, 1 << 40);
    memory.put(NAME, &bytes);
    assert_eq!(read(&memory, &layout(12), CODE, None), Err(Reason::Unreadable));
}

#[test]
fn code_with_a_line_table_that_is_too_long_has_its_name_and_no_line() {
    for minor in [8, 10, 12] {
        let layout = layout(minor);
        let mut memory = made(&layout, "f");
        let mut bytes = memory.0[&LINES].clone();
        set(&mut bytes, layout.object.size, (1 << 20) + 1);
        memory.put(LINES, &bytes);
        let code = read(&memory, &layout, CODE, None).unwrap();
        assert_eq!((&*code.function, code.line(8)), ("f", None));
    }
}

#[test]
fn bytes_of_a_file_name_that_are_no_utf_8_stay_apart() {
    let layout = layout(12);
    let mut memory = made(&layout, "f");
    let file = |last: u16| {
        let mut bytes = vec![0; layout.text.compact_bytes as usize];
        set(&mut bytes, layout.object.kind, STR);
        set(&mut bytes, layout.text.length, 3);
        set(
            &mut bytes,
            layout.text.state,
            2 << layout.text.kind_bit | 1 << layout.text.compact_bit,
        );
        for unit in [0x00e9, 0x540d, last] {
            bytes.extend(u16::to_le_bytes(unit));
        }
        bytes
    };
    for (last, wanted) in [(0xdce9, "é名\\udce9"), (0xdcea, "é名\\udcea"), (0x0041, "é名A")] {
        memory.put(FILE, &file(last));
        assert_eq!(&*read(&memory, &layout, CODE, None).unwrap().file, wanted);
    }
}

#[test]
fn garbage_never_panics() {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    for round in 0..20_000 {
        let layout = layout([8, 10, 11, 13][round % 4]);
        let mut memory = made(&layout, "some_name");
        for _ in 0..3 {
            let object = [TYPE, STR, BYTES, CODE, NAME, FILE, LINES][next() as usize % 7];
            let mut bytes = memory.0[&object].clone();
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
            memory.put(object, &bytes);
        }
        let mut cache = CodeCache::new(layout, None);
        let _ = cache.resolve(&memory, CODE, next() as i32, next() as u32 % 5);
    }
}
