//! Runs the end-to-end tests on one interpreter and keeps what they measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::cache::{self, Cache};
use super::rows::{Interpreter, Row};
use crate::shell;

/// The tests that each row runs, where they are there.
const TESTS: [&str; 4] = ["coverage", "exactness", "stacks", "storm"];

/// Stacks that are compared on each row.
const STACKS: &str = "10000";

/// Seconds that one test may take.
const PATIENCE: &str = "1200";

/// Characters of what a failed test says that are kept.
const SAID: usize = 300;

/// Asks an interpreter what it was compiled with.
const COMPILER: &str = "import platform; print(platform.python_compiler())";

/// Measures rows with one build of leaktrace and of its tests.
pub(super) struct Meter {
    cache: Cache,
    /// A hash of leaktrace and of the tests: what a result depends on besides the interpreter.
    programs: String,
    /// Each test that there is, and the program that runs it: what is edited meanwhile does not matter.
    tests: Vec<(&'static str, PathBuf)>,
    leaktrace: PathBuf,
}

impl Meter {
    /// Builds leaktrace and the tests.
    ///
    /// # Errors
    /// They do not build.
    pub(super) fn new(cache: Cache) -> Result<Self> {
        shell::run(shell::cargo()?.args(["build", "--locked", "--package", "leaktrace"]))?;
        let folder = shell::root()?.join("tests");
        let is_there = |test: &&str| folder.join(format!("tests/{test}.rs")).is_file();
        let tests: Vec<&str> = TESTS.into_iter().filter(is_there).collect();
        let built = shell::target_directory()?.join("debug/leaktrace");
        let leaktrace = cache.keep("leaktrace", &built)?;
        let mut hash = Sha256::new();
        hash.update(fs::read(&leaktrace)?);
        for file in sources(&folder, &tests)? {
            hash.update(fs::read(&file).with_context(|| format!("cannot read {file:?}"))?);
        }
        let programs = hex(&hash.finalize());
        let tests = programs_of(&tests)?.into_iter().map(|(test, built)| {
            let kept = cache.keep(test, &built)?;
            Ok((test, kept))
        });
        let tests = tests.collect::<Result<_>>()?;
        Ok(Self { cache, programs, tests, leaktrace })
    }

    /// The result of a row from an earlier run, if nothing has changed since.
    pub(super) fn earlier(&self, row: &Row) -> Option<Value> {
        let result = earlier(&self.cache, row)?;
        let python = row.find(&self.cache)?;
        (result["key"] == self.key(row, &python)).then_some(result)
    }

    /// Runs the tests on a row; keeps the result.
    ///
    /// # Errors
    /// The tests cannot be run at all, or the result cannot be kept. A test that fails is a result.
    pub(super) fn measure(&self, row: &Row, python: &Interpreter) -> Result<Value> {
        let figures = self.cache.log(&format!("matrix-{}-figures", row.name))?;
        // What an earlier run left behind, if any.
        let _ = fs::remove_file(&figures);
        let mut failed = serde_json::Map::new();
        for (test, program) in &self.tests {
            let log = self.cache.log(&format!("matrix-{}-{test}", row.name))?;
            if let Some(why) = self.run(python, program, &figures, &log)? {
                println!("  {test} failed: {why}");
                failed.insert((*test).to_owned(), json!(why));
            }
        }
        let lines = fs::read_to_string(&figures).unwrap_or_default();
        let figures: Vec<Value> =
            lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let result = json!({
            "key": self.key(row, python),
            "row": row.name,
            "python": python.name(),
            "compiler": ask(python, COMPILER),
            "version": ask(python, "import platform; print(platform.python_version())"),
            "figures": figures,
            "failed": failed,
        });
        let path = self.cache.result(row.name);
        cache::make(path.parent().context("it lies in a folder")?)?;
        fs::write(&path, format!("{result:#}\n"))?;
        Ok(result)
    }

