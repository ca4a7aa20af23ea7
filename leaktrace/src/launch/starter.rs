//! The process that becomes the command: a second leaktrace that waits for a word, changes its user, and execs.
//!
//! Where it cannot, it exits with the number of the error: nobody but the first leaktrace waits for it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::pipe::{PipeFlags, pipe_with};

use super::invoker;
use crate::cli::STARTER;

/// The word that the starter waits for. If leaktrace dies before it is spoken, nothing is started.
const GO: u8 = 1;

/// What it exits with where the system gave no number.
const NO_NUMBER: i32 = 255;

/// A starter that waits.
#[derive(Debug)]
pub(super) struct Starter {
    pid: u32,
    word: File,
}

impl Starter {
    pub(super) fn start(command: &[OsString]) -> io::Result<Self> {
        // The reading end is inherited, the writing end is not.
        let (reader, writer) = pipe_with(PipeFlags::empty())?;
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::CLOEXEC)?;
        let child = Command::new("/proc/self/exe")
            .arg0("leaktrace")
            .args([STARTER, &reader.as_raw_fd().to_string(), "--"])
            .args(command)
            .spawn()?;
        Ok(Self { pid: child.id(), word: writer_file(writer) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn go(mut self) -> io::Result<()> {
        self.word.write_all(&[GO])
    }
}

fn writer_file(writer: OwnedFd) -> File {
    File::from(writer)
}

/// Why a starter exited with `code`.
pub(super) fn cause(code: i32) -> io::Error {
    match code {
        0 | NO_NUMBER => io::Error::other("it could not be set up"),
        number => io::Error::from_raw_os_error(number),
    }
}

/// Becomes `command` when the word comes through the descriptor `word`. Returns the exit code where it cannot.
#[must_use]
pub fn become_command(word: i32, command: &[OsString]) -> u8 {
    let error = wait_for(word).and_then(|()| exec(command)).err();
    let number = error.and_then(|error| error.raw_os_error()).unwrap_or(NO_NUMBER);
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn wait_for(word: i32) -> io::Result<()> {
    let mut said = [0];
    File::open(format!("/proc/self/fd/{word}"))?.read_exact(&mut said)?;
    // The command is not to inherit it.
    nix::unistd::close(word)?;
    Ok(())
}

/// Does not return where it succeeds.
fn exec(command: &[OsString]) -> io::Result<()> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(invoker) = invoker::invoker().map_err(io::Error::other)? {
        command.envs(invoker.environment());
        invoker.become_it()?;
    }
    Err(command.exec())
}
