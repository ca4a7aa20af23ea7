//! Tells which processes hold an interpreter, at the least cost: of each file only the names of its symbols are read,
//! and each file once, however many processes have it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::read::{ReadCache, ReadRef};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};

use super::{OF_CPYTHON, OF_PYPY, candidates, map_file, names_pypy, open_regular};
use crate::target::maps::{self, Mapping};

/// Bytes of a file's symbol names that are looked at: those of the largest programs have some 50 MiB.
const MAX_NAME_BYTES: u64 = 128 << 20;

/// What names a file for as long as it is mapped somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// Whose interpreter a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpreter {
    /// None.
    None,
    /// PyPy.
    PyPy,
    /// CPython, in this file.
    CPython(FileId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Other,
    PyPy,
    CPython,
}

/// What was found in files so far.
#[derive(Debug, Default)]
pub struct Recognition {
    files: HashMap<FileId, Kind>,
}

impl Recognition {
    /// Whose interpreter `pid` holds.
    ///
    /// # Errors
    /// Its maps or files may not be read, or it is gone.
    pub fn look(&mut self, pid: u32) -> io::Result<Interpreter> {
        let mappings = maps::read(pid)?;
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut failed = None;
        for mapping in candidates(&mappings, &exe) {
            match self.file(pid, mapping, mapping.path == exe) {
                Ok((_, Kind::PyPy)) => return Ok(Interpreter::PyPy),
                Ok((file, Kind::CPython)) => return Ok(Interpreter::CPython(file)),
                Ok((_, Kind::Other)) => {}
                Err(error) => failed = Some(error),
            }
        }
        if mappings.iter().any(|mapping| names_pypy(&mapping.path)) {
            return Ok(Interpreter::PyPy);
        }
        failed.map_or(Ok(Interpreter::None), Err)
    }

    fn file(&mut self, pid: u32, mapping: &Mapping, is_exe: bool) -> io::Result<(FileId, Kind)> {
        // The program may be opened by who may not open other mapped files.
        let program = || open_regular(Path::new(&format!("/proc/{pid}/exe")));
        let (file, stat) = match open_regular(&map_file(pid, mapping)) {
            Err(_refused) if is_exe => program()?,
            opened => opened?,
        };
        let id = FileId { device: stat.st_dev, inode: stat.st_ino };
        let kind = *self.files.entry(id).or_insert_with(|| kind(file).unwrap_or(Kind::Other));
        Ok((id, kind))
    }
}

/// Whether one of `names` is among those of the dynamic symbols of a file: it defines it, or calls it.
#[must_use]
pub fn mentions(path: &str, names: &[&str]) -> bool {
    let Ok((file, _)) = open_regular(Path::new(path)) else { return false };
    let cache = ReadCache::new(file);
    let Ok(elf) = ElfFile64::<Endianness, _>::parse(&cache) else { return false };
    symbol_names(&elf).is_some_and(|text| names.iter().any(|name| contains(text, name.as_bytes())))
}

fn symbol_names<'a, R: ReadRef<'a>>(elf: &ElfFile64<'a, Endianness, R>) -> Option<&'a [u8]> {
    let names = elf.section_by_name(".dynstr").filter(|names| names.size() <= MAX_NAME_BYTES)?;
    names.data().ok()
}

/// What a file is; `None` where it is no ELF file, or a damaged one.
fn kind(file: File) -> Option<Kind> {
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<Endianness, _>::parse(&cache).ok()?;
    let names = symbol_names(&elf)?;
    let known = [&OF_PYPY[..], &OF_CPYTHON[..]].concat();
    // Most programs do not even have the name.
    if !known.iter().any(|name| contains(names, name.as_bytes())) {
        return Some(Kind::Other);
    }
    let defined: Vec<&str> = elf
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| known.contains(name))
        .collect();
    Some(match () {
        () if defined.iter().any(|name| OF_PYPY.contains(name)) => Kind::PyPy,
        () if defined.iter().any(|name| OF_CPYTHON.contains(name)) => Kind::CPython,
        () => Kind::Other,
    })
}

fn contains(text: &[u8], name: &[u8]) -> bool {
    text.split(|&byte| byte == 0).any(|other| other == name)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::thread::sleep as sleep_for;
    use std::time::Duration;

    use super::{Interpreter, Recognition};

    #[test]
    fn a_program_without_an_interpreter_is_none() {
        let mut sleep = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        // Until it has loaded its libraries it shows fewer files each time.
        let maps = format!("/proc/{}/maps", sleep.id());
        let has_loaded = || std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("libc"));
        assert!((0..5000).any(|_| {
            sleep_for(Duration::from_millis(1));
            has_loaded()
        }));
        let mut recognition = Recognition::default();
        let seen = [sleep.id(), std::process::id()].map(|pid| recognition.look(pid));
        let files = recognition.files.len();
        let again = recognition.look(sleep.id());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(seen.into_iter().chain([again]).all(|it| it.unwrap() == Interpreter::None));
        assert_eq!(recognition.files.len(), files, "a file is read once");
        assert!(recognition.look(sleep.id()).is_err());
    }
}
