//! Makes a machine ready: installs what `demo` and `test` need and is not there, and says each step.
//!
//! It acts on Debian and its kin, as root or through sudo. Elsewhere it says what to install.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build_ebpf::Toolchain;
use crate::services::SERVICES;
use crate::{shell, venv};

/// The linker for BPF objects, as cargo installs it; it must be built for the LLVM of [`LLVM_PACKAGES`].
const LINKER: &[&str] = &[
    "install",
    "bpf-linker",
    "--version",
    "0.13.0",
    "--locked",
    "--no-default-features",
    "--features",
    "llvm-22",
];
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LLVM_PACKAGES: &[&str] = &["llvm-22-dev", "libpolly-22-dev"];

/// Something that must be there, how to see whether it is, and the Debian packages that bring it.
struct Need {
    what: &'static str,
    is_there: fn() -> bool,
    packages: &'static [&'static str],
}

const PYTHON: Need = Need {
    what: "a CPython 3 to trace",
    is_there: || shell::find_program("python3").is_some(),
    packages: &["python3"],
};

const C_COMPILER: Need = Need {
    what: "a C compiler, for tests that need a C extension",
    is_there: || shell::find_program("gcc").is_some(),
    packages: &["gcc", "libc6-dev"],
};

const VENV: Need = Need {
    what: "what makes virtual environments, for services to trace",
    is_there: has_venv,
    packages: &["python3-venv"],
};

const HEADERS: Need = Need {
    what: "Python's headers, for a compiled module to trace",
    is_there: has_headers,
    packages: &["python3-dev"],
};

const JEMALLOC: Need = Need {
    what: "another malloc, for a test with LD_PRELOAD",
    is_there: || std::path::Path::new("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2").is_file(),
    packages: &["libjemalloc2"],
};

const GDB: Need = Need {
    what: "the debugger by which memray gets into a process",
    is_there: || shell::find_program("gdb").is_some(),
    packages: &["gdb"],
};

const UWSGI: Need = Need {
    what: "a server that loads CPython as a plug-in, and the library of the system's CPython",
    is_there: || std::path::Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").is_file(),
    packages: &["uwsgi-core", "uwsgi-plugin-python3"],
};

const BPF_COMPILER: Need = Need {
    what: "a Rust compiler that builds for BPF",
    is_there: Toolchain::has_compiler,
    packages: &["rustc-web", "libstd-rust-web-dev-bpf"],
};

const LLVM: Need = Need {
    what: "the LLVM that bpf-linker is made from",
    is_there: || has_linker() || llvm_is_there(),
    packages: LLVM_PACKAGES,
};

const STRIP: Need = Need {
    what: "the tools for binary files, for programs in virtual machines",
    is_there: || shell::find_program("strip").is_some(),
    packages: &["binutils"],
};

const QEMU: Need = Need {
    what: "an emulator of x86-64 machines",
    is_there: || shell::find_program("qemu-system-x86_64").is_some(),
    packages: &["qemu-system-x86"],
};

/// What a demo needs beside Rust: a Python to trace.
///
/// # Errors
/// Where it is missing and cannot be installed.
pub(crate) fn for_demo() -> Result<()> {
    install(&[PYTHON])
}

/// What the whole test run needs beside Rust.
///
/// # Errors
/// Where something is missing and cannot be installed.
pub(crate) fn for_test() -> Result<()> {
    install(&[PYTHON, VENV, HEADERS, C_COMPILER, JEMALLOC, GDB, UWSGI, BPF_COMPILER, LLVM])?;
    install_components()?;
    install_linker()?;
    SERVICES.install()?;
    mount_tracefs()
}

/// What the benchmark needs beside Rust, other tools aside.
///
/// # Errors
/// Where something is missing and cannot be installed.
pub(crate) fn for_bench() -> Result<()> {
    install(&[PYTHON, VENV])
}

/// Installs those of Debian's packages that are missing.
///
/// # Errors
/// One cannot be installed, or this is no Debian-like system.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let is_missing = |package: &&str| {
        shell::capture(Command::new("dpkg-query").args([
            "--show",
            "--showformat=${Status}",
            package,
        ]))
        .map_or(true, |status| status.trim() != "install ok installed")
    };
    let missing: Vec<&str> = packages.iter().copied().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if shell::find_program("apt-get").is_none() {
        bail!(
            "install {}: this is no Debian-like system, the names are Debian's",
            missing.join(", ")
        );
    }
    apt_install(&missing)
}

