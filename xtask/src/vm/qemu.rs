//! The emulator: one that computes right on every kernel, and what a machine in it wrote.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::{cache, setup, shell};

/// The first major version without wrong results on kernels from 6.12 on: 7.2 miscomputes `cmpxchg16b` and runs stale
/// code after the kernel has patched itself.
const GOOD: u32 = 10;

/// The release of Debian whose own QEMU is too old, but whose backports have a newer one.
const BACKPORTS_OF: &str = "bookworm";

/// Longest time that a machine may take. It takes about a minute where it has two processors for itself.
const PATIENCE: Duration = Duration::from_secs(900);

const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU.
#[derive(Clone, Debug)]
pub(super) struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if it is not the system's.
    root: Option<PathBuf>,
    /// For instance `10.0.2`.
    pub(super) version: String,
    kvm: bool,
}

impl Qemu {
    /// The system's, if it is new enough; else one in the cache `folder`; else the system's with what is wrong in it
    /// switched off.
    ///
    /// # Errors
    /// There is none and none can be had.
    pub(super) fn find(folder: &Path, kvm: bool, archive: &mut super::Archive) -> Result<Self> {
        let system =
            || shell::find_program(PROGRAM).and_then(|program| Self::at(program, None, kvm));
        if let Some(qemu) = system().filter(Self::is_good) {
            return Ok(qemu);
        }
        if let Some(qemu) = Self::unpacked(&folder.join("qemu"), kvm) {
            return Ok(qemu);
        }
        if apt::own_release() == BACKPORTS_OF {
            let apt = archive.get()?;
            let root = cache::once(folder, "qemu", |root| {
                let suite = format!("{BACKPORTS_OF}-backports");
                apt.unpack_with_needs("qemu-system-x86", &suite, root)
            })?;
            return Self::unpacked(&root, kvm).with_context(|| {
                format!("the QEMU in {} does not run: delete that folder", root.display())
            });
        }
        setup::for_vm()?;
        system().with_context(|| format!("there is no {PROGRAM}, and it cannot be installed"))
    }

    fn unpacked(root: &Path, kvm: bool) -> Option<Self> {
        Self::at(root.join("usr/bin").join(PROGRAM), Some(root.to_path_buf()), kvm)
    }

    /// The one at `program`, if it runs.
    fn at(program: PathBuf, root: Option<PathBuf>, kvm: bool) -> Option<Self> {
        let mut qemu = Self { program, root, version: String::new(), kvm };
        let said = shell::capture(qemu.command().arg("--version")).ok()?;
        qemu.version = version_in(&said)?.to_owned();
        Some(qemu)
    }

    fn is_good(&self) -> bool {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        major >= Some(GOOD)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let path: Vec<OsString> =
                libraries.iter().map(|folder| root.join(folder).into_os_string()).collect();
            command.env("LD_LIBRARY_PATH", path.join(":".as_ref()));
            for folder in ["qemu", "seabios"] {
                command.arg("-L").arg(root.join("usr/share").join(folder));
            }
        }
        command
    }

    /// Boots a kernel with a userland until it powers itself off; returns what it wrote to its console, which is kept
    /// in the file `console` as well. (How QEMU ended tells nothing: it is content with a kernel that panicked.)
    ///
    /// # Errors
    /// It cannot be started, or takes too long.
    pub(super) fn boot(&self, kernel: &Path, userland: &Path, console: &Path) -> Result<String> {
        let mut command = self.command();
        command.args(["-machine", "q35", "-m", "1024", "-display", "none", "-nodefaults"]);
        command.args(["-no-reboot", "-serial", "stdio", "-append"]);
        command.arg("console=ttyS0 panic=-1 quiet");
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(userland);
        // Not KVM because it is there: under nested virtualisation it may start and then hang.
        command.args(match (self.kvm, self.is_good()) {
            (true, _) => ["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            (false, true) => ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"],
            (false, false) => ["-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1"],
        });
        let output =
            File::create(console).with_context(|| format!("cannot write {}", console.display()))?;
        let child = command.stdin(Stdio::null()).stdout(output).spawn();
        wait(child.with_context(|| format!("cannot start {}", self.program.display()))?, console)?;
        let mut said = Vec::new();
        File::open(console)?.read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

fn wait(mut child: Child, console: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!(
                "the machine did not end within {} s: see {}",
                PATIENCE.as_secs(),
                console.display()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// `10.0.2` in `QEMU emulator version 10.0.2 (Debian ..)`.
fn version_in(said: &str) -> Option<&str> {
    said.split_once("version ")?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_decides_whether_a_qemu_computes_right() {
        let qemu = |said: &str| Qemu {
            program: PathBuf::new(),
            root: None,
            version: version_in(said).unwrap().to_owned(),
            kvm: false,
        };
        assert!(!qemu("QEMU emulator version 7.2.18 (Debian 1:7.2)\nCopyright").is_good());
        assert!(qemu("QEMU emulator version 10.0.2 (Debian 1:10.0.2)\nCopyright").is_good());
    }
}
