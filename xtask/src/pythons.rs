//! `cargo xtask pythons`: the CPythons of this machine that tests can run against.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::shell;

pub(crate) const ABOUT: &str =
    "list the CPythons that tests can run against, and which are missing";

/// The minor versions of CPython 3 that leaktrace supports.
pub(crate) const EXPECTED_MINORS: std::ops::RangeInclusive<u8> = 6..=15;

/// One interpreter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Python {
    /// The minor version of CPython 3.
    pub(crate) minor: u8,
    /// All of its version, for instance `3.11.2`.
    pub(crate) version: String,
    /// The program.
    pub(crate) path: PathBuf,
}

/// Lists what [`find`] finds and what it does not.
pub(crate) fn run(_arguments: &[String]) -> Result<ExitCode> {
    let pythons = find();
    for python in &pythons {
        println!("{:<9} {}", python.version, python.path.display());
    }
    let found: BTreeSet<u8> = pythons.iter().map(|python| python.minor).collect();
    let missing: Vec<_> =
        EXPECTED_MINORS.filter(|minor| !found.contains(minor)).map(|m| format!("3.{m}")).collect();
    if !missing.is_empty() {
        println!("not here: {} (`pyenv install VERSION` brings one)", missing.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// The system's own `python3`, and every version that pyenv has installed, oldest first.
pub(crate) fn find() -> Vec<Python> {
    let paths = std::iter::once(PathBuf::from("/usr/bin/python3")).chain(of_pyenv());
    let mut pythons: Vec<_> = paths.filter_map(|path| ask(&path)).collect();
    pythons.sort();
    pythons
}

/// Those of [`find`] whose version leaktrace supports.
pub(crate) fn supported() -> impl Iterator<Item = Python> {
    find().into_iter().filter(|python| EXPECTED_MINORS.contains(&python.minor))
}

fn of_pyenv() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".pyenv")));
    let versions = root.and_then(|root| root.join("versions").read_dir().ok());
    versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin/python3")).collect()
}

/// Asks an interpreter what it is; `None` where it cannot be run or is not CPython 3.
fn ask(path: &Path) -> Option<Python> {
    let script =
        "import platform; print(platform.python_implementation(), platform.python_version())";
    let answer = shell::capture(Command::new(path).args(["-I", "-S", "-c", script])).ok()?;
    let version = answer.trim().strip_prefix("CPython ")?;
    let minor = minor_of(version)?;
    Some(Python { minor, version: version.to_owned(), path: path.to_path_buf() })
}

fn minor_of(version: &str) -> Option<u8> {
    version.strip_prefix("3.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_a_full_version() {
        assert_eq!(minor_of("3.11.2"), Some(11));
        assert_eq!(minor_of("3.15.0a1"), Some(15));
        assert_eq!(minor_of("2.7.18"), None);
    }

    #[test]
    fn the_versions_expected_are_those_that_leaktrace_says_it_supports() {
        let source = include_str!("../../leaktrace/src/cpython/version.rs");
        let constant = |name: &str| {
            let start = format!("pub const {name}: u8 = ");
            let line = source.lines().find_map(|line| line.strip_prefix(start.as_str()));
            line.and_then(|line| line.strip_suffix(';')?.parse().ok())
        };
        assert_eq!(constant("OLDEST_MINOR"), Some(*EXPECTED_MINORS.start()));
        assert_eq!(constant("NEWEST_MINOR"), Some(*EXPECTED_MINORS.end()));
    }

    #[test]
    fn what_is_found_is_sorted_and_has_its_version() {
        let pythons = find();
        assert!(pythons.is_sorted());
        assert!(pythons.iter().all(|python| minor_of(&python.version) == Some(python.minor)));
    }
}
