//! Finds the file that holds the interpreter of a process, and answers questions about it at run-time addresses.
//!
//! The file is opened through `/proc/PID/map_files` alone: that is the very file that is mapped, also where its path
//! leads elsewhere (replaced by an upgrade, deleted, in a container, in a chroot).

#![forbid(unsafe_code)]

mod elf;
mod functions;
mod recognition;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};

pub use self::elf::{Elf, NotElf, Segment};
pub use self::functions::Functions;
pub use self::recognition::{FileId, Interpreter, Recognition, mentions};
use super::maps::Mapping;

/// Bytes of a module that are read at most: interpreters have 5 to 40 MiB, some programs with one inside more.
const MAX_MODULE_BYTES: u64 = 512 << 20;

/// Modules that are looked into at most: those whose name promises an interpreter.
const MAX_CANDIDATES: usize = 16;

/// Why no interpreter was found.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The maps of the process cannot be read.
    #[error(
        "cannot read the mappings of `{pid}`: {cause}; run as root, and check that the process still runs"
    )]
    Maps {
        /// The process.
        pid: u32,
        /// What went wrong.
        cause: std::io::Error,
    },
    /// The process has no user memory: it just ended, or it is a kernel thread.
    #[error("cannot trace `{pid}`: it has no memory any more; the process has ended")]
    Ended {
        /// The process.
        pid: u32,
    },
    /// Another interpreter.
    #[error("cannot trace `{pid}`: it runs PyPy (`{path}`); leaktrace reads CPython alone")]
    PyPy {
        /// The process.
        pid: u32,
        /// The module that is PyPy's.
        path: String,
    },
    /// No interpreter at all.
    #[error(
        "cannot trace `{pid}`: `{exe}` is not CPython; give the pid of the Python process itself, not of its wrapper"
    )]
    NotPython {
        /// The process.
        pid: u32,
        /// Its program.
        exe: String,
    },
    /// The interpreter's file cannot be read.
    #[error(
        "cannot read `{path}` of `{pid}` through `{map_file}`: {cause}; run as root with CAP_SYS_ADMIN"
    )]
    Unreadable {
        /// The process.
        pid: u32,
        /// The path in maps.
        path: String,
        /// The path it was opened by.
        map_file: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// The interpreter's file is damaged, or it is mapped in a way that does not fit it.
    #[error("cannot use `{path}` of `{pid}`: {cause}; reinstall that Python")]
    Malformed {
        /// The process.
        pid: u32,
        /// The path in maps.
        path: String,
        /// What is wrong.
        cause: &'static str,
    },
}

/// The module that holds the interpreter. All addresses are those of the running process.
#[derive(Debug)]
pub struct Module {
    path: String,
    map_file: PathBuf,
    elf: Elf,
    bias: u64,
    writable: Vec<Range<u64>>,
    executable: Vec<Range<u64>>,
    functions: Functions,
}

