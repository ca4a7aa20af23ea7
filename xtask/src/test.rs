//! `cargo xtask test`: every check there is, in the order of what fails fastest.
//!
//! The end-to-end tests run as root, with real interpreters and the real kernel, once on the committed BPF object and
//! once on one that is built here. A step in which no test ran is a failure.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::build_ebpf::{self, Toolchain};
use crate::pythons::{self, Python};
use crate::{matrix, setup, shell, tidy, vm};

pub(crate) const ABOUT: &str =
    "run every check and test: [--fast] for those without root, kernel and BPF toolchain";

/// Longest time for a program of tests, as `timeout` takes it: several times what the longest takes.
const LONGEST: &str = "25m";

/// What a step did: how many tests it ran, for those that run some.
type Ran = Option<u64>;

/// A named part of the run.
struct Step {
    name: &'static str,
    run: fn() -> Result<Ran>,
}

const FAST: &[Step] = &[
    Step { name: "format", run: format },
    Step { name: "tidy", run: check_tidy },
    Step { name: "BPF object is up to date", run: bpf_sources },
    Step { name: "clippy", run: clippy },
    Step { name: "unit tests", run: unit_tests },
];

const FULL: &[Step] = &[
    Step { name: "set-up", run: set_up },
    Step { name: "format", run: format },
    Step { name: "tidy", run: check_tidy },
    Step { name: "clippy", run: clippy },
    Step { name: "lint of the BPF programs", run: bpf_lint },
    Step { name: "BPF object is up to date", run: bpf_object },
    Step { name: "unit tests", run: unit_tests_as_root },
    Step { name: "end-to-end tests, committed BPF object", run: tests_on_committed_object },
    Step { name: "end-to-end tests, BPF object built here", run: tests_on_fresh_object },
    Step { name: "coverage on the builds in the cache", run: tests_on_cached_builds },
    Step { name: "oldest and newest kernel, in virtual machines", run: tests_on_kernels },
    Step { name: "documentation", run: documentation },
];

/// Runs the steps up to the first that fails.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let steps = match arguments[..] {
        [] => FULL,
        ["--fast"] => FAST,
        _ => bail!("usage: cargo xtask test [--fast]"),
    };
    let mut done = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        println!("\n=== {}/{}: {}", index + 1, steps.len(), step.name);
        let start = Instant::now();
        let result = (step.run)();
        let failed = result.is_err();
        done.push((step.name, start.elapsed(), result));
        if failed {
            break;
        }
    }
    Ok(summarize(&done, steps.len()))
}

/// Prints a line for each step that was begun, and one on the whole.
fn summarize(done: &[(&str, Duration, Result<Ran>)], steps: usize) -> ExitCode {
    println!("\n=== summary");
    let mut tests = 0;
    for (name, took, result) in done {
        let outcome = match result {
            Ok(Some(ran)) => format!("ok, {ran} tests passed"),
            Ok(None) => "ok".to_owned(),
            Err(_) => "FAILED".to_owned(),
        };
        tests += result.as_ref().ok().copied().flatten().unwrap_or(0);
        println!("{:>7.1} s  {name}: {outcome}", took.as_secs_f64());
    }
    let total: Duration = done.iter().map(|(_, took, _)| took).sum();
    if let Some((name, _, Err(error))) = done.last() {
        println!("\nFAILED after {:.0} s in `{name}`: {error:#}", total.as_secs_f64());
        return ExitCode::FAILURE;
    }
    println!("\nall {steps} steps passed in {:.0} s; {tests} tests ran", total.as_secs_f64());
    ExitCode::SUCCESS
}

fn set_up() -> Result<Ran> {
    setup::for_test()?;
    for python in pythons::find() {
        println!("CPython {:<9} {}", python.version, python.path.display());
    }
    Ok(None)
}

fn format() -> Result<Ran> {
    shell::run(shell::cargo()?.args(["fmt", "--all", "--check"]))?;
    Ok(None)
}

fn check_tidy() -> Result<Ran> {
    tidy::check()?;
    Ok(None)
}

