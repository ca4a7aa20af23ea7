//! `cargo xtask vm`: the tests that depend on the kernel, on other kernels, each in a virtual machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cache, setup, shell};
use apt::Apt;
use golden::Golden;
use kernels::{Kernel, Series};
use outcome::Outcome;
use qemu::Qemu;
use suite::Suite;
use userland::Userland;

mod apt;
mod golden;
mod kernels;
mod outcome;
mod qemu;
mod suite;
mod table;
mod userland;

pub(crate) const ABOUT: &str = "run the tests that depend on the kernel on other kernels: [--write] [--bless] [--refresh] [--kvm] [KERNEL..]";

const USAGE: &str = "\
usage: cargo xtask vm [--write] [--bless] [--refresh] [--kvm] [KERNEL..]

KERNEL is a series such as 5.10, or 7 for the newest 7.x; without one: 5.10, 6.1, 6.12 and 7.

  --write    write the tables into docs/kernels.md
  --bless    take the instruction counts as they are
  --refresh  look for newer kernels than those that were fetched before
  --kvm      let the processor run the machines: faster, but it hangs where that is itself virtual";

/// Kernels that must run at least, where none was asked for by name.
const FEWEST: usize = 2;

#[derive(Debug, Default)]
struct Options {
    write: bool,
    bless: bool,
    refresh: bool,
    kvm: bool,
    named: Vec<Series>,
}

/// What ran on one kernel.
struct Run {
    series: Series,
    /// Tests that should have run.
    expected: u64,
    outcome: Outcome,
}

/// Debian's archive, which is not asked for anything before it is needed.
struct Archive {
    folder: PathBuf,
    apt: Option<Apt>,
}

impl Archive {
    fn get(&mut self) -> Result<&Apt> {
        if self.apt.is_none() {
            self.apt = Some(Apt::new(&self.folder)?);
        }
        self.apt.as_ref().context("it was just made")
    }
}

/// Runs the tests on the kernels asked for.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let mut options = Options::default();
    for argument in arguments {
        match argument.as_str() {
            "--write" => options.write = true,
            "--bless" => options.bless = true,
            "--refresh" => options.refresh = true,
            "--kvm" => options.kvm = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(ExitCode::SUCCESS);
            }
            option if option.starts_with('-') => bail!("there is no option `{option}`\n{USAGE}"),
            name => options.named.push(Series::parse(name)?),
        }
    }
    let mut store = Store::open(options.refresh)?;
    let wanted = if options.named.is_empty() { kernels::all() } else { options.named.clone() };
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for series in wanted {
        match store.find(&series)? {
            Some(kernel) => found.push(kernel),
            None => missing.push(series.0),
        }
    }
    ensure!(
        options.named.is_empty() || missing.is_empty(),
        "not available: {}",
        missing.join(", ")
    );
    test_on(&found, &missing, &options, &mut store)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the tests on the oldest and the newest kernel that can be had; returns how many passed.
///
/// # Errors
/// There are no two, or a test fails on one.
pub(crate) fn oldest_and_newest() -> Result<u64> {
    let mut store = Store::open(false)?;
    let mut missing = Vec::new();
    let mut first = |series: &mut dyn Iterator<Item = Series>| -> Result<Option<Kernel>> {
        for series in series {
            match store.find(&series)? {
                Some(kernel) => return Ok(Some(kernel)),
                None => missing.push(series.0),
            }
        }
        Ok(None)
    };
    let oldest = first(&mut kernels::all().into_iter())?;
    let newest = first(&mut kernels::all().into_iter().rev())?;
    let mut found: Vec<Kernel> = oldest.into_iter().chain(newest).collect();
    found.dedup_by(|a, b| a.release == b.release);
    test_on(&found, &missing, &Options::default(), &mut store)
}

/// Kernels and the archive that they come from.
struct Store {
    folder: PathBuf,
    archive: Archive,
    refresh: bool,
}

