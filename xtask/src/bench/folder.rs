//! The folder of a run, `benches/runs/DATE`: what lies where.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::environment::Environment;
use super::records::{Fault, Log, Pair, Run};

/// A run's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The one of this name in the workspace. It need not exist.
    pub(super) fn of(root: &Path, name: &str) -> Self {
        Self(root.join("benches/runs").join(name))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes down what is measured where, or checks that a run that was begun can go on so.
    ///
    /// # Errors
    /// It cannot, or the file cannot be written.
    pub(super) fn begin(&self, environment: &Environment) -> Result<()> {
        if self.0.join(ENVIRONMENT).exists() {
            return environment.check_continues(&self.environment()?);
        }
        fs::create_dir_all(&self.0).with_context(|| format!("cannot make {}", self.0.display()))?;
        self.write(ENVIRONMENT, &format!("{}\n", serde_json::to_string_pretty(environment)?))
    }

    /// What was measured where.
    ///
    /// # Errors
    /// There is no such run.
    pub(super) fn environment(&self) -> Result<Environment> {
        let path = self.0.join(ENVIRONMENT);
        let Ok(text) = fs::read(&path) else {
            bail!("there is no run in `{}`; --run names another", self.0.display());
        };
        serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", path.display()))
    }

    /// The pairs of a workload.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn pairs(&self, workload: &str) -> Result<Log<Pair>> {
        self.log(&format!("overhead/{workload}.jsonl"))
    }

    /// The runs of a workload with a tool.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn runs(&self, workload: &str, tool: &str) -> Result<Log<Run>> {
        self.log(&format!("peers/{workload}/{tool}.jsonl"))
    }

    /// What could not be measured.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn faults(&self) -> Result<Log<Fault>> {
        self.log("faults.jsonl")
    }

    /// Writes the summary.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write_summary(&self, text: &str) -> Result<()> {
        self.write("README.md", text)
    }

    fn log<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Log<T>> {
        Log::read(self.0.join(name))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
    }
}

const ENVIRONMENT: &str = "environment.json";
