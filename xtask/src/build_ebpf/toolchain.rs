//! The compiler and the linker that make the BPF object, and how they are called.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::TARGET;
use super::compiler::Compiler;
use crate::shell;

const NO_LINKER: &str = "there is no bpf-linker here. With LLVM 22 and its headers (Debian: packages llvm-22-dev and \
    libpolly-22-dev): `LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
    --no-default-features --features llvm-22`";

/// The profile of the build. It is set here, so that the workspace's profiles and the user's settings do not count.
const PROFILE: [(&str, &str); 8] = [
    ("CODEGEN_UNITS", "1"),
    ("DEBUG", "false"),
    ("DEBUG_ASSERTIONS", "false"),
    ("INCREMENTAL", "false"),
    ("LTO", "false"),
    ("OPT_LEVEL", "3"),
    ("OVERFLOW_CHECKS", "false"),
    ("STRIP", "none"),
];

/// What makes the object.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    version: String,
}

impl Toolchain {
    /// The toolchain of this machine.
    ///
    /// # Errors
    /// Where a part of it is missing; the message says how to get it.
    pub(crate) fn find() -> Result<Self> {
        let compiler = Compiler::find()?;
        let linker = shell::find_program("bpf-linker").context(NO_LINKER)?;
        let cargo = shell::capture(&mut compiler.cargo("--version")?)?;
        let linked_by = shell::capture(Command::new(&linker).arg("--version"))?;
        let version = [&compiler.version()?, cargo.trim(), linked_by.trim()].join(", ");
        Ok(Self { compiler, linker, version })
    }

    /// Whether a compiler is here that fits the linker: one that came with it, or the one that `core` comes with,
    /// whose LLVM is that of the linker which the set-up builds.
    pub(crate) fn has_compiler() -> bool {
        Compiler::find_ready().is_some() || Self::find().is_ok()
    }

    /// Its programs and their versions. Cargo is one of them: it has a part in the names of symbols.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether it can run clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        self.compiler.has_clippy()
    }

    /// `cargo SUBCOMMAND` for the BPF crate, into a directory of its own.
    ///
    /// # Errors
    /// Where the workspace cannot be found or the compiler cannot be run.
    pub(crate) fn cargo(&self, subcommand: &str, extra_flags: &[&str]) -> Result<Command> {
        let mut flags = self.flags()?;
        flags.extend(extra_flags.iter().copied().map(str::to_owned));
        let mut cargo = self.compiler.cargo(subcommand)?;
        cargo.args(["--release", "--locked", "--target", TARGET, "--package", "leaktrace-ebpf"]);
        cargo
            .env("CARGO_TARGET_DIR", super::target_directory()?)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .envs(PROFILE.map(|(key, value)| (format!("CARGO_PROFILE_RELEASE_{key}"), value)));
        Ok(cargo)
    }

    /// The architecture that is traced, and names for this machine's directories that are the same everywhere:
    /// panic messages hold paths.
    fn flags(&self) -> Result<Vec<String>> {
        let mut flags = vec![r#"--cfg=bpf_target_arch="x86_64""#.to_owned()];
        let root = Some(shell::root()?);
        let sysroot = Some(self.compiler.sysroot()?);
        let directories =
            [(root, "/leaktrace"), (shell::cargo_home(), "/cargo"), (sysroot, "/rust")];
        for (directory, name) in directories {
            if let Some(directory) = directory {
                flags.push(format!("--remap-path-prefix={}={name}", directory.display()));
            }
        }
        Ok(flags)
    }
}
