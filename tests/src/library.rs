//! Libraries that a test builds, to be loaded into a target.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::workload;

/// A shared library, in a folder that goes when this is dropped.
#[derive(Debug)]
pub struct Library {
    _folder: TempDir,
    /// Where it is.
    pub path: PathBuf,
}

impl Library {
    /// Builds `workloads/NAME`, a file of C.
    ///
    /// # Panics
    /// It does not build.
    #[must_use]
    pub fn build(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("library.so");
        let mut compiler = Command::new("gcc");
        compiler.args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]);
        let status = compiler.arg(&path).arg(workload(name)).status().expect("gcc is here");
        assert!(status.success(), "{name} does not build");
        Self { _folder: folder, path }
    }

    /// Its path as an argument.
    ///
    /// # Panics
    /// The path is no text.
    #[must_use]
    pub fn argument(&self) -> &str {
        self.path.to_str().expect("temporary folders have plain names")
    }
}
