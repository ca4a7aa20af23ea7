//! Where a thread finds its own Python thread state.
//!
//! Up to 3.11 a word holds the thread state that has the GIL (see [`root`](super::root)). From 3.12 on each thread has its
//! own in a thread-local variable (`_Py_tss_tstate`, `Python/pystate.c`), whose distance from the thread pointer is read out of
//! the code of an exported getter: that of `PyThreadState_GetUnchecked`, or `_PyThreadState_UncheckedGet` before 3.13.

#![forbid(unsafe_code)]

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::target::memory::ReadMemory;
use crate::target::module::Module;

const GETTERS: [&str; 2] = ["PyThreadState_GetUnchecked", "_PyThreadState_UncheckedGet"];

/// Bytes of a getter that are looked at: it has 8 to 30.
const GETTER_BYTES: usize = 64;

/// The word at this offset from the thread pointer leads to the dynamic thread vector, on glibc and musl.
const DTV: u64 = 8;

/// Bytes of an entry of the dynamic thread vector: glibc's has two words, musl's one.
const DTV_ENTRY_BYTES: [u64; 2] = [16, 8];

/// Modules with thread-local variables: a process has a handful.
const MAX_TLS_MODULES: u64 = 4096;

/// Threads that an offset is verified on.
const MAX_THREADS: usize = 256;

/// A thread with a Python thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownThread {
    /// Its thread pointer: the `thread_id` of its thread state, which is `pthread_self()`.
    pub pointer: u64,
    /// Address of its thread state.
    pub state: u64,
}

/// Why the place is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No getter is exported.
    #[error("neither `PyThreadState_GetUnchecked` nor `_PyThreadState_UncheckedGet` is exported")]
    NoGetter,
    /// Its code is of no known form.
    #[error("the code of the thread state's getter is of no known form")]
    UnknownCode,
    /// The offset could not be computed, or differs between threads.
    #[error("the thread state is not at the same distance from the thread pointer in each thread")]
    NotConstant,
    /// At the offset stands something else.
    #[error("what stands at the thread state's place is not a thread state")]
    NotVerified,
}

/// The offset of the current thread state from the thread pointer, from 3.12 on, verified on `threads`: the word there
/// is the thread's own state, or 0 while it does not hold the GIL.
///
/// # Errors
/// [`Reason`] where the code is of no known form, or a thread contradicts it.
pub fn tls_offset(
    module: &Module,
    memory: &dyn ReadMemory,
    threads: &[KnownThread],
) -> Result<i64, Reason> {
    let getter = GETTERS.iter().find_map(|name| module.symbol(name)).ok_or(Reason::NoGetter)?;
    let code = module.bytes(getter, GETTER_BYTES);
    let access = decode(code, getter).ok_or(Reason::UnknownCode)?;
    let threads = threads.get(..threads.len().min(MAX_THREADS)).unwrap_or_default();
    let mut failed = Reason::NotConstant;
    for offset in access.offsets(memory, threads) {
        if verified(memory, threads, offset) {
            return Ok(offset);
        }
        failed = Reason::NotVerified;
    }
    Err(failed)
}

/// How code gets at a thread-local variable. Addresses are of words in the global offset table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Local exec: the offset stands in the code.
    Constant(i64),
    /// Initial exec, or a descriptor that the dynamic linker found to be constant: a word holds the offset.
    Word(u64, i64),
    /// General or local dynamic: two words hold module and offset for `__tls_get_addr`.
    Pair(u64, i64),
}

impl Access {
    /// The same, `by` bytes further.
    const fn moved(self, by: i64) -> Self {
        match self {
            Self::Constant(offset) => Self::Constant(offset.wrapping_add(by)),
            Self::Word(word, added) => Self::Word(word, added.wrapping_add(by)),
            Self::Pair(pair, added) => Self::Pair(pair, added.wrapping_add(by)),
        }
    }

    /// The offsets that may be right, at most two.
    fn offsets(self, memory: &dyn ReadMemory, threads: &[KnownThread]) -> Vec<i64> {
        match self {
            Self::Constant(offset) => vec![offset],
            Self::Word(address, added) => memory
                .read_u64(address)
                .map(|word| word.cast_signed().wrapping_add(added))
                .into_iter()
                .collect(),
            Self::Pair(address, added) => DTV_ENTRY_BYTES
                .iter()
                .filter_map(|&entry| through_dtv(memory, threads, address, entry))
                .map(|offset| offset.wrapping_add(added))
                .collect(),
        }
    }
}

