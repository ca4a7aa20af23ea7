//! What is kept of a run: one record a line.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::latencies::Latencies;
use super::meter::Work;
use super::running::Usage;

/// Two halves, one directly after the other, of one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pair {
    pub(super) kind: Kind,
    /// Which of its kind it is.
    pub(super) number: u32,
    /// When its target was started, in nanoseconds of a clock: pairs that share it share their target.
    pub(super) target: u64,
    /// In the order in which they ran.
    pub(super) halves: [Half; 2],
}

/// What the halves of a pair are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// One with leaktrace, and one without.
    Traced,
    /// Both without: what they differ by is noise.
    Null,
}

/// Half a pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Half {
    pub(super) work: Work,
    /// What its twin did meanwhile on the same processor, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) twin: Option<Work>,
    /// Of requests, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latencies: Option<Latencies>,
    /// What leaktrace was and said, where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tracing: Option<Tracing>,
}

impl Half {
    /// Units a second; beside a twin, as a multiple of what that does: what the host takes from both does not count.
    pub(super) fn speed(&self) -> f64 {
        self.work.rate / self.twin.map_or(1.0, |twin| twin.rate)
    }

    /// Processor time of a unit; beside a twin, as a multiple of what it takes there.
    pub(super) fn effort(&self) -> f64 {
        self.work.cpu_per_unit() / self.twin.map_or(1.0, |twin| twin.cpu_per_unit())
    }
}

/// A leaktrace at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tracing {
    /// From its start to its line `tracing`.
    pub(super) attach_s: f64,
    /// What it used from its start to its end.
    pub(super) usage: Usage,
    /// Seconds of processor time that it used while the target was measured.
    pub(super) window_cpu_s: f64,
    /// What its report says of itself.
    pub(super) session: Map<String, Value>,
}

/// One run of a target with a tool, or without one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) round: u32,
    pub(super) work: Work,
    /// The most that the target had resident.
    pub(super) peak_rss_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latencies: Option<Latencies>,
}

/// Something that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) workload: String,
    /// None where it was leaktrace's overhead.
    pub(super) tool: Option<String>,
    pub(super) why: String,
}

impl Pair {
    /// The half to compare with, and the one that is compared. Of two that are alike, these change places from pair to
    /// pair, as they do where one is traced.
    pub(super) fn split(&self) -> (&Half, &Half) {
        let [first, second] = &self.halves;
        let is_first_compared = match self.kind {
            Kind::Traced => first.tracing.is_some(),
            Kind::Null => self.number % 2 == 1,
        };
        if is_first_compared { (second, first) } else { (first, second) }
    }
}

/// A file of records, to which more are added.
#[derive(Debug)]
pub(super) struct Log<T> {
    path: PathBuf,
    pub(super) records: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    /// Reads what is there; nothing where there is no file. A last line that was not written to its end does not count.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub(super) fn read(path: PathBuf) -> Result<Self> {
        let text = if path.exists() {
            fs::read_to_string(&path)
                .with_context(|| format!("cannot read `{}`", path.display()))?
        } else {
            String::new()
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let records = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let records = records.with_context(|| format!("`{}` is damaged", path.display()))?;
        Ok(Self { path, records })
    }

    /// Adds a record, and what was not written to its end goes.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn add(&mut self, record: T) -> Result<()> {
        self.write(&record).with_context(|| format!("cannot write `{}`", self.path.display()))?;
        self.records.push(record);
        Ok(())
    }

    fn write(&self, record: &T) -> Result<()> {
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
        let text = fs::read(&self.path)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        file.write_all(line.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(rate: f64, is_traced: bool) -> Half {
        let tracing = is_traced.then(|| Tracing {
            attach_s: 0.1,
            usage: Usage::default(),
            window_cpu_s: 0.0,
            session: Map::new(),
        });
        Half { work: Work { units: 1, rate, cpu_share: 1.0 }, twin: None, latencies: None, tracing }
    }

    fn pair(kind: Kind, number: u32, halves: [Half; 2]) -> Pair {
        Pair { kind, number, target: 0, halves }
    }

    #[test]
    fn the_traced_half_is_compared_with_the_other_whichever_came_first() {
        let rates = |pair: &Pair| (pair.split().0.work.rate, pair.split().1.work.rate);
        let first = pair(Kind::Traced, 0, [half(2.0, true), half(3.0, false)]);
        assert_eq!(rates(&first), (3.0, 2.0));
        let second = pair(Kind::Traced, 0, [half(3.0, false), half(2.0, true)]);
        assert_eq!(rates(&second), (3.0, 2.0));
        let null = |number| pair(Kind::Null, number, [half(1.0, false), half(2.0, false)]);
        assert_eq!((rates(&null(0)), rates(&null(1))), ((1.0, 2.0), (2.0, 1.0)));
    }

    #[test]
    fn what_slows_down_both_twins_is_no_loss() {
        let work = |rate, cpu_share| Work { units: 1, rate, cpu_share };
        let beside = |own, other| Half { work: own, twin: Some(other), ..half(0.0, false) };
        let before = beside(work(50.0, 0.5), work(50.0, 0.5));
        let slow_host = beside(work(25.0, 0.5), work(25.0, 0.5));
        assert!((before.speed() - 1.0).abs() < 1e-9 && (slow_host.speed() - 1.0).abs() < 1e-9);
        // Whoever gets less of the processor does less, with no more effort.
        let less = beside(work(40.0, 0.4), work(60.0, 0.6));
        assert!((less.speed() - 2.0 / 3.0).abs() < 1e-9 && (less.effort() - 1.0).abs() < 1e-9);
        let slower = beside(work(45.0, 0.5), work(50.0, 0.5));
        assert!((slower.speed() - 0.9).abs() < 1e-9);
        assert!((slower.effort() - 1.0 / 0.9).abs() < 1e-9);
    }

    #[test]
    fn a_run_goes_on_behind_a_record_that_was_not_written_to_its_end() {
        let name = format!("leaktrace-bench-log-{}", std::process::id());
        let path = std::env::temp_dir().join(name).join("faults.jsonl");
        let fault = |why: &str| Fault { workload: "a".into(), tool: None, why: why.into() };
        let mut log = Log::read(path.clone()).unwrap();
        log.add(fault("one")).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"workload\":\"a").unwrap();
        let mut log = Log::read(path.clone()).unwrap();
        assert_eq!(log.records, [fault("one")]);
        log.add(fault("two")).unwrap();
        let log = Log::<Fault>::read(path.clone()).unwrap();
        assert_eq!(log.records, [fault("one"), fault("two")]);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
