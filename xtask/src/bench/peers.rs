//! What other tools cost the same workloads: runs of a fixed time, each with one tool or with none, in turn.
//!
//! Most of them must be there when the process starts, so each run has a process of its own.

use std::ffi::OsString;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::Bench;
use super::options::Settings;
use super::records::Run;
use super::running::Running;
use super::target::{Both, Place, Target, c_library};
use super::tracer::{Refused, Tracer};
use super::workloads::Workload;

/// The run that the others are compared with.
pub(super) const BARE: &str = "bare";

/// How long a target runs before a tool is attached or it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long a tool has been at work when the measuring begins.
const SETTLE: Duration = Duration::from_millis(500);

/// How long a tool may take until it is at work: some compile their programs first.
const PATIENCE: Duration = Duration::from_secs(20);

/// A target's life beyond what is measured of it.
const LIFE_MARGIN: Duration = Duration::from_secs(60);

/// A tool.
pub(super) struct Tool {
    /// What `--tools` calls it.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    way: Way,
}

/// How a tool gets to its target.
enum Way {
    /// Words between the interpreter and the script.
    Within(fn(&Place) -> Vec<OsString>),
    /// leaktrace, with these flags.
    Leaktrace(fn(&Settings) -> Vec<String>),
    /// A program that attaches itself to a process, and what it says when it has.
    Beside(fn(&Place, u32) -> Result<Command>, &'static str),
}

/// All of them.
pub(super) const TOOLS: &[Tool] = &[
    Tool { name: BARE, about: "no tool", way: Way::Within(|_| Vec::new()) },
    Tool {
        name: "leaktrace",
        about: "leaktrace as it is used",
        way: Way::Leaktrace(|settings| settings.flags.clone()),
    },
    Tool {
        name: "leaktrace-exact",
        about: "leaktrace --exact",
        way: Way::Leaktrace(|_| vec!["--exact".to_owned()]),
    },
    Tool {
        name: "tracemalloc-1",
        about: "tracemalloc, 1 frame",
        way: Way::Within(|_| words(&["-X", "tracemalloc=1"])),
    },
    Tool {
        name: "tracemalloc-25",
        about: "tracemalloc, 25 frames",
        way: Way::Within(|_| words(&["-X", "tracemalloc=25"])),
    },
    Tool { name: "memray", about: "memray run", way: Way::Within(|place| memray(place, &[])) },
    Tool {
        name: "memray-python",
        about: "memray run --trace-python-allocators",
        way: Way::Within(|place| memray(place, &["--trace-python-allocators"])),
    },
    Tool {
        name: "ddtrace",
        about: "ddtrace's memory profiler alone",
        way: Way::Within(|place| vec![place.folder.join("with_ddtrace.py").into()]),
    },
    Tool {
        name: "memleak",
        about: "bcc's memleak (malloc and free of the C library)",
        way: Way::Beside(bcc_memleak, "Attaching to pid"),
    },
    Tool {
        name: "memleak-bpftrace",
        about: "the same as a bpftrace script",
        way: Way::Beside(bpftrace_memleak, "tracing"),
    },
];

/// Measures what is missing of a workload.
///
/// # Errors
/// The runs cannot be kept, or leaktrace refuses its flags. A tool that fails is noted.
pub(super) fn measure(bench: &Bench, workload: &Workload) -> Result<()> {
    let tools: Vec<&Tool> =
        TOOLS.iter().filter(|tool| bench.options.takes_tool(tool.name)).collect();
    let mut failed: Vec<&str> = Vec::new();
    for round in 0..bench.options.settings.rounds {
        // Each round begins with another tool: none is always the first or behind the same one.
        let first = round as usize * 3 % tools.len();
        let in_turn = tools[first..].iter().chain(&tools[..first]);
        for tool in in_turn {
            if failed.contains(&tool.name) || bench.is_over() {
                continue;
            }
            let mut log = bench.folder.runs(workload.name, tool.name)?;
            if log.records.iter().any(|run: &Run| run.round == round) {
                continue;
            }
            match run(bench, workload, tool, round) {
                Ok(run) => {
                    println!("{} {round}: {}: {:.1}/s", workload.name, tool.name, run.work.rate);
                    log.add(run)?;
                }
                Err(error) if error.is::<Refused>() => return Err(error),
                // It would fail in the next round as well, and take long for it.
                Err(error) => {
                    bench.note(workload, Some(tool), &error)?;
                    failed.push(tool.name);
                }
            }
        }
    }
    Ok(())
}

fn run(bench: &Bench, workload: &Workload, tool: &Tool, round: u32) -> Result<Run> {
    let settings = &bench.options.settings;
    let within = match tool.way {
        Way::Within(words) => words(&bench.place),
        _ => Vec::new(),
    };
    let lifetime = settings.window() + LIFE_MARGIN;
    let mut target = Target::start(workload, &bench.place, &within, lifetime)?;
    thread::sleep(WARM_UP);
    let attached = attach(bench, tool, target.pid)?;
    thread::sleep(SETTLE);
    let (Both { work, .. }, due) = target.work(settings.window())?;
    let peak_rss_bytes = target.peak_rss_bytes();
    let latencies = target.latencies(due)?;
    attached.detach()?;
    target.stop();
    Ok(Run { round, work, peak_rss_bytes, latencies })
}

/// What was attached to a target.
enum Attached {
    Nothing,
    Leaktrace(Tracer),
    Other(Running),
}

fn attach(bench: &Bench, tool: &Tool, pid: u32) -> Result<Attached> {
    let settings = &bench.options.settings;
    Ok(match tool.way {
        Way::Within(_) => Attached::Nothing,
        Way::Leaktrace(flags) => {
            // It is stopped when the measuring is over.
            let time = SETTLE + settings.window() + PATIENCE;
            let scratch = &bench.place.scratch;
            Attached::Leaktrace(Tracer::attach(
                &bench.leaktrace,
                &flags(settings),
                pid,
                time,
                scratch,
            )?)
        }
        Way::Beside(command, ready) => {
            let mut running = Running::start(command(&bench.place, pid)?)?;
            running.wait_for(PATIENCE, |line| line.starts_with(ready).then_some(()))?;
            Attached::Other(running)
        }
    })
}

impl Attached {
    /// Takes it off.
    ///
    /// # Errors
    /// It was gone before.
    fn detach(self) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Leaktrace(mut tracer) => {
                tracer.cpu_s()?;
                tracer.stop();
            }
            Self::Other(mut running) => {
                if !running.is_alive() {
                    bail!("it ended: {}", running.complaint());
                }
                running.end(Signal::INT);
            }
        }
        Ok(())
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn memray(place: &Place, flags: &[&str]) -> Vec<OsString> {
    let mut all = words(&["-m", "memray", "run", "--quiet", "--force", "--output"]);
    all.push(place.scratch.join("memray.bin").into());
    all.extend(words(flags));
    all
}

fn bcc_memleak(_place: &Place, pid: u32) -> Result<Command> {
    let name = ["memleak-bpfcc", "memleak"].into_iter().find_map(crate::shell::find_program);
    let mut command = Command::new(name.context("it is not installed: Debian's bpfcc-tools")?);
    // It prints every five seconds otherwise, which is not what is measured here.
    command.args(["--pid", &pid.to_string(), "600"]).env("PYTHONUNBUFFERED", "1");
    Ok(command)
}

fn bpftrace_memleak(place: &Place, pid: u32) -> Result<Command> {
    let program = crate::shell::find_program("bpftrace");
    let mut command = Command::new(program.context("it is not installed: Debian's bpftrace")?);
    let library = c_library(pid).context("the workload has no C library of its own")?;
    command.args(["-p", &pid.to_string()]).arg(place.folder.join("memleak.bt")).arg(library);
    // As many blocks as bcc's memleak follows.
    command.env("BPFTRACE_MAP_KEYS_MAX", "1000000");
    Ok(command)
}

/// Installs what can be had. What cannot says so when it is to be run.
pub(super) fn install() {
    for package in ["bpfcc-tools", "bpftrace"] {
        if let Err(error) = crate::setup::install_packages(&[package]) {
            println!("{package}: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_tool_has_a_name_of_its_own_and_the_bare_run_comes_first() {
        let names: BTreeSet<_> = TOOLS.iter().map(|tool| tool.name).collect();
        assert_eq!(names.len(), TOOLS.len());
        assert_eq!(TOOLS[0].name, BARE);
    }
}
