//! Whether the target is at work, asked at random times.
//!
//! Windows that open at any time of a service that works for a moment and then waits would nearly all begin in a pause, and
//! see nothing but the first calls of what comes next. So it is asked again and again between windows, whether one is due or
//! not, if a thread is running or ready to, and a window opens only with the answer that it is: as many such answers after the
//! last window as there are lately in the time that the budget asks for, so that work is met evenly. How many of the answers
//! since then were such tells how much of that time was work.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Threads that are asked at once; of more, others are asked each time.
const ASKED: usize = 16;

/// How often the threads are listed; and where none was running.
const LIST_EVERY_NS: u64 = 1_000_000_000;
const LIST_AGAIN_NS: u64 = 100_000_000;

/// How often it is asked, on average: being woken is most of what asking costs.
const ASK_EVERY_NS: RangeInclusive<f64> = 3e6..=14e6;

/// How often a target that is at work is met between two windows.
const MEETINGS: f64 = 2.0;

/// Threads that are known at most.
const MOST_THREADS: usize = 512;

/// How long is lately: what is left of an answer's say after so long is a third.
const FADES_IN_NS: f64 = 2e9;

/// The longest time that one answer stands for, as a multiple of what it stands for usually: leaktrace may have been stopped.
const LONGEST: f64 = 4.0;

/// Of the answers that come in the time that a budget asks for, those that are waited for: a window that is due a little
/// later than its time would leave a part of the budget unused.
const SOONER: f64 = 0.7;

/// How much time it is taken to be at work before anybody asked.
const FIRST_NS: f64 = 2e6;

/// Some time, and how much of it was work.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    all_ns: f64,
    at_work_ns: f64,
}

impl Spent {
    fn add(&mut self, ns: f64, at_work: bool) {
        self.all_ns += ns;
        self.at_work_ns += if at_work { ns } else { 0.0 };
    }

    fn fade(&mut self, left: f64) {
        self.all_ns *= left;
        self.at_work_ns *= left;
    }
}

/// The threads of one target.
#[derive(Debug)]
pub(super) struct Work {
    pid: u32,
    threads: Vec<File>,
    listed_ns: Option<u64>,
    next: usize,
    asks_at_ns: u64,
    /// How often it is asked now, on average.
    every_ns: f64,
    /// When it was asked last.
    asked_ns: Option<u64>,
    /// The time lately, and that in which it was at work: each answer stands for the time since the one before.
    lately: Spent,
    /// The same since the last window.
    since: Spent,
    /// Such answers that are to come before the next window.
    to_find: u32,
}

impl Work {
    pub(super) fn new(pid: u32) -> Self {
        Self {
            pid,
            threads: Vec::new(),
            listed_ns: None,
            next: 0,
            asks_at_ns: 0,
            every_ns: *ASK_EVERY_NS.start(),
            asked_ns: None,
            lately: Spent::default(),
            since: Spent::default(),
            to_find: 0,
        }
    }

    /// When it is asked next.
    pub(super) const fn asks_at_ns(&self) -> u64 {
        self.asks_at_ns
    }

    /// Asks, if it is time to: whether it is at work at a moment at which a window may open.
    pub(super) fn ask(&mut self, now_ns: u64) -> Option<bool> {
        if now_ns < self.asks_at_ns {
            return None;
        }
        self.asks_at_ns = now_ns + (self.every_ns * (0.5 + fastrand::f64())) as u64;
        let passed_ns = self.asked_ns.map_or(0, |at_ns| now_ns.saturating_sub(at_ns)) as f64;
        self.asked_ns = Some(now_ns);
        let passed_ns = passed_ns.min(self.every_ns * LONGEST);
        let found = self.is_found(now_ns);
        self.lately.fade((-passed_ns / FADES_IN_NS).exp());
        self.lately.add(passed_ns, found);
        self.to_find = self.to_find.saturating_sub(u32::from(found));
        self.since.add(passed_ns, found);
        Some(found && self.to_find == 0)
    }

