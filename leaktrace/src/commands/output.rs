//! Where a report goes: stdout, or a file that is there whole or not at all.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;

/// Where a report goes.
pub(super) enum Output {
    /// To stdout.
    Stdout,
    /// Into something that is there and no regular file: a device, a pipe.
    Stream {
        /// It, open.
        file: File,
        /// Its name.
        path: PathBuf,
    },
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
        Self::open_path(path).map_err(|error| {
            anyhow::anyhow!("cannot write the report to `{}`: {}", path.display(), cause(&error))
        })
    }

    fn open_path(path: &Path) -> io::Result<Self> {
        // What a link leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned());
        match fs::metadata(&path).map(|found| found.file_type()) {
            Ok(kind) if kind.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(kind) if !kind.is_file() => {
                let file = OpenOptions::new().write(true).open(&path)?;
                return Ok(Self::Stream { file, path });
            }
            _ => {}
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self::File { temporary: NamedTempFile::new_in(directory)?, path })
    }

    /// Writes the report.
    pub(super) fn write(self, report: &[u8]) -> anyhow::Result<Written> {
        let (written, path) = match self {
            Self::Stdout => return to_stdout(report).map(|()| Written::AsWanted),
            Self::Stream { mut file, path } => (file.write_all(report), path),
            Self::File { temporary, path } => (persist(temporary, report, &path), path),
        };
        let Err(error) = written else { return Ok(Written::AsWanted) };
        // There is nobody to tell if this fails.
        let _ = writeln!(
            io::stderr(),
            "leaktrace: cannot write the report to `{}`: {}; it goes to stdout instead",
            path.display(),
            cause(&error)
        );
        to_stdout(report)?;
        Ok(Written::ToStdoutInstead)
    }
}

fn persist(mut temporary: NamedTempFile, report: &[u8], path: &Path) -> io::Result<()> {
    temporary.write_all(report)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map(drop).map_err(|error| error.error)
}

/// Whoever closed the other end has seen enough.
fn to_stdout(report: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write the report to stdout"),
    }
}

/// What went wrong at the bottom of it, without the temporary name.
fn cause(error: &io::Error) -> String {
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    // tempfile says where, by a name that means nothing to anybody.
    text.split_once(" at path ").map_or(text.clone(), |(cause, _)| cause.to_owned())
}

#[cfg(test)]
mod tests {
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
    fn a_device_is_written_and_not_replaced() {
        let output = Output::open(Some(Path::new("/dev/null"))).unwrap();
        assert!(matches!(output, Output::Stream { .. }));
        assert_eq!(output.write(b"{}").unwrap(), Written::AsWanted);
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_link_is_followed_and_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Output::open(Some(&link)).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn an_output_that_is_not_used_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        drop(Output::open(Some(&folder.path().join("report.json"))).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
