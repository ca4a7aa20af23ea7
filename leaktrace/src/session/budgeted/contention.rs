//! How much of the time that a target could run it does run.
//!
//! Where others want its processor as well, or the quota of its cgroup is used up, its threads wait for their turn. What its
//! traps take is missing from what is left to it: a budget is a share of the time without those waits. A target that sleeps
//! does not wait. Where the kernel does not say how long threads wait, all of the time is taken to be the target's.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// How often it is asked; for the first time soon.
const ASK_EVERY_NS: u64 = 500_000_000;
const ASK_FIRST_NS: u64 = 100_000_000;

/// Threads that are asked: of more, those that ran most when they were asked last, and as many others.
const ASKED: usize = 16;

/// How much an answer says against those before that were lower. One that is lower itself counts at once.
const NEWEST: f64 = 0.5;

/// The least share that a target is taken to get: whoever gets next to nothing has next to nothing to lose.
const LEAST: f64 = 0.02;

/// By how much the share must have changed for a budget to follow.
const CHANGE: f64 = 0.02;

/// A thread, and how long it had run and waited for its turn when it was asked last.
#[derive(Debug)]
struct Thread {
    path: PathBuf,
    file: File,
    ran_ns: u64,
    waited_ns: u64,
    /// How long it ran between the last two times.
    lately_ns: u64,
}

/// The threads of one target.
#[derive(Debug)]
pub(in super::super) struct Contention {
    folder: PathBuf,
    threads: Vec<Thread>,
    asks_at_ns: u64,
    /// The share of late, and the one that was told last.
    lately: f64,
    share: f64,
    /// The time that was its own, and until when.
    own_ns: f64,
    until_ns: u64,
}

impl Contention {
    pub(in super::super) fn new(pid: u32, now_ns: u64) -> Self {
        let folder = Path::new("/proc").join(pid.to_string()).join("task");
        let threads = threads(&folder, Vec::new());
        let asks_at_ns = now_ns + ASK_FIRST_NS;
        Self { folder, threads, asks_at_ns, lately: 1.0, share: 1.0, own_ns: 0.0, until_ns: now_ns }
    }

    /// Asks, if it is time to. Returns the share of the time that is the target's own, where that has changed.
    pub(super) fn ask(&mut self, now_ns: u64) -> Option<f64> {
        if now_ns < self.asks_at_ns {
            return None;
        }
        self.asks_at_ns = now_ns + ASK_EVERY_NS;
        let passed_ns = now_ns.saturating_sub(self.until_ns);
        let (mut ran_ns, mut waited_ns) = (0, 0);
        for thread in &mut self.threads {
            // One that has ended tells nothing.
            let Some((ran, waited)) = told(&thread.file) else { continue };
            thread.lately_ns = ran.saturating_sub(thread.ran_ns);
            ran_ns += thread.lately_ns;
            waited_ns += waited.saturating_sub(thread.waited_ns);
        }
        self.threads = threads(&self.folder, std::mem::take(&mut self.threads));
        let now = own_share(ran_ns, waited_ns, passed_ns);
        self.own_ns += now * passed_ns as f64;
        self.until_ns = now_ns;
        self.add(now)
    }

    fn add(&mut self, now: f64) -> Option<f64> {
        self.lately = now.min(self.lately + NEWEST * (now - self.lately));
        let has_changed = (self.lately - self.share).abs() > CHANGE * self.share;
        has_changed.then(|| {
            self.share = self.lately;
            self.share
        })
    }

    /// The share of the time that is the target's own of late.
    pub(super) const fn share(&self) -> f64 {
        self.share
    }

    /// Nanoseconds until now that were its own.
    pub(super) fn own_ns(&self, now_ns: u64) -> f64 {
        self.own_ns + now_ns.saturating_sub(self.until_ns) as f64 * self.share
    }
}

/// What is left of some time for threads that ran and waited so long in it. Threads that run at the same time have more of it
/// together than passes.
fn own_share(ran_ns: u64, waited_ns: u64, passed_ns: u64) -> f64 {
    let all_ns = passed_ns.max(ran_ns + waited_ns).max(1);
    (1.0 - waited_ns as f64 / all_ns as f64).max(LEAST)
}

