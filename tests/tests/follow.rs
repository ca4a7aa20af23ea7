//! `--follow`: a process and all its descendants, one report on each and one on all together.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use leaktrace_tests::{
    Found, PATIENCE, Python, Report, Server, Site, Slots, Target, Tracer, can_trace, debian_python,
    doctor, leaking_line, pythons, services_python, workload,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Workers of the prefork server.
const WORKERS: usize = 4;

/// Longest time from a signal to the report.
const STOPPING: Duration = Duration::from_secs(5);

fn any_python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

fn pid(said: &Value, name: &str) -> u32 {
    said[name].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it says a pid")
}

/// The reports on the process of this pid: several where it became another program.
fn reports(followed: &Report, pid: u32) -> Vec<Report> {
    let processes = followed.0["processes"].as_array().expect("an array").iter();
    processes.filter(|it| it["target"]["pid"] == pid).cloned().map(Report).collect()
}

/// The verdict of the site at `line` that is the worst.
fn verdict(report: &Report, line: &str) -> String {
    let site = report.sites().find(|site| site.line() == line);
    site.map_or_else(String::new, |site| site.verdict().to_owned())
}

fn warnings(followed: &Report) -> String {
    followed.0["warnings"].to_string()
}

/// Ends a trace as Ctrl-C does.
fn stop(tracer: Tracer) -> Report {
    tracer.signal(Signal::INT);
    let ended = tracer.ended();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.printed_after < STOPPING, "it took {:?}", ended.printed_after);
    ended.report()
}

#[test]
fn every_kind_of_descendant_is_traced_and_reported_by_itself_and_with_the_others() {
    if !can_trace() {
        return;
    }
    let line = leaking_line("tree.py");
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let mut target = Target::start(&python, "tree.py", &["8"]);
        let there = pid(&target.ask("fork"), "pid");
        let mut tracer = Tracer::start(target.pid, &["--follow"]);
        tracer.wait_until_tracing_all(2);
        let forked = pid(&target.ask("fork"), "pid");
        let nested = target.ask("nested");
        let (child, grandchild) = (pid(&nested, "pid"), pid(&nested, "grandchild"));
        let spawned = pid(&target.ask("spawn"), "pid");
        tracer.wait_until_tracing_all(6);
        let becomes = pid(&target.ask("become"), "pid");
        target.ask("other");
        // It is traced as what it is, and once more as what it becomes.
        tracer.wait_until_tracing_all(8);
        std::thread::sleep(Duration::from_secs(12));
        let followed = stop(tracer);
        eprintln!("{}: {}", python.version, warnings(&followed));
        for pid in [target.pid, there, forked, child, grandchild, spawned] {
            let own = reports(&followed, pid);
            assert_eq!(own.len(), 1, "{}: {pid}", python.version);
            assert_eq!(own[0].0["session"]["end"], "signal");
            let verdict = verdict(&own[0], &line);
            assert!(verdict == "leaking" || verdict == "growing", "{pid}: {verdict:?}");
        }
        let ends: Vec<Value> = reports(&followed, becomes)
            .iter()
            .map(|report| report.0["session"]["end"].clone())
            .collect();
        assert_eq!(ends, ["target_exec", "signal"], "{}", python.version);
        assert!(warnings(&followed).contains("run no CPython"), "{}", warnings(&followed));
        check_merged(&followed, &line);
        check_schema(&followed.0);
        for pid in [target.pid, there, forked, child, grandchild, spawned, becomes] {
            assert_eq!(doctor(pid), Found::Nothing, "{}: {pid}", python.version);
        }
        assert_eq!(target.ask("reap")["reaped"], 6);
        assert!(target.finish().success());
    }
}

/// Whether the merged sites are the sums of those of the processes, the line that leaks first.
fn check_merged(followed: &Report, line: &str) {
    let processes: Vec<Report> =
        followed.0["processes"].as_array().expect("an array").iter().cloned().map(Report).collect();
    let merged = followed.0["merged"]["sites"].as_array().expect("an array");
    let first = Site(&merged[0]);
    assert_eq!((first.line().as_str(), first.verdict()), (line, "leaking"));
    for site in merged {
        let parts: Vec<Site<'_>> = processes
            .iter()
            .flat_map(Report::sites)
            .filter(|part| part.0["id"] == site["id"])
            .collect();
        assert_eq!(site["processes"], parts.len());
        for field in ["allocations", "frees", "live_bytes", "live_blocks", "allocated_bytes"] {
            let sum: f64 = parts.iter().map(|part| part.number(field)).sum();
            assert_eq!(Site(site).number(field), sum, "{field}");
        }
        let series = site["series"].as_array().expect("an array");
        assert!(series.len() <= 300);
        assert_eq!(series.last().expect("it has an end")[1], site["live_bytes"]);
    }
    let memory = &followed.0["merged"]["memory"];
    assert!(memory["rss_end"].as_u64() > Some(10 << 20), "{memory}");
}

