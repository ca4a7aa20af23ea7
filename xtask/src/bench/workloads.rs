//! The workloads: which there are, and how each is started.

use std::path::Path;

/// A workload.
#[derive(Debug)]
pub(super) struct Workload {
    /// What `--only` calls it.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) about: &'static str,
    /// Its file in `tests/workloads/bench`, and its arguments.
    pub(super) script: &'static [&'static str],
    /// What sets how much it does.
    pub(super) pace: Pace,
    /// Whether other tools are measured on it, too.
    pub(super) peers: bool,
}

/// What sets how much a workload does in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Its own speed.
    Own,
    /// So many requests a second, from a client.
    Load(u32),
    /// The clock: it sleeps in between.
    Clock,
}

impl Pace {
    /// Whether it does the same in a second however slow it becomes, as long as it keeps up. What tracing takes then
    /// shows in the processor time of a unit, and in latencies.
    pub(super) fn is_fixed(self) -> bool {
        self != Self::Own
    }
}

/// All of them, in the order in which they are measured.
pub(super) const WORKLOADS: &[Workload] = &[
    churn("json", "writes and reads JSON", &["json_churn.py"]),
    churn("threads", "makes and drops objects in three threads", &["thread_churn.py"]),
    Workload {
        name: "http",
        about: "starlette under uvicorn, 200 requests a second",
        script: &["http_service.py"],
        pace: Pace::Load(200),
        peers: true,
    },
    churn("orm", "sqlalchemy with SQLite in memory", &["orm_loop.py"]),
    Workload {
        name: "flask",
        about: "Flask under gunicorn with one worker, 150 requests a second",
        script: &["flask_service.py"],
        pace: Pace::Load(150),
        peers: false,
    },
    alone("frames", "pandas and numpy", &["data_frames.py"]),
    Workload {
        name: "idle",
        about: "an idle service with a slow leak",
        script: &["idle_leak.py"],
        pace: Pace::Clock,
        peers: false,
    },
    alone("deltablue", "pyperformance: a constraint solver", &["suite.py", "deltablue"]),
    alone("go", "pyperformance: plays go", &["suite.py", "go"]),
    alone("json-dumps", "pyperformance: writes JSON", &["suite.py", "json_dumps"]),
    alone("nbody", "pyperformance: arithmetic with floats", &["suite.py", "nbody"]),
    alone("raytrace", "pyperformance: traces rays", &["suite.py", "raytrace"]),
];

const fn churn(
    name: &'static str,
    about: &'static str,
    script: &'static [&'static str],
) -> Workload {
    Workload { name, about, script, pace: Pace::Own, peers: true }
}

const fn alone(
    name: &'static str,
    about: &'static str,
    script: &'static [&'static str],
) -> Workload {
    Workload { name, about, script, pace: Pace::Own, peers: false }
}

/// Where their files lie, below the workspace's root.
pub(super) fn folder(root: &Path) -> std::path::PathBuf {
    root.join("tests/workloads/bench")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_workload_has_a_name_of_its_own_and_a_file() {
        let names: BTreeSet<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), WORKLOADS.len());
        let folder = folder(&crate::shell::root().unwrap());
        for workload in WORKLOADS {
            assert!(folder.join(workload.script[0]).is_file(), "{}", workload.name);
        }
    }

    #[test]
    fn four_workloads_are_for_peers_and_five_are_of_pyperformance() {
        assert_eq!(WORKLOADS.iter().filter(|workload| workload.peers).count(), 4);
        let of_suite = |workload: &&Workload| workload.script[0] == "suite.py";
        assert_eq!(WORKLOADS.iter().filter(of_suite).count(), 5);
    }
}
