//! What the kernel offers and permits, checked before anything is touched.

use std::fs;
use std::path::Path;

use super::KernelError;
use super::btf::{self, PidOffsets};

/// What a session needs to know of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `major.minor` of the release.
    pub version: (u32, u32),
    /// Offset of `thread.fsbase` in `task_struct`.
    pub fsbase: u64,
    /// Where a task keeps its pids; `None` where the kernel does not say: forks are not noticed then.
    pub pids: Option<PidOffsets>,
}

/// What a return probe would risk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnProbes {
    /// Nothing.
    Safe,
    /// The kernel's uretprobe is a system call that the target's seccomp filter may kill (6.11 to 6.13).
    KilledBySeccomp,
    /// The target runs with a shadow stack, on a kernel from before that was supported (6.11).
    ShadowStack,
}

impl Kernel {
    /// Checks that this kernel can do what is needed, and that this process may do it.
    ///
    /// # Errors
    /// [`KernelError`], one line each, says what is missing and how to get it.
    pub fn check() -> Result<Self, KernelError> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(KernelError::Architecture(std::env::consts::ARCH));
        }
        let release = read("/proc/sys/kernel/osrelease")?;
        let version = parse_release(&release)
            .filter(|&version| version >= (5, 10))
            .ok_or_else(|| KernelError::TooOld { found: release.trim().to_owned() })?;
        check_privileges(&read("/proc/self/status")?)?;
        check_lockdown()?;
        if !Path::new("/sys/bus/event_source/devices/uprobe").exists() {
            return Err(KernelError::NoUprobes);
        }
        let btf::Offsets { fsbase, pids } = btf::offsets()?;
        Ok(Self { version, fsbase, pids })
    }

    /// Whether return probes can be put on a target that has a seccomp filter or a shadow stack.
    #[must_use]
    pub fn return_probes(&self, seccomp: bool, shadow_stack: bool) -> ReturnProbes {
        match self.version {
            (6, 11..=13) if seccomp => ReturnProbes::KilledBySeccomp,
            version if shadow_stack && version < (6, 11) => ReturnProbes::ShadowStack,
            _ => ReturnProbes::Safe,
        }
    }
}

/// Whether BPF programs may write into the process that runs them: a kernel that is locked down forbids it.
#[must_use]
pub fn may_write_into_processes() -> bool {
    let helper = aya::sys::BpfHelper::BPF_FUNC_probe_write_user;
    aya::sys::is_helper_supported(aya::programs::ProgramType::KProbe, helper).unwrap_or(false)
}

fn read(path: &'static str) -> Result<String, KernelError> {
    fs::read_to_string(path).map_err(|cause| KernelError::Read { path, cause })
}

/// `6.18.44-fc` gives `(6, 18)`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Capability numbers of `linux/capability.h`, each with what leaktrace does with it.
const CAPABILITIES: [(u32, &str); 4] = [
    (19, "CAP_SYS_PTRACE (to read the target's memory)"),
    (21, "CAP_SYS_ADMIN (to attach uprobes and to open the target's mapped files)"),
    (38, "CAP_PERFMON (to open perf events)"),
    (39, "CAP_BPF (to load BPF programs)"),
];

fn check_privileges(status: &str) -> Result<(), KernelError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| effective >> number & 1 == 0)
        .map(|&(_, text)| text)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(KernelError::Privileges(missing.join(", "))) }
}

fn check_lockdown() -> Result<(), KernelError> {
    // The file is missing where the lockdown LSM or securityfs is: then nothing is locked down.
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(modes) if modes.contains("[confidentiality]") => Err(KernelError::Lockdown),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_gives_major_and_minor() {
        assert_eq!(parse_release("6.18.44-fc-v669\n"), Some((6, 18)));
        assert_eq!(parse_release("5.10-rc1"), Some((5, 10)));
        assert_eq!(parse_release("linux"), None);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let error = check_privileges("CapEff:\t0000000000000000\n").unwrap_err().to_string();
        assert!(error.contains("CAP_BPF") && error.contains("CAP_SYS_PTRACE"), "{error}");
        assert!(check_privileges("CapEff:\t000001ffffffffff\n").is_ok());
    }

    #[test]
    fn return_probes_are_refused_where_they_could_kill_the_target() {
        let kernel = |version| Kernel { version, fsbase: 0, pids: None };
        assert_eq!(kernel((6, 12)).return_probes(true, false), ReturnProbes::KilledBySeccomp);
        assert_eq!(kernel((6, 12)).return_probes(false, false), ReturnProbes::Safe);
        assert_eq!(kernel((6, 14)).return_probes(true, false), ReturnProbes::Safe);
        assert_eq!(kernel((6, 6)).return_probes(false, true), ReturnProbes::ShadowStack);
    }
}
