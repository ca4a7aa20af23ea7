//! What runs in every virtual machine: test programs that are built here, and the commands that start them there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::userland::Userland;
use crate::shell;

/// A call of a test program.
struct Call {
    /// The test program's name: a file below `tests/tests`, or `leaktrace` for its unit tests.
    program: &'static str,
    /// Which of its tests.
    arguments: &'static [&'static str],
    /// What stands in front of the command.
    environment: &'static str,
}

/// In this order: the last one leaves a kernel that can do nothing any more.
const CALLS: &[Call] = &[
    Call {
        program: "leaktrace",
        arguments: &["kernel::"],
        environment: "LD_PRELOAD=/tests/verified.so ",
    },
    Call { program: "kernels", arguments: &[], environment: "" },
    Call { program: "kernels", arguments: &["--ignored"], environment: "" },
];

/// The suite, built.
pub(super) struct Suite {
    /// What the machine runs, line by line.
    pub(super) commands: Vec<String>,
    /// How many tests that is.
    pub(super) expected: u64,
}

impl Suite {
    /// Builds all that the tests need into `userland`.
    ///
    /// # Errors
    /// It does not build.
    pub(super) fn build(userland: &mut Userland) -> Result<Self> {
        let root = shell::root()?;
        shell::run(shell::cargo()?.args(["build", "--locked", "--package", "leaktrace"]))?;
        let leaktrace = shell::target_directory()?.join("debug/leaktrace");
        userland.add_program(&leaktrace, "leaktrace")?;
        let built = test_programs()?;
        let mut suite = Self { commands: Vec::new(), expected: 0 };
        for call in CALLS {
            let program = built
                .iter()
                .find(|(name, _)| name == call.program)
                .map(|(_, program)| program)
                .with_context(|| format!("cargo did not build the tests `{}`", call.program))?;
            let name = format!("test-{}", call.program);
            userland.add_program(program, &name)?;
            suite.commands.push(format!(
                "{}/tests/{name} --test-threads=1 --nocapture {}",
                call.environment,
                call.arguments.join(" ")
            ));
            suite.expected += count(program, call.arguments)?;
        }
        let programs = root.join("tests/programs");
        userland.add_c_program(&programs.join("calls.c"), &["-pthread"], "calls")?;
        let preloaded = ["-shared", "-fPIC", "-ldl"];
        userland.add_c_program(&programs.join("verified.c"), &preloaded, "verified.so")?;
        // Tests look for them where they were built.
        userland.add(&root.join("tests/workloads"))?;
        userland.add_python()?;
        userland.set_commands(&suite.commands)?;
        Ok(suite)
    }
}

/// Builds the test programs; returns them by name.
fn test_programs() -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--locked", "--no-run", "--message-format=json"]);
    cargo.args(["--package", "leaktrace", "--package", "leaktrace-tests", "--lib"]);
    let files = CALLS.iter().map(|call| call.program).filter(|program| *program != "leaktrace");
    let messages = shell::capture(cargo.args(files.flat_map(|file| ["--test", file])))?;
    Ok(messages.lines().filter_map(test_program).collect())
}

/// Name and path of the test program in one of cargo's messages.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let program = message["executable"].as_str()?;
    let name = message["target"]["name"].as_str()?;
    message["profile"]["test"].as_bool()?.then(|| (name.to_owned(), PathBuf::from(program)))
}

/// How many tests a program runs with these arguments.
fn count(program: &Path, arguments: &[&str]) -> Result<u64> {
    let list = |more: &[&str]| -> Result<u64> {
        let mut command = Command::new(program);
        let listed = shell::capture(command.args(arguments).args(more).arg("--list"))?;
        Ok(listed.lines().filter(|line| line.ends_with(": test")).count() as u64)
    };
    let ignored = list(&["--ignored"][usize::from(arguments.contains(&"--ignored"))..])?;
    let count = if arguments.contains(&"--ignored") { ignored } else { list(&[])? - ignored };
    ensure!(count > 0, "`{}` has no test {arguments:?}", program.display());
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_other_artifacts() {
        let message = r#"{"reason":"compiler-artifact","target":{"name":"kernels"},"profile":{"test":true},"executable":"/a/kernels-1"}"#;
        let expected = ("kernels".to_owned(), PathBuf::from("/a/kernels-1"));
        assert_eq!(test_program(message), Some(expected));
        assert_eq!(test_program(&message.replace("\"test\":true", "\"test\":false")), None);
        assert_eq!(test_program(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
