//! What the live blocks of a site are: the types of the objects that each line is known to keep.
#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

use std::thread::sleep;
use std::time::Duration;

use leaktrace_tests::{
    Python, Report, Target, Tracer, can_trace, debian_python, leaktrace, pythons, workload,
};
use serde_json::Value;

const WORKLOAD: &str = "kinds.py";

/// How long a target is traced.
const TRACED: Duration = Duration::from_secs(8);

/// Line of the workload, its mark, and the type that it keeps.
fn kinds() -> Vec<(u64, String, String)> {
    let text = std::fs::read_to_string(workload(WORKLOAD)).expect("it can be read");
    let lines = (1..).zip(text.lines()).filter(|(_, line)| line.contains("kept.append("));
    let kind = |(number, line): (u64, &str)| {
        let (mark, name) = line.split_once("  # ")?.1.split_once(' ')?;
        Some((number, mark.to_owned(), name.to_owned()))
    };
    lines.filter_map(kind).collect()
}

/// The name, blocks and bytes of all types of the sites at a line.
fn types_at(report: &Report, line: u64) -> Vec<(String, f64, f64)> {
    let at = format!("{}:{line}", workload(WORKLOAD).display());
    let sites = report.sites().filter(|site| site.line() == at);
    let types = sites.flat_map(|site| site.0["types"].as_array().expect("they are known"));
    let number = |share: &Value, key: &str| share[key].as_f64().expect("a number");
    types
        .map(|share| {
            let name = share["name"].as_str().expect("a name").to_owned();
            (name, number(share, "blocks"), number(share, "bytes"))
        })
        .collect()
}

fn check(python: &Python, report: &Report, sure: f64) {
    for (line, mark, name) in kinds() {
        let types = types_at(report, line);
        let context = format!("{} {mark} {name}: {types:?}", python.version);
        println!("{context}");
        let blocks = |wanted: &dyn Fn(&str) -> bool| -> f64 {
            types.iter().filter(|(name, ..)| wanted(name)).map(|(_, blocks, _)| blocks).sum()
        };
        let all = blocks(&|_| true);
        assert!(all > 100.0, "{context}");
        // What an object is made of beside itself is no object; all objects of a line are of its type, but for the one
        // list that keeps them all, and a number in an instance.
        let own = blocks(&|it| it == name);
        let parts = blocks(&|it| it == "(no object)");
        assert!(own >= sure * all / 4.0, "{context}");
        let other = if mark == "BUFFERS" { "bytearray" } else { "set" };
        let others = blocks(&|it| it == other || it == "int" || it == "dict");
        assert!(own + parts + others >= sure * all, "{context}");
    }
}

/// Every site's types add up to what it holds.
fn check_sums(report: &Report) {
    for site in report.sites() {
        let Some(types) = site.0["types"].as_array() else { continue };
        let sum = |key: &str| types.iter().filter_map(|share| share[key].as_f64()).sum::<f64>();
        assert_eq!(sum("blocks"), site.number("live_blocks"), "{}", site.0);
        assert_eq!(sum("bytes"), site.number("live_bytes"), "{}", site.0);
    }
}

fn trace(python: &Python, how: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Report {
    let target = Target::start_with(python, WORKLOAD, &[how], environment);
    let tracer = Tracer::start(target.pid, arguments);
    sleep(TRACED);
    let report = tracer.stop();
    assert!(target.finish().success());
    report
}

fn some(minors: &[u32]) -> Vec<Python> {
    let wanted = |python: &Python| minors.contains(&python.minor());
    let others = pythons().into_iter().filter(wanted);
    let debian = debian_python().into_iter().filter(|debian| !minors.contains(&debian.minor()));
    debian.chain(others).collect()
}

#[test]
fn the_types_of_what_a_line_keeps_are_named() {
    if !can_trace() {
        return;
    }
    for python in some(&[6, 9, 10, 12, 13]) {
        let report = trace(&python, "quiet", &[], &[]);
        check_sums(&report);
        check(&python, &report, 0.98);
    }
}

#[test]
fn the_types_of_a_sample_stand_for_all() {
    if !can_trace() {
        return;
    }
    for python in some(&[12, 13]) {
        let report = trace(&python, "hot", &["--budget", "5%"], &[]);
        assert!(report.number("/session/traced_fraction") < 0.9);
        check_sums(&report);
        check(&python, &report, 0.9);
    }
}

#[test]
fn types_are_named_where_other_allocators_serve() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    for allocator in ["malloc", "debug"] {
        let report = trace(&python, "quiet", &[], &[("PYTHONMALLOC", allocator)]);
        check_sums(&report);
        check(&python, &report, 0.9);
    }
}

#[test]
fn nothing_is_said_of_what_a_target_held_that_is_gone() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    let target = Target::start(&python, WORKLOAD, &["quiet"]);
    let tracer = Tracer::start(target.pid, &[]);
    sleep(Duration::from_secs(1));
    assert!(target.finish().success());
    let report = tracer.report();
    assert!(report.sites().count() > 5);
    assert!(report.sites().all(|site| site.0["types"].is_null()));
}

#[test]
fn the_text_names_the_main_types() {
    let Some(python) = debian_python().filter(|_| can_trace()) else { return };
    let target = Target::start(&python, WORKLOAD, &["quiet"]);
    let pid = target.pid.to_string();
    let arguments = ["--pid", &pid, "--duration", "30s", "--format", "text"];
    let output = leaktrace(&arguments).output().expect("leaktrace runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("  - holds"), "{text}");
}
