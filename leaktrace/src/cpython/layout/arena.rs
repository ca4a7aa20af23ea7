//! The arenas of pymalloc: where an interpreter keeps the array of them, and what each says of its pools.

use super::table::Table;

/// Where the array of arenas is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaList {
    /// In a static variable `arenas`, up to 3.11.
    Static,
    /// In `PyInterpreterState.obmalloc.mgmt` (3.12).
    Embedded {
        /// Of `obmalloc.mgmt.arenas` in the interpreter.
        arenas: u64,
        /// Of `obmalloc.mgmt.maxarenas` in the interpreter, 4 bytes.
        count: u64,
    },
    /// In the state that `PyInterpreterState.obmalloc` points to (from 3.13 on).
    Pointer {
        /// Of the pointer in the interpreter.
        state: u64,
        /// Of `mgmt.arenas` in the state.
        arenas: u64,
        /// Of `mgmt.maxarenas` in the state, 4 bytes.
        count: u64,
    },
}

/// `struct arena_object`, and where the array of them is noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaFields {
    /// Where the array begins is noted here.
    pub list: ArenaList,
    /// `address`: where its memory begins; 0 where it has none.
    pub address: u64,
    /// `pool_address`: where the pools begin that were never used.
    pub pool_address: u64,
    /// `nfreepools`, 4 bytes: pools that are not in use.
    pub free_pools: u64,
    /// `ntotalpools`, 4 bytes: pools that it has room for.
    pub total_pools: u64,
    /// `nextarena`: of an arena without memory, another one of them in the array.
    pub next: u64,
    /// Its size.
    pub bytes: u64,
    /// `pool_header.arenaindex`, 4 bytes: which arena of the array a pool lies in.
    pub pool_arena: u64,
    /// `pool_header.maxnextoffset`, 4 bytes: `POOL_SIZE` less the bytes of one block.
    pub pool_last: u64,
}

impl ArenaFields {
    /// `None` where a table does not describe arenas: then there is no census.
    pub(super) fn load(table: &Table) -> Option<Self> {
        const OBMALLOC: &str = "PyInterpreterState.obmalloc";
        let list = match table.maybe_offset(OBMALLOC) {
            None => ArenaList::Static,
            Some(state) if table.is_pointer(OBMALLOC) => ArenaList::Pointer {
                state,
                arenas: table.maybe_offset("_obmalloc_state.mgmt.arenas")?,
                count: table.maybe_offset("_obmalloc_state.mgmt.maxarenas")?,
            },
            Some(_) => ArenaList::Embedded {
                arenas: table.maybe_offset("PyInterpreterState.obmalloc.mgmt.arenas")?,
                count: table.maybe_offset("PyInterpreterState.obmalloc.mgmt.maxarenas")?,
            },
        };
        Some(Self {
            list,
            address: table.maybe_offset("arena_object.address")?,
            pool_address: table.maybe_offset("arena_object.pool_address")?,
            free_pools: table.maybe_offset("arena_object.nfreepools")?,
            total_pools: table.maybe_offset("arena_object.ntotalpools")?,
            next: table.maybe_offset("arena_object.nextarena")?,
            bytes: table.size("arena_object").ok()?,
            pool_arena: table.maybe_offset("pool_header.arenaindex")?,
            pool_last: table.maybe_offset("pool_header.maxnextoffset")?,
        })
    }
}
