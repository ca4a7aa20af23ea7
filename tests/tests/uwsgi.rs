//! uWSGI: a server in C that loads its plug-in for Python by `dlopen`, forks, and runs its second
//! application in a sub-interpreter.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use leaktrace_tests::{Found, Report, Server, Tracer, can_trace, doctor, leaking_line, leaktrace};
use serde_json::Value;

/// Where Debian has the plug-in.
const PLUGIN: &str = "/usr/lib/uwsgi/plugins/python3_plugin.so";

const WORKERS: usize = 2;

fn uwsgi(address: &str) -> Command {
    let mut command = Command::new("uwsgi");
    command.args(["--plugin", PLUGIN, "--http-socket", address, "--master", "--die-on-term"]);
    command.args(["--processes", &WORKERS.to_string(), "--enable-threads", "--disable-logging"]);
    // The first application is run by the main interpreter, every other one by its own. Requests are for `/path`.
    command.args(["--mount", "/other=wsgi_app.py", "--mount", "/path=wsgi_app.py"]);
    // It has a lot to say of its start.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn the_leaking_line_is_named_for_every_worker_of_uwsgi() {
    if !can_trace() {
        return;
    }
    if !Path::new(PLUGIN).exists() {
        let required = std::env::var("LEAKTRACE_E2E").is_ok_and(|value| value == "required");
        assert!(!required, "uWSGI is missing: `cargo xtask test` installs it");
        eprintln!("skipped: no uWSGI");
        return;
    }
    let server = Server::start(WORKERS, uwsgi);
    // uWSGI names the file as it is told to.
    let line = leaking_line("wsgi_app.py");
    let line = line.rsplit('/').next().expect("a path ends with a name");
    let followed = server.under_load(WORKERS, || {
        let mut tracer = Tracer::start(server.pid(), &["--follow"]);
        tracer.wait_until_tracing_all(1 + WORKERS);
        let listed = leaktrace(&["ps", "--format", "json"]).output().expect("leaktrace starts");
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("it is JSON");
        for pid in server.workers() {
            let mut processes = listed["processes"].as_array().expect("an array").iter();
            let process = processes.find(|process| process["pid"] == pid).expect("it is listed");
            assert!(process["reason"].as_str().expect("text").contains("another leaktrace"));
        }
        std::thread::sleep(Duration::from_secs(8));
        tracer.stop()
    });
    let processes = followed.0["processes"].as_array().expect("an array").iter();
    let reports: Vec<Report> = processes
        .filter(|process| process["target"]["pid"] != server.pid())
        .cloned()
        .map(Report)
        .collect();
    assert_eq!(reports.len(), WORKERS);
    for report in reports {
        let leak = report.sites().find(|site| site.line() == line).expect("it is there");
        println!("{} {}: {}", report.0["target"]["pid"], leak.verdict(), report.warnings());
        assert!(leak.verdict() == "leaking" || leak.verdict() == "growing", "{}", leak.verdict());
        assert_eq!(report.0["session"]["self_check"]["predictions"], "right");
        assert_eq!(report.number("/session/events_lost"), 0.0);
    }
    for pid in server.workers().into_iter().chain([server.pid()]) {
        assert_eq!(doctor(pid), Found::Nothing);
    }
}
