//! Code objects, names and whole stacks, compared with what live interpreters say of themselves.

use leaktrace_common::event::Frame as RawFrame;
use leaktrace_common::unwind::{FrameSink, walk};

use super::resolve;
use crate::cpython::code::{CodeCache, Reason, Resolved, read};
use crate::cpython::debug_offsets;
use crate::cpython::interpreters::{self, Python, unhex};
use crate::cpython::layout::{Layout, Obmalloc};
use crate::target::memory::{ProcessMemory, ReadMemory as _};

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

/// Prints the addresses of `_PyRuntime` (0 where it is not exported, as in 3.6) and of its only interpreter, then its own
/// stack, innermost first, and waits in the innermost function.
const STACK: &str = r"
import ctypes, sys
def runtime():
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, '_PyRuntime'))
    except ValueError:
        return 0
def interpreter():
    head = ctypes.pythonapi.PyInterpreterState_Head
    head.restype = ctypes.c_void_p
    return head()
def describe(frame):
    text = '%d %d\n' % (runtime(), interpreter())
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

/// What a script says leads to its stack.
struct Said {
    runtime: u64,
    interpreter: u64,
}

impl Said {
    fn parse(line: &str) -> Self {
        let (runtime, interpreter) = line.split_once(' ').unwrap();
        Self { runtime: runtime.parse().unwrap(), interpreter: interpreter.parse().unwrap() }
    }
}

/// The innermost frame of the target's only thread.
fn innermost(memory: &ProcessMemory, layout: &Layout, said: &Said) -> u64 {
    let word = |address: u64| memory.read_u64(address).unwrap();
    let &Said { runtime, interpreter } = said;
    let thread = word(interpreter + layout.interpreter.threads);
    let state = layout.thread_layout();
    assert_eq!(word(thread + layout.thread.interp), interpreter);
    if let Some(fields) = &layout.runtime {
        assert_eq!(word(runtime + fields.interpreters_head), interpreter);
        if let Some(main) = fields.interpreters_main {
            assert_eq!(word(runtime + main), interpreter);
        }
        let gil = match (fields.gil, layout.interpreter.gil) {
            (Some(gil), _) => runtime + gil,
            (None, gil) => word(interpreter + gil.unwrap()),
        };
        assert_eq!(word(gil + fields.last_holder), thread);
    }
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
fn stack(memory: &ProcessMemory, layout: &Layout, said: &Said) -> Vec<String> {
    let mut frames = Frames::default();
    let first = innermost(memory, layout, said);
    walk(memory, &layout.frame_layout(), first, &mut frames);
    let mut cache = CodeCache::new(layout.clone(), None, false);
    let mut texts = Vec::new();
    for frame in frames.0.into_iter().filter(|frame| frame.code != 0) {
        match resolve(&mut cache, memory, frame.code, frame.offset, frame.owner) {
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
    let said = Said::parse(&script.line());
    let expected = script.lines();
    if said.runtime == 0 && layout.runtime.is_some() {
        interpreters::note(&format!("{}: no `_PyRuntime`, stack not compared", python.name()));
        return;
    }
    let memory = ProcessMemory::open(script.pid()).unwrap();
    assert_eq!(stack(&memory, &layout, &said), expected, "{}", python.name());
    if layout.debug_offsets.is_some() {
        let table = layout.clone();
        debug_offsets::refine(&memory, said.runtime, &mut layout).unwrap();
        assert_eq!(layout, table, "{} and its table disagree", python.name());
        let mut guess = table.into_guess(python.minor);
        forget(&mut guess);
        debug_offsets::refine(&memory, said.runtime, &mut guess).unwrap();
        assert_eq!(guess.frame_layout(), layout.frame_layout());
        assert_eq!(guess.thread_layout(), layout.thread_layout());
        assert_eq!(stack(&memory, &guess, &said), expected, "{}, by a guess", python.name());
        assert_eq!(stack(&memory, &layout, &said), expected, "{}", python.name());
    }
    interpreters::note(&format!("{}: {} frames", python.name(), expected.len()));
}

#[test]
fn a_stack_walked_from_outside_is_what_python_says() {
    for python in interpreters::all() {
        compare_stacks(&python);
    }
}
