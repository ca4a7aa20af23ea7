//! `cargo xtask bench`: what leaktrace costs the processes that it traces, beside what other tools cost them.
//!
//! Everything that is measured is kept in `benches/runs/DATE`, and the summary there is made out of that alone. How it is
//! measured, and how to read it, is in `benches/README.md`.

mod clock;
mod environment;
mod folder;
mod latencies;
mod load;
mod meter;
mod options;
mod overhead;
mod peers;
mod records;
mod running;
mod statistics;
mod summary;
mod target;
mod tracer;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Error, Result, ensure};

use self::environment::Environment;
use self::folder::Folder;
use self::options::Options;
use self::peers::Tool;
use self::records::Fault;
use self::target::Place;
use self::tracer::Refused;
use self::workloads::{WORKLOADS, Workload};
use crate::{setup, shell, venv};

pub(crate) const ABOUT: &str =
    "measure what leaktrace and other tools cost, into benches/runs: [overhead|peers|report] ..";

/// What the workloads and the tools within them need.
const PACKAGES: venv::Environment = venv::Environment {
    folder: "bench/venv",
    packages: &[
        "uvicorn==0.*",
        "starlette==1.*",
        "flask==3.*",
        "gunicorn==23.*",
        "numpy==2.*",
        "pandas==3.*",
        "sqlalchemy==2.*",
        "pyperformance==1.*",
        "pyperf==2.*",
        "memray==1.*",
        "ddtrace==4.*",
    ],
    import: "import uvicorn, starlette, flask, gunicorn, pandas, sqlalchemy, pyperformance, pyperf, memray, ddtrace",
    purpose: "for the benchmark",
};

/// All that measuring needs.
struct Bench {
    options: Options,
    /// The program.
    leaktrace: PathBuf,
    place: Place,
    folder: Folder,
    /// When nothing new is begun any more.
    end: Instant,
}

/// Measures what is missing, and writes the summary.
///
/// # Errors
/// Nothing can be measured here. What fails on its own is noted, and named in the summary.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    if let Some((load::WORD, rest)) = arguments.split_first().map(|(it, rest)| (it.as_str(), rest))
    {
        return load::run(rest);
    }
    let options = Options::parse(arguments)?;
    let name = match &options.run {
        Some(name) => name.clone(),
        None => shell::capture(Command::new("date").args(["--utc", "+%F"]))?.trim().to_owned(),
    };
    let folder = Folder::of(&shell::root()?, &name);
    let measured = match options.overhead || options.peers {
        true => Bench::prepare(options, folder.clone())?.measure(),
        false => Ok(()),
    };
    folder.write_summary(&summary::of(&folder)?)?;
    println!("{}", folder.path().join("README.md").display());
    measured.map(|()| ExitCode::SUCCESS)
}

impl Bench {
    /// Installs and builds everything.
    fn prepare(options: Options, folder: Folder) -> Result<Self> {
        ensure!(shell::is_root()?, "leaktrace and some of the others need root: run this as root");
        let end = Instant::now() + options.limit;
        setup::for_bench()?;
        let python = PACKAGES.install()?;
        if options.peers {
            peers::install();
        }
        let scratch = shell::target_directory()?.join("bench");
        let leaktrace = scratch.join("leaktrace");
        // A copy: what is built meanwhile is not what is measured.
        let built = build()?;
        fs::copy(&built, &leaktrace)
            .with_context(|| format!("cannot copy `{}`", built.display()))?;
        let place = Place { python, folder: workloads::folder(&shell::root()?), scratch };
        folder.begin(&Environment::look(&options.settings, &leaktrace, &place.python)?)?;
        Ok(Self { options, leaktrace, place, folder, end })
    }

    /// Measures everything that is wanted and missing.
    fn measure(&self) -> Result<()> {
        let wanted = || WORKLOADS.iter().filter(|it| self.options.takes_workload(it.name));
        for workload in wanted().filter(|_| self.options.overhead) {
            match overhead::measure(self, workload) {
                Err(error) if error.is::<Refused>() => return Err(error),
                Err(error) => self.note(workload, None, &error)?,
                Ok(()) => {}
            }
        }
        for workload in wanted().filter(|it| self.options.peers && it.peers) {
            peers::measure(self, workload)?;
        }
        if self.is_over() {
            println!("the time is over; the same command goes on with what is missing");
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    /// Notes that something could not be measured.
    fn note(&self, workload: &Workload, tool: Option<&Tool>, error: &Error) -> Result<()> {
        let tool = tool.map(|tool| tool.name.to_owned());
        let why = self.without_paths(&format!("{error:#}"));
        println!("{}: {}: {why}", workload.name, tool.as_deref().unwrap_or("overhead"));
        self.folder.faults()?.add(Fault { workload: workload.name.to_owned(), tool, why })
    }

    /// Where this checkout and its target directory lie is nobody's business.
    fn without_paths(&self, text: &str) -> String {
        let folders = [&self.place.scratch, &self.place.folder];
        folders.iter().fold(text.to_owned(), |text, folder| {
            text.replace(&format!("{}/", folder.display()), "")
        })
    }
}

/// The program to measure: `LEAKTRACE_BIN`, or a fresh build.
fn build() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("LEAKTRACE_BIN") {
        return Ok(PathBuf::from(program));
    }
    shell::run(shell::cargo()?.args(["build", "--release", "--locked", "--package", "leaktrace"]))?;
    Ok(shell::target_directory()?.join(Path::new("release/leaktrace")))
}
