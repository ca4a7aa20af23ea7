//! Line tables of all formats, compared with what real interpreters say for every offset.

use super::super::interpreters::{self, unhex};
use super::super::layout::Layout;
use super::{LineFormat, line_at};

/// Prints, for each code object of some modules, the first line, the table, and the line of every even offset from
/// -2 to beyond the end, as `PyCode_Addr2Line` gives it.
const SCRIPT: &str = r"
import ctypes, importlib, importlib.util, sys, types
addr2line = ctypes.pythonapi.PyCode_Addr2Line
addr2line.argtypes = [ctypes.py_object, ctypes.c_int]
def table(code):
    if sys.version_info >= (3, 10):
        return code.co_linetable
    return code.co_lnotab
def dump(code):
    lines = [addr2line(code, offset) for offset in range(-2, len(code.co_code) + 6, 2)]
    print(code.co_firstlineno, '.' + table(code).hex(), *lines)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            dump(const)
odd = '''
x = 1
''' + '\n' * 70000 + '''
async def f(a):
    async with a as b: yield [c for c in b if c]
    try: await (lambda: (
        g(a,
          b
        )))()
    except* E if False else E: pass
'''.replace('*', '' if sys.version_info < (3, 11) else '*') + 'y = 1; ' * 300
dump(compile(odd, 'odd', 'exec'))
for name in '''argparse ast asyncio.base_events codecs dataclasses inspect json.decoder pickle
    random subprocess tarfile threading typing unittest.mock'''.split():
    spec = importlib.util.find_spec(name)
    if spec is not None:
        dump(spec.loader.get_code(name))
";

#[test]
fn every_instruction_has_the_line_that_cpython_says() {
    for python in interpreters::all() {
        let format = Layout::for_version(3, python.minor).unwrap().code.line_format;
        let mut codes = 0;
        let mut offsets = 0;
        for text in python.output(SCRIPT).lines() {
            let mut words = text.split(' ');
            let first: i32 = words.next().unwrap().parse().unwrap();
            let table = unhex(words.next().unwrap().strip_prefix('.').unwrap());
            for (index, line) in words.enumerate() {
                let expected = line.parse::<i64>().unwrap();
                let offset = 2 * index as i32 - 2;
                let line = line_at(format, &table, first, offset);
                let name = python.name();
                assert_eq!(line, u32::try_from(expected).ok(), "{name} at {offset}: {text}");
                offsets += 1;
            }
            codes += 1;
        }
        interpreters::note(&format!("{}: {codes} tables, {offsets} offsets", python.name()));
        assert!(codes > 1000, "{} gave {codes} code objects", python.name());
    }
}

#[test]
fn garbage_never_panics() {
    let mut state = 1u64;
    let mut table = [0u8; 257];
    for round in 0..2000 {
        for byte in &mut table {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8 | if round % 2 == 0 { 0x40 } else { 0 };
        }
        for format in [LineFormat::Lnotab, LineFormat::Ranges, LineFormat::Locations] {
            for offset in [i32::MIN, -1, 0, 1, 300, i32::MAX] {
                for first in [i32::MIN, 0, i32::MAX] {
                    let length = round % table.len();
                    let _ = line_at(format, &table[..length], first, offset);
                }
            }
        }
    }
}

#[test]
fn an_instruction_before_the_first_has_the_first_line() {
    for format in [LineFormat::Lnotab, LineFormat::Ranges, LineFormat::Locations] {
        assert_eq!(line_at(format, &[], 7, -2), Some(7));
    }
}

#[test]
fn an_instruction_beyond_the_table_has_no_line_from_3_10_on() {
    assert_eq!(line_at(LineFormat::Lnotab, &[2, 1], 7, 100), Some(8));
    assert_eq!(line_at(LineFormat::Ranges, &[2, 1], 7, 2), None);
    assert_eq!(line_at(LineFormat::Locations, &[0x80 | 10 << 3], 7, 2), None);
}
