//! Finds where a Python that is starting is about to run its main module.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use crate::session::assess::runs_python;
use crate::target::module::{Module, ModuleError, mentions};

/// Functions that run a main module, by version: `Py_RunMain` since 3.8, whatever it is that is run
/// (`Modules/main.c`); before, one for a file and one for `-c`.
const SINCE_3_8: [&str; 1] = ["Py_RunMain"];
const BEFORE: [&str; 2] = ["PyRun_AnyFileExFlags", "PyRun_SimpleStringFlags"];

/// What a program calls that is nothing but a Python.
const MAINS: [&str; 4] = ["Py_BytesMain", "Py_RunMain", "Py_Main", "_Py_UnixMain"];

/// `AT_ENTRY` of the auxiliary vector: where the program begins, once its libraries are in place.
const AT_ENTRY: u64 = 9;

/// What is known of the way of one program to its main module.
#[derive(Debug, Default)]
pub(super) struct MainModule {
    is_awaited: bool,
    is_reached: bool,
    /// Whether the program is nothing but a Python.
    is_python: bool,
    /// When an interpreter was first seen to run.
    running_since: Option<Instant>,
}

/// Where the program of `pid` begins; nothing where that cannot be told.
pub(super) fn program_entry(pid: u32) -> Vec<u64> {
    procfs::process::Process::new(pid.cast_signed())
        .and_then(|process| process.auxv())
        .ok()
        .and_then(|auxv| auxv.get(&AT_ENTRY).copied())
        .into_iter()
        .collect()
}

/// Whether the program of `pid` is this one.
pub(super) fn is_leaktrace(pid: u32) -> bool {
    let file = |path: String| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    file(format!("/proc/{pid}/exe")) == file("/proc/self/exe".to_owned())
}

impl MainModule {
    /// The functions of `pid` that run a main module; nothing where it has no interpreter, or not yet.
    ///
    /// # Errors
    /// It is another interpreter.
    pub(super) fn find(&mut self, pid: u32) -> Result<Vec<u64>, ModuleError> {
        let module = match Module::find(pid) {
            Ok(module) => module,
            Err(error @ ModuleError::PyPy { .. }) => return Err(error),
            // A program that becomes another one, or loads an interpreter later.
            Err(_) => return Ok(Vec::new()),
        };
        let found = |names: &[&str]| -> Vec<u64> {
            names.iter().filter_map(|name| module.symbol(name)).collect()
        };
        let mut places = found(&SINCE_3_8);
        if places.is_empty() {
            places = found(&BEFORE);
        }
        self.is_awaited = !places.is_empty();
        self.is_python = mentions(&format!("/proc/{pid}/exe"), &MAINS);
        Ok(places)
    }

    /// Whether it is known where the main module will be run.
    pub(super) const fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// The main module is about to be run.
    pub(super) const fn reach(&mut self) {
        self.is_reached = true;
    }

    /// Whether it is.
    pub(super) const fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// Whether an interpreter runs in `pid` that will not come to a main module: at once in a program that has one
    /// inside, else once it has had the `patience`.
    pub(super) fn is_passed_by(&mut self, pid: u32, patience: Duration) -> bool {
        if self.is_reached || !runs_python(pid) {
            return false;
        }
        let since = *self.running_since.get_or_insert_with(Instant::now);
        !(self.is_awaited && self.is_python) || since.elapsed() >= patience
    }
}
