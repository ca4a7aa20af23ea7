//! What was measured, where, and how: `environment.json`, which opens each run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::options::Settings;
use super::peers::TOOLS;
use super::workloads::WORKLOADS;
use crate::shell;

/// Packages whose versions are told.
const PACKAGES: &[&str] = &[
    "memray",
    "ddtrace",
    "pyperformance",
    "pyperf",
    "uvicorn",
    "starlette",
    "flask",
    "gunicorn",
    "pandas",
    "numpy",
    "sqlalchemy",
];

/// Debian's, which are told as well.
const SYSTEM_PACKAGES: &[&str] = &["bpfcc-tools", "bpftrace"];

/// A run's surroundings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Environment {
    /// When it began, in UTC.
    pub(super) started: String,
    pub(super) leaktrace: Build,
    pub(super) settings: Settings,
    /// What a whole run has.
    pub(super) plan: Plan,
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) cores: u32,
    pub(super) memory_kib: u64,
    /// As the interpreter says of itself.
    pub(super) python: String,
    pub(super) packages: BTreeMap<String, String>,
}

/// The leaktrace that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Build {
    pub(super) version: String,
    /// Of the checkout, with a mark where it was changed.
    pub(super) commit: String,
    /// Of the program.
    pub(super) sha256: String,
}

/// Everything that there is to measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) workloads: Vec<Planned>,
    /// The tools, and what they are.
    pub(super) tools: Vec<(String, String)>,
}

/// A workload of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) about: String,
    /// Whether its speed is not its own.
    pub(super) is_paced: bool,
    pub(super) peers: bool,
}

impl Environment {
    /// Looks around.
    ///
    /// # Errors
    /// The programs do not say what they are.
    pub(super) fn look(settings: &Settings, leaktrace: &Path, python: &Path) -> Result<Self> {
        let cpu = proc_line("/proc/cpuinfo", "model name")?;
        let memory = proc_line("/proc/meminfo", "MemTotal")?;
        let kib = memory.split_whitespace().next().context("no memory")?.parse()?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        Ok(Self {
            started: said(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?,
            leaktrace: Build::of(leaktrace)?,
            settings: settings.clone(),
            plan: Plan::whole(),
            kernel,
            cpu,
            cores: u32::try_from(std::thread::available_parallelism()?.get())?,
            memory_kib: kib,
            python: said(Command::new(python).args(["-c", "import sys; print(sys.version)"]))?,
            packages: packages(python)?,
        })
    }

    /// Whether a run with these surroundings can go on with those: the same program, measured in the same way.
    ///
    /// # Errors
    /// It cannot, and why.
    pub(super) fn check_continues(&self, earlier: &Self) -> Result<()> {
        let hint = "take another folder with --run";
        ensure!(self.settings == earlier.settings, "that run has other settings: {hint}");
        let is_same = self.leaktrace.sha256 == earlier.leaktrace.sha256;
        ensure!(is_same, "that run measured another build of leaktrace: {hint}");
        let is_same = (&self.kernel, &self.cpu) == (&earlier.kernel, &earlier.cpu);
        ensure!(is_same, "that run was on another machine or kernel: {hint}");
        ensure!(self.python == earlier.python, "that run had another Python: {hint}");
        Ok(())
    }
}

impl Build {
    fn of(program: &Path) -> Result<Self> {
        let bytes = fs::read(program).context("cannot read leaktrace")?;
        let digest = Sha256::digest(bytes);
        let commit = match std::env::var_os("LEAKTRACE_BIN") {
            Some(_) => "unknown (LEAKTRACE_BIN)".to_owned(),
            None => commit().unwrap_or_else(|_| "unknown".to_owned()),
        };
        Ok(Self {
            version: said(Command::new(program).arg("--version"))?,
            commit,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

impl Plan {
    fn whole() -> Self {
        let planned = WORKLOADS.iter().map(|workload| Planned {
            name: workload.name.to_owned(),
            about: workload.about.to_owned(),
            is_paced: workload.pace.is_fixed(),
            peers: workload.peers,
        });
        let tools = TOOLS.iter().map(|tool| (tool.name.to_owned(), tool.about.to_owned()));
        Self { workloads: planned.collect(), tools: tools.collect() }
    }
}

/// The commit that is checked out, with a mark where files were changed since.
fn commit() -> Result<String> {
    let root = shell::root()?;
    let git = |arguments: &[&str]| said(Command::new("git").current_dir(&root).args(arguments));
    let commit = git(&["rev-parse", "HEAD"])?;
    // Runs are written into the checkout: they change nothing of what is measured.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches"])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit} with changes") })
}

fn packages(python: &Path) -> Result<BTreeMap<String, String>> {
    const ASK: &str = "import importlib.metadata as m, sys\nfor name in sys.argv[1:]: print(name, m.version(name))";
    let said = said(Command::new(python).args(["-c", ASK]).args(PACKAGES))?;
    let mut all: BTreeMap<String, String> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect();
    for package in SYSTEM_PACKAGES {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat=${Version}", package]);
        let version = self::said(&mut query).unwrap_or_else(|_| "not installed".to_owned());
        all.insert((*package).to_owned(), version);
    }
    Ok(all)
}

/// What stands behind a name and a colon in a file of `/proc`.
fn proc_line(path: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    Ok(found.with_context(|| format!("`{path}` has no {name}"))?.1.trim().to_owned())
}

fn said(command: &mut Command) -> Result<String> {
    Ok(shell::capture(command)?.trim().to_owned())
}