/// Some of the threads below `folder`, as they are now: of `before` those that ran most, and others.
fn threads(folder: &Path, mut before: Vec<Thread>) -> Vec<Thread> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    fastrand::shuffle(&mut paths);
    before.sort_unstable_by_key(|thread| std::cmp::Reverse(thread.lately_ns));
    let ran_most = before.into_iter().take(ASKED / 2).map(|thread| thread.path);
    let mut asked: Vec<PathBuf> = ran_most.filter(|path| paths.contains(path)).collect();
    let others = paths.into_iter().filter(|path| !asked.contains(path)).take(ASKED - asked.len());
    asked.extend(others.collect::<Vec<_>>());
    let open = |path: PathBuf| {
        let file = File::open(path.join("schedstat")).ok()?;
        let (ran_ns, waited_ns) = told(&file)?;
        Some(Thread { path, file, ran_ns, waited_ns, lately_ns: 0 })
    };
    asked.into_iter().filter_map(open).collect()
}

/// Nanoseconds that a thread has run, and that it has waited for its turn: the first two numbers of its `schedstat`
/// (`Documentation/scheduler/sched-stats.rst` of the kernel).
fn told(schedstat: &File) -> Option<(u64, u64)> {
    let mut bytes = [0; 64];
    let length = schedstat.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread::sleep;
    use std::time::Duration;

    use rustix::process::Pid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::{ASK_EVERY_NS, Contention, own_share};

    const MS: u64 = 1_000_000;

    /// A process that is ended when it is dropped.
    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// A process that never sleeps, on the first processor that this one may use.
    fn busy() -> Ended {
        let child = Ended(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
        let own = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| own.is_set(cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(Some(Pid::from_child(&child.0)), &one).unwrap();
        child
    }

    #[test]
    fn who_shares_a_processor_with_two_others_has_a_third_of_the_time() {
        let busy = [busy(), busy(), busy()];
        let mut contention = Contention::new(busy[0].0.id(), 0);
        for step in 1..=3 {
            sleep(Duration::from_nanos(ASK_EVERY_NS));
            contention.ask(step * ASK_EVERY_NS);
        }
        let (share, own_ns) = (contention.share(), contention.own_ns(3 * ASK_EVERY_NS));
        assert!((0.12..0.45).contains(&share), "{share}");
        assert!((0.12 * 1.5e9..0.5 * 1.5e9).contains(&own_ns), "{own_ns}");
    }

    #[test]
    fn who_sleeps_waits_for_nobody() {
        let child = Ended(Command::new("sleep").arg("60").spawn().unwrap());
        let mut contention = Contention::new(child.0.id(), 0);
        assert_eq!(contention.ask(1), None);
        assert_eq!(contention.ask(ASK_EVERY_NS), None);
        assert!((contention.own_ns(2 * ASK_EVERY_NS) - 1e9).abs() < 1e7);
        drop(child);
        assert_eq!(contention.ask(3 * ASK_EVERY_NS), None);
    }

    #[test]
    fn waits_are_what_is_missing() {
        let near = |share: f64, expected: f64| assert!((share - expected).abs() < 1e-9, "{share}");
        near(own_share(250 * MS, 250 * MS, 500 * MS), 0.5);
        // A service that sleeps nearly always, and waits a little whenever it wakes up.
        near(own_share(5 * MS, 5 * MS, 500 * MS), 0.99);
        // Four threads that share two processors.
        near(own_share(1_000 * MS, 1_000 * MS, 500 * MS), 0.5);
        near(own_share(0, 500 * MS, 500 * MS), 0.02);
        near(own_share(0, 0, 0), 1.0);
    }

    #[test]
    fn less_counts_at_once_and_more_little_by_little() {
        let mut contention = Contention::new(0, 0);
        assert_eq!(contention.add(0.99), None, "a little less is no change");
        assert_eq!(contention.add(0.5), Some(0.5));
        let up = contention.add(1.0).unwrap();
        assert!((up - 0.75).abs() < 1e-9, "{up}");
        assert!((0..20).filter_map(|_| contention.add(1.0)).last().unwrap() > 0.97);
    }
}
