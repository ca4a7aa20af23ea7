//! Code objects, names and whole stacks, compared with what live interpreters say of themselves.

use std::collections::BTreeMap;

use leaktrace_common::event::Frame as RawFrame;
use leaktrace_common::memory::Fault;
use leaktrace_common::unwind::{FrameSink, walk};

use super::super::debug_offsets;
use super::super::interpreters::{self, Python, unhex};
use super::super::layout::{Layout, Obmalloc};
use super::{CodeCache, Reason, Resolved, read};
use crate::target::memory::{ProcessMemory, ReadMemory};

/// Prints address, name, file and first line of code objects with all kinds of names.
const CODES: &str = r"
import sys, types
source = '''
def plain():
    return lambda: (x for x in [])
class Größe:
    def wächst(self):
        def 名前(): pass
        return 名前
    async def läuft(self): yield
    @staticmethod
    def 𝔘nicode(): return [y for y in ()]
def é(): pass
'''
class Text(str): pass
names = ['plain.py', 'größe.py', '名前/路.py', '\U0001f40d.py', Text('sub class.py'), '']
print(id(types.CodeType))
kept = []
def dump(code):
    kept.append(code)
    name = getattr(code, 'co_qualname', code.co_name)
    words = [name, str(code.co_filename)]
    print(id(code), code.co_firstlineno, *['.' + word.encode().hex() for word in words])
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            dump(const)
for name in names:
    code = compile('\n' * len(name) + source, name, 'exec')
    dump(code)
print('end', flush=True)
sys.stdin.readline()
";

/// Prints the address of `_PyRuntime` (0 where it is not exported), then its own stack, innermost first, and waits in
/// the innermost function.
const STACK: &str = r"
import ctypes, sys
def runtime():
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, '_PyRuntime'))
    except ValueError:
        return 0
def describe(frame):
    text = str(runtime()) + '\n'
    while frame:
        code = frame.f_code
        name = getattr(code, 'co_qualname', code.co_name)
        text += ' '.join([str(frame.f_lineno), name, code.co_filename]) + '\n'
        frame = frame.f_back
    return text
class Tiefe:
    def wartet(self):
        out = sys.stdout; out.write(describe(sys._getframe()) + 'end\n'); out.flush(); sys.stdin.readline()
    def __eq__(self, other):
        # Called from C, so that a frame of the C stack lies between.
        return self.wartet()
def generator():
    yield [Tiefe()].index(
        Tiefe() if True else 0
    )
def comprehension():
    return [list(generator())
            for _ in range(1)]
sorted([1], key=lambda _: comprehension())
";

/// A code object as Python describes it.
struct Expected {
    address: u64,
    first_line: i32,
    function: String,
    file: String,
}

impl Expected {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let text = |word: &str| String::from_utf8(unhex(&word[1..])).unwrap();
        Self {
            address: words[0].parse().unwrap(),
            first_line: words[1].parse().unwrap(),
            function: text(words[2]),
            file: text(words[3]),
        }
    }
}

#[test]
fn code_objects_read_from_outside_are_what_python_says() {
    for python in interpreters::all() {
        let layout = Layout::for_version(3, python.minor).unwrap();
        let mut script = python.start(CODES);
        let code_type: u64 = script.line().parse().unwrap();
        let expected: Vec<Expected> = script.lines().iter().map(|x| Expected::parse(x)).collect();
        let memory = ProcessMemory::open(script.pid()).unwrap();
        let name = python.name();
        for known in [None, Some(code_type)] {
            for want in &expected {
                let code = read(&memory, &layout, want.address, known).unwrap();
                assert_eq!(*code.function, *want.function, "{name}");
                assert_eq!(*code.file, *want.file, "{name}");
                assert_eq!(code.first_line, want.first_line, "{name}");
            }
            assert_eq!(read(&memory, &layout, code_type, known), Err(Reason::NotCode));
        }
        let kinds = ["größe.py", "名前/路.py", "\u{1f40d}.py", "sub class.py", ""];
        for kind in kinds {
            assert!(expected.iter().any(|code| code.file == kind), "{name} printed no `{kind}`");
        }
        interpreters::note(&format!("{name}: {} code objects", expected.len()));
    }
}

/// The innermost frame of the target's only thread, found through its `_PyRuntime`.
fn innermost(memory: &ProcessMemory, layout: &Layout, runtime: u64) -> u64 {
    let word = |address: u64| memory.read_u64(address).unwrap();
    let fields = layout.runtime.as_ref().unwrap();
    let interpreter = word(runtime + fields.interpreters_head);
    let thread = word(interpreter + layout.interpreter.threads);
    let state = layout.thread_layout();
    if let Some(main) = fields.interpreters_main {
        assert_eq!(word(runtime + main), interpreter);
    }
    assert_eq!(word(thread + layout.thread.interp), interpreter);
    let gil = match (fields.gil, layout.interpreter.gil) {
        (Some(gil), _) => runtime + gil,
        (None, gil) => word(interpreter + gil.unwrap()),
    };
    assert_eq!(word(gil + fields.last_holder), thread);
    check_pools(memory, layout, interpreter);
    let frame = word(thread + state.frame);
    if state.indirect == 0 { frame } else { word(frame + state.cframe_current_frame) }
}