/// What tests in virtual machines need, the machines themselves aside.
///
/// # Errors
/// Where something is missing and cannot be installed.
pub(crate) fn for_vm_tests() -> Result<()> {
    install(&[PYTHON, C_COMPILER, STRIP])
}

/// The system's own QEMU.
///
/// # Errors
/// Where it is missing and cannot be installed.
pub(crate) fn for_vm() -> Result<()> {
    install(&[QEMU])
}

/// Installs the packages of those needs that are not met.
fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_there)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        println!("missing: {} ({})", need.what, need.packages.join(", "));
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    if shell::find_program("apt-get").is_none() {
        bail!(
            "install what is missing: this is no Debian-like system, the packages named are Debian's"
        );
    }
    apt_install(&packages)?;
    match missing.iter().find(|need| !(need.is_there)()) {
        Some(need) => {
            bail!(
                "{} installed, but this is still missing: {}",
                need.packages.join(", "),
                need.what
            )
        }
        None => Ok(()),
    }
}

/// Installs packages, first with the package lists as they are, then with fresh ones.
fn apt_install(packages: &[&str]) -> Result<()> {
    if apt_get("install", packages).is_ok() {
        return Ok(());
    }
    println!("refreshing the package lists");
    apt_get("update", &[])?;
    apt_get("install", packages)
        .with_context(|| format!("cannot install {}; install by hand", packages.join(", ")))
}

fn apt_get(action: &str, packages: &[&str]) -> Result<()> {
    let mut command = shell::as_root("apt-get")?;
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args([action, "--quiet", "--yes"]);
    if !packages.is_empty() {
        command.arg("--no-install-recommends").args(packages);
    }
    announce(&command);
    shell::run(&mut command)
}

/// The parts of a Rust installation that rustup leaves out of its minimal profile.
fn install_components() -> Result<()> {
    for (component, program) in [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")] {
        if shell::capture(Command::new(program).arg("--version")).is_ok() {
            continue;
        }
        if shell::find_program("rustup").is_none() {
            bail!("`{program}` is missing: install {component} the way Rust was installed");
        }
        let mut command = Command::new("rustup");
        command.args(["component", "add", component]);
        announce(&command);
        shell::run(&mut command)?;
    }
    Ok(())
}

fn has_linker() -> bool {
    shell::find_program("bpf-linker").is_some()
}

fn has_venv() -> bool {
    shell::capture(Command::new(venv::python()).args(["-c", "import venv, ensurepip"])).is_ok()
}

fn has_headers() -> bool {
    let ask = "import os, sysconfig; os.stat(sysconfig.get_paths()['include'] + '/Python.h')";
    shell::capture(Command::new(venv::python()).args(["-c", ask])).is_ok()
}

fn llvm_is_there() -> bool {
    std::path::Path::new(LLVM_PREFIX).join("bin/llvm-config").is_file()
}

/// Builds bpf-linker where there is none.
fn install_linker() -> Result<()> {
    if has_linker() {
        return Ok(());
    }
    let mut command = shell::cargo()?;
    command.args(LINKER).env("LLVM_PREFIX", LLVM_PREFIX);
    announce(&command);
    shell::run(&mut command).context("cannot build bpf-linker")
}

/// Mounts tracefs where the kernel has no uprobe device of its own to open probes with.
fn mount_tracefs() -> Result<()> {
    let tracefs = std::path::Path::new("/sys/kernel/tracing");
    let has_device = std::path::Path::new("/sys/bus/event_source/devices/uprobe/type").is_file();
    if has_device || tracefs.join("uprobe_events").is_file() {
        return Ok(());
    }
    let mut command = shell::as_root("mount")?;
    command.args(["-t", "tracefs", "tracefs"]).arg(tracefs);
    announce(&command);
    shell::run(&mut command)
}

fn announce(command: &Command) {
    println!("set-up: {}", shell::shown(command));
}