fn clippy() -> Result<Ran> {
    let mut cargo = shell::cargo()?;
    cargo.args([
        "clippy",
        "--locked",
        "--workspace",
        "--exclude",
        "leaktrace-ebpf",
        "--all-targets",
    ]);
    shell::run(cargo.args(["--", "--deny", "warnings"]))?;
    Ok(None)
}

fn bpf_lint() -> Result<Ran> {
    let toolchain = Toolchain::find()?;
    let subcommand = if toolchain.has_clippy() {
        "clippy"
    } else {
        println!("this compiler comes without clippy: its own warnings only");
        "check"
    };
    shell::run(&mut toolchain.cargo(subcommand, &["--deny=warnings"])?)?;
    Ok(None)
}

fn bpf_sources() -> Result<Ran> {
    build_ebpf::check_sources()?;
    Ok(None)
}

fn bpf_object() -> Result<Ran> {
    build_ebpf::check()?;
    Ok(None)
}

fn unit_tests() -> Result<Ran> {
    run_tests(&mut unit_test_command()?).map(Some)
}

/// The unit tests as root, so that those run which load programs into the kernel.
fn unit_tests_as_root() -> Result<Ran> {
    run_tests(required(&mut unit_test_command()?)?).map(Some)
}

fn unit_test_command() -> Result<Command> {
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--locked", "--package", "leaktrace", "--package", "leaktrace-common"]);
    cargo.args(["--package", "xtask"]);
    Ok(cargo)
}

/// Makes tests fail that cannot run, since the set-up has made sure that all can, and runs them as root; a program of
/// tests that does not come to an end is killed.
fn required(cargo: &mut Command) -> Result<&mut Command> {
    cargo.env("LEAKTRACE_E2E", "required");
    // Cargo and what it builds stay the user's own; only the test programs run as root.
    let root = if shell::is_root()? { "" } else { "sudo -E " };
    let runner = format!("{root}timeout --foreground --verbose --kill-after=60s {LONGEST}");
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    Ok(cargo)
}

fn tests_on_committed_object() -> Result<Ran> {
    end_to_end(None)
}

fn tests_on_fresh_object() -> Result<Ran> {
    let object = shell::target_directory()?.join("ebpf/leaktrace.bpf.o");
    build_ebpf::build_to(&object)?;
    if build_ebpf::is_committed(&object)? {
        println!(
            "byte for byte the committed one, which the end-to-end tests ran on: it is loaded once more"
        );
        let mut cargo = unit_test_command()?;
        cargo.env("LEAKTRACE_BPF_OBJECT", &object).arg("kernel::");
        return run_tests(required(&mut cargo)?).map(Some);
    }
    end_to_end(Some(&object))
}

fn tests_on_kernels() -> Result<Ran> {
    vm::oldest_and_newest().map(Some)
}

/// Runs the end-to-end tests one after the other, on a BPF object other than the committed one if given.
///
/// They find the program in `LEAKTRACE_BIN`. leaktrace takes its BPF object from `LEAKTRACE_BPF_OBJECT`.
fn end_to_end(object: Option<&Path>) -> Result<Ran> {
    shell::run(shell::cargo()?.args(["build", "--locked", "--package", "leaktrace"]))?;
    let mut cargo = shell::cargo()?;
    // They take minutes: whoever mends what failed wants to know of all that did.
    cargo.args(["test", "--locked", "--package", "leaktrace-tests", "--no-fail-fast"]);
    cargo.args(["--", "--test-threads=1"]);
    cargo.env("LEAKTRACE_BIN", shell::target_directory()?.join("debug/leaktrace"));
    match object {
        Some(object) => cargo.env("LEAKTRACE_BPF_OBJECT", object),
        None => cargo.env_remove("LEAKTRACE_BPF_OBJECT"),
    };
    let ran = shell::target_directory()?.join("ran-on.txt");
    // What an earlier run left behind, if any.
    let _ = fs::remove_file(&ran);
    cargo.env("LEAKTRACE_RAN", &ran);
    let passed = run_tests(required(&mut cargo)?)?;
    compare_pythons(&fs::read_to_string(&ran).context("no end-to-end test ran on any Python")?)?;
    Ok(Some(passed))
}

