//! How much of the time that a target could run it does run.
//!
//! Where others want its processor as well, or the quota of its cgroup is used up, its threads wait for their turn. What its
//! traps take is missing from what is left to it: a budget is a share of the time without those waits. A target that sleeps
//! does not wait.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// How often it is asked; for the first time soon.
const ASK_EVERY_NS: u64 = 500_000_000;
const ASK_FIRST_NS: u64 = 100_000_000;

/// Threads that are asked; of more, others each time.
const ASKED: usize = 16;

/// Of the time in between less than that says nothing.
const LEAST_NS: u64 = 2_000_000;

/// How much the last answer says against those before; of the first, all.
const NEWEST: f64 = 0.5;

/// The least share that a target is taken to get: whoever gets next to nothing has next to nothing to lose.
const LEAST: f64 = 0.02;

/// By how much the share must have changed for a budget to follow.
const CHANGE: f64 = 0.02;

/// A thread, and how long it had run and waited for its turn when it was asked last.
#[derive(Debug)]
struct Thread {
    file: File,
    ran_ns: u64,
    waited_ns: u64,
}

/// The threads of one target.
#[derive(Debug)]
pub(super) struct Contention {
    folder: PathBuf,
    threads: Vec<Thread>,
    asks_at_ns: u64,
    /// The share of late, and the one that was told last.
    lately: Option<f64>,
    share: f64,
    /// The time that was its own, and until when.
    own_ns: f64,
    until_ns: u64,
}

impl Contention {
    pub(super) fn new(pid: u32, now_ns: u64) -> Self {
        let folder = Path::new("/proc").join(pid.to_string()).join("task");
        let threads = threads(&folder);
        let asks_at_ns = now_ns + ASK_FIRST_NS;
        Self {
            folder,
            threads,
            asks_at_ns,
            lately: None,
            share: 1.0,
            own_ns: 0.0,
            until_ns: now_ns,
        }
    }

    /// Asks, if it is time to. Returns the share of the time that is the target's own, where that has changed.
    pub(super) fn ask(&mut self, now_ns: u64) -> Option<f64> {
        if now_ns < self.asks_at_ns {
            return None;
        }
        self.asks_at_ns = now_ns + ASK_EVERY_NS;
        self.own_ns = self.own_ns(now_ns);
        self.until_ns = now_ns;
        let (mut ran_ns, mut waited_ns) = (0, 0);
        for thread in &self.threads {
            // One that has ended tells nothing.
            let Some((ran, waited)) = told(&thread.file) else { continue };
            ran_ns += ran.saturating_sub(thread.ran_ns);
            waited_ns += waited.saturating_sub(thread.waited_ns);
        }
        self.threads = threads(&self.folder);
        self.add(ran_ns, waited_ns)
    }

    fn add(&mut self, ran_ns: u64, waited_ns: u64) -> Option<f64> {
        let all_ns = ran_ns + waited_ns;
        if all_ns >= LEAST_NS {
            let now = (ran_ns as f64 / all_ns as f64).max(LEAST);
            let before = self.lately.unwrap_or(now);
            self.lately = Some(before + NEWEST * (now - before));
        }
        let share = self.lately.filter(|it| (it - self.share).abs() > CHANGE * self.share)?;
        self.share = share;
        Some(share)
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

/// Some of the threads below `folder`, as they are now.
fn threads(folder: &Path) -> Vec<Thread> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    fastrand::shuffle(&mut paths);
    let open = |path: PathBuf| {
        let file = File::open(path.join("schedstat")).ok()?;
        let (ran_ns, waited_ns) = told(&file)?;
        Some(Thread { file, ran_ns, waited_ns })
    };
    paths.into_iter().take(ASKED).filter_map(open).collect()
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

    use super::{ASK_EVERY_NS, Contention};

    /// A process that never sleeps, on the first processor that this one may use.
    fn busy() -> Child {
        Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()
    }

    fn on_one_processor(child: &Child) {
        let own = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| own.is_set(cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(Some(Pid::from_child(child)), &one).unwrap();
    }

    #[test]
    fn who_shares_a_processor_with_two_others_has_a_third_of_the_time() {
        let mut busy = [busy(), busy(), busy()];
        busy.iter().for_each(on_one_processor);
        let mut contention = Contention::new(busy[0].id(), 0);
        for step in 1..=6 {
            sleep(Duration::from_millis(150));
            contention.ask(step * ASK_EVERY_NS);
        }
        let share = contention.share();
        for child in &mut busy {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!((0.2..0.45).contains(&share), "{share}");
        let own_ns = contention.own_ns(6 * ASK_EVERY_NS);
        assert!(own_ns > 0.3 * 3e9 && own_ns < 0.8 * 3e9, "{own_ns}");
    }

    #[test]
    fn who_sleeps_waits_for_nobody() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut contention = Contention::new(child.id(), 0);
        assert_eq!(contention.ask(1), None);
        assert_eq!(contention.ask(ASK_EVERY_NS), None);
        assert!((contention.own_ns(2 * ASK_EVERY_NS) - 1e9).abs() < 1.0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(contention.ask(3 * ASK_EVERY_NS), None);
    }

    #[test]
    fn a_little_more_or_less_is_no_change() {
        let mut contention = Contention::new(0, 0);
        assert_eq!(contention.add(99, 1), None, "too little to tell");
        assert_eq!(contention.add(99_000_000, 1_000_000), None);
        let half = contention.add(10_000_000, 30_000_000).unwrap();
        let mut begun = Contention::new(0, 0);
        assert_eq!(
            begun.add(10_000_000, 10_000_000),
            Some(0.5),
            "the first answer counts as it is"
        );
        assert!((0.6..0.65).contains(&half), "{half}");
        let back = (0..20).filter_map(|_| contention.add(50_000_000, 0)).last().unwrap();
        assert!(back > 0.97, "{back}");
        let least = (0..40).filter_map(|_| contention.add(0, 50_000_000)).last();
        assert!(least.is_some());
        assert!((0.02..0.03).contains(&contention.share()));
    }
}
