//! Which processes are Pythons, who runs them, and how one of them is picked to be traced.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use leaktrace_tests::{
    PATIENCE, Python, Target, Tracer, can_trace, debian_python, leaktrace, pythons, workload,
};
use serde_json::Value;

const ERROR: i32 = 1;

/// A user without any privileges.
const NOBODY: u32 = 65534;

/// How long a list may take on a busy machine.
const QUICK: Duration = Duration::from_secs(20);

fn python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

fn run(arguments: &[&str]) -> Output {
    leaktrace(arguments).output().expect("leaktrace starts")
}

/// The list of processes, checked against its schema.
fn list(mut command: Command) -> Value {
    let start = Instant::now();
    let output = command.output().expect("leaktrace starts");
    assert!(output.status.success(), "{output:?}");
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    let list: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let schema = include_str!("../../docs/schema/leaktrace.ps-1.schema.json");
    let schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let faults: Vec<String> = validator.iter_errors(&list).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
    list
}

fn list_json() -> Value {
    list(leaktrace(&["ps", "--format", "json"]))
}

fn entry(list: &Value, pid: u32) -> Option<&Value> {
    list["processes"].as_array().expect("an array").iter().find(|process| process["pid"] == pid)
}

/// A cgroup of version 2 that is removed in the end, when its processes are gone.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None` where none can be made.
    fn make(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let point = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let point = words.next()?;
            (words.next()? == "cgroup2").then_some(point)
        })?;
        let path = PathBuf::from(point).join(name);
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn take(&self, target: &Target) {
        fs::write(self.0.join("cgroup.procs"), target.pid.to_string()).expect("it takes a process");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn every_python_is_listed_with_its_version_and_no_secret() {
    if !can_trace() {
        return;
    }
    let secret = ["--token", "hunter2"];
    let targets: Vec<(Python, Target)> = pythons()
        .into_iter()
        .map(|python| {
            let target = Target::start(&python, "busy.py", &secret);
            (python, target)
        })
        .collect();
    let list = list_json();
    for (python, target) in &targets {
        let process = entry(&list, target.pid).expect("it is listed");
        assert_eq!(process["python"], python.version.as_str());
        assert_eq!((&process["traceable"], &process["reason"]), (&true.into(), &Value::Null));
        assert_eq!(process["parent_pid"], std::process::id());
        assert!(process["rss"].as_u64().expect("known") > 1 << 20);
        let cmdline = process["cmdline"].as_array().expect("known");
        assert_eq!(cmdline.last().expect("not empty"), "***");
    }
    assert!(entry(&list, std::process::id()).is_none(), "this is no Python");
    let sizes: Vec<u64> = list["processes"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|process| process["rss"].as_u64().expect("known"))
        .collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let text = String::from_utf8(run(&["ps"]).stdout).expect("it is text");
    assert!(!text.contains("hunter2"), "{text}");
    for (python, target) in targets {
        let line =
            text.lines().find(|line| line.trim_start().starts_with(&format!("{} ", target.pid)));
        let line = line.unwrap_or_else(|| panic!("{} is missing: {text}", target.pid));
        assert!(line.contains(&python.version) && line.contains("  yes  "), "{line}");
        assert!(target.finish().success());
    }
}

#[test]
fn a_python_that_is_traced_already_is_said_to_be() {
    if !can_trace() {
        return;
    }
    let target = Target::start(&python(), "busy.py", &[]);
    let tracer = Tracer::start(target.pid, &[]);
    let list = list_json();
    let process = entry(&list, target.pid).expect("it is listed");
    assert_eq!(process["traceable"], false);
    assert!(process["reason"].as_str().expect("text").contains("another leaktrace"), "{process}");
    drop(tracer.stop());
    assert!(target.finish().success());
}

#[test]
fn without_privileges_a_python_of_another_user_is_listed_by_its_name_alone() {
    if !can_trace() {
        return;
    }
    let target = Target::start(&Python { path: "python3".into(), ..python() }, "busy.py", &[]);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let program = folder.path().join("leaktrace");
    fs::copy(leaktrace(&[]).get_program(), &program).expect("it can be copied");
    for path in [folder.path(), &program] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let mut command = Command::new(&program);
    {
        use std::os::unix::process::CommandExt as _;
        command.args(["ps", "--format", "json"]).uid(NOBODY).gid(NOBODY);
    }
    let list = list(command);
    let process = entry(&list, target.pid).expect("it is listed");
    assert_eq!((&process["traceable"], &process["python"]), (&false.into(), &Value::Null));
    assert!(process["reason"].as_str().expect("text").contains("run as root"), "{process}");
    assert!(list["hidden"].as_u64().expect("a number") > 0, "{list}");
    let warnings = list["warnings"].to_string();
    assert!(warnings.contains("not permitted"), "{warnings}");
}

#[test]
fn a_list_leaves_no_trace_in_the_processes() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&python(), "busy.py", &[]);
    let status = format!("/proc/{}/status", target.pid);
    let of_interest = || -> BTreeMap<String, String> {
        let status = fs::read_to_string(&status).expect("it is there");
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(key, _)| {
                matches!(*key, "TracerPid" | "State" | "SigPnd" | "ShdPnd" | "Threads")
            })
            // Whether a busy thread runs or waits at the moment says nothing; that it is stopped would.
            .map(|(key, value)| match (key, value.trim()) {
                ("State", state) => {
                    (key.to_owned(), state.to_lowercase().starts_with('t').to_string())
                }
                (_, value) => (key.to_owned(), value.to_owned()),
            })
            .collect()
    };
    let before = of_interest();
    for _ in 0..5 {
        drop(list_json());
    }
    assert_eq!(of_interest(), before);
    assert!(target.is_alive());
    assert!(target.finish().success());
}

