//! Programs that switch stacks under the interpreter (greenlets, gevent) and those of event loops that are not Python
//! (uvloop), in a virtual environment: every frame of every sampled stack, against what `traceback` says in the target.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::fs;

use leaktrace_tests::{
    Python, Report, Stacks, Target, Tracer, can_trace, leaktrace, record, services_python,
};
use serde_json::{Value, json};

/// How many tasks of each kind there are, more or less.
const LOTS: &str = "64";

/// Asserts that every stack is right of what `loops.py` does of this kind; returns the report.
fn traced(python: &Python, kind: &str) -> Report {
    let mut target = Target::start(python, "loops.py", &[kind, LOTS]);
    let tracer = Tracer::start(target.pid, &[]);
    let truth = target.work();
    let report = tracer.stop();
    let (wanted, seen) = (Stacks::of_target(&truth["stacks"]), Stacks::of_report(&report));
    let figures = json!({
        "kind": kind,
        "right": wanted.right_in(&seen),
        "of": wanted.count(),
        "different": wanted.different(),
        "cut": wanted.cut(),
        "complete_pct": report.0["session"]["self_check"]["stacks_pct"],
    });
    println!("{} {figures}", python.version);
    record("loops", python, figures);
    assert_eq!(wanted.first_wrong_in(&seen), None, "{kind}");
    assert!(wanted.count() > 400 && wanted.different() > 30, "{kind}: {}", wanted.count());
    assert!(wanted.cut() > 0, "{kind}: none was deeper than the limit");
    // Those of all other blocks are at least no nonsense.
    assert!(report.number("/session/self_check/stacks_pct") > 99.0, "{}", report.warnings());
    assert!(target.finish().success());
    report
}

#[test]
fn stacks_of_greenlets_that_switch_at_all_depths_are_what_traceback_says() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    drop(traced(&python, "greenlet"));
}

#[test]
fn stacks_of_gevent_s_tasks_are_what_traceback_says_and_its_frames_are_told_to_be_its() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let report = traced(&python, "gevent");
    let packages: Vec<(&str, &str)> = report
        .sites()
        .flat_map(|site| site.0["stack"].as_array().expect("an array"))
        .filter_map(|frame| {
            Some((frame["file"].as_str()?, frame["package"].as_str().unwrap_or("")))
        })
        .filter(|(file, _)| file.contains("/site-packages/gevent/"))
        .collect();
    assert!(!packages.is_empty(), "none of gevent's own functions is on a stack");
    assert!(packages.iter().all(|(_, package)| *package == "gevent"), "{packages:?}");
}

#[test]
fn stacks_of_coroutines_and_callbacks_on_uvloop_are_what_traceback_says() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    drop(traced(&python, "uvloop"));
}

#[test]
fn what_a_virtual_environment_s_interpreter_runs_is_traced_and_listed_as_any_other() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let folder = python.path.parent().and_then(|bin| bin.parent()).expect("it lies in two folders");
    assert!(folder.join("pyvenv.cfg").is_file(), "{} is no virtual environment", folder.display());
    let mut target = Target::start(&python, "stacks.py", &["200"]);
    let program = fs::read_link(format!("/proc/{}/exe", target.pid)).expect("it lives");
    assert!(!program.starts_with(folder), "{} is no link", python.path.display());
    let list = leaktrace(&["ps", "--format", "json"]).output().expect("leaktrace starts");
    let list: Value = serde_json::from_slice(&list.stdout).expect("it is JSON");
    let listed = list["processes"].as_array().expect("an array").iter();
    let listed = listed.filter(|process| process["pid"] == target.pid).collect::<Vec<_>>();
    assert_eq!(listed.len(), 1, "{list}");
    assert_eq!(listed[0]["python"], python.version.as_str());
    assert_eq!(listed[0]["traceable"], true, "{}", listed[0]);
    let tracer = Tracer::start(target.pid, &[]);
    let truth = target.work();
    let report = tracer.stop();
    let (wanted, seen) = (Stacks::of_target(&truth["stacks"]), Stacks::of_report(&report));
    assert_eq!(wanted.first_wrong_in(&seen), None);
    assert_eq!(report.0["target"]["python"], python.version.as_str());
    assert_eq!(report.number("/session/events_lost"), 0.0);
    // The same as without the environment.
    let base = Python::at(&program).expect("what the link leads to is a Python");
    let mut target = Target::start(&base, "stacks.py", &["200"]);
    let tracer = Tracer::start(target.pid, &[]);
    target.work();
    let without = tracer.stop();
    for field in ["gate", "coverage_pct", "functions"] {
        assert_eq!(report.0["session"][field], without.0["session"][field], "{field}");
    }
}
