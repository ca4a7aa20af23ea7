//! A command that leaktrace starts: seen from the first line of its main module on, and otherwise as if nobody had.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use leaktrace_tests::{
    Python, Report, Site, Tracer, can_trace, debian_python, leaktrace, old_pythons, pythons,
    workload,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What the first line of the workload keeps.
const BLOCKS: f64 = 5000.0;

/// What else that line allocates: the list, its function, an iterator.
const MORE: f64 = 25.0;

/// Exit code of the workload.
const CODE: i64 = 3;

const ERROR: i32 = 1;

/// A leaktrace that starts a command, and the folder of its report.
struct Run {
    command: Command,
    folder: TempDir,
}

impl Run {
    fn of(command: &[&str], options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let output = folder.path().join("report.json");
        let mut run = leaktrace(&["trace", "--format", "json", "--output"]);
        run.arg(output).args(options).arg("--").args(command).stdin(Stdio::null());
        Self { command: run, folder }
    }

    fn report(&self) -> Report {
        report_in(&self.folder)
    }

    fn output(&mut self) -> Output {
        self.command.output().expect("leaktrace starts")
    }
}

fn report_in(folder: &TempDir) -> Report {
    let text = fs::read_to_string(folder.path().join("report.json"));
    Report(serde_json::from_str(&text.expect("there is a report")).expect("it is JSON"))
}

fn python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

fn script() -> String {
    workload("first_line.py").display().to_string()
}

/// Small blocks that the first line allocated.
fn of_first_line(report: &Report) -> f64 {
    let line = format!("{}:1", script());
    report.sum("allocations", |site: Site<'_>| site.is_small() && site.line() == line)
}

fn assert_whole(report: &Report, python: &str) {
    let seen = of_first_line(report);
    assert!((BLOCKS..BLOCKS + MORE).contains(&seen), "{python}: {seen}");
    let session = &report.0["session"];
    assert_eq!(session["mode"], "exact", "{python}");
    assert_eq!(session["end"], "target_exited", "{python}");
    assert_eq!(session["exit_status"], serde_json::json!({ "code": CODE, "signal": null }));
}

#[test]
fn every_python_is_seen_from_its_first_line_on_and_its_exit_code_is_reported() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let path = python.path.display().to_string();
        let mut run = Run::of(&[&path, &script(), "print"], &[]);
        let output = run.output();
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", python.version);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("tracer 0"), "ptrace has let go of it: {said}");
        assert_whole(&run.report(), &python.version);
    }
}

#[test]
fn a_command_is_traced_within_a_budget_if_that_is_asked_for() {
    if !can_trace() {
        return;
    }
    let path = python().path.display().to_string();
    let mut run = Run::of(&[&path, &script(), "print"], &["--budget", "2%"]);
    assert_eq!(run.output().status.code(), Some(0));
    let session = &run.report().0["session"];
    assert_eq!(
        (session["mode"].as_str(), session["budget_pct"].as_f64()),
        (Some("budget"), Some(2.0))
    );
    assert_eq!(session["exit_status"]["code"], CODE);
}

#[test]
fn wrappers_are_followed_and_what_the_command_reads_and_writes_is_its_own() {
    if !can_trace() {
        return;
    }
    let path = python().path.display().to_string();
    let line = format!("exec /usr/bin/env {path} {} echo", script());
    let mut run = Run::of(&["sh", "-c", &line], &[]);
    let mut child = run
        .command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("leaktrace starts");
    child.stdin.take().expect("it is piped").write_all(b"a word\n").expect("it is read");
    let output = child.wait_with_output().expect("it can be waited for");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "read a word\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("to stderr\n"), "{output:?}");
    assert_whole(&run.report(), "by way of a shell");
}

