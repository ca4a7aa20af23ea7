//! Where the functions of a module begin and end, by its unwind tables, which stripped files have too.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};

use super::Elf;

/// The functions of a module, by address. A function that the compiler split has an entry for each part.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    /// Sorted by start.
    ranges: Vec<Range<u64>>,
    /// For each range, the highest end among it and those before it.
    ends: Vec<u64>,
}

impl Functions {
    /// Reads the unwind tables of `elf`, moved by `bias`; `None` where there are none, or where they are damaged:
    /// a table that is half read would leave functions out, whose code would be taken for padding.
    #[must_use]
    pub fn read(elf: &Elf, bias: u64) -> Option<Self> {
        let (address, bytes) = elf.eh_frame()?;
        let mut section = EhFrame::new(bytes, LittleEndian);
        section.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(address);
        let mut entries = section.entries(&bases);
        let mut ranges = Vec::new();
        while let Some(entry) = entries.next().ok()? {
            let CieOrFde::Fde(partial) = entry else { continue };
            let fde =
                partial.parse(|section, bases, at| section.cie_from_offset(bases, at)).ok()?;
            let start = fde.initial_address().wrapping_add(bias);
            ranges.push(start..start.saturating_add(fde.len()));
        }
        Some(Self::new(ranges))
    }

    /// Takes ranges in any order; empty ones are left out.
    #[must_use]
    pub fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| range.start < range.end);
        ranges.sort_by_key(|range| (range.start, range.end));
        let ends = ranges
            .iter()
            .scan(0, |highest, range| {
                *highest = range.end.max(*highest);
                Some(*highest)
            })
            .collect();
        Self { ranges, ends }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The function that begins at `start`.
    #[must_use]
    pub fn function_at(&self, start: u64) -> Option<Range<u64>> {
        let index = self.ranges.binary_search_by_key(&start, |range| range.start).ok()?;
        self.ranges.get(index).cloned()
    }

    /// Where the functions that begin before `start` have ended, all of them.
    #[must_use]
    pub fn previous_end(&self, start: u64) -> Option<u64> {
        let before = self.ranges.partition_point(|range| range.start < start);
        self.ends.get(before.checked_sub(1)?).copied()
    }

    /// The last function that begins before `address`.
    #[must_use]
    pub fn last_before(&self, address: u64) -> Option<Range<u64>> {
        let before = self.ranges.partition_point(|range| range.start < address);
        self.ranges.get(before.checked_sub(1)?).cloned()
    }

    /// The first function that begins at `address` or behind it.
    #[must_use]
    pub fn next_from(&self, address: u64) -> Option<Range<u64>> {
        let index = self.ranges.partition_point(|range| range.start < address);
        self.ranges.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::Functions;

    #[test]
    fn the_end_before_a_function_is_the_highest_of_all_before_it() {
        let functions = Functions::new(vec![0x30..0x40, 0x10..0x28, 0x14..0x18, 0x50..0x50]);
        assert_eq!(functions.previous_end(0x30), Some(0x28));
        assert_eq!(functions.previous_end(0x10), None);
        assert_eq!(functions.previous_end(0x1000), Some(0x40));
        assert_eq!(functions.function_at(0x10), Some(0x10..0x28));
        assert_eq!(functions.function_at(0x11), None);
        assert_eq!(functions.function_at(0x50), None);
        assert_eq!(functions.next_from(0x29), Some(0x30..0x40));
        assert_eq!(functions.next_from(0x41), None);
        assert_eq!(functions.last_before(0x30), Some(0x14..0x18));
        assert_eq!(functions.last_before(0x10), None);
    }
}
