//! What leads to the interpreters of a process.
//!
//! From 3.7 on all hangs on the exported `_PyRuntime`. 3.6 has variables of `Python/pystate.c` in its place:
//! `_PyThreadState_Current` is exported; the head of the list of interpreters is static, but all that the exported
//! `PyInterpreterState_Head` does is to load it, so that its address is read out of that function's code.

#![forbid(unsafe_code)]

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::layout::Layout;
use super::version::Version;
use crate::target::module::Module;

/// The first minor version that has a `_PyRuntime`.
const FIRST_WITH_RUNTIME: u8 = 7;

/// The getter of the list's head, before 3.7.
const GETTER: &str = "PyInterpreterState_Head";

/// Bytes of it that are looked at: it has 8, some more where it begins with an `endbr64` or a frame pointer.
const GETTER_BYTES: usize = 32;

/// Where the interpreters of a process are noted. All are addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// In `_PyRuntime`, from 3.7 on.
    Runtime(u64),
    /// In variables of their own, in 3.6.
    Variables {
        /// `interp_head`: the first interpreter.
        head: u64,
        /// `_PyThreadState_Current`: the thread state that has the GIL, or 0.
        current: u64,
    },
}

/// Why it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A symbol that every build of the version should export.
    #[error("it exports no `{0}`")]
    NotExported(&'static str),
    /// The code of the getter is of no known form.
    #[error("the code of its `{GETTER}` is of no known form")]
    UnknownCode,
}

impl Root {
    /// Finds it in the interpreter's `module`.
    ///
    /// # Errors
    /// [`Reason`].
    pub fn find(module: &Module, version: &Version) -> Result<Self, Reason> {
        let symbol = |name| module.symbol(name).ok_or(Reason::NotExported(name));
        if version.major != 3 || version.minor >= FIRST_WITH_RUNTIME {
            return Ok(Self::Runtime(symbol("_PyRuntime")?));
        }
        let getter = symbol(GETTER)?;
        let head = loaded(module.bytes(getter, GETTER_BYTES), getter);
        let head = head.filter(|&head| module.is_writable(head)).ok_or(Reason::UnknownCode)?;
        Ok(Self::Variables { head, current: symbol("_PyThreadState_Current")? })
    }

    /// The address of `_PyRuntime`.
    #[must_use]
    pub const fn runtime(self) -> Option<u64> {
        match self {
            Self::Runtime(address) => Some(address),
            Self::Variables { .. } => None,
        }
    }

    /// The word that leads to the first interpreter.
    #[must_use]
    pub fn head(self, layout: &Layout) -> Option<u64> {
        match self {
            Self::Runtime(address) => {
                Some(address.wrapping_add(layout.runtime.as_ref()?.interpreters_head))
            }
            Self::Variables { head, .. } => Some(head),
        }
    }

    /// The word that leads to the main interpreter; where there is none, that is the last one of the list.
    #[must_use]
    pub fn main(self, layout: &Layout) -> Option<u64> {
        let main = layout.runtime.as_ref()?.interpreters_main?;
        Some(self.runtime()?.wrapping_add(main))
    }

    /// The word that leads to the thread state that has the GIL; from 3.12 on there is none.
    #[must_use]
    pub fn current(self, layout: &Layout) -> Option<u64> {
        match self {
            Self::Runtime(address) => {
                Some(address.wrapping_add(layout.runtime.as_ref()?.tstate_current?))
            }
            Self::Variables { current, .. } => Some(current),
        }
    }
}

/// The address of the word that a function returns which does nothing else.
fn loaded(code: &[u8], address: u64) -> Option<u64> {
    let mut word = None;
    for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        match instruction.mnemonic() {
            Mnemonic::Ret => return word,
            Mnemonic::Mov if is_load(&instruction) && word.is_none() => {
                word = Some(instruction.memory_displacement64());
            }
            Mnemonic::Mov if instruction.op0_register() == Register::RBP => {}
            Mnemonic::Endbr64 | Mnemonic::Nop | Mnemonic::Push | Mnemonic::Pop => {}
            _ => return None,
        }
    }
    None
}

/// Whether it loads a word at a fixed address into the register of results.
fn is_load(instruction: &Instruction) -> bool {
    instruction.op0_register() == Register::RAX
        && instruction.op1_kind() == OpKind::Memory
        && matches!(instruction.memory_base(), Register::RIP | Register::None)
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None
}

#[cfg(test)]
mod tests {
    use super::{Root, loaded};
    use crate::cpython::layout::Layout;

    #[test]
    fn a_getter_names_the_word_that_it_loads() {
        let plain = b"\x48\x8b\x05\x49\xa3\x18\x00\xc3";
        assert_eq!(loaded(plain, 0x17_4b90), Some(0x2f_eee0));
        let marked = b"\xf3\x0f\x1e\xfa\x48\x8b\x05\x10\0\0\0\xc3";
        assert_eq!(loaded(marked, 0x1000), Some(0x101b));
        let with_frame_pointer = b"\x55\x48\x89\xe5\x48\x8b\x05\x10\0\0\0\x5d\xc3";
        assert_eq!(loaded(with_frame_pointer, 0x1000), Some(0x101b));
        let absolute = b"\x48\x8b\x04\x25\x80\x12\x91\x00\xc3";
        assert_eq!(loaded(absolute, 0x1000), Some(0x91_1280));
    }

    #[test]
    fn other_code_names_none() {
        let through_the_table = b"\x48\x8b\x05\x10\0\0\0\x48\x8b\x00\xc3";
        let thread_local = b"\x64\x48\x8b\x04\x25\xe8\xff\xff\xff\xc3";
        let with_a_call = b"\xe8\0\0\0\0\x48\x8b\x05\x10\0\0\0\xc3";
        let cut = b"\x48\x8b\x05\x10\0\0\0";
        for code in [&through_the_table[..], thread_local, with_a_call, cut, b"\xc3", b""] {
            assert_eq!(loaded(code, 0x1000), None);
        }
    }

    #[test]
    fn each_version_has_its_words() {
        let words = |root: Root, minor| {
            let layout = Layout::for_version(3, minor).unwrap();
            [root.head(&layout), root.main(&layout), root.current(&layout)]
        };
        let variables = Root::Variables { head: 1, current: 2 };
        assert_eq!(words(variables, 6), [Some(1), None, Some(2)]);
        assert!(words(Root::Runtime(0x1000), 7).iter().all(Option::is_some));
        let [head, main, current] = words(Root::Runtime(0x1000), 13);
        assert!(head.is_some() && main.is_some() && current.is_none());
    }
}
