//! The BPF programs in the kernel: loading, attaching, their records, counters and switches.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread::JoinHandle;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::uprobe::{UProbe, UProbeLinkId, UProbeScope};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use leaktrace_common::config::{Config, switch};
use leaktrace_common::counter::{Counter, SLOTS};
use leaktrace_common::limits::RING_BYTES;

use super::probe::Probe;
use super::ring::{Drained, EventRing, Mark};
use super::uprobe_events::UprobeEvents;
use super::windows::Windows;
use super::{KernelError, forks};

/// The object that is built from `leaktrace-ebpf` and checked in.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/leaktrace.bpf.o");

/// Bytes of the smallest ring buffer: one page.
const SMALLEST_RING: u32 = 4096;

/// Names a file with another object to load: how the tests run on one that was just built.
const OBJECT_VARIABLE: &str = "LEAKTRACE_BPF_OBJECT";

/// Runs of a program that the kernel measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// How long they took together, in nanoseconds.
    pub ns: u64,
}

/// The loaded programs. Dropping them detaches every probe.
pub struct Programs {
    pub(super) ebpf: Ebpf,
    events: EventRing,
    pub(super) forks: RingBuf<MapData>,
    /// How far each channel of the gate may be open.
    pub windows: Windows,
    links: BTreeMap<Probe, Vec<UProbeLinkId>>,
    uprobe_events: Option<UprobeEvents>,
    detaching: Option<JoinHandle<()>>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Programs {
    /// Loads the programs for a target that `config` describes. With `log` they log what they do, through the `log`
    /// crate.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load(config: &Config, log: bool) -> Result<Self, KernelError> {
        Self::load_with(config, log, RING_BYTES)
    }

