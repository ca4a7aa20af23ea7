//! Finds the arrays of arenas, and the arenas in them.
//!
//! From 3.12 on an interpreter notes its array and its length. Before, both are static variables that a stripped build
//! does not name; the array is found by what it leads to: the header of an arena's first pool says which element of
//! the array the arena is, so the true start of the array, and no other pointer into it, fits all elements. Whatever
//! lies behind its end does no harm: it would have to lead to such a header too.

use std::collections::BTreeSet;

use super::CensusError;
use crate::cpython::layout::{ArenaFields, ArenaList, Layout};
use crate::cpython::snapshot;
use crate::target::memory::{ReadMemory, word, word32};
use crate::target::module::Module;

/// `INITIAL_ARENA_OBJECTS`; the array doubles from there.
const FIRST_ARENAS: u64 = 16;

/// Arenas that an array can have: a quarter of a million arenas of 256 KiB are 64 GiB.
const MOST_ARENAS: u64 = 1 << 18;

/// Bytes that arenas have at most (`ARENA_SIZE`: 256 KiB, from 3.10 on 1 MiB).
const MOST_ARENA_BYTES: u64 = 1 << 20;

/// The array may be moved while it is read: so often it is looked for.
const TRIES: u32 = 4;

/// An arena with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arena {
    /// Its place in the array.
    pub(super) index: u64,
    /// Address of its first pool.
    pub(super) base: u64,
    /// Where the pools begin that were never used.
    pub(super) used_end: u64,
    total_pools: u64,
}

/// Where the variables lie that led to the array, for the next time.
#[derive(Clone, Debug, Default)]
pub struct Arrays {
    variables: Vec<u64>,
}

/// An element of the array.
enum Element {
    Arena(Arena),
    Unused,
    Nonsense,
}

impl Arena {
    /// Its bytes. Where it does not begin on a pool's boundary it has one pool less than the power of two.
    pub(super) fn held_bytes(&self, pool_bytes: u64) -> u64 {
        self.total_pools.next_power_of_two() * pool_bytes
    }
}

impl Arrays {
    /// All arenas with memory.
    pub(super) fn arenas(
        &mut self,
        memory: &dyn ReadMemory,
        module: &Module,
        layout: &Layout,
        interpreters: &[u64],
    ) -> Result<Vec<Arena>, CensusError> {
        let fields = layout.arena.as_ref().ok_or(CensusError::NoLayout)?;
        let reader = Reader { memory, layout, fields };
        let mut found = Err(CensusError::NotFound);
        for _ in 0..TRIES {
            found = match fields.list {
                ArenaList::Static => self.by_search(&reader, module),
                ArenaList::Embedded { .. } | ArenaList::Pointer { .. } => {
                    reader.of_interpreters(interpreters)
                }
            };
            if found.is_ok() {
                break;
            }
        }
        found
    }

    fn by_search(
        &mut self,
        reader: &Reader<'_>,
        module: &Module,
    ) -> Result<Vec<Arena>, CensusError> {
        let known: Vec<(u64, u64)> = self
            .variables
            .iter()
            .filter_map(|&variable| Some((variable, reader.memory.read_u64(variable).ok()?)))
            .collect();
        if !known.is_empty()
            && let Ok(arenas) = self.choose(reader, &known)
        {
            return Ok(arenas);
        }
        let data = snapshot::take(reader.memory, module.writable());
        let words: Vec<(u64, u64)> = data.iter().flat_map(snapshot::Stretch::words).collect();
        self.choose(reader, &words)
    }

    /// The one array that some of these (address, word) lead to.
    fn choose(
        &mut self,
        reader: &Reader<'_>,
        words: &[(u64, u64)],
    ) -> Result<Vec<Arena>, CensusError> {
        // The array comes from `malloc`, which gives out multiples of 16.
        let plausible = |word: u64| word != 0 && word.is_multiple_of(16) && word >> 47 == 0;
        let starts: BTreeSet<u64> =
            words.iter().map(|&(_, word)| word).filter(|&word| plausible(word)).collect();
        let mut fitting = starts.into_iter().filter(|&start| reader.is_array(start));
        let start = fitting.next().ok_or(CensusError::NotFound)?;
        if fitting.next().is_some() {
            return Err(CensusError::Ambiguous);
        }
        let arenas = reader.all(start).ok_or(CensusError::NotFound)?;
        let variables = words.iter().filter(|&&(_, word)| word == start);
        self.variables = variables.map(|&(address, _)| address).collect();
        Ok(arenas)
    }
}

struct Reader<'a> {
    memory: &'a dyn ReadMemory,
    layout: &'a Layout,
    fields: &'a ArenaFields,
}

