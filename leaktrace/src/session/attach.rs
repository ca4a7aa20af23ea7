//! Puts the probes in place, each at the best place that the kernel takes.

use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use leaktrace_common::event::{Event, kind};

use super::SessionError;
use super::plan::Place;
use super::recognise::Target;
use crate::cpython::tables::{AllocatorTables, Slot as Function, Table};
use crate::gate::point::{self, Cost, GatePoint, Kind};
use crate::gate::{Gate, Slot};
use crate::guard::{Sees, SpellProbe};
use crate::kernel::{KernelError, Probe, Programs, uprobe_events};
use crate::report;
use crate::target::maps::{self, Mapping};

/// What was attached.
#[derive(Debug)]
pub(super) struct Attached {
    /// The gate, still closed.
    pub(super) gate: Gate,
    /// The places, each with where its probe sits; `None` where the kernel took none of its candidates.
    pub(super) seen: Vec<(Place, Option<GatePoint>)>,
    /// Probes that are put into the target for windows.
    pub(super) for_windows: Vec<SpellProbe>,
}

/// How probes are put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// Whether functions whose block only the return value tells may have a probe on their return. Without, they are left
    /// out.
    pub(super) return_probes: bool,
    /// Whether those that the gate does not close are put in for windows alone.
    pub(super) in_windows: bool,
}

/// Attaches the probes of `places` to `target`. Each takes the kernel some hundredth of a second: in between it can be
/// cancelled.
///
/// # Errors
/// Nothing at all could be attached: the last refusal.
pub(super) async fn attach(
    programs: &mut Programs,
    target: &Target,
    places: Vec<Place>,
    how: How,
) -> Result<Attached, SessionError> {
    let mut refusal = None;
    let mut seen = Vec::new();
    let mut for_windows = Vec::new();
    for place in places {
        let awaits = place.on_return == Some(Probe::RawReturn);
        let point = if awaits && !how.return_probes {
            None
        } else {
            first_accepted(programs, target, &place, how, (&mut for_windows, &mut refusal))
        };
        seen.push((place, point));
        tokio::task::yield_now().await;
    }
    if seen.iter().all(|(_, point)| point.is_none()) {
        return Err(refusal.map_or(SessionError::NothingToProbe, SessionError::from));
    }
    let slots = seen.iter().flat_map(|(place, point)| slots(place, *point)).collect();
    Ok(Attached { gate: Gate::new(Arc::clone(&target.memory), slots), seen, for_windows })
}

/// The first candidate that the kernel takes.
fn first_accepted(
    programs: &mut Programs,
    target: &Target,
    place: &Place,
    how: How,
    (for_windows, refusal): (&mut Vec<SpellProbe>, &mut Option<KernelError>),
) -> Option<GatePoint> {
    for &point in &place.candidates {
        let done = match Spots::of(target, place, &point, how.return_probes) {
            Ok(spots) if how.in_windows && !place.is_closable(&point) => {
                define(programs, target, &spots).map(|probes| for_windows.extend(probes))
            }
            Ok(spots) => put_all(programs, target, &spots),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => return Some(point),
            Err(error) => {
                tracing::debug!("{error}");
                *refusal = Some(error);
            }
        }
    }
    None
}

/// The probes of a place: that on the return first, so that no entry waits for it in vain.
struct Spots(Vec<(Probe, u64)>);

impl Spots {
    /// Those of `place` where its entry is seen at `point`.
    fn of(
        target: &Target,
        place: &Place,
        point: &GatePoint,
        return_probes: bool,
    ) -> Result<Self, KernelError> {
        let mut spots = Vec::new();
        if let Some(on_return) = place.on_return.filter(|_| return_probes) {
            // A return probe reads its return address off the stack: only a function's very first instruction will do, or
            // what leads to it without a push.
            let entry = if point.kind == Kind::Entry { place.address } else { point.address };
            if entry != point.address && !point::may_be_probed(&target.module, entry) {
                return Err(refused(target, on_return, entry, "the kernel would rewrite that NOP"));
            }
            spots.push((on_return, entry));
        }
        spots.push((place.probe, point.address));
        Ok(Self(spots))
    }
}