    /// As [`Self::load`], with a ring buffer of so many bytes, a power of two.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load_with(config: &Config, log: bool, ring_bytes: u32) -> Result<Self, KernelError> {
        let mut ebpf = load_object(config, log, ring_bytes)?;
        for probe in Probe::ALL {
            program(&mut ebpf, probe)?.load().map_err(|error| load_failed(&error))?;
        }
        let events = ebpf.take_map("EVENTS").ok_or_else(|| map_failed("EVENTS", "missing"))?;
        let events = RingBuf::try_from(events).map_err(|error| map_failed("EVENTS", error))?;
        let events = EventRing::new(events).map_err(|error| map_failed("EVENTS", error))?;
        let forks = forks::take_ring(&mut ebpf)?;
        let windows = Windows::take(&mut ebpf)?;
        let log = if log {
            Some(EbpfLogger::init(&mut ebpf).map_err(|error| load_failed(&error))?)
        } else {
            None
        };
        Ok(Self {
            ebpf,
            events,
            forks,
            windows,
            links: BTreeMap::new(),
            uprobe_events: None,
            detaching: None,
            log,
        })
    }

    /// Puts `probe` on the instruction at `offset` of `file`, for the process `pid`.
    ///
    /// # Errors
    /// The kernel refuses that instruction or that file.
    pub fn attach(
        &mut self,
        probe: Probe,
        file: &Path,
        offset: u64,
        pid: NonZeroU32,
    ) -> Result<(), KernelError> {
        let link = program(&mut self.ebpf, probe)?
            .attach(offset, file, UProbeScope::OneProcess(pid))
            .map_err(|error| KernelError::Attach {
                probe: probe.name(),
                file: file.display().to_string(),
                offset,
                cause: chain(&error),
            })?;
        self.links.entry(probe).or_default().push(link);
        Ok(())
    }

    /// Defines a uprobe event that runs `probe` at the instruction at `offset` of `file`, in whatever process it is
    /// [put](super::uprobe_events::put) into. Returns what perf calls it.
    ///
    /// # Errors
    /// The kernel refuses that file, or has no uprobe events.
    pub fn define_event(
        &mut self,
        probe: Probe,
        file: &Path,
        offset: u64,
    ) -> Result<u64, KernelError> {
        let failed = |cause: String| KernelError::Attach {
            probe: probe.name(),
            file: file.display().to_string(),
            offset,
            cause,
        };
        let events = match &mut self.uprobe_events {
            Some(events) => events,
            none => none.insert(
                UprobeEvents::open()
                    .map_err(|error| failed(format!("no uprobe events in tracefs: {error}")))?,
            ),
        };
        let program = program(&mut self.ebpf, probe)?.fd().map_err(|error| load_failed(&error))?;
        let defined = events.define(probe, program.as_fd(), file, offset);
        defined.map_err(|error| failed(error.to_string()))
    }

    /// Removes a uprobe event, which must not be in any process any more.
    pub fn remove_event(&mut self, id: u64) {
        if let Some(events) = &mut self.uprobe_events {
            events.remove(id);
        }
    }

    /// Takes `probe` off wherever it was attached.
    pub fn detach(&mut self, probe: Probe) {
        for link in self.links.remove(&probe).unwrap_or_default() {
            if let Err(error) = program(&mut self.ebpf, probe)
                .and_then(|program| program.detach(link).map_err(|error| load_failed(&error)))
            {
                tracing::warn!("cannot detach `{}`: {error}", probe.name());
            }
        }
    }

    /// As [`Self::detach`], and waits for nothing: the kernel takes some 0.1 s for each place. Uprobe events stay defined;
    /// none can be put in or taken out meanwhile, as the kernel does these things one after the other: see
    /// [`Self::is_detaching`].
    pub fn detach_behind(&mut self, probe: Probe) {
        let Ok(program) = program(&mut self.ebpf, probe) else { return };
        let links = self.links.remove(&probe).unwrap_or_default();
        let links: Vec<_> =
            links.into_iter().filter_map(|link| program.take_link(link).ok()).collect();
        // Should the process end before this thread, the kernel does the same.
        self.detaching = Some(std::thread::spawn(move || drop(links)));
    }

    /// Whether probes are being taken off behind the scenes.
    #[must_use]
    pub fn is_detaching(&self) -> bool {
        self.detaching.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Takes `probe` off where it was put last.
    pub fn detach_last(&mut self, probe: Probe) {
        let last = self.links.get_mut(&probe).and_then(Vec::pop);
        if let (Some(link), Ok(program)) = (last, program(&mut self.ebpf, probe))
            && let Err(error) = program.detach(link)
        {
            tracing::warn!("cannot detach `{}`: {error}", probe.name());
        }
    }

    /// Hands up to `most` records to `take`, oldest first; returns how many there were.
    pub fn drain(&mut self, most: usize, take: impl FnMut(&[u8])) -> usize {
        self.drain_until(self.written(), most, take).records
    }

    /// As [`Self::drain`], but none that was begun after `mark`.
    pub fn drain_until(&mut self, mark: Mark, most: usize, take: impl FnMut(&[u8])) -> Drained {
        self.events.drain_until(mark, most, take)
    }

    /// The end of the records that were begun until now.
    #[must_use]
    pub fn written(&self) -> Mark {
        self.events.written()
    }

    /// Hands on what the programs have logged.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Lets the programs predict blocks instead of waiting for return probes.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn trust_predictions(&mut self) -> Result<(), KernelError> {
        let map = self.ebpf.map_mut("SWITCHES").ok_or_else(|| map_failed("SWITCHES", "missing"))?;
        let mut switches =
            Array::<_, u32>::try_from(map).map_err(|error| map_failed("SWITCHES", error))?;
        switches.set(switch::TRUST_PREDICTION, 1, 0).map_err(|error| map_failed("SWITCHES", error))
    }

    /// Has the frames of these stacks sent again when they come next.
    pub fn forget_stacks(&mut self, ids: impl IntoIterator<Item = u64>) {
        let Some(map) = self.ebpf.map_mut("KNOWN") else { return };
        let Ok(mut known) = HashMap::<_, u64, u8>::try_from(map) else { return };
        for id in ids {
            // An id that is not there was evicted: it will be sent again anyway.
            let _ = known.remove(&id);
        }
    }

    /// The counters of the kernel side that are not zero, summed over the CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<Counter, u64>, KernelError> {
        let counters = self.counter_map()?;
        let mut counts = BTreeMap::new();
        for &counter in Counter::ALL {
            let sum = sum(&counters, counter)?;
            if sum != 0 {
                counts.insert(counter, sum);
            }
        }
        Ok(counts)
    }

    /// One of them.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counter(&self, counter: Counter) -> Result<u64, KernelError> {
        sum(&self.counter_map()?, counter)
    }

    fn counter_map(&self) -> Result<PerCpuArray<&MapData, u64>, KernelError> {
        let map = self.ebpf.map("COUNTERS").ok_or_else(|| map_failed("COUNTERS", "missing"))?;
        PerCpuArray::try_from(map).map_err(|error| map_failed("COUNTERS", error))
    }

    /// Nanoseconds that one run of `probe` took on average, as the kernel measured it; `None` before its first
    /// measured run. Runs are measured only while BPF statistics are switched on.
    #[must_use]
    pub fn mean_run_ns(&self, probe: Probe) -> Option<f64> {
        let Runs { count, ns } = self.runs(probe);
        (count > 0).then(|| ns as f64 / count as f64)
    }

    /// Runs of `probe`, as far as the kernel measured them: see [`super::measure_runs`].
    #[must_use]
    pub fn runs(&self, probe: Probe) -> Runs {
        let program: Option<&UProbe> =
            self.ebpf.program(probe.name()).and_then(|program| program.try_into().ok());
        let info = program.and_then(|program| program.info().ok());
        info.map_or_else(Runs::default, |info| Runs {
            count: info.run_count(),
            ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        })
    }

    /// Instructions that the verifier walked through for `probe` (kernel 5.16 and newer).
    #[must_use]
    pub fn verified_instructions(&self, probe: Probe) -> Option<u32> {
        let program: &UProbe = self.ebpf.program(probe.name())?.try_into().ok()?;
        program.info().ok()?.verified_instruction_count()
    }
}