    /// A window has ended; the budget asks for the next one after `period_ns`.
    pub(super) fn begin_gap(&mut self, period_ns: f64) {
        let at_work_ns = period_ns * self.share_lately();
        self.every_ns = (at_work_ns / MEETINGS).clamp(*ASK_EVERY_NS.start(), *ASK_EVERY_NS.end());
        let answers = at_work_ns / self.every_ns * SOONER;
        self.since = Spent::default();
        self.to_find = (answers * (0.5 + fastrand::f64())).round() as u32;
    }

    /// The share of the time since the last window in which it was at work, the last answer included: only so do all these times
    /// add up to what they are, wherever a window opens with the first answer of the kind.
    pub(super) fn share(&self) -> f64 {
        let Spent { all_ns, at_work_ns } = self.since;
        if all_ns > 0.0 { at_work_ns / all_ns } else { self.share_lately() }
    }

    /// 1 before anybody asked.
    fn share_lately(&self) -> f64 {
        (self.lately.at_work_ns + FIRST_NS) / (self.lately.all_ns + FIRST_NS)
    }

    /// Whether a thread is running, or would if a processor were free.
    fn is_found(&mut self, now_ns: u64) -> bool {
        let age = self.listed_ns.map_or(u64::MAX, |at_ns| now_ns.saturating_sub(at_ns));
        if age >= LIST_EVERY_NS {
            self.list(now_ns);
        }
        let found = self.is_any_running();
        if found || !(LIST_AGAIN_NS..LIST_EVERY_NS).contains(&age) {
            return found;
        }
        // Some have a thread for each request.
        self.list(now_ns);
        self.is_any_running()
    }

    fn list(&mut self, now_ns: u64) {
        self.listed_ns = Some(now_ns);
        self.threads = threads(self.pid);
    }

    fn is_any_running(&mut self) -> bool {
        let count = self.threads.len();
        let mut asked =
            (0..count.min(ASKED)).map(|index| &self.threads[(self.next + index) % count]);
        let found = asked.any(is_running);
        self.next = if count > ASKED { fastrand::usize(..count) } else { 0 };
        found
    }
}

fn threads(pid: u32) -> Vec<File> {
    let Ok(folder) = Path::new("/proc").join(pid.to_string()).join("task").read_dir() else {
        return Vec::new();
    };
    let open = |entry: std::fs::DirEntry| File::open(entry.path().join("stat")).ok();
    folder.filter_map(Result::ok).filter_map(open).take(MOST_THREADS).collect()
}

/// A thread that has ended is not.
fn is_running(stat: &File) -> bool {
    // `1234 (name) R 1 ...`, proc_pid_stat(5); a name has at most 64 bytes, and may hold anything.
    let mut bytes = [0; 128];
    let Ok(length) = stat.read_at(&mut bytes, 0) else { return false };
    let end = bytes[..length].iter().rposition(|&byte| byte == b')');
    end.is_some_and(|end| bytes.get(end + 2) == Some(&b'R'))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::Work;

    #[test]
    fn a_thread_that_works_is_found_and_one_that_waits_is_not() {
        static ENOUGH: AtomicBool = AtomicBool::new(false);
        let busy = thread::spawn(|| {
            while !ENOUGH.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let mut work = Work::new(std::process::id());
        assert!((work.share() - 1.0).abs() < 1e-9);
        assert!((0..100).any(|_| work.is_found(0)));
        ENOUGH.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        // A process that only waits.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut work = Work::new(child.id());
        thread::sleep(Duration::from_millis(200));
        assert!((1..2000).all(|second| work.ask(second * 1_000_000_000) == Some(false)));
        assert!(work.share() < 0.05);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!work.is_found(u64::MAX));
    }

    #[test]
    fn a_window_comes_after_as_much_work_as_it_stands_for() {
        // This thread is at work whenever it asks.
        let mut work = Work::new(std::process::id());
        let mut now = 0;
        let mut answers_of = |work: &mut Work| {
            (1..).find(|_| {
                now += 10_000_000;
                work.ask(now) == Some(true)
            })
        };
        let counts: Vec<i32> = (0..200)
            .filter_map(|_| {
                work.begin_gap(20e6);
                answers_of(&mut work)
            })
            .collect();
        let mean = f64::from(counts.iter().sum::<i32>()) / 200.0;
        assert!((2.0..3.0).contains(&mean), "{mean}");
        assert!(work.share() > 0.95);
    }
}
