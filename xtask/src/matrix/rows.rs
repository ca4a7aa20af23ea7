//! The rows of the matrix: which builds there are, and where each comes from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::build::{self, Recipe};
use super::cache::Cache;
use super::debian;
use crate::{pythons, setup};

/// A build of CPython.
#[derive(Debug)]
pub(super) struct Row {
    /// What `--only` calls it.
    pub(super) name: &'static str,
    /// How it was built.
    pub(super) kind: &'static str,
    origin: Origin,
}

/// Where a build comes from.
#[derive(Debug)]
enum Origin {
    /// pyenv, by the minor version.
    Pyenv(u8),
    /// The system: a program, and the package that brings it.
    System(&'static str, &'static str),
    /// Debian's unstable distribution in a folder: a program there.
    Sid(&'static str),
    /// A build from source.
    Built(&'static Recipe),
}

const PLAIN: &str = "plain, shared";
const DEBIAN: &str = "Debian: GCC, PGO, LTO, static, stripped";
const DEBUG: &str = "Debian's debug build: `--with-pydebug`, static";

const fn pyenv(name: &'static str, minor: u8) -> Row {
    Row { name, kind: PLAIN, origin: Origin::Pyenv(minor) }
}

const fn sid(name: &'static str, kind: &'static str, path: &'static str) -> Row {
    Row { name, kind, origin: Origin::Sid(path) }
}

const fn built(recipe: &'static Recipe) -> Row {
    Row { name: recipe.name, kind: recipe.kind, origin: Origin::Built(recipe) }
}

/// All of them, in the order of the table.
pub(super) const ROWS: &[Row] = &[
    pyenv("plain-3.6", 6),
    pyenv("plain-3.7", 7),
    pyenv("plain-3.8", 8),
    pyenv("plain-3.9", 9),
    pyenv("plain-3.10", 10),
    pyenv("plain-3.11", 11),
    pyenv("plain-3.12", 12),
    pyenv("plain-3.13", 13),
    Row {
        name: "debian-3.11",
        kind: DEBIAN,
        origin: Origin::System("/usr/bin/python3.11", "python3"),
    },
    // Of 3.13 Debian's other build is installed as well, which takes the name of the usual one.
    sid("debian-3.13", DEBIAN, "/usr/bin/python3.13-pie"),
    sid("debian-3.14", DEBIAN, "/usr/bin/python3.14"),
    sid("debian-3.15", DEBIAN, "/usr/bin/python3.15"),
    sid("nopie-3.13", "Debian's, not position-independent", "/usr/bin/python3.13"),
    built(&build::CONTAINER_3_11),
    built(&build::CONTAINER_3_13),
    built(&build::CLANG_3_13),
    built(&build::MUSL_3_13),
    built(&build::FREE_THREADED_3_13),
    built(&build::FREE_THREADED_3_14),
    built(&build::FREE_THREADED_3_15),
    Row {
        name: "debug-3.11",
        kind: DEBUG,
        origin: Origin::System("/usr/bin/python3.11d", "python3-dbg"),
    },
    sid("debug-3.13", DEBUG, "/usr/bin/python3.13d"),
    sid("debug-3.14", DEBUG, "/usr/bin/python3.14d"),
    sid("debug-3.15", DEBUG, "/usr/bin/python3.15d"),
];

/// An interpreter that is there.
#[derive(Clone, Debug)]
pub(super) struct Interpreter {
    /// The folder in which it sees the root of all files, if it is another.
    pub(super) root: Option<PathBuf>,
    /// The program.
    pub(super) path: PathBuf,
}

impl Interpreter {
    /// As the tests' `LEAKTRACE_PYTHONS` calls it.
    pub(super) fn name(&self) -> String {
        match &self.root {
            Some(root) => format!("{}={}", root.display(), self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// Its file, as this program sees it.
    pub(super) fn file(&self) -> PathBuf {
        let Some(root) = &self.root else { return self.path.clone() };
        root.join(self.path.strip_prefix("/").unwrap_or(&self.path))
    }
}

impl Row {
    /// Whether it is an optimised build that is not on every machine, so that a quick run should look at it where it
    /// happens to be.
    pub(super) fn is_rare(&self) -> bool {
        matches!(self.origin, Origin::Sid(_) | Origin::Built(_)) && !self.name.starts_with("debug")
    }

    /// The interpreter, if it is here already.
    pub(super) fn find(&self, cache: &Cache) -> Option<Interpreter> {
        let here = |path: PathBuf| path.is_file().then_some(Interpreter { root: None, path });
        match self.origin {
            Origin::Pyenv(minor) => of_pyenv(minor).and_then(here),
            Origin::System(path, _) => here(PathBuf::from(path)),
            Origin::Sid(path) => {
                let root = cache.debian_sid();
                let found = Interpreter { root: Some(root), path: PathBuf::from(path) };
                found.file().is_file().then_some(found)
            }
            Origin::Built(recipe) => recipe.find(cache).and_then(here),
        }
    }

    /// The interpreter, made where it is not here yet.
    ///
    /// # Errors
    /// It cannot be had on this machine.
    pub(super) fn bring(&self, cache: &Cache) -> Result<Interpreter> {
        if let Some(found) = self.find(cache) {
            return Ok(found);
        }
        match self.origin {
            Origin::Pyenv(minor) => {
                anyhow::bail!("pyenv has no 3.{minor}: `pyenv install 3.{minor}` brings it")
            }
            Origin::System(_, package) => setup::install_packages(&[package])?,
            Origin::Sid(_) => debian::install_sid(cache)?,
            Origin::Built(recipe) => recipe.build(cache)?,
        }
        self.find(cache).context("it is not there although it was installed")
    }
}

/// The latest version of a minor one that pyenv has.
fn of_pyenv(minor: u8) -> Option<PathBuf> {
    let of_system = |path: &Path| path.starts_with("/usr");
    let found = pythons::find().into_iter().filter(|python| python.minor == minor);
    found.map(|python| python.path).rfind(|path| !of_system(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_have_one_name() {
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn an_interpreter_in_a_folder_is_called_by_both() {
        let root = Some(PathBuf::from("/cache/sid"));
        let python = Interpreter { root, path: PathBuf::from("/usr/bin/python3") };
        assert_eq!(python.name(), "/cache/sid=/usr/bin/python3");
        assert_eq!(python.file(), Path::new("/cache/sid/usr/bin/python3"));
    }
}
