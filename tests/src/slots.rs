//! What stands in a process's allocator tables.

use leaktrace::cpython::tables::{self, AllocatorTables, Slot};
use leaktrace::cpython::version;
use leaktrace::gate::point::{Held, classify};
use leaktrace::target::memory::{ProcessMemory, ReadMemory as _};
use leaktrace::target::module::Module;

/// The allocator tables of a process, and of the copies that its children have.
#[derive(Debug)]
pub struct Slots {
    module: Module,
    tables: AllocatorTables,
}

impl Slots {
    /// Finds those of `pid`.
    ///
    /// # Panics
    /// It is no CPython.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let module = Module::find(pid).expect("the target is a CPython");
        let memory = ProcessMemory::open(pid).expect("its memory can be opened");
        let version = version::find(&module, &memory).expect("its version is known");
        let tables = tables::find(&module, &memory, &version).expect("it has tables");
        Self { module, tables }
    }

    /// How many of them are open in `pid`, which is the process itself or one forked from it.
    ///
    /// # Panics
    /// It is neither.
    #[must_use]
    pub fn open_in(&self, pid: u32) -> usize {
        let memory = ProcessMemory::open(pid).expect("its memory can be opened");
        let tables = self.tables.named();
        let slots = tables.iter().flat_map(|(_, table)| {
            Slot::ALL.map(|function| memory.read_u64(table.slot_address(function)))
        });
        slots
            .map(|value| classify(&self.module, value.expect("it can be read")))
            .filter(|held| {
                assert_ne!(*held, Held::Foreign);
                matches!(held, Held::Open { .. })
            })
            .count()
    }
}
