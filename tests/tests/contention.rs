//! A target that has to share its processor. A twin of it on the same one tells what tracing takes: what the host does to
//! one, it does to the other.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use leaktrace_tests::{Python, Target, Tracer, can_trace, debian_python, rate_between, record};
use serde_json::json;

/// What the target may pay, in percent.
const BUDGET_PCT: f64 = 5.0;

/// Two that take turns on one processor.
struct Twins {
    target: Target,
    twin: Target,
}

impl Twins {
    fn start(python: &Python) -> Self {
        // The first one that this test may use.
        let allowed = std::fs::read_to_string("/proc/thread-self/status").expect("it can be read");
        let list = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let first = list.expect("there is a list").trim();
        let processor = first.split([',', '-']).next().expect("there is one").to_owned();
        let start = || {
            let target = Target::start(python, "hot.py", &["50"]);
            let mut bind = Command::new("taskset");
            bind.args(["-a", "-p", "-c", &processor, &target.pid.to_string()]);
            assert!(bind.output().expect("taskset is there").status.success());
            target
        };
        Self { target: start(), twin: start() }
    }

    /// How fast the target is, against its twin.
    fn advantage(&mut self, time: Duration) -> f64 {
        let before = (self.target.ask("count"), self.twin.ask("count"));
        sleep(time);
        let after = (self.target.ask("count"), self.twin.ask("count"));
        rate_between(&before.0, &after.0, "done") / rate_between(&before.1, &after.1, "done")
    }
}

/// How soon a trace ends that was told to.
const PATIENCE: Duration = Duration::from_secs(15);

/// What tracing takes from one of the twins, in percent of what it did before and afterwards, and what leaktrace says of that.
fn loss_pct(twins: &mut Twins) -> (f64, f64) {
    let before = twins.advantage(Duration::from_secs(4));
    let tracer = Tracer::start(twins.target.pid, &["--budget", &format!("{BUDGET_PCT}%")]);
    sleep(Duration::from_secs(2));
    let traced = twins.advantage(Duration::from_secs(8));
    let stopped = Instant::now();
    let report = tracer.stop();
    assert!(stopped.elapsed() < PATIENCE, "{:?}", stopped.elapsed());
    let after = twins.advantage(Duration::from_secs(4));
    let loss_pct = 100.0 * (1.0 - traced / f64::midpoint(before, after));
    (loss_pct, report.number("/session/overhead_pct"))
}

#[test]
fn a_target_that_waits_for_its_processor_pays_out_of_what_it_gets() {
    if !can_trace() {
        return;
    }
    let Some(python) = debian_python() else { return };
    let mut twins = Twins::start(&python);
    sleep(Duration::from_secs(1));
    // Of the clock's time it would be about twice the budget, each time. A host that stands still for one of the twins fails
    // nobody once.
    let is_within = |twins: &mut Twins| {
        let (loss_pct, overhead_pct) = loss_pct(twins);
        let figures = json!({ "loss_pct": loss_pct, "overhead_pct": overhead_pct });
        println!("{}: {figures}", python.version);
        record("contention", &python, figures);
        assert!((BUDGET_PCT * 0.5..BUDGET_PCT * 1.3).contains(&overhead_pct), "{overhead_pct}");
        (BUDGET_PCT * 0.2..BUDGET_PCT * 1.3).contains(&loss_pct)
    };
    assert!((0..3).any(|_| is_within(&mut twins)));
    assert!(twins.target.finish().success() && twins.twin.finish().success());
}
