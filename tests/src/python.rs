//! The CPythons that are here.
//!
//! Where `LEAKTRACE_PYTHONS` is set, it names the ones to take, with `:` in between, each as `PATH` or as `ROOT=PATH`:
//! PATH within the folder ROOT, in which a whole system lies.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::target::workloads;
use leaktrace::cpython::version::{NEWEST_MINOR, OLDEST_MINOR};

/// Runs a program within a folder that has a C library of its own: `sh -c IN_ROOT sh FOLDER WORKLOADS PROGRAM...`.
/// Workloads have the same path there as here.
const IN_ROOT: &str = "set -e; root=$1 workloads=$2; shift 2
mkdir -p \"$root$workloads\"
mount --bind \"$workloads\" \"$root$workloads\"
mount --rbind /proc \"$root/proc\"
mount --rbind /dev \"$root/dev\"
exec chroot \"$root\" \"$@\"";

/// An interpreter to test against.
#[derive(Clone, Debug)]
pub struct Python {
    /// The program.
    pub path: PathBuf,
    /// `3.11.2`
    pub version: String,
    /// The folder in which the program sees the root of all files, if it is another than the test's.
    pub root: Option<PathBuf>,
}

impl Python {
    /// The interpreter at `path`, if it is one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Option<Self> {
        Self { path: path.into(), version: String::new(), root: None }.asked()
    }

    /// The interpreter that `LEAKTRACE_PYTHONS` calls so.
    fn named(name: &str) -> Option<Self> {
        let Some((root, path)) = name.split_once('=') else { return Self::at(name) };
        Self { path: path.into(), version: String::new(), root: Some(root.into()) }.asked()
    }

    /// Itself with the version that it says it has.
    fn asked(self) -> Option<Self> {
        let output = self.command().arg("--version").output().ok()?;
        // Python 2 says it on stderr.
        let text = String::from_utf8([output.stdout, output.stderr].concat()).ok()?;
        let version = text.strip_prefix("Python ")?.trim().to_owned();
        Some(Self { version, ..self })
    }

    /// A command that runs it, to be given its arguments. The process that this starts becomes the interpreter.
    #[must_use]
    pub fn command(&self) -> Command {
        let Some(root) = &self.root else { return Command::new(&self.path) };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", IN_ROOT, "sh"]).arg(root).arg(workloads());
        command.arg(&self.path);
        command
    }

    /// Its minor version: 11 for `3.11.2`.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
    }
}

/// The system's python3, optimised and stripped.
#[must_use]
pub fn debian_python() -> Option<Python> {
    Python::at("/usr/bin/python3").filter(supported)
}

/// The CPythons that `LEAKTRACE_PYTHONS` names; without it every one that leaktrace supports and that is here, the
/// system's and those of pyenv.
///
/// # Panics
/// One that is named is none, or the tests must run and there are fewer than two minor versions.
#[must_use]
pub fn pythons() -> Vec<Python> {
    if let Ok(names) = std::env::var("LEAKTRACE_PYTHONS") {
        let named = |name| Python::named(name).unwrap_or_else(|| panic!("`{name}` is no Python"));
        return names.split(':').map(named).collect();
    }
    let mut found: Vec<Python> = debian_python().into_iter().collect();
    let mut versions: Vec<Python> = pyenv_pythons().filter(supported).collect();
    versions.sort_by_key(Python::minor);
    found.extend(versions);
    let mut minors: Vec<u32> = found.iter().map(Python::minor).collect();
    minors.sort_unstable();
    minors.dedup();
    if std::env::var("LEAKTRACE_E2E").is_ok_and(|value| value == "required") {
        assert!(minors.len() >= 2, "only these CPythons are here: {found:?}");
    }
    found
}

/// The first and the last of [`pythons`]: the system's and the newest, where nobody names others.
#[must_use]
pub fn some_pythons() -> Vec<Python> {
    let mut all = pythons();
    if all.len() > 2 {
        all.drain(1..all.len() - 1);
    }
    all
}

/// Every CPython that is too old for leaktrace and that is here.
#[must_use]
pub fn old_pythons() -> Vec<Python> {
    let old = |python: &Python| {
        python.version.starts_with("2.") || python.minor() < u32::from(OLDEST_MINOR)
    };
    pyenv_pythons().filter(old).collect()
}

fn pyenv_pythons() -> impl Iterator<Item = Python> {
    let versions = pyenv_root().and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    versions
        .into_iter()
        .flatten()
        .filter_map(|entry| Python::at(entry.ok()?.path().join("bin/python")))
}

fn supported(python: &Python) -> bool {
    let known = u32::from(OLDEST_MINOR)..=u32::from(NEWEST_MINOR);
    python.version.starts_with("3.") && known.contains(&python.minor())
}

fn pyenv_root() -> Option<PathBuf> {
    std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")))
}
