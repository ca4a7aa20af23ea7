//! `cargo xtask images`: captures anew the memory of interpreters that the unwinder is tested on.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::{pythons, shell};

pub(crate) const ABOUT: &str = "capture stacks of CPythons for the tests: [--root DIR] [PYTHON..]";

/// What to capture.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// The folder that is the interpreters' root.
    root: Option<PathBuf>,
    /// Paths of interpreters, as they are below the root.
    pythons: Vec<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--root" {
                let root = arguments.next().context("`--root` needs a folder")?;
                options.root = Some(root.into());
            } else {
                ensure!(!argument.starts_with('-'), "there is no option `{argument}`");
                options.pythons.push(argument.into());
            }
        }
        let named = options.root.is_none() || !options.pythons.is_empty();
        ensure!(named, "`--root` needs the paths of interpreters below it");
        Ok(options)
    }

    /// One a line, as the test reads them; without any, those that leaktrace supports, the last of a minor version.
    fn lines(&self) -> OsString {
        let found: Vec<PathBuf> = if self.pythons.is_empty() {
            pythons::supported().map(|python| python.path).collect()
        } else {
            self.pythons.clone()
        };
        let mut lines = OsString::new();
        for path in found {
            lines.push(path);
            lines.push("\n");
        }
        lines
    }
}

/// Has the test of the images capture them and check them against the interpreters' own account.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--locked", "--package", "leaktrace", "--test", "images", "the_stacks_of"]);
    cargo.env("LEAKTRACE_CAPTURE", options.lines());
    if let Some(root) = &options.root {
        cargo.env("LEAKTRACE_CAPTURE_ROOT", root);
    }
    shell::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_needs_interpreters_below_it() {
        let parse = |words: &[&str]| {
            Options::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]).unwrap(), Options::default());
        let options = parse(&["--root", "sid", "/usr/bin/python3.14"]).unwrap();
        assert_eq!(options.root, Some(PathBuf::from("sid")));
        assert_eq!(options.lines(), "/usr/bin/python3.14\n");
        for wrong in [&["--root"][..], &["--root", "sid"], &["--all"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