/// Puts them there for as long as the session lives.
fn put_all(programs: &mut Programs, target: &Target, spots: &Spots) -> Result<(), KernelError> {
    for (index, &(probe, address)) in spots.0.iter().enumerate() {
        let put = put(programs, target, probe, address);
        put.inspect_err(|_refused| {
            spots.0[..index].iter().for_each(|&(probe, _)| programs.detach_last(probe));
        })?;
    }
    Ok(())
}

/// Has them ready to be put there for windows. The kernel says what it thinks of an instruction once a probe stands there.
fn define(
    programs: &mut Programs,
    target: &Target,
    spots: &Spots,
) -> Result<Vec<SpellProbe>, KernelError> {
    let mut probes: Vec<SpellProbe> = Vec::new();
    for &(probe, address) in &spots.0 {
        let defined = location(target, probe, address).and_then(|(file, offset)| {
            let event = programs.define_event(probe, &file, offset)?;
            probes.push(SpellProbe { sees: sees(probe), event });
            let tried = uprobe_events::put(event, target.process.pid());
            tried.map_err(|error| refused(target, probe, offset, &error.to_string()))
        });
        // The trial is over with this.
        if let Err(error) = defined.map(drop) {
            probes.iter().for_each(|probe| programs.remove_event(probe.event));
            return Err(error);
        }
    }
    Ok(probes)
}

const fn sees(probe: Probe) -> Sees {
    match probe {
        Probe::ObjFree | Probe::RawFree => Sees::Frees,
        Probe::ObjReturn => Sees::ObjReturns,
        Probe::RawReturn => Sees::Returns,
        _ => Sees::Allocations,
    }
}

fn refused(target: &Target, probe: Probe, offset: u64, cause: &str) -> KernelError {
    KernelError::Attach {
        probe: probe.name(),
        file: target.module.map_file().display().to_string(),
        offset,
        cause: cause.to_owned(),
    }
}

fn put(
    programs: &mut Programs,
    target: &Target,
    probe: Probe,
    address: u64,
) -> Result<(), KernelError> {
    let (file, offset) = location(target, probe, address)?;
    let pid = NonZeroU32::new(target.process.pid())
        .ok_or_else(|| refused(target, probe, offset, "the pid is 0"))?;
    programs.attach(probe, &file, offset, pid)
}

fn location(target: &Target, probe: Probe, address: u64) -> Result<(PathBuf, u64), KernelError> {
    file_of(target, address)
        .ok_or_else(|| refused(target, probe, address, "the address is in no file"))
}

/// The file that is mapped at `address`, and the offset in it: the interpreter's, or where a hook lies.
fn file_of(target: &Target, address: u64) -> Option<(PathBuf, u64)> {
    let module = &target.module;
    if let Some(offset) = module.file_offset_of(address).filter(|_| module.is_executable(address)) {
        return Some((module.map_file().to_owned(), offset));
    }
    let pid = target.process.pid();
    let mappings = maps::read(pid).ok()?;
    let code = |it: &Mapping| it.executable && it.is_file() && it.range.contains(&address);
    let mapping = mappings.into_iter().find(code)?;
    let Range { start, end } = mapping.range;
    let file = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
    Some((file, address - start + mapping.offset))
}

fn slots(place: &Place, point: Option<GatePoint>) -> Vec<Slot> {
    let Some(point) = point else { return Vec::new() };
    // A probe in the function itself sees calls as long as the table leads there; nothing is written for it.
    let open = if point.kind == Kind::Entry { place.address } else { point.address };
    let (function, closed, raw) = (place.function, place.address, place.probe.is_raw());
    place.tables.iter().map(|&table| Slot { table, function, closed, open, raw }).collect()
}

impl Attached {
    /// How the calls of the main allocator, `obj.malloc`, are seen; `None` where they are not.
    pub(super) fn main_kind(&self) -> Option<Kind> {
        let is_main = |place: &Place| {
            place.function == Function::Malloc && place.on_return == Some(Probe::ObjReturn)
        };
        // Under PYTHONMALLOC=malloc the raw functions serve all domains.
        self.seen
            .iter()
            .find(|(place, _)| is_main(place))
            .or_else(|| self.seen.first())
            .and_then(|(_, point)| point.map(|point| point.kind))
    }

