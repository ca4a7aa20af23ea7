//! Where a report goes: stdout, or a file that is there whole or not at all.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;

/// Where a report goes.
pub(super) enum Output {
    /// To stdout.
    Stdout,
    /// To a file, under a temporary name until it is complete.
    File {
        /// The file under its temporary name, in the same directory, mode 0600.
        temporary: NamedTempFile,
        /// Its name in the end.
        path: PathBuf,
    },
}

/// What became of a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is where it should be.
    AsWanted,
    /// The file could not be written, the report went to stdout.
    ToStdoutInstead,
}

impl Output {
    /// Makes sure that a report can be written, before anything is touched.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        if path.is_dir() {
            anyhow::bail!("cannot write the report to `{}`: it is a directory", path.display());
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = NamedTempFile::new_in(directory)
            .with_context(|| format!("cannot write the report to `{}`", path.display()))?;
        Ok(Self::File { temporary, path: path.to_owned() })
    }

    /// Writes the report.
    pub(super) fn write(self, report: &[u8]) -> anyhow::Result<Written> {
        let Self::File { mut temporary, path } = self else {
            to_stdout(report)?;
            return Ok(Written::AsWanted);
        };
        let written = temporary
            .write_all(report)
            .and_then(|()| temporary.as_file().sync_all())
            .and_then(|()| temporary.persist(&path).map_err(|error| error.error));
        let Err(error) = written else { return Ok(Written::AsWanted) };
        // There is nobody to tell if this fails.
        let _ = writeln!(
            io::stderr(),
            "leaktrace: cannot write the report to `{}`: {error}; here it is instead",
            path.display()
        );
        to_stdout(report)?;
        Ok(Written::ToStdoutInstead)
    }
}

/// Whoever closed the other end has seen enough.
fn to_stdout(report: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_appears_whole_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let output = Output::open(Some(&path)).unwrap();
        assert!(!path.exists());
        assert_eq!(output.write(b"{}").unwrap(), Written::AsWanted);
        assert_eq!(fs::read(&path).unwrap(), b"{}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Output::open(Some(folder.path())).is_err());
        assert!(Output::open(Some(&folder.path().join("none/report.json"))).is_err());
    }

    #[test]
    fn an_output_that_is_not_used_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        drop(Output::open(Some(&folder.path().join("report.json"))).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
