//! Which pools an interpreter allocates from: its own, or the main interpreter's.
//!
//! From 3.12 on interpreters may have a state of pymalloc of their own. Where it is kept moves with every release, so an
//! offset is only used if it leads from the main interpreter to the pools that were found by what they look like.

#![forbid(unsafe_code)]

use leaktrace_common::layout::PymallocLayout;

use super::layout::{Layout, Obmalloc};
use super::usedpools::UsedPools;
use crate::target::memory::ReadMemory;

/// Bytes of an interpreter that are searched for the pointer; it has 0.3 MiB.
const MAX_INTERPRETER: u64 = 1 << 20;

/// What is needed to predict the blocks of all interpreters, once the main interpreter (`main`) is known to allocate from
/// the pools that were `found`. Of interpreters with other pools nothing can be predicted where `state` is 0.
#[must_use]
pub fn places(
    memory: &dyn ReadMemory,
    layout: &Layout,
    main: u64,
    found: UsedPools,
) -> Option<PymallocLayout> {
    let UsedPools { address: usedpools, class_shift, .. } = found;
    let known = PymallocLayout { usedpools, class_shift, ..layout.pymalloc_layout()? };
    Some(match layout.interpreter.obmalloc {
        Obmalloc::Static => known,
        Obmalloc::Embedded { used, feature_flags } => {
            let fits = main.wrapping_add(used) == usedpools;
            let state = if fits { used } else { 0 };
            PymallocLayout { interpreter: main, state, feature_flags, ..known }
        }
        Obmalloc::Pointer { pointer, used } => {
            let wanted = usedpools.wrapping_sub(used);
            let fits =
                memory.read_u64(main.wrapping_add(pointer)).is_ok_and(|state| state == wanted);
            let found = if fits { Some(pointer) } else { search(memory, layout, main, wanted) };
            PymallocLayout { interpreter: main, state: found.unwrap_or(0), used, ..known }
        }
    })
}

/// The offset of the one word in the main interpreter that is `wanted`.
fn search(memory: &dyn ReadMemory, layout: &Layout, main: u64, wanted: u64) -> Option<u64> {
    let mut bytes = vec![0; layout.interpreter.bytes.min(MAX_INTERPRETER) as usize];
    memory.read_bytes(main, &mut bytes).ok()?;
    let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    let mut hits = (0u64..).step_by(8).zip(words).filter(|&(_, word)| word == wanted);
    let (offset, _) = hits.next()?;
    hits.next().is_none().then_some(offset)
}

#[cfg(test)]
mod tests {
    use leaktrace_common::memory::Fault;

    use super::places;
    use crate::cpython::layout::{Layout, Obmalloc};
    use crate::cpython::usedpools::UsedPools;
    use crate::target::memory::ReadMemory;

    const MAIN: u64 = 0x10_0000;
    const STATE: u64 = 0x7000;

    /// An interpreter with words at some offsets, and zeros elsewhere.
    struct Interpreter(Vec<(u64, u64)>);

    impl ReadMemory for Interpreter {
        fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            let start = address.checked_sub(MAIN).ok_or(Fault)?;
            buffer.fill(0);
            for &(offset, word) in &self.0 {
                if let Some(at) = offset.checked_sub(start)
                    && let Some(place) = buffer.get_mut(at as usize..at as usize + 8)
                {
                    place.copy_from_slice(&word.to_le_bytes());
                }
            }
            Ok(())
        }
    }

    fn pools(address: u64, class_shift: u64) -> UsedPools {
        UsedPools { address, pool_bytes: 16 << 10, class_shift }
    }

    fn pointer() -> u64 {
        match Layout::for_version(3, 13).unwrap().interpreter.obmalloc {
            Obmalloc::Pointer { pointer, used: 0 } => pointer,
            other => panic!("{other:?}"),
        }
    }

    fn state(words: Vec<(u64, u64)>) -> u64 {
        let layout = Layout::for_version(3, 13).unwrap();
        places(&Interpreter(words), &layout, MAIN, pools(STATE, 4)).unwrap().state
    }

    #[test]
    fn an_offset_is_used_if_it_leads_to_the_pools_of_the_main_interpreter() {
        assert_eq!(state(vec![(pointer(), STATE)]), pointer());
        assert_eq!(state(vec![(pointer(), STATE), (8, STATE)]), pointer());
    }

    #[test]
    fn a_pointer_that_moved_is_found_unless_there_are_several() {
        assert_eq!(state(vec![(pointer() + 16, STATE)]), pointer() + 16);
        assert_eq!(state(vec![(pointer() + 16, STATE), (64, STATE)]), 0);
        assert_eq!(state(vec![(pointer(), STATE + 8)]), 0);
    }

    #[test]
    fn pools_inside_of_the_interpreter_must_be_where_they_were_found() {
        let layout = Layout::for_version(3, 12).unwrap();
        let Obmalloc::Embedded { used, feature_flags } = layout.interpreter.obmalloc else {
            panic!("{:?}", layout.interpreter.obmalloc);
        };
        let known = places(&Interpreter(vec![]), &layout, MAIN, pools(MAIN + used, 4)).unwrap();
        assert_eq!((known.interpreter, known.state), (MAIN, used));
        assert_eq!(known.feature_flags, feature_flags);
        let moved = places(&Interpreter(vec![]), &layout, MAIN, pools(MAIN + used + 8, 4)).unwrap();
        assert_eq!((moved.interpreter, moved.state), (MAIN, 0));
    }

    #[test]
    fn before_3_12_all_interpreters_share_their_pools() {
        for (minor, shift) in [(11, 4), (6, 4), (6, 3)] {
            let layout = Layout::for_version(3, minor).unwrap();
            let known = places(&Interpreter(vec![]), &layout, MAIN, pools(STATE, shift)).unwrap();
            assert_eq!((known.usedpools, known.interpreter, known.state), (STATE, 0, 0));
            assert_eq!(known.class_shift, shift, "releases of 3.6 differ");
        }
    }
}