    /// Percent of the table slots whose calls are all seen. `None` where a plain function of an `inlined` build is
    /// probed at its own entry: that sees only the few calls that were not inlined, and nobody knows how few.
    pub(super) fn coverage_pct(&self, inlined: bool) -> Option<f64> {
        let is_entry = |point: &Option<GatePoint>| point.is_some_and(|p| p.kind == Kind::Entry);
        if inlined && self.seen.iter().any(|(place, point)| place.plain && is_entry(point)) {
            return None;
        }
        let slots = |seen: bool| -> usize {
            self.seen
                .iter()
                .filter(|(_, point)| !seen || point.is_some())
                .map(|(place, _)| place.tables.len())
                .sum()
        };
        Some(100.0 * slots(true) as f64 / slots(false).max(1) as f64)
    }

    /// Each function of `tables`, and how its calls are seen.
    pub(super) fn functions(&self, tables: &AllocatorTables) -> Vec<report::Function> {
        let named =
            |address: &u64| tables.named().into_iter().find(|(_, table)| table.address == *address);
        let function = |(place, point): &(Place, Option<GatePoint>)| report::Function {
            name: place.function.name(),
            tables: place.tables.iter().filter_map(named).map(|(name, _)| name).collect(),
            seen: point.map(|point| point.kind.name()),
        };
        self.seen.iter().map(function).collect()
    }

    /// Whether calls of both `malloc` and `free` by `table` are seen.
    pub(super) fn sees_both_of(&self, table: &Table) -> bool {
        [Function::Malloc, Function::Free].into_iter().all(|function| {
            self.seen.iter().any(|(place, point)| {
                let is_its = place.function == function && place.tables.contains(&table.address);
                is_its && point.is_some()
            })
        })
    }

    /// What a hit of `probe` costs, where it sits.
    pub(super) fn cost_of(&self, probe: Probe) -> Cost {
        let its = self.seen.iter().filter(|(place, _)| place.probe == probe);
        its.filter_map(|(_, point)| point.map(|point| point.cost)).max().unwrap_or(Cost::Emulated)
    }

    /// Whether frees of the raw domain are seen.
    pub(super) fn raw_free_seen(&self) -> bool {
        self.seen.iter().any(|(place, point)| place.probe == Probe::RawFree && point.is_some())
    }

    /// Whether all frees by `table` are seen: see [`Self::coverage_pct`].
    pub(super) fn sees_frees_of(&self, table: &Table, inlined: bool) -> bool {
        let is_its = |place: &Place| {
            place.function == Function::Free && place.tables.contains(&table.address)
        };
        let is_seen = |place: &Place, point: GatePoint| {
            !(inlined && place.plain && point.kind == Kind::Entry)
        };
        self.seen
            .iter()
            .any(|(place, point)| is_its(place) && point.is_some_and(|point| is_seen(place, point)))
    }

    /// Whether a closed gate keeps the calls behind `event` from the probes.
    pub(super) fn closes(&self, event: &Event<'_>) -> bool {
        let frees = matches!(event, Event::Free(free) if free.head.kind == kind::FREE);
        self.seen
            .iter()
            .filter(|(place, _)| (place.function == Function::Free) == frees)
            .all(|(_, point)| point.is_none_or(|point| point.kind == Kind::Nop))
    }

    /// What is not seen, in words.
    pub(super) fn warnings(&self, inlined: bool) -> Vec<String> {
        if self.coverage_pct(inlined).is_none() {
            return vec![
                "this CPython is optimised and its gate stays closed: only the few calls that the compiler did not \
                 inline are seen, nobody knows how few"
                    .to_owned(),
            ];
        }
        self.seen
            .iter()
            .filter(|(_, point)| point.is_none())
            .map(|(place, _)| {
                let name = place.probe.name().replace('_', ".");
                format!("calls of {name} are not seen: its function has no place for a probe")
            })
            .collect()
    }
}
