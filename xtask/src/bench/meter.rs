//! The file in which a workload counts its units of work (`tests/workloads/bench/meter.py` writes it) -> how fast it
//! worked between two moments.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Bytes of the file.
const SIZE: usize = 4096;
/// Bytes of a word, and of a slot: the units, when, the processor time, and the units once more.
const WORD: u64 = 8;
const SLOT: u64 = 4 * WORD;
/// Slots that are looked at: more threads than any workload has.
const SLOTS: u64 = 8;
/// How often a slot is read anew that was written meanwhile: a writer takes far less than a microsecond.
const TRIES: u32 = 1000;

/// The file. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Meter {
    path: PathBuf,
    file: File,
}

/// What a thread has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Units of work that it has finished.
    units: u64,
    /// When the last of them was finished.
    at_ns: u64,
    /// The processor time of its process then.
    cpu_ns: u64,
}

/// What all threads have done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample(Vec<Slot>);

/// What was done between two samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Work {
    /// Units that were finished.
    pub(super) units: u64,
    /// Units a second. From the end of a unit to the end of another: no unit counts in part.
    pub(super) rate: f64,
    /// Seconds of processor time that the process used each second.
    pub(super) cpu_share: f64,
}

impl Work {
    /// Seconds of processor time for each unit.
    pub(super) fn cpu_per_unit(&self) -> f64 {
        self.cpu_share / self.rate
    }
}

impl Meter {
    /// A new one, in memory where the system has a folder for that: a disk's writes would be another disturbance.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let name = format!("leaktrace-bench-{}-{}", std::process::id(), super::clock::now_ns());
        let path = folder.join(name);
        let written = fs::write(&path, [0; SIZE]);
        written.with_context(|| format!("cannot write `{}`", path.display()))?;
        let file = File::open(&path)?;
        Ok(Self { path, file })
    }

    /// Where it is, for the workload.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was done so far.
    ///
    /// # Errors
    /// It cannot be read, or is written without end.
    pub(super) fn sample(&self) -> Result<Sample> {
        (0..SLOTS).map(|slot| self.slot(slot * SLOT)).collect::<Result<_>>().map(Sample)
    }

    fn slot(&self, start: u64) -> Result<Slot> {
        for _ in 0..TRIES {
            // In the order opposite to that of the writer.
            let end_units = self.word(start + 3 * WORD)?;
            let cpu_ns = self.word(start + 2 * WORD)?;
            let at_ns = self.word(start + WORD)?;
            let units = self.word(start)?;
            if units == end_units {
                return Ok(Slot { units, at_ns, cpu_ns });
            }
        }
        bail!("a workload counts faster than it can be read");
    }

    fn word(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; WORD as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // If it is gone, all is well.
        let _ = fs::remove_file(&self.path);
    }
}

impl Sample {
    /// What was done from this one to a later one; `None` where nothing was finished in between.
    pub(super) fn until(&self, later: &Self) -> Option<Work> {
        let threads = self.0.iter().zip(&later.0).filter(|(from, to)| to.units > from.units);
        let mut units = 0;
        let mut rate = 0.0;
        for (from, to) in threads {
            units += to.units - from.units;
            rate += (to.units - from.units) as f64 / seconds(to.at_ns.saturating_sub(from.at_ns));
        }
        let (from, to) = (self.last()?, later.last()?);
        let cpu = to.cpu_ns.saturating_sub(from.cpu_ns);
        let cpu_share = seconds(cpu) / seconds(to.at_ns.saturating_sub(from.at_ns));
        (units > 0 && rate.is_finite()).then_some(Work { units, rate, cpu_share })
    }

    /// The slot that was written last: the processor time is that of all threads.
    fn last(&self) -> Option<Slot> {
        self.0.iter().copied().max_by_key(|slot| slot.at_ns)
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(units: u64, at_ms: u64, cpu_ms: u64) -> Slot {
        Slot { units, at_ns: at_ms * 1_000_000, cpu_ns: cpu_ms * 1_000_000 }
    }

    #[test]
    fn a_rate_runs_from_the_end_of_a_unit_to_the_end_of_another() {
        let from = Sample(vec![slot(10, 1_000, 500)]);
        let to = Sample(vec![slot(30, 5_000, 2_500)]);
        let work = from.until(&to).unwrap();
        assert_eq!(work, Work { units: 20, rate: 5.0, cpu_share: 0.5 });
        assert!((work.cpu_per_unit() - 0.1).abs() < 1e-12);
        assert_eq!(from.until(&from), None);
    }

    #[test]
    fn the_rates_of_threads_add_up_and_their_processor_time_is_that_of_the_last() {
        let from = Sample(vec![slot(10, 1_000, 500), slot(4, 900, 450), Slot::default()]);
        let to = Sample(vec![slot(20, 2_000, 1_400), slot(8, 2_900, 2_400), Slot::default()]);
        let work = from.until(&to).unwrap();
        assert_eq!((work.units, work.rate, work.cpu_share), (14, 12.0, 1.0));
    }

    #[test]
    fn what_is_read_is_what_was_written_and_the_file_goes_with_the_meter() {
        let meter = Meter::make().unwrap();
        let path = meter.path().to_owned();
        let mut bytes = vec![0; SIZE];
        for (word, value) in [7u64, 2_000_000_000, 1_000_000_000, 7].into_iter().enumerate() {
            bytes[32 + word * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        let sample = meter.sample().unwrap();
        assert_eq!(sample.0[1], slot(7, 2_000, 1_000));
        assert_eq!(sample.0[0], Slot::default());
        drop(meter);
        assert!(!path.exists());
    }
}
