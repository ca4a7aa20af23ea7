//! Where a thread finds its own Python thread state.
//!
//! Up to 3.11 a word holds the thread state that has the GIL (see [`root`](super::root)). From 3.12 on each thread has its
//! own in a thread-local variable (`_Py_tss_tstate`, `Python/pystate.c`), whose distance from the thread pointer is read out of
//! the code of an exported getter: that of `PyThreadState_GetUnchecked`, or `_PyThreadState_UncheckedGet` before 3.13.
//! Where the library was loaded by `dlopen`, there is no such distance: each thread has a block of its own for it,
//! wherever the C library put that, and finds it by its dynamic thread vector.

#![forbid(unsafe_code)]

use leaktrace_common::layout::DYNAMIC_THREAD_VECTOR;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::target::memory::ReadMemory;
use crate::target::module::Module;

const GETTERS: [&str; 2] = ["PyThreadState_GetUnchecked", "_PyThreadState_UncheckedGet"];

/// Bytes of a getter that are looked at: it has 8 to 30.
const GETTER_BYTES: usize = 64;

/// Bytes of an entry of the dynamic thread vector: glibc's has two words.
const GLIBC_ENTRY: u64 = 16;

/// The same of musl: one word.
const MUSL_ENTRY: u64 = 8;

/// At this offset from the thread pointer musl has the address of the next thread (of itself if there is no other), glibc
/// two small numbers.
const NEXT_THREAD: u64 = 24;

/// Modules with thread-local variables: a process has a handful.
const MAX_TLS_MODULES: u64 = 4096;

/// Blocks of libraries that were there when the program began lie so many bytes below the thread pointer, at most.
const STATIC_BYTES: i64 = 1 << 16;

/// Threads that a place is verified on.
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
    /// What the code loads could not be read.
    #[error("the way to the thread state cannot be read")]
    Unreadable,
    /// At the place stands something else.
    #[error("what stands at the thread state's place is not a thread state")]
    NotVerified,
}

/// Where each thread's own word for its current thread state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This far from the thread pointer.
    Offset(i64),
    /// So far into the block that the word at `entry` of the thread's dynamic thread vector leads to.
    Vector {
        /// Offset in the vector.
        entry: u64,
        /// Offset in the block.
        inside: u64,
    },
}

/// The place of the current thread state, from 3.12 on, verified on `threads`: the word there is the thread's own state,
/// or 0 while it does not hold the GIL.
///
/// # Errors
/// [`Reason`] where the code is of no known form, or a thread contradicts it.
pub fn place(
    module: &Module,
    memory: &dyn ReadMemory,
    threads: &[KnownThread],
) -> Result<Place, Reason> {
    let getter = GETTERS.iter().find_map(|name| module.symbol(name)).ok_or(Reason::NoGetter)?;
    let code = module.bytes(getter, GETTER_BYTES);
    let access = decode(code, getter).ok_or(Reason::UnknownCode)?;
    let threads = threads.get(..threads.len().min(MAX_THREADS)).unwrap_or_default();
    best(memory, threads, &access.places(memory, threads))
}

/// A place that may be right.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: Place,
    /// How many threads must prove it: where no thread runs Python just now, none does, and in a wrong place may be
    /// nothing, too.
    least: usize,
}

/// The place that the most threads prove and none contradicts, of equal ones the first.
fn best(
    memory: &dyn ReadMemory,
    threads: &[KnownThread],
    places: &[Candidate],
) -> Result<Place, Reason> {
    let mut best = None;
    for &Candidate { place, least } in places {
        let Some(proofs) = place.proofs(memory, threads) else { continue };
        if proofs >= least && best.is_none_or(|(most, _)| proofs > most) {
            best = Some((proofs, place));
        }
    }
    let failed = if places.is_empty() { Reason::Unreadable } else { Reason::NotVerified };
    best.map(|(_, place)| place).ok_or(failed)
}

impl Place {
    /// How many threads have their own state there; `None` where one has something else: a thread that serves several
    /// interpreters has a state of each. One that cannot be read has ended, but not all of them.
    fn proofs(self, memory: &dyn ReadMemory, threads: &[KnownThread]) -> Option<usize> {
        let (mut proofs, mut read) = (0, threads.is_empty());
        for thread in threads {
            let own = |word| {
                threads.iter().any(|known| known.pointer == thread.pointer && known.state == word)
            };
            let word = self.word(memory, thread);
            read |= word.is_some();
            match word {
                None | Some(0) => {}
                Some(word) if own(word) => proofs += 1,
                Some(_) => return None,
            }
        }
        read.then_some(proofs)
    }

