//! The CPythons of this host: which there are, who runs them, and whether they can be traced.
//!
//! Everything is read out of `/proc`. Nothing is written, and nothing is attached to: a process does not notice.

#![forbid(unsafe_code)]

mod obstacle;
mod placement;
mod select;

use std::collections::HashMap;
use std::io;

use crate::kernel::features::Kernel;
use crate::kernel::lock;
use crate::session::assess::assess;
use crate::target::module::{FileId, Interpreter, Recognition};
use crate::target::process::{Entry, Process};
use leaktrace_common::config::TargetIdentity;

pub use obstacle::Obstacle;
pub use placement::{Container, Placement};
pub use select::{Chosen, SelectError, Selector, choose};

/// A process that runs CPython.
#[derive(Clone, Debug, PartialEq)]
pub struct PythonProcess {
    /// Its pid, as seen from here.
    pub pid: u32,
    /// What the kernel's list says of it.
    pub entry: Entry,
    /// Version of CPython; `None` where that cannot be told.
    pub version: Option<String>,
    /// Who runs it.
    pub placement: Placement,
    /// The cgroup that accounts for its memory.
    pub cgroup: Option<String>,
    /// Its arguments.
    pub cmdline: Vec<String>,
    /// Why it cannot be traced.
    pub obstacle: Option<Obstacle>,
}

/// What a look at all processes showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Those that run CPython, by pid.
    pub pythons: Vec<PythonProcess>,
    /// The parent of every process that was seen.
    pub parents: HashMap<u32, u32>,
    /// Processes that could not be looked into, and whose name does not promise a Python.
    pub hidden: usize,
    /// Why nothing here can be traced, if so.
    pub refusal: Option<String>,
}

impl Host {
    /// Looks at every process. One that ends meanwhile is left out.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn look() -> io::Result<Self> {
        let mut look = Look {
            refusal: Kernel::check().err().map(|error| error.to_string()),
            // Without the right to look at maps nothing can be traced either, and that is said then.
            traced: lock::traced().unwrap_or_default(),
            recognition: Recognition::default(),
            assessed: HashMap::new(),
        };
        let mut host = Self { refusal: look.refusal.clone(), ..Self::default() };
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            look.at(pid, &mut host);
        }
        host.pythons.sort_by_key(|python| python.pid);
        Ok(host)
    }
}

/// What is asked of every process, and what was learned from those before it.
struct Look {
    refusal: Option<String>,
    traced: Vec<TargetIdentity>,
    recognition: Recognition,
    assessed: HashMap<FileId, (Option<String>, Option<Obstacle>)>,
}

impl Look {
    fn at(&mut self, pid: u32, host: &mut Host) {
        // It is gone, a zombie, or a thread of the kernel.
        let Ok(process) = Process::open(pid) else { return };
        let Ok(entry) = process.entry() else { return };
        host.parents.insert(pid, entry.parent);
        let cmdline = process.cmdline().unwrap_or_default();
        // Of one that has just become another program the mappings that were listed may be gone.
        let seen = self.recognition.look(pid).or_else(|_gone| self.recognition.look(pid));
        let (version, obstacle) = match seen {
            Ok(Interpreter::CPython(file)) => self.assess(pid, file),
            Ok(Interpreter::PyPy | Interpreter::None) => return,
            Err(_) if !process.is_alive() => return,
            Err(_) if !names_python(&entry.name, &cmdline) => return host.hidden += 1,
            Err(error) => (None, Some(Obstacle::hidden(pid, &error))),
        };
        let obstacle = obstacle
            .or_else(|| self.is_traced(&process).then(Obstacle::traced))
            .or_else(|| self.refusal.clone().map(Obstacle::host));
        let cgroups = process.cgroups().unwrap_or_default();
        // What was opened by number since is the same process as long as this one lives.
        if process.is_alive() {
            host.pythons.push(PythonProcess {
                pid,
                entry,
                version,
                placement: Placement::parse(&cgroups),
                cgroup: process.cgroup().ok().flatten(),
                cmdline,
                obstacle,
            });
        }
    }

    /// What is known of a CPython. All processes that have its file are alike, except for those that could not be read.
    fn assess(&mut self, pid: u32, file: FileId) -> (Option<String>, Option<Obstacle>) {
        if let Some(known) = self.assessed.get(&file) {
            return known.clone();
        }
        let assessment = assess(pid);
        let is_lasting = assessment.obstacle.as_ref().is_none_or(Obstacle::is_of_the_build);
        let found = (
            assessment.version.map(|version| version.text),
            assessment.obstacle.map(|error| Obstacle::of(&error)),
        );
        if is_lasting {
            self.assessed.insert(file, found.clone());
        }
        found
    }

    fn is_traced(&self, process: &Process) -> bool {
        process.identity().is_ok_and(|identity| {
            let identity = TargetIdentity {
                pid_namespace: identity.namespace,
                pid: u64::from(identity.pid),
                start_ticks: identity.started_ticks,
            };
            self.traced.contains(&identity)
        })
    }
}

/// Whether a process that may not be looked into calls itself a Python.
fn names_python(name: &str, cmdline: &[String]) -> bool {
    let program = cmdline.first().map_or(name, String::as_str);
    let program = program.rsplit('/').next().unwrap_or(program);
    [program, name].iter().any(|name| {
        name.strip_prefix("python")
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_python_promises_one() {
        let is_python = |name: &str, cmdline: &[&str]| {
            names_python(name, &cmdline.iter().map(|&it| it.to_owned()).collect::<Vec<_>>())
        };
        assert!(is_python("python3.11", &["/usr/bin/python3.11", "x.py"]));
        assert!(is_python("worker", &["/opt/venv/bin/python", "x.py"]));
        assert!(is_python("python3", &[]));
        for name in ["pythonista", "python-config", "bash", "pypy3"] {
            assert!(!is_python(name, &[&format!("/usr/bin/{name}")]), "{name}");
        }
    }

    #[test]
    fn a_look_sees_every_process_and_its_parent() {
        let host = Host::look().unwrap();
        assert_eq!(
            host.parents.get(&std::process::id()),
            Some(&std::os::unix::process::parent_id())
        );
        assert!(host.pythons.iter().all(|python| python.pid != std::process::id()));
    }
}