#[test]
fn a_list_survives_processes_that_come_and_go() {
    let python = python();
    let mut churn = Command::new("sh")
        .arg("-c")
        .arg(format!("while :; do {} -S -c pass & true & wait; done", python.path.display()))
        .spawn()
        .expect("a shell starts");
    for _ in 0..20 {
        drop(list_json());
    }
    churn.kill().expect("it runs");
    churn.wait().expect("it can be waited for");
}

#[test]
fn a_python_in_a_cgroup_is_found_by_its_unit_and_its_container() {
    if !can_trace() {
        return;
    }
    let id = "0bad5eed".repeat(8);
    let (unit, scope) =
        (format!("shop-{}.service", std::process::id()), format!("docker-{id}.scope"));
    let (Some(unit_group), Some(container_group)) = (Cgroup::make(&unit), Cgroup::make(&scope))
    else {
        eprintln!("skipped: no cgroup of version 2 can be made here");
        return;
    };
    let in_unit = Target::start(&python(), "busy.py", &[]);
    let in_container = Target::start(&python(), "busy.py", &[]);
    unit_group.take(&in_unit);
    container_group.take(&in_container);
    let list = list_json();
    assert_eq!(entry(&list, in_unit.pid).expect("listed")["unit"], unit.as_str());
    let container = &entry(&list, in_container.pid).expect("listed")["container"];
    assert_eq!((&container["id"], &container["runtime"]), (&id.clone().into(), &"docker".into()));
    for (arguments, pid) in [
        (["--unit", &unit], in_unit.pid),
        (["--unit", unit.trim_end_matches(".service")], in_unit.pid),
        (["--container", &id[..12]], in_container.pid),
    ] {
        let mut command = leaktrace(&["trace", "--format", "json", "--duration", "500ms"]);
        command.args(arguments);
        let report = Tracer::spawn_command(command).report();
        assert_eq!(report.0["target"]["pid"], pid, "{arguments:?}");
    }
    let doctor = run(&["doctor", "--unit", &unit]);
    assert!(doctor.status.success(), "{doctor:?}");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.starts_with(&format!("process {}: ", in_unit.pid)), "{said}");
    assert!(in_unit.finish().success() && in_container.finish().success());
}

#[test]
fn a_name_that_means_several_is_refused_with_their_list() {
    if !can_trace() {
        return;
    }
    let mark = format!("mark-{}", std::process::id());
    let mut targets: Vec<Target> =
        (0..2).map(|_| Target::start(&python(), "busy.py", &[&mark])).collect();
    for command in ["trace", "doctor"] {
        let refused = run(&[command, "--name", &mark]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(ERROR), "{said}");
        assert_eq!((said.lines().count(), refused.stdout.len()), (1, 0), "{said}");
        assert!(said.contains("2 processes match"), "{said}");
        assert!(targets.iter().all(|target| said.contains(&target.pid.to_string())), "{said}");
    }
    assert!(targets.pop().expect("two").finish().success());
    let one = targets.pop().expect("one");
    let script = workload("busy.py").display().to_string();
    let pattern = format!("{}.*{mark}$", script.replace('.', "\\."));
    let mut command = leaktrace(&["--name", &pattern, "--format", "json", "--duration", "500ms"]);
    command.env("RUST_BACKTRACE", "0");
    let report = Tracer::spawn_command(command).report();
    assert_eq!(report.0["target"]["pid"], one.pid);
    assert!(one.finish().success());
    let refused = run(&["--name", &mark]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(ERROR), "{said}");
    assert!(said.contains("no CPython process matches"), "{said}");
}
