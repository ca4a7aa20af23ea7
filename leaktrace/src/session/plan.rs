//! Which probe goes where: for each function of the tables the places to try, and the slots that lead there.

use super::SessionError;
use super::recognise::Target;
use crate::cpython::tables::{AllocatorTables, Slot as Function, Table};
use crate::gate::point::{self, GatePoint, Kind};
use crate::kernel::Probe;
use crate::target::memory::ReadMemory as _;
use crate::target::module::Module;

/// One function, its probe, and where that can sit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The program for its entry.
    pub(super) probe: Probe,
    /// The program for its return, if it returns a block.
    pub(super) on_return: Option<Probe>,
    /// Which function of a table it is.
    pub(super) function: Function,
    /// Its address.
    pub(super) address: u64,
    /// Addresses of the tables that it stands in.
    pub(super) tables: Vec<u64>,
    /// Whether it is one of CPython's own plain allocators, not a hook.
    pub(super) plain: bool,
    /// Where to try to put the probe, best first.
    pub(super) candidates: Vec<GatePoint>,
}

/// Which tables may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gates {
    /// All.
    All,
    /// That of the raw domain. In a free-threaded build the others hold mimalloc's functions, and CPython compares
    /// `obj.malloc` with its own to count blocks (`_PyMem_MimallocEnabled`).
    Raw,
    /// None.
    None,
}

/// The places for all functions of the tables. Those that would need a store into the target are taken where `gates`
/// lets them.
#[must_use]
pub(super) fn places(target: &Target, gates: Gates) -> Vec<Place> {
    let tables = &target.tables;
    let mut places: Vec<Place> = Vec::new();
    for (table, raw) in [(&tables.raw, true), (&tables.obj, false), (&tables.mem, false)] {
        for function in Function::ALL {
            let address = table.function(function);
            // Where a function stands in several tables (mem and obj share theirs; under PYTHONMALLOC=malloc all three
            // do), one probe sees the calls of all.
            if let Some(place) = places.iter_mut().find(|place| place.address == address) {
                place.tables.push(table.address);
            } else {
                places.push(place(target, table, function, raw, gates));
            }
        }
    }
    places
}

/// Whether no probe can see the calls of `raw.malloc`.
pub(super) fn lacks_raw_malloc(places: &[Place]) -> bool {
    places.iter().any(|place| place.probe == Probe::RawMalloc && place.candidates.is_empty())
}

impl Place {
    /// Whether a closed gate keeps calls from a probe at `point`. Where it does not, a probe that stayed would cost as much
    /// between windows as in them: it is put in for each.
    pub(super) fn is_closable(&self, point: &GatePoint) -> bool {
        match point.kind {
            Kind::Nop | Kind::Jump => true,
            // It is hardly ever called.
            Kind::Endbr => self.probe == Probe::RawCalloc,
            Kind::Entry => false,
        }
    }
}

/// Puts the candidates that a gate closes before the others: what opens and closes for a store costs least.
pub(super) fn prefer_closable(places: &mut [Place]) {
    for place in places {
        let mut candidates = std::mem::take(&mut place.candidates);
        candidates.sort_by_key(|point| !place.is_closable(point));
        place.candidates = candidates;
    }
}

/// Whether `target` can be traced in windows.
///
/// # Errors
/// No: nobody could tell what became of the blocks of a window.
pub(super) fn check_windows(places: &[Place], target: &Target) -> Result<(), SessionError> {
    let objects = target.tables.obj.address;
    let serving =
        |wanted| places.iter().find(|it| it.function == wanted && it.tables.contains(&objects));
    let both = [Function::Malloc, Function::Free].map(serving);
    let is_partial = |place: &Place| {
        let at_entry = |point: &GatePoint| point.kind == Kind::Entry;
        target.tables.inlined && place.candidates.first().is_none_or(at_entry)
    };
    let why = if target.layout.free_threaded {
        "what became of a free-threaded build's blocks cannot be told by looking at them"
    } else if target.tables.hooked || !both[0].is_some_and(|place| place.plain) {
        "hooks stand over its allocator (debug hooks, tracemalloc, a profiler), under which what became of blocks cannot \
         be told by looking at them"
    } else if both.into_iter().any(|place| place.is_none_or(is_partial)) {
        "only a few calls of an optimised CPython can be seen without its gate"
    } else {
        return Ok(());
    };
    Err(SessionError::NoWindows { pid: target.process.pid(), why })
}

fn place(target: &Target, table: &Table, function: Function, raw: bool, gates: Gates) -> Place {
    let (module, tables) = (&target.module, &target.tables);
    let gate = gates == Gates::All || (gates == Gates::Raw && raw);
    let address = table.function(function);
    // Where mem and obj differ, pymalloc serves neither (PYTHONMALLOC=mimalloc): nothing inlines their functions, but
    // CPython compares obj's with its own to count blocks.
    let own = raw || gates == Gates::Raw || tables.mem.functions() == tables.obj.functions();
    let plain = own && table.is_plain(function, module);
    let candidates = point::candidates(module, address)
        .into_iter()
        .chain(elsewhere(target, address))
        .filter(|point| match point.kind {
            // Only CPython's own plain allocators are what its inlined paths compare with. A pointer that differs in
            // more than one byte is replaced as a whole, but only where no entry would see the calls instead.
            Kind::Nop | Kind::Endbr => {
                gate && plain && (point.differs_in_low_byte_only || tables.inlined)
            }
            // In a function of the tables a jump is taken by calls that have been seen already.
            Kind::Jump => {
                gate && plain && tables.inlined && !is_inside(tables, module, point.address)
            }
            // Hooks are called through the table anyway. A plain function is, too, where nothing is inlined.
            Kind::Entry => !plain || !tables.inlined || !gate,
        })
        .collect();
    Place {
        probe: probe(function, raw),
        on_return: on_return(function, raw),
        function,
        address,
        tables: vec![table.address],
        plain,
        candidates,
    }
}

/// Whether an address lies in one of the functions of the tables.
fn is_inside(tables: &AllocatorTables, module: &Module, address: u64) -> bool {
    let around = module.functions().last_before(address);
    let start = around.map_or(0, |range| range.start);
    tables.named().iter().any(|(_, table)| table.functions().contains(&start))
}

/// The entry of a hook that is another module's.
fn elsewhere(target: &Target, address: u64) -> Option<GatePoint> {
    if target.module.is_executable(address) {
        return None;
    }
    let mut bytes = [0; point::MAX_INSTRUCTION];
    target.memory.read_bytes(address, &mut bytes).ok()?;
    point::entry_elsewhere(&bytes, address)
}

const fn probe(function: Function, raw: bool) -> Probe {
    match (function, raw) {
        (Function::Malloc, true) => Probe::RawMalloc,
        (Function::Calloc, true) => Probe::RawCalloc,
        (Function::Realloc, true) => Probe::RawRealloc,
        (Function::Free, true) => Probe::RawFree,
        (Function::Malloc, false) => Probe::ObjMalloc,
        (Function::Calloc, false) => Probe::ObjCalloc,
        (Function::Realloc, false) => Probe::ObjRealloc,
        (Function::Free, false) => Probe::ObjFree,
    }
}

const fn on_return(function: Function, raw: bool) -> Option<Probe> {
    match function {
        Function::Free => None,
        _ if raw => Some(Probe::RawReturn),
        _ => Some(Probe::ObjReturn),
    }
}