fn sum(counters: &PerCpuArray<&MapData, u64>, counter: Counter) -> Result<u64, KernelError> {
    debug_assert!((counter as u32) < SLOTS);
    let values =
        counters.get(&(counter as u32), 0).map_err(|error| map_failed("COUNTERS", error))?;
    Ok(values.iter().sum())
}

/// The maps of the object alone, as small as they can be.
pub(super) fn load_maps() -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for map in ["KNOWN", "IN_OBJ", "IN_RAW", "DESCENDANTS"] {
        loader.map_max_entries(map, 1);
    }
    loader.map_max_entries("EVENTS", SMALLEST_RING);
    loader.map_max_entries("FORKS", SMALLEST_RING);
    loader.load(OBJECT).map_err(|error| load_failed(&error))
}

fn load_object(config: &Config, log: bool, ring_bytes: u32) -> Result<Ebpf, KernelError> {
    let level: u8 = if log { u8::MAX } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    loader.override_global("CONFIG", config, true);
    loader.map_max_entries("EVENTS", ring_bytes);
    let loaded = match std::env::var_os(OBJECT_VARIABLE) {
        Some(path) => loader.load_file(Path::new(&path)),
        None => loader.load(OBJECT),
    };
    loaded.map_err(|error| load_failed(&error))
}

fn program(ebpf: &mut Ebpf, probe: Probe) -> Result<&mut UProbe, KernelError> {
    ebpf.program_mut(probe.name())
        .ok_or_else(|| KernelError::Load(format!("the object has no program `{}`", probe.name())))?
        .try_into()
        .map_err(|error| load_failed(&error))
}

pub(super) fn load_failed(error: &dyn std::error::Error) -> KernelError {
    KernelError::Load(chain(error))
}

pub(super) fn map_failed(map: &'static str, cause: impl ToString) -> KernelError {
    KernelError::Map { map, cause: cause.to_string() }
}

/// Characters of an error text that are kept: the kernel's verifier explains itself on thousands of lines.
const LONGEST_TEXT: usize = 400;

