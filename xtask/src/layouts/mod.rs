//! `cargo xtask layouts [--check] [PYTHON...]`: where CPython's structures keep their fields, out of the DWARF of real
//! builds into `leaktrace/layouts/cpython-3.N.json`.
//!
//! Each PYTHON is an interpreter built with `-g`, or `VERSION=FILE` with the detached debug information of one that
//! need not run here, such as `3.14.10=python3.14.debug` out of a distribution's `-dbg` package. Without any, those of
//! pyenv are taken. A free-threaded build has a table of its own, `cpython-3.Nt.json`, and a version that ends in `t`.
//! `--check` writes nothing and fails where a table differs from what is checked in.

mod dwarf;
mod fields;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use dwarf::Types;

/// Asks an interpreter for its version and for the binary that holds its code.
const QUESTION: &str = "\
import os, sys, sysconfig
get = sysconfig.get_config_var
shared = get('Py_ENABLE_SHARED') and os.path.join(get('LIBDIR'), get('INSTSONAME'))
version = '%d.%d.%d' % sys.version_info[:3] + ('t' if get('Py_GIL_DISABLED') else '')
print(version, shared or os.path.realpath(sys.executable), sep='\\n')
";

/// An interpreter to read.
struct Python {
    version: String,
    minor: String,
    binary: PathBuf,
    /// How the table calls the file: that of detached debug information is named after nothing but a hash.
    name: String,
}

/// What the command is for.
pub(crate) const ABOUT: &str =
    "[--check] [PYTHON | VERSION=FILE]...  read CPython's structure layouts out of DWARF";

/// Runs the command.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let (flags, paths): (Vec<_>, Vec<_>) =
        arguments.iter().partition(|argument| argument.starts_with('-'));
    if let Some(unknown) = flags.iter().find(|flag| **flag != "--check") {
        bail!(
            "unknown option `{unknown}`; usage: cargo xtask layouts [--check] [PYTHON | VERSION=FILE]..."
        );
    }
    let pythons: Vec<Python> = if paths.is_empty() {
        pyenv_interpreters()?.iter().map(|path| Python::ask(path)).collect::<Result<_>>()?
    } else {
        paths.into_iter().map(|argument| Python::named(argument)).collect::<Result<_>>()?
    };
    let mut stale = 0;
    for python in pythons {
        let table =
            table(&python).with_context(|| format!("cannot read `{}`", python.binary.display()))?;
        stale += usize::from(!settle(&python, &table, !flags.is_empty())?);
    }
    ensure!(stale == 0, "{stale} layout tables differ; run `cargo xtask layouts`");
    Ok(ExitCode::SUCCESS)
}

/// Writes one table, or compares it; `false` where it differs from what is checked in.
fn settle(python: &Python, table: &str, check: bool) -> Result<bool> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../leaktrace/layouts");
    let name = format!("cpython-{}.json", python.minor);
    let path = directory.join(&name);
    if !check {
        std::fs::write(&path, table).with_context(|| format!("cannot write `{name}`"))?;
    }
    let mut out = std::io::stdout();
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let version = &python.version;
    if old == table {
        writeln!(out, "{name} is what CPython {version} has")?;
        return Ok(true);
    }
    if !old.is_empty() && !old.contains(&format!("\"CPython {version}, ")) {
        writeln!(out, "{name} is not from CPython {version}: not compared")?;
        return Ok(true);
    }
    let line = table.lines().find(|line| !old.lines().any(|known| known == *line));
    let first = line.unwrap_or("fewer lines").trim();
    writeln!(out, "{name} differs from CPython {version}, which has {first}")?;
    Ok(false)
}

/// The interpreters of pyenv that leaktrace supports.
fn pyenv_interpreters() -> Result<Vec<PathBuf>> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(home);
    let versions = root.context("neither PYENV_ROOT nor HOME is set")?.join("versions");
    let mut names: Vec<String> = std::fs::read_dir(&versions)
        .with_context(|| format!("cannot list `{}`", versions.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("3."))
        .collect();
    // The latest release of a minor version comes last, so that its table is the one that stays.
    names.sort_by_key(|name| {
        name.split('.').map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>()
    });
    ensure!(!names.is_empty(), "no CPython 3 in `{}`; name one as an argument", versions.display());
    Ok(names.iter().map(|name| versions.join(name).join("bin/python3")).collect())
}