impl Reader<'_> {
    fn of_interpreters(&self, interpreters: &[u64]) -> Result<Vec<Arena>, CensusError> {
        let mut arenas = Vec::new();
        let mut seen = BTreeSet::new();
        for &interpreter in interpreters {
            let (start, count) = self.noted(interpreter).ok_or(CensusError::Misplaced)?;
            // Interpreters that share their pools share the array.
            if start == 0 || !seen.insert(start) {
                continue;
            }
            if count == 0 || count > MOST_ARENAS {
                return Err(CensusError::Misplaced);
            }
            let elements = self.elements(start, 0..count).ok_or(CensusError::Misplaced)?;
            arenas.extend(arenas_of(elements).ok_or(CensusError::Misplaced)?);
        }
        Ok(arenas)
    }

    /// Where an interpreter notes that its array is, and how many elements it has.
    fn noted(&self, interpreter: u64) -> Option<(u64, u64)> {
        let (base, arenas, count) = match self.fields.list {
            ArenaList::Static => return None,
            ArenaList::Embedded { arenas, count } => (interpreter, arenas, count),
            ArenaList::Pointer { state, arenas, count } => {
                let state = self.memory.read_u64(interpreter.wrapping_add(state)).ok()?;
                // Up to its first allocation a sub-interpreter has no state.
                if state == 0 {
                    return Some((0, 0));
                }
                (state, arenas, count)
            }
        };
        let start = self.memory.read_u64(base.wrapping_add(arenas)).ok()?;
        let count = self.memory.read_u32(base.wrapping_add(count)).ok()?;
        Some((start, u64::from(count)))
    }

    /// Whether the elements at the start of an array are all arenas, and some have memory.
    fn is_array(&self, start: u64) -> bool {
        // One read tells most words from it.
        let Ok(address) = self.memory.read_u64(start.wrapping_add(self.fields.address)) else {
            return false;
        };
        if !address.is_multiple_of(4096) {
            return false;
        }
        let elements = self.elements(start, 0..FIRST_ARENAS);
        elements.and_then(arenas_of).is_some_and(|arenas| !arenas.is_empty())
    }

    /// The arenas of the array at `start`, whose length is not known: 16, 32, 64, ... elements.
    fn all(&self, start: u64) -> Option<Vec<Arena>> {
        let mut arenas = arenas_of(self.elements(start, 0..FIRST_ARENAS)?)?;
        let mut count = FIRST_ARENAS;
        while count < MOST_ARENAS {
            let Some(more) = self.elements(start, count..2 * count).and_then(arenas_of) else {
                break;
            };
            arenas.extend(more);
            count *= 2;
        }
        Some(arenas)
    }

    fn elements(&self, start: u64, indices: std::ops::Range<u64>) -> Option<Vec<Element>> {
        let size = self.fields.bytes;
        let mut bytes = vec![0; (size * (indices.end - indices.start)) as usize];
        let first = start.wrapping_add(size * indices.start);
        self.memory.read_bytes(first, &mut bytes).ok()?;
        let elements = bytes.chunks_exact(size as usize).zip(indices);
        elements.map(|(bytes, index)| self.element(bytes, index, start)).collect()
    }

    fn element(&self, bytes: &[u8], index: u64, array: u64) -> Option<Element> {
        let fields = self.fields;
        let pool_bytes = self.layout.pool.pool_bytes;
        let address = word(bytes, fields.address)?;
        if address == 0 {
            let next = word(bytes, fields.next)?;
            let steps = next.wrapping_sub(array);
            let in_array = steps.is_multiple_of(fields.bytes) && steps < MOST_ARENAS * fields.bytes;
            return Some(if next == 0 || in_array { Element::Unused } else { Element::Nonsense });
        }
        let total_pools = word32(bytes, fields.total_pools)?;
        let free_pools = word32(bytes, fields.free_pools)?;
        let used_end = word(bytes, fields.pool_address)?;
        let base = address.checked_next_multiple_of(pool_bytes)?;
        let end = base.checked_add(total_pools.checked_mul(pool_bytes)?)?;
        let fits = address.is_multiple_of(4096)
            && (1..=MOST_ARENA_BYTES / pool_bytes).contains(&total_pools)
            && free_pools <= total_pools
            && (base..=end).contains(&used_end)
            && (used_end - base).is_multiple_of(pool_bytes)
            && (used_end == base || self.arena_of(base) == Some(index));
        let arena = Arena { index, base, used_end, total_pools };
        Some(if fits { Element::Arena(arena) } else { Element::Nonsense })
    }

    /// Which arena a pool says that it lies in.
    fn arena_of(&self, pool: u64) -> Option<u64> {
        self.memory.read_u32(pool.wrapping_add(self.fields.pool_arena)).ok().map(u64::from)
    }
}

/// Those with memory; `None` where any element makes no sense.
fn arenas_of(elements: Vec<Element>) -> Option<Vec<Arena>> {
    let mut arenas = Vec::new();
    for element in elements {
        match element {
            Element::Arena(arena) => arenas.push(arena),
            Element::Unused => {}
            Element::Nonsense => return None,
        }
    }
    Some(arenas)
}
