//! The real interpreters that tests compare with.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A CPython on this machine.
pub(super) struct Python {
    pub(super) minor: u8,
    path: PathBuf,
}

/// A script that runs until this is dropped.
pub(super) struct Script {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

/// The interpreters of pyenv and the system's own, as far as they are of a version with a layout.
pub(super) fn all() -> Vec<Python> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(home);
    let versions = pyenv.and_then(|pyenv| std::fs::read_dir(pyenv.join("versions")).ok());
    let installed = versions.into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        installed.map(|version| version.path().join("bin/python3")).collect();
    paths.sort();
    paths.push(PathBuf::from("/usr/bin/python3"));
    let found: Vec<Python> = paths.into_iter().filter_map(Python::at).collect();
    if found.is_empty() {
        note("no CPython found: set PYENV_ROOT, or install python3");
    }
    found
}

impl Python {
    fn at(path: PathBuf) -> Option<Self> {
        let question = "import sys; print(sys.version_info[1])";
        let Ok(output) = Command::new(&path).args(["-I", "-c", question]).output() else {
            note(&format!("skipping `{}`: it does not run", path.display()));
            return None;
        };
        let minor = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
        if !super::layout::supported().any(|known| known == minor) {
            note(&format!("skipping `{}`: no layout of 3.{minor}", path.display()));
            return None;
        }
        Some(Self { minor, path })
    }

    /// How messages name it.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// All that `script` prints.
    pub(super) fn output(&self, script: &str) -> String {
        let mut child = self.command(script).spawn().expect("it ran before");
        let mut text = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut text).expect("it is ASCII");
        assert!(child.wait().expect("it was started").success(), "{} failed", self.name());
        text
    }

    /// Starts `script`.
    pub(super) fn start(&self, script: &str) -> Script {
        let mut child = self.command(script).spawn().expect("it ran before");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Script { child, stdout }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["-I", "-X", "utf8", "-c", script]);
        // 3.6 knows no `-X utf8`.
        command.env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

impl Script {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it prints UTF-8");
        assert!(line.ends_with('\n'), "the script ended");
        line.trim_end().to_owned()
    }

    /// The lines up to one that says `end`.
    pub(super) fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.line()).filter(|line| line != "end")).collect()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes that hexadecimal digits stand for.
pub(super) fn unhex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8; 2]| {
        let pair = std::str::from_utf8(pair).expect("digits are ASCII");
        u8::from_str_radix(pair, 16).expect("digits are hexadecimal")
    };
    digits.as_bytes().as_chunks().0.iter().map(byte).collect()
}

/// Says something beside the test's result.
pub(super) fn note(text: &str) {
    // Nothing depends on whether this could be written.
    let _ = writeln!(std::io::stderr(), "{text}");
}
