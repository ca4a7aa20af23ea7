//! Code that Cython compiled has no frames: what it allocates counts for the line of Python that called it, and what it
//! calls has the stack that `traceback` shows.

use std::path::Path;
use std::process::Command;

use leaktrace_tests::{Python, Stacks, Target, Tracer, can_trace, services_python, workload};

/// Compiles `compiled.pyx` for an interpreter into a folder.
fn compile(python: &Python, folder: &Path) {
    let source = folder.join("compiled.c");
    let mut cython = Command::new(&python.path);
    cython.args(["-m", "cython", "-3"]).arg(workload("compiled.pyx")).arg("-o").arg(&source);
    assert!(cython.status().expect("the interpreter runs").success(), "Cython refuses it");
    let ask = "import sysconfig; print(sysconfig.get_paths()['include'])";
    let headers = Command::new(&python.path).args(["-c", ask]).output().expect("it runs");
    let headers = String::from_utf8(headers.stdout).expect("a path");
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-shared", "-fPIC", "-I", headers.trim(), "-o"]);
    compiler.arg(folder.join("compiled.so")).arg(source);
    assert!(compiler.status().expect("gcc is here").success(), "`{}`", headers.trim());
}

#[test]
fn stacks_through_compiled_code_are_what_python_says() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    compile(&python, folder.path());
    let path = folder.path().to_str().expect("temporary folders have plain names");
    let mut target = Target::start(&python, "cython_frames.py", &[path]);
    let tracer = Tracer::start(target.pid, &[]);
    let truth = target.work();
    let report = tracer.stop();
    let (wanted, seen) = (Stacks::of_target(&truth["stacks"]), Stacks::of_report(&report));
    assert_eq!(wanted.first_wrong_in(&seen), None);
    assert_eq!(report.number("/session/self_check/stacks_pct"), 100.0);
    let blocks = wanted.count();
    assert!(blocks >= 49, "each of seven shapes in each other: {blocks}");
}
