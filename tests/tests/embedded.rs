//! CPython within another program: linked with its library, or loaded by `dlopen` as plug-in hosts do.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use leaktrace_tests::{
    Found, PATIENCE, Python, Report, Slots, Target, Tracer, can_trace, doctor, leaking_line,
    leaktrace, some_pythons, workload,
};
use serde_json::Value;
use tempfile::TempDir;

/// How a program comes by CPython.
#[derive(Clone, Copy, Debug)]
enum Way {
    Linked,
    Loaded(&'static str),
}

/// A lot for each of the Pythons that are taken: the system's and the newest.
const WAYS: [[Way; 2]; 2] =
    [[Way::Linked, Way::Loaded("global")], [Way::Linked, Way::Loaded("local")]];

/// Long enough for a verdict.
const TRACED: Duration = Duration::from_secs(6);

/// The library of `python`: beside the program, which does not need it, where that holds the interpreter itself.
fn library(python: &Python) -> PathBuf {
    let code = "import sysconfig as s; print(s.get_config_var('LIBDIR') + '/' + s.get_config_var('INSTSONAME'))";
    let output = python.command().args(["-c", code]).output().expect("it runs");
    let path = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    assert!(
        path.is_file(),
        "`{}` is missing: `cargo xtask test` installs the system's",
        path.display()
    );
    path
}

/// A host that runs `hosted.py` in the CPython of `library`.
fn host(library: &PathBuf, way: Way, folder: &TempDir) -> Target {
    let program = folder.path().join("host");
    let mut compiler = Command::new("gcc");
    compiler
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(workload("host.c"));
    if let Way::Linked = way {
        let place = library.parent().expect("it lies in a folder").display();
        compiler.arg("-DLINKED").arg(library).arg(format!("-Wl,-rpath,{place}"));
    } else {
        compiler.arg("-ldl");
    }
    assert!(compiler.status().expect("gcc is here").success(), "the host does not build");
    let mut command = Command::new(program);
    command.arg(workload("hosted.py"));
    if let Way::Loaded(scope) = way {
        command.arg(library).arg(scope);
    }
    Target::start_command(command)
}

/// What `leaktrace ps` says of a process.
fn listed(pid: u32) -> Value {
    let list = leaktrace(&["ps", "--format", "json"]).output().expect("leaktrace starts");
    let list: Value = serde_json::from_slice(&list.stdout).expect("it is JSON");
    let mut processes = list["processes"].as_array().expect("an array").iter();
    processes.find(|process| process["pid"] == pid).expect("it is listed").clone()
}

/// A host that is traced.
struct Traced {
    what: String,
    target: Target,
    tracer: Tracer,
    _folder: TempDir,
}

impl Traced {
    /// Starts it and traces it, after `leaktrace ps` has listed it as a CPython of this minor version.
    fn start(python: &Python, way: Way) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let target = host(&library(python), way, &folder);
        let process = listed(target.pid);
        assert_eq!(process["traceable"], true, "{process}");
        let minor = format!("3.{}.", python.minor());
        assert!(process["python"].as_str().expect("text").starts_with(&minor), "{process}");
        let tracer = Tracer::start(target.pid, &[]);
        Self { what: format!("{} {way:?}", python.version), target, tracer, _folder: folder }
    }

    /// What it has kept so far; it has found nothing wrong.
    fn kept(&mut self) -> f64 {
        let said = self.target.ask("kept");
        assert_eq!(said["wrong"], 0, "{}", self.what);
        said["kept"].as_f64().expect("a number")
    }

    /// The report, after which no gate is open and the target ends well.
    fn finish(mut self) -> Report {
        self.kept();
        let report = self.tracer.stop();
        assert_eq!(doctor(self.target.pid), Found::Nothing, "{}", self.what);
        assert_eq!(self.target.ask("kept")["wrong"], 0, "{}", self.what);
        assert!(self.target.finish().success(), "{}", self.what);
        report
    }
}

#[test]
fn the_leaking_line_of_a_script_within_another_program_is_named() {
    if !can_trace() {
        return;
    }
    let line = leaking_line("hosted.py");
    let pythons = some_pythons();
    let mut hosts: Vec<Traced> = pythons
        .iter()
        .zip(WAYS.iter().cycle())
        .flat_map(|(python, ways)| ways.map(|way| Traced::start(python, way)))
        .collect();
    for host in &mut hosts {
        assert_eq!(host.target.ask("debug")["wrong"], 0);
    }
    std::thread::sleep(TRACED);
    for host in hosts {
        let what = host.what.clone();
        let report = host.finish();
        let session = &report.0["session"];
        println!(
            "{what}: gate {}, coverage {} %, {}; {}",
            session["gate"],
            session["coverage_pct"],
            session["self_check"],
            report.warnings().trim_end(),
        );
        let first = report.sites().next().expect("it allocates");
        assert_eq!(first.line(), line, "{what}");
        let verdict = first.verdict();
        assert!(verdict == "leaking" || verdict == "growing", "{what}: {verdict}");
        assert_eq!(session["self_check"]["predictions"], "right", "{what}");
        assert_eq!(report.number("/session/events_lost"), 0.0, "{what}");
    }
}

#[test]
fn an_interpreter_that_ends_and_begins_anew_in_its_host_is_traced_on() {
    if !can_trace() {
        return;
    }
    let line = leaking_line("hosted.py");
    for python in some_pythons() {
        let mut host = Traced::start(&python, Way::Loaded("global"));
        let (slots, mut kept) = (Slots::of(host.target.pid), 0.0);
        let open = slots.open_in(host.target.pid);
        for round in 0..3 {
            if round > 0 {
                host.target.ask("again");
            }
            // From 3.12 on a new interpreter resets the tables: what it does until the gate is opened again is not seen, and
            // said not to be.
            let deadline = Instant::now() + PATIENCE;
            while slots.open_in(host.target.pid) < open {
                assert!(Instant::now() < deadline, "{}: the gate stays closed", host.what);
                std::thread::sleep(Duration::from_millis(10));
            }
            kept -= host.kept();
            std::thread::sleep(Duration::from_secs(1));
            kept += host.kept();
        }
        let report = host.finish();
        let made = report.sum("allocations", |site| site.line() == line);
        println!("{}: {made} for {kept}; {}", python.version, report.warnings().trim_end());
        // Two allocations for each that is kept, most of them in interpreters that were not there at first.
        assert!(kept > 100.0 && made >= 2.0 * kept, "{made} for {kept}");
    }
}