/// Whether the words where `pools.used` should be lead to pools of their size classes, or to themselves.
fn check_pools(memory: &ProcessMemory, layout: &Layout, interpreter: u64) {
    let used = match layout.interpreter.obmalloc {
        Obmalloc::Static => return,
        Obmalloc::Embedded { used, .. } => interpreter + used,
        Obmalloc::Pointer { pointer, used } => {
            memory.read_u64(interpreter + pointer).unwrap() + used
        }
    };
    let Some(pymalloc) = layout.pymalloc_layout() else { return assert!(layout.is_guess) };
    for class in 0..512 >> pymalloc.class_shift {
        let pair = used + 16 * class;
        let pool = memory.read_u64(pair).unwrap();
        if pool != pair - 16 {
            assert!(pool.is_multiple_of(pymalloc.pool_bytes), "class {class}: {pool:#x}");
            assert_eq!(memory.read_u32(pool + layout.pool.szidx).unwrap(), class as u32);
        }
    }
}

#[derive(Default)]
struct Frames(Vec<RawFrame>);

impl FrameSink for Frames {
    fn frame(&mut self, _index: u32, frame: RawFrame) {
        self.0.push(frame);
    }
}

/// The target's stack as text, one `line function file` a frame.
fn stack(memory: &ProcessMemory, layout: &Layout, runtime: u64) -> Vec<String> {
    let mut frames = Frames::default();
    let first = innermost(memory, layout, runtime);
    walk(memory, &layout.frame_layout(), first, &mut frames);
    let mut cache = CodeCache::new(layout.clone(), None);
    let mut texts = Vec::new();
    for frame in frames.0.into_iter().filter(|frame| frame.code != 0) {
        match cache.resolve(memory, frame.code, frame.offset, frame.owner) {
            Resolved::Frame(frame) => {
                texts.push(format!("{} {} {}", frame.line.unwrap_or(0), frame.function, frame.file))
            }
            Resolved::Incomplete => {}
            Resolved::Unknown(reason) => panic!("{frame:?}: {reason}"),
        }
    }
    texts
}

/// Makes wrong what a target must say of itself.
fn forget(guess: &mut Layout) {
    (guess.frame.previous, guess.frame.code, guess.frame.owner) = (0, 0, Some(0));
    (guess.code.filename, guess.code.name, guess.code.qualname) = (0, 0, Some(0));
    (guess.code.lines, guess.code.first_line, guess.code.code_start) = (0, 0, 0);
    (guess.thread.interp, guess.thread.frame, guess.thread.thread_id) = (0, 0, 0);
    (guess.object.kind, guess.object.type_name, guess.object.type_flags) = (0, 0, 0);
    (guess.interpreter.next, guess.interpreter.threads, guess.interpreter.gil) = (0, 0, None);
}

fn compare_stacks(python: &Python) {
    let mut layout = Layout::for_version(3, python.minor).unwrap();
    let mut script = python.start(STACK);
    let runtime: u64 = script.line().parse().unwrap();
    let expected = script.lines();
    if runtime == 0 {
        interpreters::note(&format!("{}: no `_PyRuntime`, stack not compared", python.name()));
        return;
    }
    let memory = ProcessMemory::open(script.pid()).unwrap();
    assert_eq!(stack(&memory, &layout, runtime), expected, "{}", python.name());
    if layout.debug_offsets.is_some() {
        let table = layout.clone();
        debug_offsets::refine(&memory, runtime, &mut layout).unwrap();
        assert_eq!(layout, table, "{} and its table disagree", python.name());
        let mut guess = table.into_guess(python.minor);
        forget(&mut guess);
        debug_offsets::refine(&memory, runtime, &mut guess).unwrap();
        assert_eq!(guess.frame_layout(), layout.frame_layout());
        assert_eq!(guess.thread_layout(), layout.thread_layout());
        assert_eq!(stack(&memory, &guess, runtime), expected, "{}, by a guess", python.name());
        assert_eq!(stack(&memory, &layout, runtime), expected, "{}", python.name());
    }
    interpreters::note(&format!("{}: {} frames", python.name(), expected.len()));
}

#[test]
fn a_stack_walked_from_outside_is_what_python_says() {
    for python in interpreters::all() {
        compare_stacks(&python);
    }
}

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
