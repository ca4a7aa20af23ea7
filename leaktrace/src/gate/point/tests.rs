//! Gate points in code made for the purpose.

use super::{Cost, Functions, GatePoint, Held, Kind, Text, candidates_in, classify_in};

/// Code at an address, and where its functions are.
struct Code {
    start: u64,
    bytes: Vec<u8>,
    functions: Functions,
}

const RET: u8 = 0xc3;

impl Code {
    /// A function of one `ret`, `gap`, and the function `body`, which begins at `function`.
    fn new(function: u64, gap: &[u8], body: &[u8]) -> Self {
        let start = function - gap.len() as u64 - 1;
        let functions =
            Functions::new(vec![start..start + 1, function..function + body.len() as u64]);
        Self { start, bytes: [&[RET], gap, body].concat(), functions }
    }
}

impl Text for Code {
    fn functions(&self) -> &Functions {
        &self.functions
    }

    fn bytes(&self, address: u64, length: usize) -> &[u8] {
        let from = usize::try_from(address.wrapping_sub(self.start)).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        &rest[..length.min(rest.len())]
    }
}

const F: u64 = 0x4010;
const NOP8: &[u8] = b"\x0f\x1f\x84\0\0\0\0\0";
const NOP5: &[u8] = b"\x0f\x1f\x44\0\0";

/// Distance and length of the NOPs before a `ret` at `F`, best first.
fn nops(gap: &[u8]) -> Vec<(u64, u8)> {
    candidates_in(&Code::new(F, gap, &[RET]), F)
        .into_iter()
        .filter(|point| point.kind == Kind::Nop)
        .map(|point| (F - point.address, point.length))
        .collect()
}

#[test]
fn each_form_of_the_kernels_table_is_a_gate_point_but_the_one_of_five() {
    assert_eq!(nops(b"\x90"), [(1, 1)]);
    assert_eq!(nops(b"\x66\x90"), [(1, 1), (2, 2)]);
    assert_eq!(nops(b"\x0f\x1f\0"), [(3, 3)]);
    assert_eq!(nops(b"\x0f\x1f\x40\0"), [(4, 4)]);
    assert_eq!(nops(NOP5), []);
    assert_eq!(nops(b"\x66\x0f\x1f\x44\0\0"), [(6, 6)]);
    assert_eq!(nops(b"\x0f\x1f\x80\0\0\0\0"), [(7, 7)]);
    assert_eq!(nops(NOP8), [(8, 8)]);
}

#[test]
fn of_longer_forms_the_tail_of_eight_is_taken() {
    for prefix in [&b"\x66"[..], b"\x66\x2e", b"\x66\x66\x2e"] {
        assert_eq!(nops(&[prefix, NOP8].concat()), [(8, 8)]);
    }
}

#[test]
fn a_landing_with_fewer_instructions_to_run_goes_first() {
    assert_eq!(nops(&[b"\x90", NOP8].concat()), [(8, 8), (9, 1)]);
    assert_eq!(nops(&[NOP5, b"\x90"].concat()), [(1, 1)]);
    assert_eq!(nops(&[b"\x90", NOP5].concat()), [(6, 1)]);
}

#[test]
fn what_is_not_all_nops_is_no_padding() {
    // The end of a jump whose function the unwind tables leave out.
    assert_eq!(nops(b"\xff\x25\0\0\0\x90"), []);
    assert_eq!(nops(b"\xcc\x90"), []);
    assert_eq!(nops(b"\0\0"), []);
    assert_eq!(nops(b""), []);
}

#[test]
fn before_a_boundary_more_than_one_byte_differs() {
    let code = Code::new(0x4100, NOP8, &[RET]);
    let point = candidates_in(&code, 0x4100)[0];
    assert_eq!((point.kind, point.address), (Kind::Nop, 0x40f8));
    assert!(!point.differs_in_low_byte_only);
}

#[test]
fn a_landing_that_does_not_cross_a_boundary_goes_first() {
    let code = Code::new(0x4104, &[NOP8, b"\x66\x90\x90"].concat(), &[RET]);
    let points = candidates_in(&code, 0x4104);
    assert_eq!((points[0].address, points[0].differs_in_low_byte_only), (0x4103, true));
    assert!(points.iter().any(|point| point.address == 0x40f9 && !point.differs_in_low_byte_only));
}

