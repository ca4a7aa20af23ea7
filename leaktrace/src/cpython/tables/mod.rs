//! Finds the three allocator tables of CPython: `{ctx, malloc, calloc, realloc, free}` for raw, mem and obj.
//!
//! Two ways lead to them, independent of each other. The code of the exported wrappers (`PyObject_Malloc` and so on)
//! names the words that it loads: that decides, and holds under `PYTHONMALLOC` and tracemalloc too. A search of the
//! writable data for the pattern that the tables form at rest checks it: where the search finds other tables,
//! none are trusted. Up to 3.11 the tables are static variables of `obmalloc.c`, from 3.12 on they are
//! `_PyRuntime.allocators.standard`.

#![forbid(unsafe_code)]

mod code;
mod scan;
#[cfg(test)]
mod tests;

use super::version::Version;
use crate::target::memory::ReadMemory;
use crate::target::module::Module;

/// Bytes of a table: five words.
const TABLE_BYTES: u64 = 40;

/// Hooks that may be stacked over a table: tracemalloc over debug hooks, and room for one more.
pub const MOST_HOOKS: usize = 3;

/// One allocator table (`PyMemAllocatorEx`), as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it is.
    pub address: u64,
    /// The context that each function gets first.
    pub ctx: u64,
    /// `malloc(ctx, size)`.
    pub malloc: u64,
    /// `calloc(ctx, count, size)`.
    pub calloc: u64,
    /// `realloc(ctx, block, size)`.
    pub realloc: u64,
    /// `free(ctx, block)`.
    pub free: u64,
}

/// The functions of a table, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// `malloc`.
    Malloc,
    /// `calloc`.
    Calloc,
    /// `realloc`.
    Realloc,
    /// `free`.
    Free,
}

impl Slot {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Malloc, Self::Calloc, Self::Realloc, Self::Free];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malloc => "malloc",
            Self::Calloc => "calloc",
            Self::Realloc => "realloc",
            Self::Free => "free",
        }
    }

    /// Bytes from the start of a table.
    #[must_use]
    pub const fn offset(self) -> u64 {
        match self {
            Self::Malloc => 8,
            Self::Calloc => 16,
            Self::Realloc => 24,
            Self::Free => 32,
        }
    }
}

impl Table {
    /// Reads the table at `address`; `None` where it cannot be read.
    #[must_use]
    pub fn read(memory: &dyn ReadMemory, address: u64) -> Option<Self> {
        let mut bytes = [0; TABLE_BYTES as usize];
        memory.read_bytes(address, &mut bytes).ok()?;
        let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next();
        Some(Self {
            address,
            ctx: next()?,
            malloc: next()?,
            calloc: next()?,
            realloc: next()?,
            free: next()?,
        })
    }

    /// The function of a slot.
    #[must_use]
    pub const fn function(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Malloc => self.malloc,
            Slot::Calloc => self.calloc,
            Slot::Realloc => self.realloc,
            Slot::Free => self.free,
        }
    }

    /// The functions, in the order of [`Slot::ALL`].
    #[must_use]
    pub const fn functions(&self) -> [u64; 4] {
        [self.malloc, self.calloc, self.realloc, self.free]
    }

    /// Where a slot is.
    #[must_use]
    pub const fn slot_address(&self, slot: Slot) -> u64 {
        self.address.wrapping_add(slot.offset())
    }

    /// Whether the function of a slot is one of CPython's own plain allocators: it begins a function of the
    /// interpreter's module, and the table has no context. Debug hooks and tracemalloc have one; foreign hooks lie in
    /// other modules.
    #[must_use]
    pub fn is_plain(&self, slot: Slot, module: &Module) -> bool {
        self.ctx == 0 && module.functions().function_at(self.function(slot)).is_some()
    }

    /// The table that calls come to through hooks that keep it whole behind their `ctx`, as tracemalloc does (debug hooks
    /// do not: they ask for more than they are asked for). It is taken for this one: when the hooks go, it will be.
    #[must_use]
    fn beneath_hooks(self, module: &Module, memory: &dyn ReadMemory) -> Self {
        let mut table = self;
        for _ in 0..MOST_HOOKS {
            match Table::read(memory, table.ctx).filter(|_| table.ctx != 0) {
                Some(kept) if kept.is_own(module) => table = kept,
                _ => break,
            }
        }
        Self { address: self.address, ..table }
    }

    /// Whether all four functions are the interpreter's own.
    fn is_own(&self, module: &Module) -> bool {
        self.functions().iter().all(|&function| module.functions().function_at(function).is_some())
    }

    /// Whether all four functions are plain, see [`Self::is_plain`].
    #[must_use]
    pub fn all_plain(&self, module: &Module) -> bool {
        Slot::ALL.iter().all(|&slot| self.is_plain(slot, module))
    }
}