impl Module {
    /// Finds the interpreter of `pid`.
    ///
    /// # Errors
    /// [`ModuleError`] where there is none, it is not CPython, or it cannot be read.
    pub fn find(pid: u32) -> Result<Self, ModuleError> {
        let mappings = super::maps::read(pid).map_err(|cause| ModuleError::Maps { pid, cause })?;
        if mappings.is_empty() {
            return Err(ModuleError::Ended { pid });
        }
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut failed = None;
        for mapping in candidates(&mappings, &exe) {
            match load(pid, mapping) {
                Ok(elf) if is_pypy(&elf) => {
                    return Err(ModuleError::PyPy { pid, path: mapping.path.clone() });
                }
                Ok(elf) if is_cpython(&elf) => return Self::place(pid, mapping, elf, &mappings),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(mapping) = mappings.iter().find(|mapping| names_pypy(&mapping.path)) {
            return Err(ModuleError::PyPy { pid, path: mapping.path.clone() });
        }
        Err(failed.unwrap_or(ModuleError::NotPython { pid, exe }))
    }

    fn place(
        pid: u32,
        mapping: &Mapping,
        elf: Elf,
        mappings: &[Mapping],
    ) -> Result<Self, ModuleError> {
        let malformed = |cause| ModuleError::Malformed { pid, path: mapping.path.clone(), cause };
        let bias = elf
            .bias(mapping)
            .ok_or_else(|| malformed("no segment of the file is mapped as its program"))?;
        let span = elf.span(bias).ok_or_else(|| malformed("its segments have no addresses"))?;
        let functions = Functions::read(&elf, bias)
            .ok_or_else(|| malformed("it has no .eh_frame section, or a damaged one"))?;
        Ok(Self {
            path: mapping.path.clone(),
            map_file: map_file(pid, mapping),
            writable: within(mappings, &span, |mapping| mapping.writable),
            executable: within(mappings, &span, |mapping| mapping.executable),
            elf,
            bias,
            functions,
        })
    }

    /// The path in `/proc/PID/maps`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path under `/proc/PID/map_files` that opens the very file that is mapped.
    #[must_use]
    pub fn map_file(&self) -> &Path {
        &self.map_file
    }

    /// The file.
    #[must_use]
    pub const fn elf(&self) -> &Elf {
        &self.elf
    }

    /// What is added (wrapping) to an address in the file to get one in the process; 0 for a fixed program.
    #[must_use]
    pub const fn bias(&self) -> u64 {
        self.bias
    }

    /// The GNU build id in hex digits.
    #[must_use]
    pub fn build_id(&self) -> Option<&str> {
        self.elf.build_id()
    }

    /// The ranges that the process may write now, by address; what is read-only after relocation is not among them.
    #[must_use]
    pub fn writable(&self) -> &[Range<u64>] {
        &self.writable
    }

    /// Whether the process may write `address` now, and it is the module's.
    #[must_use]
    pub fn is_writable(&self, address: u64) -> bool {
        holds(&self.writable, address)
    }

    /// Whether `address` is code of the module.
    #[must_use]
    pub fn is_executable(&self, address: u64) -> bool {
        holds(&self.executable, address)
    }

    /// The address of a symbol that the module defines for others.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols().get(name).map(|value| value.wrapping_add(self.bias))
    }

    fn symbols(&self) -> &HashMap<Box<str>, u64> {
        self.elf.symbols()
    }

    /// The functions, as the unwind tables tell them.
    #[must_use]
    pub const fn functions(&self) -> &Functions {
        &self.functions
    }

    /// The offset in the file of what is mapped at `address`: the place of a uprobe.
    #[must_use]
    pub fn file_offset_of(&self, address: u64) -> Option<u64> {
        self.elf.file_offset_of(address.wrapping_sub(self.bias))
    }

    /// Up to `length` bytes of the file that are mapped at `address`, fewer at the end of a segment. Code is read
    /// here, not in the process's memory, where other tools may have set breakpoints.
    #[must_use]
    pub fn bytes(&self, address: u64, length: usize) -> &[u8] {
        self.elf.bytes(address.wrapping_sub(self.bias), length)
    }
}

fn holds(ranges: &[Range<u64>], address: u64) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// The parts of mappings that `wanted` picks which lie within `span`.
fn within(
    mappings: &[Mapping],
    span: &Range<u64>,
    wanted: impl Fn(&Mapping) -> bool,
) -> Vec<Range<u64>> {
    mappings
        .iter()
        .filter(|mapping| wanted(mapping))
        .map(|mapping| mapping.range.start.max(span.start)..mapping.range.end.min(span.end))
        .filter(|range| range.start < range.end)
        .collect()
}

/// The code mappings of modules that may hold an interpreter: the program first (its symbols win over a library's),
/// then whatever is named like a Python (a program started by an explicit `ld.so`), then shared libraries.
fn candidates<'a>(mappings: &'a [Mapping], exe: &str) -> Vec<&'a Mapping> {
    let mut found: Vec<(u8, &Mapping)> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.executable && mapping.is_file()) {
        let name = file_name(&mapping.path);
        let rank = match () {
            () if mapping.path == exe => 0,
            () if name.starts_with("python") => 1,
            () if name.starts_with("libpython") => 2,
            () => continue,
        };
        if !found.iter().any(|(_, earlier)| earlier.path == mapping.path) {
            found.push((rank, mapping));
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, mapping)| mapping).take(MAX_CANDIDATES).collect()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn names_pypy(path: &str) -> bool {
    let name = file_name(path);
    name.starts_with("libpypy") || name.starts_with("pypy")
}

/// Symbols that PyPy alone defines.
const OF_PYPY: [&str; 3] = ["rpython_startup_code", "pypy_main_startup", "pypy_execute_source"];

/// Symbols that every CPython defines one of.
const OF_CPYTHON: [&str; 2] = ["_PyRuntime", "PyObject_Malloc"];

fn is_pypy(elf: &Elf) -> bool {
    OF_PYPY.iter().any(|name| elf.symbols().contains_key(*name))
}

fn is_cpython(elf: &Elf) -> bool {
    OF_CPYTHON.iter().any(|name| elf.symbols().contains_key(*name))
}

fn map_file(pid: u32, mapping: &Mapping) -> PathBuf {
    let Range { start, end } = mapping.range;
    PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"))
}

fn load(pid: u32, mapping: &Mapping) -> Result<Elf, ModuleError> {
    let map_file = map_file(pid, mapping);
    let bytes = read_regular(&map_file).map_err(|cause| ModuleError::Unreadable {
        pid,
        path: mapping.path.clone(),
        map_file,
        cause: cause.to_string(),
    })?;
    Elf::parse(bytes).map_err(|NotElf(cause)| ModuleError::Malformed {
        pid,
        path: mapping.path.clone(),
        cause,
    })
}

/// Reads a file that must be a regular one.
fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    let (file, stat) = open_regular(path)?;
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > MAX_MODULE_BYTES {
        return Err(std::io::Error::other(format!(
            "{size} bytes are more than an interpreter has"
        )));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(MAX_MODULE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file that must be a regular one: it is looked at before it is opened, since opening a device can do things.
fn open_regular(path: &Path) -> std::io::Result<(File, Stat)> {
    use std::os::fd::AsRawFd as _;
    let seen = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&seen)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(std::io::Error::other("not a regular file"));
    }
    Ok((File::open(format!("/proc/self/fd/{}", seen.as_raw_fd()))?, stat))
}