#[test]
fn a_command_runs_as_the_user_who_called_sudo() {
    if !can_trace() {
        return;
    }
    // Where everybody may read it.
    let folder = tempfile::tempdir().expect("a folder can be made");
    let copy = folder.path().join("first_line.py");
    fs::copy(script(), &copy).expect("it can be copied");
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let copy = copy.display().to_string();
    let mut run = Run::of(&["/usr/bin/python3", &copy, "print"], &[]);
    let root = std::env::var_os("HOME").unwrap_or_default();
    run.command.envs([("SUDO_UID", "65534"), ("SUDO_GID", "65534"), ("USER", "root")]);
    run.command.env("HOME", root);
    let output = run.output();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("uid 65534 gid 65534 groups 65534\n"), "{output:?}");
    assert!(said.contains("user nobody"), "{said}");
    run.command.env("SUDO_UID", "somebody");
    let refused = run.output();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(ERROR), "{said}");
    assert!(said.contains("SUDO_UID") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_signal_ends_the_command_whose_end_is_then_reported() {
    if !can_trace() {
        return;
    }
    let path = python().path.display().to_string();
    let mut run = Run::of(&[&path, &script(), "wait"], &[]);
    let mut child = run.command.stdout(Stdio::piped()).spawn().expect("leaktrace starts");
    let mut said = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    std::io::BufRead::read_line(&mut stdout, &mut said).expect("the command writes");
    assert_eq!(said, "ready\n");
    let pid = Pid::from_raw(child.id().cast_signed()).expect("pids are positive");
    kill_process(pid, Signal::TERM).expect("leaktrace is there");
    assert_eq!(child.wait().expect("it can be waited for").code(), Some(0));
    let report = run.report();
    assert_eq!(report.0["session"]["end"], "target_exited");
    assert_eq!(report.0["session"]["exit_status"]["code"], 7);
}

#[test]
fn the_children_of_a_command_are_followed_and_it_is_its_own_exit_status_that_is_reported() {
    if !can_trace() {
        return;
    }
    // Both wait until they are traced, and the child lives on when the command has ended.
    let text = "import os, sys, time; child = os.fork()\n\
                for _ in range(3000):\n    os.path.exists(sys.argv[1]) or time.sleep(0.02)\n\
                kept = [bytes(100) for _ in range(5000)]; time.sleep(0 if child else 1); os._exit(5 if child else 0)";
    let path = python().path.display().to_string();
    let place = tempfile::tempdir().expect("a folder can be made");
    let go = place.path().join("go");
    let argument = go.display().to_string();
    let Run { command, folder } = Run::of(&[&path, "-c", text, &argument], &["--follow"]);
    let mut tracer = Tracer::spawn_command(command);
    tracer.wait_until_tracing_all(2);
    fs::write(go, "").expect("it can be written");
    let ended = tracer.ended();
    assert!(ended.status.success(), "{}", ended.said);
    let report = report_in(&folder);
    let processes = report.0["processes"].as_array().expect("an array");
    let ends: Vec<_> = processes.iter().map(|it| &it["session"]["exit_status"]).collect();
    let of_command = serde_json::json!({ "code": 5, "signal": null });
    assert_eq!(ends, [&of_command, &serde_json::Value::Null], "{}", ended.said);
    for process in processes {
        assert_eq!(process["session"]["end"], "target_exited");
        let kept = Report(process.clone()).sum("live_blocks", |site| site.is_small());
        assert!((5000.0..5100.0).contains(&kept), "{kept}");
    }
}

#[test]
fn a_command_that_is_killed_is_reported_by_the_signal() {
    if !can_trace() {
        return;
    }
    let path = python().path.display().to_string();
    let mut run = Run::of(&[&path, &script(), "kill"], &[]);
    assert_eq!(run.output().status.code(), Some(0));
    let expected = serde_json::json!({ "code": null, "signal": 9 });
    assert_eq!(run.report().0["session"]["exit_status"], expected);
}

#[test]
fn a_command_that_cannot_be_traced_never_runs() {
    if !can_trace() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mark = folder.path().join("it-ran");
    for python in old_pythons() {
        let path = python.path.display().to_string();
        let code = format!("open({:?}, 'w')", mark.display().to_string());
        let mut run = Run::of(&[&path, "-S", "-c", &code], &[]);
        let output = run.output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            fs::remove_file(&mark).expect("it ran");
            continue;
        }
        assert_eq!(output.status.code(), Some(ERROR), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!mark.exists(), "{} ran: {said}", python.version);
    }
}

#[test]
fn leaktrace_that_is_killed_leaves_the_command_alone() {
    if !can_trace() {
        return;
    }
    let path = python().path.display().to_string();
    let mut run = Run::of(&[&path, &script(), "wait"], &[]);
    let mut child = run.command.stdout(Stdio::piped()).spawn().expect("leaktrace starts");
    let mut said = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    std::io::BufRead::read_line(&mut stdout, &mut said).expect("the command writes");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let children = fs::read_to_string(children).expect("the kernel tells");
    let pid: i32 = children.split_whitespace().next().expect("one").parse().expect("a pid");
    child.kill().expect("leaktrace is there");
    child.wait().expect("it can be waited for");
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    assert!(state.contains(") S ") || state.contains(") R "), "{state}");
    let pid = Pid::from_raw(pid).expect("pids are positive");
    kill_process(pid, Signal::TERM).expect("it is there");
}