/// An error with its causes, on one line. Of a long one the end is kept, where the verifier says what it minds.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().rev().nth(LONGEST_TEXT) {
        Some((start, _)) => format!("[..] {}", &line[start..]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::config::{Forks, TargetIdentity, windows};
    use leaktrace_common::layout::{FrameLayout, PymallocLayout, THREAD_POINTER, ThreadLayout};

    use crate::kernel::features;
    use crate::kernel::lock::{Holder, Lock};

    use super::*;

    /// The shapes of CPython 3.8, 3.12 and 3.13, and of a 3.13 that was loaded by `dlopen`: every branch of the programs is
    /// live in one of them.
    fn configurations() -> [Config; 4] {
        let pymalloc = PymallocLayout {
            usedpools: 0x1000,
            interpreter: 0x2000,
            state: 0x30,
            used: 0x40,
            feature_flags: 0x50,
            pool_bytes: 16 << 10,
            pool_header: 48,
            class_shift: 4,
        };
        let old = Config {
            tgid: 1,
            fsbase: 0x1000,
            record_at_obj: 1,
            windows: windows::COUNTED,
            thread: ThreadLayout {
                source: THREAD_POINTER,
                location: 0x1000,
                interp: 16,
                thread_id: 176,
                frame: 24,
                ..Default::default()
            },
            frame: FrameLayout {
                bytes: 112,
                previous: 24,
                code: 32,
                position: 104,
                lasti_unit: 1,
                ..Default::default()
            },
            pymalloc,
            forks: Forks { inode: 1, ..Forks::default() },
        };
        let new = Config {
            record_at_obj: 0,
            windows: if features::may_write_into_processes() { windows::CLOSED } else { 0 },
            thread: ThreadLayout {
                source: leaktrace_common::layout::THREAD_TLS,
                indirect: 1,
                ..old.thread
            },
            frame: FrameLayout {
                bytes: 80,
                previous: 8,
                code: 0,
                position: 56,
                owner: 70,
                first_shim_owner: 3,
                code_start: 192,
                lasti_unit: 0,
                code_tag: 1,
            },
            ..old
        };
        let pointer = PymallocLayout { feature_flags: 0, ..pymalloc };
        let newest = Config { pymalloc: pointer, windows: windows::NONE, ..new };
        let source = leaktrace_common::layout::THREAD_VECTOR;
        let loaded = Config { thread: ThreadLayout { source, ..newest.thread }, ..newest };
        [old, new, newest, loaded]
    }

    #[test]
    fn the_kernel_accepts_the_programs_for_every_shape_of_frames() {
        if let Err(error) = features::Kernel::check() {
            assert!(
                std::env::var_os("LEAKTRACE_E2E").is_none(),
                "this test must run here: {error}"
            );
            eprintln!("skipped: {error}");
            return;
        }
        for (number, config) in configurations().into_iter().enumerate() {
            let mut programs = Programs::load(&config, number == 1).unwrap();
            for probe in Probe::ALL {
                eprintln!("{}: {:?} verified", probe.name(), programs.verified_instructions(probe));
            }
            programs.watch_forks().unwrap();
            let hit = crate::kernel::calibrate::empty_hit(&mut programs).unwrap();
            eprintln!("an empty hit takes {hit:?}");
            assert!(hit.emulated_ns > 10.0 && hit.stepped_ns < 1e6);
            assert!(hit.stepped_ns > hit.emulated_ns, "two traps cost more than one");
        }
    }

    #[test]
    fn a_target_has_one_lock_until_it_is_dropped() {
        if features::Kernel::check().is_err() {
            assert!(std::env::var_os("LEAKTRACE_E2E").is_none(), "this test must run here");
            return;
        }
        let target = |pid| TargetIdentity { pid_namespace: 1, pid, start_ticks: u64::MAX };
        let first = Lock::take(target(1)).unwrap();
        assert!(first.is_ok());
        assert_eq!(Lock::take(target(1)).unwrap().err(), Some(Holder::Living));
        assert!(Lock::take(target(2)).unwrap().is_ok());
        drop(first);
        // The kernel frees a map a moment after its last descriptor is closed.
        for _ in 0..100 {
            if Lock::take(target(1)).unwrap().is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the lock outlived its holder");
    }
}