    fn word(self, memory: &dyn ReadMemory, thread: &KnownThread) -> Option<u64> {
        let address = match self {
            Self::Offset(offset) => thread.pointer.wrapping_add_signed(offset),
            Self::Vector { entry, inside } => block(memory, thread, entry)?.wrapping_add(inside),
        };
        memory.read_u64(address).ok()
    }
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

    /// The places that may be right, the likeliest first, and of the same variable the cheapest.
    fn places(self, memory: &dyn ReadMemory, threads: &[KnownThread]) -> Vec<Candidate> {
        match self {
            Self::Constant(offset) => vec![Candidate { place: Place::Offset(offset), least: 0 }],
            Self::Word(address, added) => memory
                .read_u64(address)
                .map(|word| Place::Offset(word.cast_signed().wrapping_add(added)))
                .map(|place| Candidate { place, least: 0 })
                .into_iter()
                .collect(),
            Self::Pair(address, added) => {
                // As the other C library reads it, an entry may be that of another module, whose variable is 0 as well.
                let libraries = match is_musl(memory, threads) {
                    true => [(MUSL_ENTRY, 0), (GLIBC_ENTRY, 1)],
                    false => [(GLIBC_ENTRY, 0), (MUSL_ENTRY, 1)],
                };
                let found = libraries.into_iter().flat_map(|(bytes, least)| {
                    let vector = in_vector(memory, address, added, bytes);
                    let constant = vector.and_then(|place| constant(memory, threads, place));
                    let places = constant.into_iter().chain(vector);
                    places.map(move |place| Candidate { place, least })
                });
                found.collect()
            }
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

/// The variable that the pair at `address` names, by a vector with entries of so many bytes.
fn in_vector(memory: &dyn ReadMemory, address: u64, added: i64, entry_bytes: u64) -> Option<Place> {
    let module = memory.read_u64(address).ok().filter(|&module| module < MAX_TLS_MODULES)?;
    let inside = memory.read_u64(address.wrapping_add(8)).ok()?;
    let inside = inside.wrapping_add_signed(added);
    Some(Place::Vector { entry: module * entry_bytes, inside })
}

/// Whether the threads are musl's, not glibc's.
fn is_musl(memory: &dyn ReadMemory, threads: &[KnownThread]) -> bool {
    let next = |thread: &KnownThread| memory.read_u64(thread.pointer.wrapping_add(NEXT_THREAD));
    threads.first().is_some_and(|thread| next(thread).is_ok_and(|next| next >> 36 != 0))
}

/// The distance of a place in blocks from the thread pointer, where all threads that have such a block agree. One thread
/// alone would always do so: what lies farther off than the blocks from the program's start is not taken for constant.
fn constant(memory: &dyn ReadMemory, threads: &[KnownThread], place: Place) -> Option<Place> {
    let Place::Vector { entry, inside } = place else { return Some(place) };
    let distance = |thread: &KnownThread| {
        let address = block(memory, thread, entry)?.wrapping_add(inside);
        Some(address.wrapping_sub(thread.pointer).cast_signed())
    };
    let mut distances = threads.iter().filter_map(distance);
    let first = distances.next()?;
    let constant = (-STATIC_BYTES..0).contains(&first) && distances.all(|other| other == first);
    constant.then_some(Place::Offset(first))
}

/// The block that an entry of a thread's dynamic thread vector leads to, if the thread has it.
fn block(memory: &dyn ReadMemory, thread: &KnownThread, entry: u64) -> Option<u64> {
    let vector = memory.read_u64(thread.pointer.wrapping_add(DYNAMIC_THREAD_VECTOR)).ok()?;
    let block = memory.read_u64(vector.wrapping_add(entry)).ok()?;
    (block != 0 && block != u64::MAX).then_some(block)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Access, KnownThread, Place, Reason, best, decode};
    use crate::target::memory::ReadMemory;
    use leaktrace_common::memory::Fault;

    /// Two threads, at 0x10_0000 and 0x20_0000, each with a vector and the block that its third entry leads to.
    struct Threads(BTreeMap<u64, u64>);

    const THREADS: [KnownThread; 2] = [
        KnownThread { pointer: 0x10_0000, state: 0xaaa0 },
        KnownThread { pointer: 0x20_0000, state: 0xbbb0 },
    ];

    /// Offset of the variable in a block.
    const INSIDE: u64 = 0x18;

    /// Address of the pair that names module 3 and that offset.
    const PAIR: u64 = 0x5000;

    impl Threads {
        fn new(blocks: [u64; 2]) -> Self {
            let mut words = BTreeMap::from([(PAIR, 3), (PAIR + 8, INSIDE)]);
            for (thread, block) in THREADS.iter().zip(blocks) {
                let vector = thread.pointer + 0x8000;
                words.insert(thread.pointer + 8, vector);
                words.insert(thread.pointer + 24, 1);
                words.insert(vector + 3 * 16, block);
                words.insert(block + INSIDE, thread.state);
            }
            Self(words)
        }

        fn place(&self) -> Result<Place, Reason> {
            best(self, &THREADS, &Access::Pair(PAIR, 0).places(self, &THREADS))
        }
    }

    impl ReadMemory for Threads {
        fn read_bytes(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
            let word = self.0.get(&address).ok_or(Fault)?;
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
            Ok(())
        }
    }

    #[test]
    fn blocks_from_the_start_of_the_program_are_at_a_constant_distance() {
        let threads = Threads::new(THREADS.map(|thread| thread.pointer - 0x40));
        assert_eq!(threads.place(), Ok(Place::Offset(-0x28)));
    }

    #[test]
    fn blocks_of_a_library_loaded_later_are_found_by_the_vector() {
        let vector = Place::Vector { entry: 3 * 16, inside: INSIDE };
        assert_eq!(Threads::new([0x70_0000, 0x60_0000]).place(), Ok(vector));
        // Far off at the same distance is what a program with one thread has.
        let same = THREADS.map(|thread| thread.pointer + 0x70_0000);
        assert_eq!(Threads::new(same).place(), Ok(vector));
        // Where none runs Python, the C library tells.
        let mut idle = Threads::new([0x70_0000, 0x60_0000]);
        idle.0.extend([(0x70_0000 + INSIDE, 0), (0x60_0000 + INSIDE, 0)]);
        assert_eq!(idle.place(), Ok(vector));
        idle.0.insert(THREADS[0].pointer + 24, THREADS[1].pointer << 20);
        idle.0.insert(THREADS[0].pointer + 0x8000 + 3 * 8, 0x70_0000);
        assert_eq!(idle.place(), Ok(Place::Vector { entry: 3 * 8, inside: INSIDE }));
        let mut one_without = Threads::new([0x70_0000, 0x60_0000]);
        one_without.0.insert(THREADS[0].pointer + 0x8000 + 3 * 16, u64::MAX);
        assert_eq!(one_without.place(), Ok(vector));
    }

    #[test]
    fn another_modules_variable_that_is_0_as_well_is_not_taken_for_the_idle_threads_states() {
        // Module 2 of glibc; read as musl does, its entry is that of module 1, the program's own.
        let (blocks, programs) = ([0x70_0000, 0x60_0000], THREADS.map(|it| it.pointer - 0x40));
        let mut idle = Threads::new(blocks);
        idle.0.insert(PAIR, 2);
        for ((thread, block), program) in THREADS.iter().zip(blocks).zip(programs) {
            let vector = thread.pointer + 0x8000;
            idle.0.extend([(vector + 2 * 16, block), (vector + 2 * 8, program)]);
            idle.0.extend([(block + INSIDE, 0), (program + INSIDE, 0)]);
        }
        assert_eq!(idle.place(), Ok(Place::Vector { entry: 2 * 16, inside: INSIDE }));
    }

    #[test]
    fn a_place_that_no_thread_can_read_is_none() {
        let mut threads = Threads::new([0x70_0000, 0x60_0000]);
        threads.0.remove(&(0x70_0000 + INSIDE));
        threads.0.remove(&(0x60_0000 + INSIDE));
        assert_eq!(threads.place(), Err(Reason::NotVerified));
    }

    #[test]
    fn a_place_that_holds_another_threads_state_is_none() {
        let mut threads = Threads::new([0x70_0000, 0x60_0000]);
        threads.0.insert(0x70_0000 + INSIDE, THREADS[1].state);
        assert_eq!(threads.place(), Err(Reason::NotVerified));
        threads.0.remove(&PAIR);
        assert_eq!(threads.place(), Err(Reason::Unreadable));
    }

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
