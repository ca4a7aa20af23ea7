//! Runs other programs, and knows where things of this workspace lie.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
///
/// # Errors
/// Where the program was not started by cargo, which is what tells it.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("cannot tell where the workspace is: start this as `cargo xtask`")?;
    let root = Path::new(&manifest).parent().context("the manifest's directory has no parent")?;
    Ok(root.to_path_buf())
}

/// The directory that cargo builds into.
///
/// # Errors
/// Where cargo cannot read the workspace.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let text = capture(cargo()?.args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("cannot read `cargo metadata`")?;
    let path = metadata["target_directory"].as_str().context("`cargo metadata` names no target")?;
    Ok(PathBuf::from(path))
}

/// The cargo that started this program, in the workspace's root.
///
/// # Errors
/// As [`root`].
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Cargo's home, where it keeps sources and installs programs.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

/// Where a program is: on `PATH`, or among those that cargo installed.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

/// Whether this process runs as root.
///
/// # Errors
/// Where `id` cannot be run.
pub(crate) fn is_root() -> Result<bool> {
    Ok(capture(Command::new("id").arg("-u"))?.trim() == "0")
}

/// `program`, to be run as root: through sudo where this process is not root.
///
/// # Errors
/// Where it is not root and there is no sudo.
pub(crate) fn as_root(program: impl Into<OsString>) -> Result<Command> {
    let program = program.into();
    if is_root()? {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find_program("sudo") else {
        bail!("`{}` needs root, and there is no sudo: run this as root", program.display());
    };
    let mut command = Command::new(sudo);
    command.arg("-E").arg(program);
    Ok(command)
}

/// Runs a command with this process's own input and output.
///
/// # Errors
/// Where it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command that takes long: says so, and lets it write to the end of a file.
///
/// # Errors
/// Where it cannot be started or fails, with the last lines that it wrote.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    println!("{}, see {}", shown(command), log.display());
    let open = || OpenOptions::new().create(true).append(true).open(log);
    let file = open().with_context(|| format!("cannot write `{}`", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("{} failed: {status}\n{}", shown(command), last.join("\n"));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output.
///
/// # Errors
/// Where it cannot be started, fails, or writes what is not UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{} failed: {status}\n{}", shown(command), stderr.trim_end());
    }
    String::from_utf8(stdout).with_context(|| format!("{} wrote no text", shown(command)))
}

/// A command as one would type it, in backticks.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
