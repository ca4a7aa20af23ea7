//! The CPythons that are here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An interpreter to test against.
#[derive(Clone, Debug)]
pub struct Python {
    /// The program.
    pub path: PathBuf,
    /// `3.11.2`
    pub version: String,
}

impl Python {
    /// The interpreter at `path`, if it is one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        let output = Command::new(&path).arg("--version").output().ok()?;
        // Python 2 says it on stderr.
        let text = String::from_utf8([output.stdout, output.stderr].concat()).ok()?;
        let version = text.strip_prefix("Python ")?.trim().to_owned();
        Some(Self { path, version })
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

/// Every CPython that leaktrace supports and that is here: the system's, and those of pyenv.
///
/// # Panics
/// Where the tests must run and there are fewer than two minor versions.
#[must_use]
pub fn pythons() -> Vec<Python> {
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

/// Every CPython that is too old for leaktrace and that is here.
#[must_use]
pub fn old_pythons() -> Vec<Python> {
    let old = |python: &Python| python.version.starts_with("2.") || python.minor() < 8;
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
    python.version.starts_with("3.") && (8..=13).contains(&python.minor())
}

fn pyenv_root() -> Option<PathBuf> {
    std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")))
}
