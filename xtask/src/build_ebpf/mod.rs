//! `cargo xtask build-ebpf`: makes the committed BPF object out of its sources, or checks that it was.
//!
//! The same sources and the same toolchain give the same bytes, wherever the workspace lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::shell;
use note::Note;

mod compiler;
mod note;
mod sources;
mod toolchain;

pub(crate) use toolchain::Toolchain;

pub(crate) const ABOUT: &str = "build the BPF object: [--check | --output FILE]";

/// What the object is built for.
const TARGET: &str = "bpfel-unknown-none";

/// The committed object, from the workspace's root.
const COMMITTED: &str = "leaktrace/ebpf/leaktrace.bpf.o";

/// Builds the object to where it is committed or to a file, or checks the committed one.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => build_to(&shell::root()?.join(COMMITTED))?,
        ["--output", path] => build_to(Path::new(path))?,
        ["--check"] => check()?,
        _ => bail!("usage: cargo xtask build-ebpf [--check | --output FILE]"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the object and writes it to `path`.
///
/// # Errors
/// Where there is no toolchain, the sources do not compile, or `path` cannot be written.
pub(crate) fn build_to(path: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let object = build(&toolchain)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make `{}`", directory.display()))?;
    }
    fs::write(path, &object).with_context(|| format!("cannot write `{}`", path.display()))?;
    println!("{}: {} bytes, made by {}", path.display(), object.len(), toolchain.version());
    Ok(())
}

/// Whether the object at `path` is the committed one, byte for byte.
///
/// # Errors
/// Where one of the two cannot be read.
pub(crate) fn is_committed(path: &Path) -> Result<bool> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
    Ok(read(path)? == read(&shell::root()?.join(COMMITTED))?)
}

/// Checks that the committed object was made from the sources as they are, and where its toolchain is here, that it
/// is made again byte by byte.
///
/// # Errors
/// Where it was not, or cannot be read.
pub(crate) fn check() -> Result<()> {
    let (committed, note) = check_sources()?;
    let toolchain = match Toolchain::find() {
        Ok(toolchain) if toolchain.version() == note.toolchain => toolchain,
        Ok(toolchain) => {
            println!(
                "bytes not compared: made by {}, here is {}",
                note.toolchain,
                toolchain.version()
            );
            return Ok(());
        }
        Err(reason) => {
            println!("bytes not compared: {reason}");
            return Ok(());
        }
    };
    if build(&toolchain)? != committed {
        bail!(
            "`{COMMITTED}` is not what its sources give with the same toolchain ({}): run `cargo xtask build-ebpf` \
             and commit it",
            note.toolchain
        );
    }
    println!("{COMMITTED}: made again, the same {} bytes", committed.len());
    Ok(())
}

/// Checks that the committed object was made from the sources as they are; returns it with its note.
///
/// # Errors
/// Where it was not, or cannot be read.
pub(crate) fn check_sources() -> Result<(Vec<u8>, Note)> {
    let committed = fs::read(shell::root()?.join(COMMITTED))
        .with_context(|| format!("cannot read `{COMMITTED}`; `cargo xtask build-ebpf` makes it"))?;
    let note = Note::read_from(&committed)
        .with_context(|| format!("`{COMMITTED}` was not made by `cargo xtask build-ebpf`"))?;
    let sources = sources::fingerprint()?;
    if note.sources != sources {
        bail!(
            "`{COMMITTED}` is older than its sources (made from {}, now {sources}): run `cargo xtask build-ebpf` and \
             commit it",
            note.sources
        );
    }
    println!("{COMMITTED}: made from the sources as they are ({sources})");
    Ok((committed, note))
}

/// Where cargo builds the BPF crate: its flags differ from those of the other crates.
fn target_directory() -> Result<PathBuf> {
    Ok(shell::target_directory()?.join("ebpf"))
}

/// The object with its note.
fn build(toolchain: &Toolchain) -> Result<Vec<u8>> {
    // Cargo does not see that another linker, or another LLVM below it, has come.
    shell::capture(&mut toolchain.cargo("clean", &[])?)?;
    shell::run(&mut toolchain.cargo("build", &[])?)?;
    let path = target_directory()?.join(TARGET).join("release/leaktrace-ebpf");
    let linked = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let note = Note { sources: sources::fingerprint()?, toolchain: toolchain.version().to_owned() };
    let object = note.add_to(&linked)?;
    refuse_paths(&object)?;
    Ok(object)
}

/// Refuses an object that holds a path of this machine: another machine would make another one.
fn refuse_paths(object: &[u8]) -> Result<()> {
    for directory in [Some(shell::root()?), shell::cargo_home()].into_iter().flatten() {
        let bytes = directory.as_os_str().as_encoded_bytes();
        if object.windows(bytes.len()).any(|window| window == bytes) {
            bail!("the object holds the path `{}`: it would differ elsewhere", directory.display());
        }
    }
    Ok(())
}
