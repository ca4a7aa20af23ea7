//! Code objects, names and whole stacks in memory that is made up: what live interpreters rarely have.

use super::resolve;
use crate::cpython::code::made::{
    BYTES, CODE, FILE, LINES, Made, NAME, STR, TYPE, layout, made, set, string,
};
use crate::cpython::code::{CodeCache, Reason, Resolved, read};

fn function(resolved: &Resolved) -> &str {
    match resolved {
        Resolved::Frame(frame) => &frame.function,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_code_object_at_an_old_address_is_noticed() {
    let mut memory = made(&layout(12), "old");
    let mut cache = CodeCache::new(layout(12), None, false);
    assert_eq!(function(&resolve(&mut cache, &memory, CODE, 8, 0)), "old");
    assert_eq!(function(&resolve(&mut cache, &memory, CODE, 9, 0)), "old");
    assert_eq!((cache.stats().reads, cache.stats().replaced), (1, 0));
    let mut code = memory.0[&CODE].clone();
    set(&mut code, layout(12).code.qualname.unwrap(), NAME + 0x1000);
    memory.put(CODE, &code);
    memory.put(NAME + 0x1000, &string(&layout(12), "new"));
    assert_eq!(function(&resolve(&mut cache, &memory, CODE, 8, 0)), "new");
    assert_eq!((cache.stats().reads, cache.stats().replaced), (2, 1));
}

/// Gives the code object another name, without moving anything.
fn rename(memory: &mut Made, name: &str) {
    memory.put(NAME, &string(&layout(12), name));
}

#[test]
fn what_is_proven_is_not_read_again_until_it_is_freed() {
    let mut memory = made(&layout(12), "old");
    let mut cache = CodeCache::new(layout(12), None, true);
    assert_eq!(cache.look(&memory, CODE, 5), Ok(false));
    cache.prove(CODE);
    rename(&mut memory, "new");
    assert_eq!(cache.look(&memory, CODE, 5), Ok(true));
    assert_eq!(function(&cache.frame(&memory, CODE, 8, 0)), "old");
    cache.forget(CODE);
    assert_eq!(cache.look(&memory, CODE, 5), Ok(false));
    assert_eq!(function(&cache.frame(&memory, CODE, 8, 0)), "new");
}

#[test]
fn what_is_in_doubt_is_proven_by_what_is_the_same_before_and_after() {
    let mut memory = made(&layout(12), "old");
    let mut cache = CodeCache::new(layout(12), None, true);
    assert_eq!(cache.look(&memory, CODE, 5), Ok(false));
    cache.doubt(CODE, 100);
    assert_eq!(cache.look(&memory, CODE, 100), Ok(false), "it ran before it was first read");
    cache.doubt(CODE, 200);
    assert_eq!(cache.look(&memory, CODE, 201), Ok(true));
    cache.begin_to_read_anew();
    assert!(cache.drop_changed(&memory, 1).is_empty());
    rename(&mut memory, "new");
    cache.begin_to_read_anew();
    assert_eq!(cache.drop_changed(&memory, 1), [CODE]);
    assert_eq!(cache.look(&memory, CODE, 300), Ok(false));
    cache.doubt(CODE, 400);
    rename(&mut memory, "old");
    assert_eq!(cache.look(&memory, CODE, 500), Ok(false), "it is not the same");
}

#[test]
fn what_is_distrusted_is_proven_by_another_look() {
    let mut memory = made(&layout(12), "old");
    let mut cache = CodeCache::new(layout(12), None, true);
    assert_eq!(cache.look(&memory, CODE, 5), Ok(false));
    cache.prove(CODE);
    cache.distrust();
    assert_eq!(cache.look(&memory, CODE, 6), Ok(true));
    assert_eq!(cache.stats().reads, 2);
    assert!(cache.take_replaced().is_empty());
    rename(&mut memory, "new");
    assert_eq!(cache.look(&memory, CODE, 7), Ok(true), "it is trusted again");
    cache.distrust();
    assert_eq!(cache.look(&memory, CODE, 8), Ok(false));
    assert_eq!(cache.take_replaced(), [CODE]);
    cache.prove(CODE);
    memory.0.remove(&CODE);
    cache.distrust();
    assert_eq!(cache.look(&memory, CODE, 9), Err(Reason::Unreadable));
    assert_eq!(cache.take_replaced(), [CODE]);
    assert!(cache.take_replaced().is_empty());
}

#[test]
fn a_freed_code_object_is_forgotten() {
    let memory = made(&layout(12), "f");
    let mut cache = CodeCache::new(layout(12), None, false);
    assert!(!cache.contains(CODE));
    resolve(&mut cache, &memory, CODE, 8, 0);
    assert!(cache.contains(CODE));
    cache.forget(CODE);
    assert!(!cache.contains(CODE));
    let gone = resolve(&mut cache, &Made::default(), CODE, 8, 0);
    assert_eq!(gone, Resolved::Unknown(Reason::Unreadable));
}

#[test]
fn equal_names_are_shared() {
    let mut memory = made(&layout(12), "app.py");
    let code = memory.0[&CODE].clone();
    memory.put(CODE + 0x1000, &code);
    let mut cache = CodeCache::new(layout(12), Some(TYPE), false);
    let frames: Vec<_> = [CODE, CODE + 0x1000]
        .map(|address| resolve(&mut cache, &memory, address, 8, 0))
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
    let mut cache = CodeCache::new(layout(12), None, false);
    assert_eq!(resolve(&mut cache, &memory, CODE, 5, 0), Resolved::Incomplete);
    assert_eq!(resolve(&mut cache, &memory, CODE, -2, 2), Resolved::Incomplete);
    assert_eq!(function(&resolve(&mut cache, &memory, CODE, 5, 1)), "f");
    assert_eq!(function(&resolve(&mut cache, &memory, CODE, 6, 0)), "f");
    let memory = made(&layout(9), "f");
    let mut cache = CodeCache::new(layout(9), None, false);
    assert_eq!(function(&resolve(&mut cache, &memory, CODE, -1, 0)), "f");
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
        let mut cache = CodeCache::new(layout, None, false);
        let _ = resolve(&mut cache, &memory, CODE, next() as i32, next() as u32 % 5);
    }
}
