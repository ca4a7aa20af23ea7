//! Where the matrix keeps what in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder. What is in it can be deleted at any time, and is made anew when it is needed.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The folder that the environment names. It need not exist.
    ///
    /// # Errors
    /// Where the environment names none and there is no home.
    pub(super) fn find() -> Result<Self> {
        Ok(Self::at(&crate::cache::root()?))
    }

    /// The one in this folder.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A private root for apt, whose sources are not the system's.
    pub(super) fn apt(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// Where source packages are downloaded to.
    pub(super) fn sources(&self) -> PathBuf {
        self.root.join("src")
    }

    /// Debian's unstable distribution, in a folder to be a root.
    pub(super) fn debian_sid(&self) -> PathBuf {
        self.root.join("debian-sid")
    }

    /// Where a build is made.
    pub(super) fn build(&self, name: &str) -> PathBuf {
        self.root.join("build").join(name)
    }

    /// Where a build is installed.
    pub(super) fn python(&self, name: &str) -> PathBuf {
        self.root.join("pythons").join(name)
    }

    /// The file that says that a folder of the cache is complete, and of what recipe.
    pub(super) fn mark(folder: &Path) -> PathBuf {
        let mut path = folder.as_os_str().to_owned();
        path.push(".done");
        PathBuf::from(path)
    }

    /// What a long command writes.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn log(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join("log");
        make(&folder)?;
        Ok(folder.join(format!("{name}.log")))
    }

    /// Copies a program into the cache, so that a run of hours does not see what is built meanwhile.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn keep(&self, name: &str, built: &Path) -> Result<PathBuf> {
        let folder = self.root.join("bin");
        make(&folder)?;
        let (kept, new) = (folder.join(name), folder.join(format!("{name}.new")));
        fs::copy(built, &new).with_context(|| format!("cannot copy `{}`", built.display()))?;
        // Whoever runs the old one goes on with it.
        fs::rename(&new, &kept)?;
        Ok(kept)
    }

    /// Where the result of a row is.
    pub(super) fn result(&self, row: &str) -> PathBuf {
        self.root.join("matrix").join(format!("{row}.json"))
    }
}

/// Makes a folder and those above it.
pub(super) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))
}
