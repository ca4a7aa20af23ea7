//! Celery with a prefork pool, followed: the line of the task that leaks is named for each process of the pool.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leaktrace_tests::{
    PATIENCE, Python, Report, Tracer, can_trace, end, leaking_line, services_python, workload,
};
use tempfile::TempDir;

/// Processes of the pool.
const POOL: usize = 2;

/// How long it is traced.
const TRACED: Duration = Duration::from_secs(20);

/// Tasks that are sent at most: for longer than the test takes.
const TASKS: &str = "20000";

/// A worker with its pool, a program that sends it tasks, and the folder that is the queue between them.
struct Worker {
    worker: Child,
    sender: Child,
    _queue: TempDir,
}

impl Worker {
    fn start(python: &Python) -> Self {
        let queue = tempfile::tempdir().expect("a folder can be made");
        let command = || {
            let mut command = Command::new(&python.path);
            let app = workload("celery_app.py");
            command.current_dir(app.parent().expect("it lies in a folder"));
            command.env("LEAKTRACE_QUEUE", queue.path()).env("PYTHONDONTWRITEBYTECODE", "1");
            command.stdin(Stdio::null());
            command
        };
        let mut worker = command();
        worker.args(["-m", "celery", "--app", "celery_app", "worker", "--pool", "prefork"]);
        worker.args(["--concurrency", &POOL.to_string(), "--loglevel", "error"]);
        worker.args(["--without-gossip", "--without-mingle", "--without-heartbeat"]);
        let worker = worker.stdout(Stdio::null()).spawn().expect("Celery starts");
        let sender = command().args(["celery_app.py", TASKS]).spawn().expect("it starts");
        let started = Self { worker, sender, _queue: queue };
        let deadline = Instant::now() + PATIENCE;
        while started.pool().len() < POOL {
            assert!(Instant::now() < deadline, "Celery makes no pool");
            std::thread::sleep(Duration::from_millis(50));
        }
        started
    }

    fn pool(&self) -> Vec<u64> {
        let pid = self.worker.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("it lives");
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        end(&mut self.worker);
        end(&mut self.sender);
    }
}

#[test]
fn the_leaking_line_is_named_for_every_process_of_a_celery_pool() {
    if !can_trace() {
        return;
    }
    let Some(python) = services_python() else { return };
    let worker = Worker::start(&python);
    let mut tracer = Tracer::start(worker.worker.id(), &["--follow"]);
    tracer.wait_until_tracing_all(1 + POOL);
    std::thread::sleep(TRACED);
    let followed = tracer.stop();
    let line = leaking_line("celery_app.py");
    let processes = followed.0["processes"].as_array().expect("an array");
    let pool = worker.pool();
    assert_eq!(pool.len(), POOL, "the worker lost processes of its pool");
    for pid in pool {
        let own = processes.iter().find(|it| it["target"]["pid"] == pid).expect("it was traced");
        let own = Report(own.clone());
        let site = own.sites().find(|site| site.line() == line).expect("it allocates");
        let first = own.sites().next().expect("it allocates");
        eprintln!("process {pid}: {} {}", site.verdict(), first.line());
        assert!(matches!(site.verdict(), "leaking" | "growing"), "{pid}: {}", site.verdict());
        assert_eq!(first.line(), line, "{pid}");
    }
    let merged = followed.0["merged"]["sites"].as_array().expect("an array");
    let first = leaktrace_tests::Site(&merged[0]);
    assert_eq!(first.line(), line, "{:?}", first.0);
    assert!(matches!(first.verdict(), "leaking" | "growing"), "in all: {}", first.verdict());
}