impl Python {
    /// An argument: `VERSION=FILE`, or an interpreter.
    fn named(argument: &str) -> Result<Self> {
        let Some((version, file)) = argument.split_once('=') else {
            return Self::ask(Path::new(argument));
        };
        let (minor, micro) = version.rsplit_once('.').unwrap_or_default();
        let number = |text: &str| text.parse::<u8>().is_ok();
        ensure!(
            minor.strip_prefix("3.").is_some_and(number)
                && number(micro.strip_suffix('t').unwrap_or(micro)),
            "`{version}` is no full version such as 3.14.1, or 3.14.1t"
        );
        Ok(Self {
            version: version.to_owned(),
            minor: minor_of(version)?,
            binary: PathBuf::from(file),
            name: "detached debug information".to_owned(),
        })
    }

    fn ask(path: &Path) -> Result<Self> {
        let output = Command::new(path)
            .args(["-I", "-c", QUESTION])
            .output()
            .with_context(|| format!("cannot run `{}`", path.display()))?;
        let text = String::from_utf8(output.stdout)?;
        let Some((version, binary)) = text.trim_end().split_once('\n') else {
            bail!("`{}` does not say its version", path.display());
        };
        let minor = minor_of(version)?;
        let binary = PathBuf::from(binary);
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { version: version.to_owned(), minor, binary, name })
    }
}

/// What a table is named after: `3.13` for 3.13.1, `3.13t` for 3.13.1t, a free-threaded build.
fn minor_of(version: &str) -> Result<String> {
    let (minor, micro) = version.rsplit_once('.').context("a version has two dots")?;
    let suffix = if micro.ends_with('t') { "t" } else { "" };
    Ok(format!("{minor}{suffix}"))
}

/// The table of one interpreter as JSON text.
fn table(python: &Python) -> Result<String> {
    let binary = std::fs::read(&python.binary)?;
    let sections = dwarf::sections(&binary)?;
    let types = Types::new(&sections)?;
    let table = Table::read(&types)?;
    ensure!(table.offsets.contains_key("PyCodeObject.co_name"), "it has no debug information");
    let document = json!({
        "python": python.minor,
        "source": format!("CPython {}, DWARF of {}", python.version, python.name),
        "offsets": table.offsets,
        "pointers": table.pointers,
        "bits": table.bits,
        "sizes": table.sizes,
        "lengths": table.lengths,
        "constants": table.constants,
    });
    Ok(format!("{document:#}\n"))
}

#[derive(Default)]
struct Table {
    offsets: BTreeMap<String, u64>,
    pointers: Vec<String>,
    bits: BTreeMap<String, String>,
    sizes: BTreeMap<String, u64>,
    lengths: BTreeMap<String, u64>,
    constants: BTreeMap<String, u64>,
}

impl Table {
    fn read(types: &Types<'_>) -> Result<Self> {
        let mut table = Self::default();
        for wanted in fields::STRUCTURES {
            table.structure(types, wanted)?;
        }
        for name in fields::WHOLE {
            for (field, offset) in types.all_fields(name)? {
                table.offsets.insert(format!("{name}.{field}"), offset);
            }
            table.sizes.extend(types.size(name)?.map(|size| ((*name).to_owned(), size)));
        }
        for name in fields::ENUMERATORS {
            let value = types.enumerator(name)?;
            table.constants.extend(value.map(|value| ((*name).to_owned(), value)));
        }
        for name in fields::ARRAYS {
            let length = types.array_length(name)?;
            table.lengths.extend(length.map(|length| ((*name).to_owned(), length)));
        }
        table.pointers.sort();
        Ok(table)
    }

    fn structure(&mut self, types: &Types<'_>, wanted: &fields::Wanted) -> Result<()> {
        let name = wanted.names[0];
        for alias in wanted.names {
            let Some(size) = types.size(alias)? else { continue };
            if wanted.size {
                self.sizes.insert(name.to_owned(), size);
            }
            for path in wanted.fields {
                self.field(types, alias, &format!("{name}.{path}"), path)?;
            }
            return Ok(());
        }
        Ok(())
    }

    fn field(&mut self, types: &Types<'_>, structure: &str, key: &str, path: &str) -> Result<()> {
        let Some(field) = types.field(structure, path)? else { return Ok(()) };
        if let Some(bits) = field.bits {
            self.bits.insert(key.to_owned(), format!("{}+{}", bits.first, bits.width));
            return Ok(());
        }
        self.offsets.insert(key.to_owned(), field.offset);
        if let Some(elements) = field.elements {
            self.lengths.insert(key.to_owned(), elements);
        }
        if field.pointer && key == "PyInterpreterState.obmalloc" {
            self.pointers.push(key.to_owned());
        }
        Ok(())
    }
}