impl Store {
    fn open(refresh: bool) -> Result<Self> {
        let folder = cache::folder("vm")?;
        let archive = Archive { folder: folder.join("apt"), apt: None };
        Ok(Self { folder, archive, refresh })
    }

    fn find(&mut self, series: &Series) -> Result<Option<Kernel>> {
        let folder = cache::folder("vm/kernels")?;
        let found = kernels::find(series, &folder, self.refresh, &mut self.archive)?;
        match &found {
            Some(kernel) => println!("kernel {}: {}", series.0, kernel.release),
            None => println!("kernel {}: not available", series.0),
        }
        Ok(found)
    }

    /// A busybox that needs no library.
    fn busybox(&mut self) -> Result<PathBuf> {
        let archive = &mut self.archive;
        let root = cache::once(&self.folder, "busybox", |root| {
            archive.get()?.unpack("busybox-static", root)
        })?;
        ["bin/busybox", "usr/bin/busybox"]
            .iter()
            .map(|place| root.join(place))
            .find(|busybox| busybox.is_file())
            .with_context(|| format!("there is no busybox in {}", root.display()))
    }
}

/// Runs the tests on each kernel, prints the tables; returns how many tests passed.
fn test_on(
    kernels: &[Kernel],
    missing: &[String],
    options: &Options,
    store: &mut Store,
) -> Result<u64> {
    ensure!(
        kernels.len() >= FEWEST || !options.named.is_empty(),
        "fewer than {FEWEST} kernels can be had; not available: {}",
        missing.join(", ")
    );
    setup::for_vm_tests()?;
    let qemu = Qemu::find(&store.folder, options.kvm, &mut store.archive)?;
    let busybox = store.busybox()?;
    let folder = shell::target_directory()?.join("vm");
    let mut userland = Userland::new(&folder.join("userland"), &busybox)?;
    let suite = Suite::build(&mut userland)?;
    let archive = folder.join("userland.cpio");
    userland.pack(&archive)?;
    let mut runs = Vec::new();
    for kernel in kernels {
        let start = Instant::now();
        let console = folder.join(format!("console-{}.txt", kernel.release));
        println!("booting {}", kernel.release);
        let said = qemu.boot(&kernel.image, &archive, &console)?;
        let outcome = Outcome::read(&said, suite.expected, suite.commands.len());
        println!(
            "{}: {} of {} tests passed in {:.0} s",
            kernel.release,
            outcome.passed,
            suite.expected,
            start.elapsed().as_secs_f64()
        );
        if !outcome.faults.is_empty() {
            println!("{said}");
        }
        runs.push(Run { series: kernel.series.clone(), expected: suite.expected, outcome });
    }
    print_tables(&runs, missing);
    judge(&mut runs, options)?;
    if options.write {
        table::write(&runs, missing, &qemu.version)?;
    }
    Ok(runs.iter().map(|run| run.outcome.passed).sum())
}

fn print_tables(runs: &[Run], missing: &[String]) {
    println!("\n{}\n{}\n{}", table::kernels(runs), table::counts(runs), table::instructions(runs));
    for series in missing {
        println!("kernel {series}: not available");
    }
}

/// Holds the instruction counts against the golden file, and fails on all that went wrong.
fn judge(runs: &mut [Run], options: &Options) -> Result<()> {
    let mut golden = Golden::load()?;
    for run in &mut *runs {
        if options.bless && run.outcome.faults.is_empty() {
            golden.bless(&run.outcome);
        } else if !golden.knows(&run.outcome) {
            println!("{}: no instruction counts to compare with", run.outcome.release);
        }
        let grown = golden.faults(&run.outcome);
        run.outcome.faults.extend(grown);
    }
    if options.bless {
        golden.save()?;
    }
    let faults: Vec<String> = runs
        .iter()
        .flat_map(|run| {
            run.outcome.faults.iter().map(|fault| format!("kernel {}: {fault}", run.series.0))
        })
        .collect();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
