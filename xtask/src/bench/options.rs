//! The command line of `cargo xtask bench`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::peers::TOOLS;
use super::workloads::WORKLOADS;

const USAGE: &str = "usage: cargo xtask bench [overhead|peers|report].. [--only WORKLOAD,..] [--tools TOOL,..] \
                     [--pairs N] [--null-pairs N] [--half TIME] [--rounds N] [--window TIME] \
                     [--budget PERCENT | --exact | --flags 'FLAG ..'] [--minutes N] [--run NAME]";

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    /// Whether leaktrace's overhead is measured.
    pub(super) overhead: bool,
    /// Whether the other tools are.
    pub(super) peers: bool,
    /// Names of workloads; all where there is none.
    only: BTreeSet<String>,
    /// Names of tools; all where there is none.
    tools: BTreeSet<String>,
    /// How it is measured.
    pub(super) settings: Settings,
    /// When nothing new is begun any more.
    pub(super) limit: Duration,
    /// The name of the run's folder; today's date where there is none.
    pub(super) run: Option<String>,
}

/// How it is measured: what must be the same in all of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The flags of leaktrace besides those that say what, how long and where to.
    pub(super) flags: Vec<String>,
    /// Pairs of a half with leaktrace and one without.
    pub(super) pairs: u32,
    /// Pairs of two halves without it.
    pub(super) null_pairs: u32,
    /// Seconds of half a pair.
    pub(super) half_s: f64,
    /// Runs of each tool on each workload.
    pub(super) rounds: u32,
    /// Seconds of such a run that are measured.
    pub(super) window_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flags: vec!["--budget".to_owned(), "1%".to_owned()],
            pairs: 20,
            null_pairs: 8,
            half_s: 5.0,
            rounds: 5,
            window_s: 2.0,
        }
    }
}

impl Settings {
    /// Half a pair.
    pub(super) fn half(&self) -> Duration {
        Duration::from_secs_f64(self.half_s)
    }

    /// What is measured of a tool's run.
    pub(super) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.window_s)
    }
}

impl Options {
    /// Reads the arguments behind the command's name.
    ///
    /// # Errors
    /// They make no sense.
    pub(super) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            overhead: false,
            peers: false,
            only: BTreeSet::new(),
            tools: BTreeSet::new(),
            settings: Settings::default(),
            limit: Duration::from_secs(90 * 60),
            run: None,
        };
        let mut report = false;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "overhead" => options.overhead = true,
                "peers" => options.peers = true,
                "report" => report = true,
                "--exact" => options.settings.flags = vec!["--exact".to_owned()],
                flag if flag.starts_with("--") => {
                    let value = arguments.next().context(USAGE)?;
                    options.take(flag, value)?;
                }
                _ => bail!(USAGE),
            }
        }
        if !(options.overhead || options.peers || report) {
            (options.overhead, options.peers) = (true, true);
        }
        Ok(options)
    }

    fn take(&mut self, flag: &str, value: &str) -> Result<()> {
        let settings = &mut self.settings;
        let number = || value.parse().with_context(|| format!("`{flag}` takes a number"));
        match flag {
            "--only" => self.only = names(value, WORKLOADS.iter().map(|it| it.name))?,
            "--tools" => self.tools = names(value, TOOLS.iter().map(|it| it.name))?,
            "--pairs" => settings.pairs = number()?,
            "--null-pairs" => settings.null_pairs = number()?,
            "--rounds" => settings.rounds = number()?,
            "--half" => settings.half_s = seconds(value)?,
            "--window" => settings.window_s = seconds(value)?,
            "--budget" => settings.flags = vec![flag.to_owned(), value.to_owned()],
            "--flags" => settings.flags = value.split_whitespace().map(str::to_owned).collect(),
            "--minutes" => self.limit = Duration::from_secs(u64::from(number()?) * 60),
            "--run" => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                ensure!(
                    !value.starts_with('.') && value.chars().all(is_name),
                    "{value:?} is no name"
                );
                self.run = Some(value.to_owned());
            }
            _ => bail!(USAGE),
        }
        Ok(())
    }

    /// Whether a workload is meant.
    pub(super) fn takes_workload(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.contains(name)
    }

    /// Whether a tool is meant. Without the bare run there is nothing to compare with.
    pub(super) fn takes_tool(&self, name: &str) -> bool {
        self.tools.is_empty() || self.tools.contains(name) || name == super::peers::BARE
    }
}

fn names<'a>(list: &str, known: impl Iterator<Item = &'a str> + Clone) -> Result<BTreeSet<String>> {
    list.split(',')
        .map(|name| {
            ensure!(
                known.clone().any(|known| known == name),
                "there is no `{name}`; there are {}",
                known.clone().collect::<Vec<_>>().join(", ")
            );
            Ok(name.to_owned())
        })
        .collect()
}

/// `10s`, `500ms` or `10`, in seconds.
fn seconds(text: &str) -> Result<f64> {
    let (number, factor) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no time"))?;
    ensure!((0.1..=600.0).contains(&(number * factor)), "{text:?} is not between 100ms and 600s");
    Ok(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn without_arguments_all_is_measured_at_the_default_budget() {
        let options = parse("").unwrap();
        assert!(options.overhead && options.peers);
        assert!(WORKLOADS.iter().all(|workload| options.takes_workload(workload.name)));
        assert_eq!(options.settings.flags, ["--budget", "1%"]);
        assert!(options.settings.pairs >= 20 && options.settings.rounds == 5);
    }

    #[test]
    fn parts_workloads_and_tools_are_picked_by_name() {
        let options = parse("overhead --only json,http --exact --half 2s --pairs 2").unwrap();
        assert!(options.overhead && !options.peers);
        assert!(options.takes_workload("http") && !options.takes_workload("idle"));
        assert_eq!((options.settings.half_s, options.settings.pairs), (2.0, 2));
        assert_eq!(options.settings.flags, ["--exact"]);
        let options = parse("peers --tools memray").unwrap();
        assert!(options.takes_tool("memray") && options.takes_tool("bare"));
        assert!(!options.takes_tool("ddtrace"));
        assert_eq!(parse("report").map(|it| it.overhead || it.peers).ok(), Some(false));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in ["--only nothing", "--pairs many", "--half 0s", "--run ../x", "more", "--pairs"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        assert_eq!(seconds("500ms").unwrap(), 0.5);
        assert_eq!(seconds("10").unwrap(), seconds("10s").unwrap());
    }
}
