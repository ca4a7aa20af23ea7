//! The parts of an ELF file that tracing needs, at addresses of the file.

use std::collections::HashMap;
use std::ops::Range;

use object::elf::{self, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::target::maps::Mapping;

/// Bytes of the longest symbol name that is kept.
const MAX_NAME: usize = 256;

/// Smallest page on x86-64: segments are mapped in whole pages.
const PAGE: u64 = 4096;

/// The last address of user space, with 5-level page tables: no segment lies beyond.
const MAX_ADDRESS: u64 = 1 << 56;

/// What a file lacks to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotElf(pub &'static str);

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address, before the load bias is added.
    pub address: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file; the rest of the memory is zero at first.
    pub file_size: u64,
    /// Whether it is code.
    pub executable: bool,
}

/// An ELF file for x86-64 in memory.
#[derive(Debug)]
pub struct Elf {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    symbols: HashMap<Box<str>, u64>,
    build_id: Option<String>,
    soname: Option<String>,
    eh_frame: Option<(u64, Range<usize>)>,
}

impl Elf {
    /// Reads a file.
    ///
    /// # Errors
    /// [`NotElf`] says what is wrong with it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, NotElf> {
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice())
            .map_err(|_cause| NotElf("not a 64-bit ELF file"))?;
        if file.elf_header().e_machine(file.endian()) != elf::EM_X86_64
            || file.endian() != Endianness::Little
        {
            return Err(NotElf("not built for x86-64"));
        }
        let segments = segments(&file);
        let symbols = symbols(&file);
        let build_id = file.build_id().ok().flatten().map(hex);
        let soname = soname(&file);
        let eh_frame = file.section_by_name(".eh_frame").and_then(|section| {
            let (offset, size) = section.file_range()?;
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            Some((section.address(), start..end))
        });
        Ok(Self { segments, symbols, build_id, soname, eh_frame, bytes })
    }

    /// The whole file.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.bytes
    }

    /// The loadable segments, in the order of the file.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The dynamic symbols that the file defines, by name.
    #[must_use]
    pub const fn symbols(&self) -> &HashMap<Box<str>, u64> {
        &self.symbols
    }

    /// The GNU build id in hex digits.
    #[must_use]
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// The name that a shared library gives itself.
    #[must_use]
    pub fn soname(&self) -> Option<&str> {
        self.soname.as_deref()
    }

    /// Address and bytes of the unwind tables.
    #[must_use]
    pub fn eh_frame(&self) -> Option<(u64, &[u8])> {
        let (address, range) = self.eh_frame.clone()?;
        Some((address, self.bytes.get(range)?))
    }

    /// The load bias that puts a segment of code where `mapping` has it.
    #[must_use]
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        let start = mapping.offset;
        let segment = self.segments.iter().find(|segment| {
            let first = segment.offset & !(PAGE - 1);
            segment.executable && first <= start && start < segment.end_in_file()
        })?;
        let address = segment.address.wrapping_sub(segment.offset).wrapping_add(start);
        let bias = mapping.range.start.wrapping_sub(address);
        bias.is_multiple_of(PAGE).then_some(bias)
    }

    /// The addresses in the process from the first segment to the end of the last one's pages.
    #[must_use]
    pub fn span(&self, bias: u64) -> Option<Range<u64>> {
        let start = self.segments.iter().map(|segment| segment.address & !(PAGE - 1)).min()?;
        let end =
            self.segments.iter().map(|segment| segment.address + segment.memory_size).max()?;
        Some(start.wrapping_add(bias)..end.next_multiple_of(PAGE).wrapping_add(bias))
    }

    /// The offset in the file of what is mapped at `address`.
    #[must_use]
    pub fn file_offset_of(&self, address: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            address.checked_sub(segment.address).is_some_and(|inside| inside < segment.file_size)
        })?;
        Some(segment.offset + (address - segment.address))
    }

    /// Up to `length` bytes at `address`, fewer at the end of a segment, none outside.
    #[must_use]
    pub fn bytes(&self, address: u64, length: usize) -> &[u8] {
        let Some(offset) = self.file_offset_of(address) else { return &[] };
        let end = self
            .segments
            .iter()
            .filter(|segment| segment.offset <= offset && offset < segment.end_in_file())
            .map(Segment::end_in_file)
            .min()
            .unwrap_or(offset);
        let wanted = offset.saturating_add(length as u64).min(end).min(self.bytes.len() as u64);
        self.bytes.get(offset as usize..wanted as usize).unwrap_or_default()
    }
}

impl Segment {
    const fn end_in_file(&self) -> u64 {
        self.offset + self.file_size
    }
}

type File<'a> = ElfFile64<'a, Endianness>;

/// The loadable segments, without those whose numbers cannot be: sums of the others never overflow.
fn segments(file: &File<'_>) -> Vec<Segment> {
    let endian = file.endian();
    file.elf_program_headers()
        .iter()
        .filter(|header| header.p_type(endian) == PT_LOAD)
        .map(|header| Segment {
            address: header.p_vaddr(endian),
            memory_size: header.p_memsz(endian),
            offset: header.p_offset(endian),
            file_size: header.p_filesz(endian),
            executable: header.p_flags(endian).contains(elf::PF_X),
        })
        .filter(|segment| {
            segment.address < MAX_ADDRESS
                && segment.memory_size < MAX_ADDRESS
                && segment.offset < MAX_ADDRESS
                && segment.file_size <= segment.memory_size
        })
        .collect()
}

fn symbols(file: &File<'_>) -> HashMap<Box<str>, u64> {
    file.dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| Some((symbol.name().ok().filter(|name| is_wanted(name))?, symbol)))
        .map(|(name, symbol)| (name.into(), symbol.address()))
        .collect()
}

/// Whether a symbol may be asked for: one of an interpreter's. The others are not kept, since a crafted file could have
/// any number of them, of any length.
fn is_wanted(name: &str) -> bool {
    name.len() <= MAX_NAME
        && ["Py", "_Py", "pypy", "rpython"].iter().any(|start| name.starts_with(start))
}

fn soname(file: &File<'_>) -> Option<String> {
    let table = file.elf_dynamic_table().ok()?;
    let entry = table.iter().find(|entry| entry.tag == elf::DT_SONAME)?;
    Some(String::from_utf8_lossy(table.string(entry).ok()?).into_owned())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