/// Holds a document against the published schema, with what that takes from the schema of reports.
fn check_schema(document: &Value) {
    let report = include_str!("../../docs/schema/leaktrace.report-1.schema.json");
    let report: Value = serde_json::from_str(report).expect("the schema is JSON");
    let schema = include_str!("../../docs/schema/leaktrace.follow-1.schema.json");
    let mut schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
    inline(&mut schema, &report);
    schema["$defs"] = report["$defs"].clone();
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let faults: Vec<String> =
        validator.iter_errors(document).map(|fault| fault.to_string()).take(5).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

/// Puts what stands in the schema of reports in the place of references to it.
fn inline(schema: &mut Value, report: &Value) {
    match schema {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str).unwrap_or_default();
            if let Some(place) = reference.strip_prefix("leaktrace.report-1.schema.json") {
                let mut found =
                    report.pointer(place.trim_start_matches('#')).expect("it is there").clone();
                if let Some(fields) = found.as_object_mut() {
                    fields.remove("$id");
                }
                *schema = found;
                return;
            }
            fields.values_mut().for_each(|value| inline(value, report));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| inline(value, report)),
        _ => {}
    }
}

#[test]
fn more_processes_than_may_be_traced_are_counted_and_their_gates_are_closed() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "tree.py", &["1"]);
    let mut tracer = Tracer::start(target.pid, &["--follow", "--max-processes", "2"]);
    let slots = Slots::of(target.pid);
    let traced = pid(&target.ask("fork"), "pid");
    tracer.wait_until_tracing_all(2);
    let left = pid(&target.ask("fork"), "pid");
    let deadline = Instant::now() + PATIENCE;
    while slots.open_in(left) > 0 {
        assert!(Instant::now() < deadline, "its gate stays open");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(slots.open_in(traced) > 0 && slots.open_in(target.pid) > 0);
    std::thread::sleep(Duration::from_secs(1));
    let followed = stop(tracer);
    assert_eq!(followed.0["processes"].as_array().map(Vec::len), Some(2));
    assert!(warnings(&followed).contains("--max-processes 2"), "{}", warnings(&followed));
    assert_eq!(slots.open_in(traced) + slots.open_in(target.pid), 0);
    assert_eq!(target.ask("reap")["reaped"], 2);
    assert!(target.finish().success());
}

#[test]
fn the_tracing_goes_on_while_one_of_the_family_lives() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "tree.py", &["1"]);
    let mut tracer = Tracer::start(target.pid, &["--follow"]);
    let child = pid(&target.ask("fork"), "pid");
    tracer.wait_until_tracing_all(2);
    let root = target.pid;
    // Its child ends by itself when it sees that it is alone.
    assert!(target.finish().success());
    let followed = tracer.report();
    for pid in [root, child] {
        let own = reports(&followed, pid);
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].0["session"]["end"], "target_exited");
    }
}

#[test]
fn a_signal_at_any_moment_leaves_no_gate_open() {
    if !can_trace() {
        return;
    }
    let mut target = Target::start(&any_python(), "tree.py", &["1"]);
    let child = pid(&target.ask("fork"), "pid");
    let slots = Slots::of(target.pid);
    for round in 0..12 {
        let tracer = Tracer::spawn(target.pid, &["--follow"]);
        std::thread::sleep(Duration::from_millis(60 * round));
        // Not SIGINT, which a program that a shell started in the background ignores until it asks for it.
        tracer.signal(Signal::TERM);
        let said = tracer.ended().said;
        let open = slots.open_in(target.pid) + slots.open_in(child);
        assert_eq!(open, 0, "round {round}: {said}");
    }
    assert_eq!(target.ask("reap")["reaped"], 1);
    assert!(target.finish().success());
}

#[test]
fn a_family_is_followed_from_within_its_own_pid_namespace() {
    if !can_trace() {
        return;
    }
    let python = any_python();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(&python.path).arg(workload("tree.py")).arg("1");
    let mut target = Target::start_command(command);
    let path = format!("/proc/{0}/task/{0}/children", target.pid);
    let inside = fs::read_to_string(path).expect("it lives").trim().to_owned();
    let mut command = Command::new("nsenter");
    let plain =
        leaktrace_tests::leaktrace(&["--pid", "1", "--format", "json", "--follow", "--exact"]);
    command.args(["--target", &inside, "--mount", "--pid"]);
    command.arg(plain.get_program()).args(plain.get_args());
    let mut tracer = Tracer::spawn_command(command);
    tracer.wait_until_tracing_all(1);
    let child = pid(&target.ask("fork"), "pid");
    let nested = target.ask("nested");
    tracer.wait_until_tracing_all(4);
    // Signals are for leaktrace, not for nsenter: it is that one's child.
    let path = format!("/proc/{0}/task/{0}/children", tracer.pid());
    let own = fs::read_to_string(path).expect("it lives");
    let own = own.trim().parse().ok().and_then(Pid::from_raw).expect("nsenter has one child");
    kill_process(own, Signal::INT).expect("leaktrace is there");
    let followed = tracer.report();
    for pid in [1, child, pid(&nested, "pid"), pid(&nested, "grandchild")] {
        assert_eq!(reports(&followed, pid).len(), 1, "{pid}");
    }
    assert_eq!(target.ask("reap")["reaped"], 2);
}

