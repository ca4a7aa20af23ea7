//! Finds a Rust compiler that can build for BPF.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::TARGET;
use crate::shell;

/// The oldest compiler that knows edition 2024.
const OLDEST: (u32, u32) = (1, 85);

const NO_COMPILER: &str = "no Rust compiler here can build for BPF. Either install one that has a ready `core` for \
    it (Debian: packages rustc-web and libstd-rust-web-dev-bpf), or let rustup bring one that builds it: \
    `rustup toolchain install nightly --component rust-src`; bpf-linker must then be built for an LLVM that is as \
    new as that of the nightly";

/// A compiler that can build for BPF.
#[derive(Clone, Debug)]
pub(super) enum Compiler {
    /// One that has a `core` for BPF beside it.
    Ready(PathBuf),
    /// One of rustup's nightly toolchains, which builds `core` itself.
    Nightly(String),
}

impl Compiler {
    /// The compiler of this machine: one that is ready, else a nightly.
    ///
    /// # Errors
    /// Where there is none; the message says how to get one.
    pub(super) fn find() -> Result<Self> {
        Self::find_ready()
            .or_else(|| nightlies().into_iter().map(Self::Nightly).find(Self::has_source))
            .context(NO_COMPILER)
    }

    /// A compiler that has a `core` for BPF beside it.
    pub(super) fn find_ready() -> Option<Self> {
        let paths = [Some(PathBuf::from("/usr/bin/rustc")), shell::find_program("rustc")];
        paths.into_iter().flatten().map(Self::Ready).find(Self::is_ready)
    }

    /// Whether it brings a clippy that can read its own `core`; Debian's comes without.
    pub(super) fn has_clippy(&self) -> bool {
        let Self::Nightly(name) = self else { return false };
        shell::capture(Command::new("rustup").args(["run", name, "cargo-clippy", "--version"]))
            .is_ok()
    }

    /// `cargo SUBCOMMAND` with this compiler.
    ///
    /// # Errors
    /// Where the workspace cannot be found.
    pub(super) fn cargo(&self, subcommand: &str) -> Result<Command> {
        match self {
            Self::Ready(rustc) => {
                let mut cargo = shell::cargo()?;
                // Only a nightly compiler takes the unstable flags that the target's crates use.
                cargo.arg(subcommand).env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                Ok(cargo)
            }
            Self::Nightly(name) => {
                let mut cargo = Command::new("rustup");
                cargo.current_dir(shell::root()?).args(["run", name, "cargo", subcommand]);
                cargo.arg("-Zbuild-std=core").env_remove("RUSTC").env_remove("CARGO");
                Ok(cargo)
            }
        }
    }

    /// Its release, and the version of the LLVM in it.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub(super) fn version(&self) -> Result<String> {
        let text = self.says(&["--version", "--verbose"])?;
        let first = text.lines().next().unwrap_or_default();
        // Debian adds how it was built, which says nothing of what it makes.
        let rustc = first.split_once(" (built").map_or(first, |(version, _)| version);
        let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        Ok(format!("{rustc}, LLVM {}", llvm.unwrap_or("unknown")))
    }

    /// The directory that it is installed in.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub(super) fn sysroot(&self) -> Result<PathBuf> {
        self.says(&["--print", "sysroot"]).map(PathBuf::from)
    }

    fn says(&self, arguments: &[&str]) -> Result<String> {
        let mut command = match self {
            Self::Ready(rustc) => Command::new(rustc),
            Self::Nightly(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "rustc"]);
                command
            }
        };
        Ok(shell::capture(command.args(arguments))?.trim().to_owned())
    }

    /// Whether it is new enough and has a `core` for BPF.
    fn is_ready(&self) -> bool {
        let release = self.says(&["--version"]).ok().and_then(|line| release(&line));
        let libraries = self.says(&["--print", "target-libdir", "--target", TARGET]);
        let entries = libraries.ok().and_then(|directory| Path::new(&directory).read_dir().ok());
        let mut names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        release.is_some_and(|release| release >= OLDEST)
            && names.any(|name| name.to_string_lossy().starts_with("libcore-"))
    }

    /// Whether it has the source of `core`.
    fn has_source(&self) -> bool {
        let core = "lib/rustlib/src/rust/library/core/Cargo.toml";
        self.sysroot().is_ok_and(|sysroot| sysroot.join(core).is_file())
    }
}

/// The names of rustup's nightly toolchains.
fn nightlies() -> Vec<String> {
    let list =
        shell::capture(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with("nightly")).map(str::to_owned).collect()
}

/// The first two numbers of a line such as `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn release(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("rustc ")?.split(['.', ' ', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_whatever_follows_it() {
        assert_eq!(release("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert_eq!(release("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some((1, 97)));
        assert_eq!(release("clang 14"), None);
    }

    #[test]
    fn a_compiler_older_than_edition_2024_is_not_enough() {
        assert!(release("rustc 1.84.1 (e71f9a9a9 2025-01-27)") < Some(OLDEST));
        assert!(release("rustc 1.85.0 (4d91de4e4 2025-02-17)") >= Some(OLDEST));
    }
}