/// What the search of the data says to the tables that the code led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It found the same tables.
    Agrees,
    /// It found nothing.
    FoundNothing,
    /// The tables are not at rest (debug hooks, tracemalloc, an allocator chosen by `PYTHONMALLOC`, an open gate): the
    /// pattern that it looks for is not there, or is another's.
    DoesNotApply,
}

/// The allocator tables of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocatorTables {
    /// `PyMem_Raw*`: callable without the GIL.
    pub raw: Table,
    /// `PyMem_*`.
    pub mem: Table,
    /// `PyObject_*`.
    pub obj: Table,
    /// Whether the wrappers compare a table's pointers with functions that they have inlined (an optimised build):
    /// then an untouched function's own entry does not see its calls.
    pub inlined: bool,
    /// What the second way said.
    pub check: Check,
    /// Whether hooks stand over them that keep the tables whole, and what is told here is what they keep.
    pub hooked: bool,
}

/// Why the tables are not known: no gate can be built then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    /// The code of the wrappers leads to no table.
    #[error(
        "no gate: the code of `{prefix}Malloc` and its siblings leads to no allocator table; trace with --no-gate"
    )]
    NotFound {
        /// What the names of the wrappers begin with.
        prefix: &'static str,
    },
    /// The code of the wrappers leads to several.
    #[error(
        "no gate: the code of `{prefix}Malloc` and its siblings leads to several allocator tables; trace with --no-gate"
    )]
    Ambiguous {
        /// What the names of the wrappers begin with.
        prefix: &'static str,
    },
    /// The search of the data found others.
    #[error(
        "no gate: the allocator tables in the data are not those that the code uses ({code:#x}, {data:#x}); \
         trace with --no-gate"
    )]
    Contradiction {
        /// The raw table that the code leads to.
        code: u64,
        /// The raw table that the search found.
        data: u64,
    },
    /// A table cannot be read.
    #[error(
        "no gate: the allocator table at {address:#x} cannot be read; check that the process still runs"
    )]
    Unreadable {
        /// The table.
        address: u64,
    },
}

/// Finds the tables of the interpreter in `module`.
///
/// # Errors
/// [`TablesError`] where the code leads to no tables or to several, or the data contradict it.
pub fn find(
    module: &Module,
    memory: &dyn ReadMemory,
    version: &Version,
) -> Result<AllocatorTables, TablesError> {
    let found = code::find(module, memory)?;
    let read = |address| Table::read(memory, address).ok_or(TablesError::Unreadable { address });
    let (raw, mem, obj) = (read(found.raw)?, read(found.mem)?, read(found.obj)?);
    let check = Check::DoesNotApply;
    let mut tables =
        AllocatorTables { raw, mem, obj, inlined: found.inlined, check, hooked: false };
    if tables.at_rest(module) {
        tables.check = scan::check(module, memory, version, &tables)?;
        return Ok(tables);
    }
    for table in [&mut tables.raw, &mut tables.mem, &mut tables.obj] {
        let beneath = table.beneath_hooks(module, memory);
        tables.hooked |= beneath != *table;
        *table = beneath;
    }
    Ok(tables)
}

impl AllocatorTables {
    /// The tables with their names.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, Table); 3] {
        [("raw", self.raw), ("mem", self.mem), ("obj", self.obj)]
    }

    /// Whether they hold what CPython puts there by default: plain allocators, pymalloc's for mem and obj.
    fn at_rest(&self, module: &Module) -> bool {
        self.named().iter().all(|(_, table)| table.all_plain(module))
            && self.mem.functions() == self.obj.functions()
            && self.mem.functions().iter().zip(self.raw.functions()).all(|(mem, raw)| *mem != raw)
    }
}
