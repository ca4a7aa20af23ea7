//! Virtual environments below the target directory, with packages of PyPI that stand there ready-made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// What is in an environment, and what for.
pub(crate) struct Environment {
    /// Its folder, in the target directory.
    pub(crate) folder: &'static str,
    /// As pip takes them.
    pub(crate) packages: &'static [&'static str],
    /// A statement of Python that fails where a package is missing or broken.
    pub(crate) import: &'static str,
    /// What for, in the words of an error.
    pub(crate) purpose: &'static str,
}

impl Environment {
    /// Makes it, unless it is there with these packages. Returns its interpreter.
    ///
    /// # Errors
    /// They cannot be installed.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        let folder = shell::target_directory()?.join(self.folder);
        let made_of = format!("{} {}\n", python(), self.packages.join(" "));
        let note = folder.join("made-of.txt");
        let own_python = folder.join("bin/python");
        let imports = || shell::capture(Command::new(&own_python).args(["-c", self.import]));
        if fs::read_to_string(&note).is_ok_and(|text| text == made_of) && imports().is_ok() {
            return Ok(own_python);
        }
        let mut venv = Command::new(python());
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        let mut pip = Command::new(&own_python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        // Nothing is built here: a package without a wheel for this interpreter is said to be missing at once.
        pip.args(["--only-binary", ":all:"]).args(self.packages);
        for command in [&mut venv, &mut pip] {
            println!("set-up: {}", shell::shown(command));
            shell::run(command).with_context(|| {
                let packages = self.packages.join(", ");
                format!("cannot install {packages} from PyPI, {}", self.purpose)
            })?;
        }
        imports().context("what was installed cannot be imported")?;
        fs::write(&note, made_of).with_context(|| format!("cannot write `{}`", note.display()))?;
        Ok(own_python)
    }
}

/// The system's own interpreter where there is one: others on the path may be any.
pub(crate) fn python() -> &'static str {
    const SYSTEM: &str = "/usr/bin/python3";
    if Path::new(SYSTEM).is_file() { SYSTEM } else { "python3" }
}