#[test]
fn an_endbr_is_passed_by_four_bytes() {
    let code = Code::new(F, b"\x90", b"\xf3\x0f\x1e\xfa\x55\xc3");
    let endbr = GatePoint {
        address: F + 4,
        kind: Kind::Endbr,
        length: 1,
        cost: Cost::Emulated,
        steps: 0,
        differs_in_low_byte_only: true,
    };
    assert_eq!(candidates_in(&code, F)[1], endbr);
    let optimised = Code::new(F, b"", &[b"\xf3\x0f\x1e\xfa", NOP5, b"\xc3"].concat());
    assert!(candidates_in(&optimised, F).iter().all(|point| point.kind == Kind::Entry));
}

/// Distance and cost of the entry points of a function.
fn entries(body: &[u8]) -> Vec<(u64, Cost)> {
    candidates_in(&Code::new(F, b"", body), F)
        .iter()
        .map(|point| (point.address - F, point.cost))
        .collect()
}

#[test]
fn an_emulated_instruction_near_the_start_goes_before_the_start() {
    // test rsi, rsi; je +1; nop; ret
    let body = b"\x48\x85\xf6\x74\x01\x90\xc3";
    assert_eq!(entries(body), [(3, Cost::Emulated), (0, Cost::SingleStepped)]);
    assert_eq!(entries(b"\x55\xc3"), [(0, Cost::Emulated)]);
}

#[test]
fn behind_a_change_of_the_arguments_there_is_no_entry_point() {
    // mov rdi, rsi; push rbp
    assert_eq!(entries(b"\x48\x89\xf7\x55\xc3"), [(0, Cost::SingleStepped)]);
    // sub rsp, 8; push rbp
    assert_eq!(entries(b"\x48\x83\xec\x08\x55\xc3"), [(0, Cost::SingleStepped)]);
}

#[test]
fn a_place_that_is_jumped_back_to_is_no_entry_point() {
    // xor eax, eax; push rbp; jmp to the push
    assert_eq!(entries(b"\x31\xc0\x55\xeb\xfd"), [(0, Cost::SingleStepped)]);
}

#[test]
fn what_a_slot_holds_is_told_from_its_value() {
    let code = Code::new(F, &[b"\x66\x2e", NOP8].concat(), b"\xf3\x0f\x1e\xfa\xc3");
    assert_eq!(classify_in(&code, F), Held::Closed);
    let open = Held::Open { function: F };
    for distance in [8, 10] {
        assert_eq!(classify_in(&code, F - distance), open);
    }
    assert_eq!(classify_in(&code, F + 4), open);
    for value in [0, F - 7, F + 1, F + 5, F - 12, u64::MAX] {
        assert_eq!(classify_in(&code, value), Held::Foreign);
    }
}

#[test]
fn no_function_has_no_gate_point() {
    let code = Code::new(F, b"\x90", &[RET]);
    for address in [0, F - 1, F + 1, u64::MAX] {
        assert!(candidates_in(&code, address).is_empty());
    }
}

/// A function at `F` without padding, behind one that does `before` and then jumps to it, and `after` that.
fn jumped_to(before: &[u8], after: &[u8]) -> Code {
    let jump_at = F - (5 + after.len()) as u64;
    let distance = (F - jump_at - 5) as i32;
    let first = [before, &[0xe9], &distance.to_le_bytes(), after].concat();
    let start = F - first.len() as u64;
    let functions = Functions::new(vec![start..F, F..F + 1]);
    Code { start, bytes: [first, vec![RET]].concat(), functions }
}

#[test]
fn a_jump_from_another_function_is_a_gate_point_where_there_is_no_padding() {
    let code = jumped_to(b"\x48\x89\xc7", b"\xc3");
    let jump = candidates_in(&code, F)[0];
    assert_eq!((jump.kind, jump.address, jump.length), (Kind::Jump, F - 6, 5));
    assert!(!jump.differs_in_low_byte_only);
    assert_eq!(classify_in(&code, F - 6), Held::Open { function: F });
    for elsewhere in [F - 7, F - 5, F - 1] {
        assert_eq!(classify_in(&code, elsewhere), Held::Foreign);
    }
}

#[test]
fn what_only_looks_like_a_jump_is_no_gate_point() {
    // The operand of `mov $..., %rax` holds the bytes of a jump.
    let code = jumped_to(b"\x48\xb8", b"\x90\x90\x90\xc3");
    assert!(candidates_in(&code, F).iter().all(|point| point.kind == Kind::Entry));
    assert_eq!(classify_in(&code, F - 9), Held::Foreign);
    // A function that cannot be read to its end.
    let code = jumped_to(b"\x48\x89\xc7", b"\x06\xc3");
    assert!(candidates_in(&code, F).iter().all(|point| point.kind == Kind::Entry));
}