/// Reads the code of a getter: straight to the load of the result.
fn decode(code: &[u8], address: u64) -> Option<Access> {
    let mut pointer = None;
    let mut access: Option<Access> = None;
    // Whether the register holds an address rather than an offset: the linker turns the dynamic forms into such code.
    let mut absolute = false;
    for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        let displacement = instruction.memory_displacement64().cast_signed();
        let thread_local = is_thread_local(&instruction);
        match (instruction.mnemonic(), instruction.memory_base()) {
            (Mnemonic::Ret | Mnemonic::INVALID, _) => return None,
            (Mnemonic::Lea, Register::RIP) => pointer = Some(instruction.memory_displacement64()),
            (Mnemonic::Lea, Register::RAX) => access = Some(access?.moved(displacement)),
            (Mnemonic::Call, _) => access = Some(called(&instruction, pointer?)),
            (Mnemonic::Mov | Mnemonic::Add, Register::RIP) => {
                access = Some(Access::Word(instruction.memory_displacement64(), 0));
            }
            // The thread pointer itself.
            (Mnemonic::Mov, Register::None) if thread_local && displacement == 0 => {
                (access, absolute) = (Some(Access::Constant(0)), true);
            }
            (Mnemonic::Mov, Register::None) if thread_local => {
                return Some(Access::Constant(displacement));
            }
            (Mnemonic::Mov, Register::RAX) => {
                let whole = absolute || thread_local || matches!(access?, Access::Pair(..));
                return whole.then_some(access?.moved(displacement));
            }
            _ => {}
        }
    }
    None
}

/// A call of `__tls_get_addr` with the pair at `pointer`, or one through the descriptor at `pointer`, whose second word
/// is the offset where it is constant.
fn called(call: &Instruction, pointer: u64) -> Access {
    let through_descriptor =
        call.op0_kind() == OpKind::Memory && call.memory_base() != Register::RIP;
    if through_descriptor {
        Access::Word(pointer.wrapping_add(8), 0)
    } else {
        Access::Pair(pointer, 0)
    }
}

fn is_thread_local(instruction: &Instruction) -> bool {
    instruction.segment_prefix() == Register::FS
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_index() == Register::None
}

/// The distance of the variable that the pair at `address` names, where all threads that have it agree.
fn through_dtv(
    memory: &dyn ReadMemory,
    threads: &[KnownThread],
    address: u64,
    entry_bytes: u64,
) -> Option<i64> {
    let module = memory.read_u64(address).ok().filter(|&module| module < MAX_TLS_MODULES)?;
    let inside = memory.read_u64(address.wrapping_add(8)).ok()?;
    let distance = |thread: &KnownThread| {
        let dtv = memory.read_u64(thread.pointer.wrapping_add(DTV)).ok()?;
        let block = memory.read_u64(dtv.wrapping_add(module * entry_bytes)).ok()?;
        // 0 and -1 stand for a block that this thread does not have yet.
        (block != 0 && block != u64::MAX)
            .then(|| block.wrapping_add(inside).wrapping_sub(thread.pointer).cast_signed())
    };
    let mut distances = threads.iter().filter_map(distance);
    let first = distances.next()?;
    distances.all(|other| other == first).then_some(first)
}

/// Whether no thread contradicts the offset: a thread that serves several interpreters has a state of each. One that
/// cannot be read has ended.
fn verified(memory: &dyn ReadMemory, threads: &[KnownThread], offset: i64) -> bool {
    threads.iter().all(|thread| {
        memory.read_u64(thread.pointer.wrapping_add_signed(offset)).map_or(true, |word| {
            let own = |known: &KnownThread| known.pointer == thread.pointer && known.state == word;
            word == 0 || threads.iter().any(own)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{Access, decode};

    #[test]
    fn local_exec_has_the_offset_in_the_code() {
        let code = b"\xf3\x0f\x1e\xfa\x64\x48\x8b\x04\x25\xe8\xff\xff\xff\xc3";
        assert_eq!(decode(code, 0x1000), Some(Access::Constant(-24)));
    }

    #[test]
    fn initial_exec_has_it_in_a_word() {
        let code = b"\x48\x8b\x05\x01\x00\x00\x00\x64\x48\x8b\x00\xc3";
        assert_eq!(decode(code, 0x1000), Some(Access::Word(0x1008, 0)));
    }

    #[test]
    fn general_dynamic_has_a_pair() {
        let code = b"\x48\x83\xec\x08\x66\x48\x8d\x3d\xf4\xc9\x26\x00\x66\x66\x48\xe8\xdc\x10\xe3\xff\x48\x8b\x00\x48\x83\xc4\x08\xc3";
        assert_eq!(decode(code, 0x2d_74f0), Some(Access::Pair(0x54_3ef0, 0)));
    }

    #[test]
    fn a_descriptor_has_the_offset_in_its_second_word() {
        let code = b"\x48\x8d\x05\x01\x00\x00\x00\xff\x10\x64\x48\x8b\x00\xc3";
        assert_eq!(decode(code, 0x1000), Some(Access::Word(0x1010, 0)));
    }

    #[test]
    fn the_linkers_short_forms_start_from_the_thread_pointer() {
        let local = b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80\xe8\xff\xff\xff\x48\x8b\x00\xc3";
        assert_eq!(decode(local, 0x1000), Some(Access::Constant(-24)));
        let initial = b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x03\x05\x10\0\0\0\x48\x8b\x00\xc3";
        assert_eq!(decode(initial, 0x1000), Some(Access::Word(0x1020, 0)));
    }

    #[test]
    fn other_code_is_not_read() {
        let getter_of_3_11 = b"\x48\x8b\x05\x89\x4a\x43\x00\xc3";
        for code in [&getter_of_3_11[..], b"", b"\xc3", b"\xff\xff\xff", b"\xe8\0\0\0\0\xc3"] {
            assert_eq!(decode(code, 0x1000), None);
        }
    }
}