/// What of `cargo xtask matrix` is quick, on those of its builds that happen to be here.
fn tests_on_cached_builds() -> Result<Ran> {
    let builds = matrix::here()?;
    if builds.is_empty() {
        println!("none is here: `cargo xtask matrix` makes them");
        return Ok(None);
    }
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--locked", "--package", "leaktrace-tests", "--test", "coverage"]);
    cargo.args(["--", "--test-threads=1"]);
    cargo.env("LEAKTRACE_BIN", shell::target_directory()?.join("debug/leaktrace"));
    cargo.env("LEAKTRACE_PYTHONS", builds.join(":"));
    run_tests(required(&mut cargo)?).map(Some)
}

/// Compares the versions of Python that tests ran on with those that are here.
fn compare_pythons(ran: &str) -> Result<()> {
    let here: Vec<Python> = pythons::supported().collect();
    let expected: BTreeSet<&str> = here.iter().map(|python| python.version.as_str()).collect();
    let ran = versions(ran);
    println!("CPythons expected: {}", listed(&expected));
    println!("CPythons that ran: {}", listed(&ran));
    ensure!(expected == ran, "the end-to-end tests did not run on the CPythons that are here");
    let minors: BTreeSet<u8> = here.iter().map(|python| python.minor).collect();
    ensure!(minors.len() >= 2, "fewer than two minor versions of CPython are here");
    Ok(())
}

/// The versions in lines of `VERSION PATH`. (Paths differ by links, and tests run copies.)
fn versions(ran: &str) -> BTreeSet<&str> {
    ran.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

fn listed(versions: &BTreeSet<&str>) -> String {
    versions.iter().copied().collect::<Vec<_>>().join(", ")
}

fn documentation() -> Result<Ran> {
    let mut cargo = shell::cargo()?;
    cargo.args(["doc", "--locked", "--workspace", "--exclude", "leaktrace-ebpf", "--no-deps"]);
    shell::run(cargo.arg("--document-private-items").env("RUSTDOCFLAGS", "--deny=warnings"))?;
    Ok(None)
}

/// Runs `cargo test`, shows what it writes, and returns how many tests passed.
fn run_tests(cargo: &mut Command) -> Result<u64> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shell::shown(cargo)))?;
    let output = child.stdout.take().context("a piped output is there")?;
    let mut passed = 0;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what the tests write")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        passed += passed_in(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} failed: {status}", shell::shown(cargo));
    }
    if passed == 0 {
        bail!("{} ran no test", shell::shown(cargo));
    }
    Ok(passed)
}

/// The count in a line such as `test result: ok. 12 passed; 0 failed; 0 ignored`; 0 for any other line.
fn passed_in(line: &str) -> u64 {
    let count = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split_once(" passed"));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_from_the_summary_lines_alone() {
        assert_eq!(passed_in("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured"), 12);
        assert_eq!(passed_in("test result: FAILED. 11 passed; 1 failed"), 0);
        assert_eq!(passed_in("test gate::tests::opens ... ok"), 0);
    }

    #[test]
    fn a_run_that_stopped_at_a_failure_fails() {
        let failed = [
            ("one", Duration::ZERO, Ok(None)),
            ("two", Duration::ZERO, Err(anyhow::anyhow!("no"))),
        ];
        assert_eq!(summarize(&failed, 3), ExitCode::FAILURE);
        assert_eq!(summarize(&[("one", Duration::ZERO, Ok(Some(3)))], 1), ExitCode::SUCCESS);
    }

    #[test]
    fn copies_and_links_of_an_interpreter_are_its_version() {
        let ran = "3.8.18 /a/bin/python\n3.11.2 /usr/bin/python3\n3.11.2 /tmp/copy/python3\n";
        assert_eq!(versions(ran).into_iter().collect::<Vec<_>>(), ["3.11.2", "3.8.18"]);
    }
}