    /// Runs one test; `None` where it passes, else what it says.
    fn run(
        &self,
        python: &Interpreter,
        program: &Path,
        figures: &Path,
        log: &Path,
    ) -> Result<Option<String>> {
        let mut test = shell::as_root("timeout")?;
        test.arg(PATIENCE).arg(program).args(["--test-threads=1", "--nocapture"]);
        test.env("LEAKTRACE_E2E", "required").env("LEAKTRACE_BIN", &self.leaktrace);
        test.env("LEAKTRACE_PYTHONS", python.name()).env("LEAKTRACE_FIGURES", figures);
        test.env("LEAKTRACE_STACKS", STACKS).env("RUST_BACKTRACE", "0");
        let file = fs::File::create(log)?;
        test.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        test.current_dir(shell::root()?.join("tests"));
        let status = test.status().with_context(|| shell::shown(&test))?;
        if status.success() {
            return Ok(None);
        }
        let text = fs::read(log)?;
        // Where the checkout lies is nobody's business.
        let root = format!("{}/", shell::root()?.display());
        let why = complaint(&String::from_utf8_lossy(&text).replace(&root, ""));
        Ok(Some(why.unwrap_or_else(|| format!("it ended with {status}"))))
    }

    /// What a result depends on.
    fn key(&self, row: &Row, python: &Interpreter) -> String {
        let size = fs::metadata(python.file()).map_or(0, |file| file.len());
        let version = ask(python, "import sys; print(sys.version)");
        let parts =
            [&self.programs, row.name, row.kind, &python.name(), &version, &size.to_string()];
        hex(&Sha256::digest(parts.join("\n")))
    }
}

/// The result of a row from an earlier run, whatever has changed since.
pub(super) fn earlier(cache: &Cache, row: &Row) -> Option<Value> {
    serde_json::from_slice(&fs::read(cache.result(row.name)).ok()?).ok()
}

/// Builds the tests; the program of each.
fn programs_of(tests: &[&'static str]) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(["--package", "leaktrace-tests"]);
    cargo.args(tests.iter().flat_map(|test| ["--test", *test]));
    let messages = shell::capture(&mut cargo)?;
    let built: Vec<Value> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |&test: &&'static str| {
        let message = built
            .iter()
            .find(|message| message["target"]["name"] == test && message["executable"].is_string());
        let path = message.and_then(|message| message["executable"].as_str());
        Ok((test, PathBuf::from(path.with_context(|| format!("cargo built no test `{test}`"))?)))
    };
    tests.iter().map(program).collect()
}

/// Everything that the tests are made of.
fn sources(folder: &Path, tests: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        tests.iter().map(|test| folder.join(format!("tests/{test}.rs"))).collect();
    for part in ["src", "workloads"] {
        for entry in fs::read_dir(folder.join(part))? {
            files.push(entry?.path());
        }
    }
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// What the first test to fail says, on one line: what stands behind `panicked at`, up to an empty line.
fn complaint(output: &str) -> Option<String> {
    let mut lines = output.lines().skip_while(|line| !line.contains("panicked at"));
    lines.next()?;
    let said: Vec<&str> =
        lines.take_while(|line| !line.is_empty() && !line.starts_with("note: ")).collect();
    let said = said.join(" ");
    match said.char_indices().nth(SAID) {
        Some((end, _)) => Some(format!("{}...", said.get(..end).unwrap_or(&said))),
        None => Some(said),
    }
}

/// What an interpreter answers; empty where it does not run.
fn ask(python: &Interpreter, script: &str) -> String {
    let mut command = match &python.root {
        None => Ok(Command::new(&python.path)),
        Some(root) => shell::as_root("chroot").map(|mut chroot| {
            chroot.arg(root).arg(&python.path);
            chroot
        }),
    };
    let answer = command.as_mut().map(|command| shell::capture(command.args(["-I", "-c", script])));
    answer.ok().and_then(Result::ok).unwrap_or_default().trim().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn a_failed_test_is_known_by_what_it_says() {
        let output = "running 1 test\n\nthread 'a' panicked at tests/a.rs:1:2:\nassertion failed\n  left: 1\n \
                      right: 2\nnote: run with\nmore\n";
        assert_eq!(complaint(output).as_deref(), Some("assertion failed   left: 1  right: 2"));
        assert_eq!(complaint("error: it does not build"), None);
    }
}
