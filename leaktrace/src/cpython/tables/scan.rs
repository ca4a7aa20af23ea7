//! The tables by what stands in the data: the check of the code's answer.
//!
//! Only pages that are writable now are searched: from 3.12 on the initial image of the runtime, read-only after
//! relocation, is a perfect decoy.

use std::collections::{BTreeSet, HashMap};

use super::{AllocatorTables, Check, TABLE_BYTES, TablesError};
use crate::cpython::snapshot::{self, Stretch};
use crate::cpython::version::Version;
use crate::target::memory::ReadMemory;
use crate::target::module::{Functions, Module};

/// From this minor version on the tables lie one behind the other in `_PyRuntime`.
const CONTIGUOUS_FROM: u8 = 12;

/// Up to 3.11, bytes between the first and the last of the tables and their copies for the debug hooks.
const NEIGHBOURHOOD: u64 = 1024;

/// Four functions, as a table has them.
type Quadruple = [u64; 4];

/// What one search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pattern {
    /// Where raw's table is: one place, or two up to 3.11 (the table and the debug hooks' copy).
    raw: BTreeSet<u64>,
    /// Where mem's and obj's are: two places, or four up to 3.11.
    object: BTreeSet<u64>,
}

/// Compares `tables`, which the code led to and which are at rest, with what the data show.
pub(super) fn check(
    module: &Module,
    memory: &dyn ReadMemory,
    version: &Version,
    tables: &AllocatorTables,
) -> Result<Check, TablesError> {
    let data = snapshot::take(memory, module.writable());
    let found = if version.minor >= CONTIGUOUS_FROM {
        contiguous(&data, module.functions())
    } else {
        repeated(&data, module.functions())
    };
    // A pattern that is there twice tells nothing.
    let [pattern] = found.as_slice() else { return Ok(Check::FoundNothing) };
    let agrees = pattern.raw.contains(&tables.raw.address)
        && pattern.object.contains(&tables.mem.address)
        && pattern.object.contains(&tables.obj.address);
    if agrees {
        return Ok(Check::Agrees);
    }
    let data = pattern.raw.first().copied().unwrap_or_default();
    Err(TablesError::Contradiction { code: tables.raw.address, data })
}

/// All places where four words in a row are starts of functions, with those functions. The context stands before.
fn quadruples(data: &[Stretch], functions: &Functions) -> Vec<(u64, u64, Quadruple)> {
    let mut found = Vec::new();
    for stretch in data {
        let words: Vec<(u64, u64)> = stretch.words().collect();
        for window in words.windows(5) {
            let [(address, ctx), rest @ ..] = window else { continue };
            let Ok(four) = <[(u64, u64); 4]>::try_from(rest) else { continue };
            let four = four.map(|(_, word)| word);
            if four.iter().all(|&word| functions.function_at(word).is_some()) {
                found.push((*address, *ctx, four));
            }
        }
    }
    found
}

/// From 3.12 on: raw, mem and obj in a row, the last two alike.
fn contiguous(data: &[Stretch], functions: &Functions) -> Vec<Pattern> {
    let by_address: HashMap<u64, (u64, Quadruple)> = quadruples(data, functions)
        .into_iter()
        .map(|(address, ctx, four)| (address, (ctx, four)))
        .collect();
    let at = |address: u64, index: u64| by_address.get(&address.wrapping_add(index * TABLE_BYTES));
    let mut found: Vec<Pattern> = by_address
        .iter()
        .filter(|&(&raw, tuple)| {
            let (mem, obj) = (at(raw, 1), at(raw, 2));
            mem.is_some() && mem == obj && mem != Some(tuple)
        })
        .map(|(&raw, _)| Pattern {
            raw: [raw].into(),
            object: [raw + TABLE_BYTES, raw + 2 * TABLE_BYTES].into(),
        })
        .collect();
    found.sort_by_key(|pattern| pattern.raw.first().copied());
    found
}

/// Up to 3.11: four alike (obj, mem, and a copy of each for the debug hooks) near two alike (raw and its copy).
fn repeated(data: &[Stretch], functions: &Functions) -> Vec<Pattern> {
    let mut places: HashMap<Quadruple, BTreeSet<u64>> = HashMap::new();
    for (address, _, four) in quadruples(data, functions) {
        places.entry(four).or_default().insert(address);
    }
    let of_count = |count| places.values().filter(move |places| places.len() == count);
    let mut found = Vec::new();
    for object in of_count(4) {
        for raw in of_count(2) {
            let all = object.union(raw);
            let (first, last) = (all.clone().min(), all.max());
            let near = first.zip(last).is_some_and(|(first, last)| last - first <= NEIGHBOURHOOD);
            if near {
                found.push(Pattern { raw: raw.clone(), object: object.clone() });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Pattern, contiguous, repeated};
    use crate::cpython::snapshot::Stretch;
    use crate::target::module::Functions;

    const BASE: u64 = 0x1000;

    fn functions() -> Functions {
        Functions::new((1..40).map(|index| index * 0x100..index * 0x100 + 0x80).collect())
    }

    fn table(kind: u64) -> [u64; 5] {
        [0, kind * 0x400, kind * 0x400 + 0x100, kind * 0x400 + 0x200, kind * 0x400 + 0x300]
    }

    fn data(words: &[u64]) -> [Stretch; 1] {
        [Stretch {
            address: BASE,
            bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }]
    }

    #[test]
    fn three_tables_in_a_row_are_found() {
        let words = [&[7][..], &table(1), &table(2), &table(2), &[9]].concat();
        let expected = Pattern { raw: [BASE + 8].into(), object: [BASE + 48, BASE + 88].into() };
        assert_eq!(contiguous(&data(&words), &functions()), [expected]);
        let same = [table(1), table(1), table(1)].concat();
        assert!(contiguous(&data(&same), &functions()).is_empty());
    }

    #[test]
    fn tables_with_their_debug_copies_are_found() {
        let mut words = [table(2), table(2), table(1)].concat();
        for kind in [1, 2, 2] {
            words.push(u64::from(b'r'));
            words.extend(table(kind));
        }
        let found = repeated(&data(&words), &functions());
        let [pattern] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(pattern.raw, [BASE + 80, BASE + 128].into());
        assert!(pattern.object.contains(&BASE) && pattern.object.contains(&(BASE + 40)));
    }

    #[test]
    fn data_without_tables_show_nothing() {
        assert!(contiguous(&data(&[]), &functions()).is_empty());
        assert!(repeated(&data(&[0x100; 64]), &functions()).is_empty());
        assert!(repeated(&data(&[u64::MAX; 64]), &functions()).is_empty());
    }
}