#[test]
fn all_processes_together_keep_to_a_total_and_have_more_of_it_when_others_end() {
    if !can_trace() {
        return;
    }
    let line = leaking_line("workers.py");
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let mut target = Target::start(&python, "workers.py", &["3"]);
        let mut tracer = Tracer::start(target.pid, &["--follow", "--budget-total", "1%"]);
        tracer.wait_until_tracing_all(4);
        std::thread::sleep(Duration::from_secs(10));
        // Two of three.
        let (one, other) = (pid(&target.ask("end"), "pid"), pid(&target.ask("end"), "pid"));
        std::thread::sleep(Duration::from_secs(15));
        let followed = stop(tracer);
        let processes = followed.0["processes"].as_array().expect("an array").iter().cloned();
        let costs: Vec<(Value, f64)> = processes
            .map(|it| (it["target"]["pid"].clone(), Report(it).number("/session/overhead_pct")))
            .collect();
        let total = followed.number("/overhead_total_pct");
        eprintln!("{}: {costs:?}, {total} in all", python.version);
        assert_eq!(costs.len(), 4);
        assert!(costs.iter().map(|(_, cost)| cost).sum::<f64>() <= 1.1);
        assert_eq!(followed.number("/budget_total_pct"), 1.0);
        assert!(total > 0.0 && total <= 1.1, "{total}");
        // A quarter of one percent while there were four, half of it while there were two.
        let cost = |wanted: &dyn Fn(&Value) -> bool| {
            costs.iter().filter(|(pid, _)| wanted(pid)).map(|(_, cost)| *cost).fold(0.0, f64::max)
        };
        let ended = cost(&|pid| *pid == one || *pid == other);
        let left = cost(&|pid| *pid != one && *pid != other);
        assert!(ended > 0.1 && left > 1.2 * ended, "{left} and {ended}");
        let first = Site(&followed.0["merged"]["sites"][0]);
        assert_eq!(first.line(), line, "{}", warnings(&followed));
        check_schema(&followed.0);
        assert!(target.finish().success());
    }
}

/// A gunicorn; `None` where it is not installed.
fn gunicorn() -> Option<Server> {
    let python = services_python()?;
    let workers = WORKERS.to_string();
    Some(Server::start(WORKERS, |address| {
        let mut command = python.command();
        command.args(["-m", "gunicorn", "--workers", &workers, "--log-level", "warning"]);
        command.args(["--bind", address, "wsgi_app:application"]);
        command
    }))
}

#[test]
fn the_leaking_line_is_named_for_every_worker_of_a_prefork_server_and_for_a_respawned_one() {
    if !can_trace() {
        return;
    }
    let Some(server) = gunicorn() else { return };
    let line = leaking_line("wsgi_app.py");
    let before = server.workers();
    assert_eq!(before.len(), WORKERS);
    // As many requests at a time as there are workers, so that none of them is left out.
    let (followed, killed) = server.under_load(WORKERS, || {
        let mut tracer = Tracer::start(server.pid(), &["--follow"]);
        tracer.wait_until_tracing_all(5);
        std::thread::sleep(Duration::from_secs(15));
        let killed = before[0];
        let worker = Pid::from_raw(killed.cast_signed()).expect("pids are positive");
        kill_process(worker, Signal::KILL).expect("the worker lives");
        tracer.wait_until_tracing_all(6);
        std::thread::sleep(Duration::from_secs(25));
        let followed = stop(tracer);
        (followed, killed)
    });
    let after = server.workers();
    let respawned = after.iter().find(|pid| !before.contains(pid)).expect("one was respawned");
    for worker in before.iter().chain([respawned]) {
        let own = reports(&followed, *worker);
        assert_eq!(own.len(), 1, "worker {worker}");
        let (first, verdict) = (own[0].sites().next(), verdict(&own[0], &line));
        let first = first.expect("it allocates").line();
        eprintln!("worker {worker}: {verdict} {first}");
        // The one that was killed had little time to show it.
        if *worker != killed {
            assert_eq!(first, line, "worker {worker}");
            assert!(verdict == "leaking" || verdict == "growing", "worker {worker}: {verdict}");
        }
    }
    let merged = followed.0["merged"]["sites"].as_array().expect("an array");
    let leak = merged.iter().map(Site).find(|site| site.line() == line).expect("it is there");
    assert_eq!(leak.verdict(), "leaking");
    check_schema(&followed.0);
}
