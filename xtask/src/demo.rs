//! `cargo xtask demo`: from a clean checkout to a found leak, in one command.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{setup, shell};

pub(crate) const ABOUT: &str =
    "build leaktrace and let it find a planted leak: [leaktrace demo's options..]";

/// Sets the machine up, builds leaktrace and runs `leaktrace demo` as root; its exit code becomes ours.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    setup::for_demo()?;
    shell::run(shell::cargo()?.args(["build", "--release", "--package", "leaktrace"]))?;
    let program = shell::target_directory()?.join("release/leaktrace");
    let mut command = shell::as_root(program)?;
    command.arg("demo").args(arguments);
    let status =
        command.status().with_context(|| format!("cannot start {}", shell::shown(&command)))?;
    Ok(exit_code(status.code()))
}

/// The code to leave with; 1 for a program that a signal ended.
fn exit_code(code: Option<i32>) -> ExitCode {
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into()
}
