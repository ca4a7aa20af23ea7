//! Whether the target is at work, asked at random times.
//!
//! Windows that open at any time of a service that works for a moment and then waits would nearly all begin in a pause, and
//! see nothing but the first calls of what comes next. So one opens only while a thread is running or ready to: each
//! moment of work is as likely to be met as any other. How many of the questions find the target at work tells how much of
//! the time between two windows was work.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Threads that are asked at once; of more, others are asked each time.
const ASKED: usize = 8;

/// How often the threads are listed.
const LIST_EVERY_NS: u64 = 1_000_000_000;

/// Threads that are known at most.
const MOST_THREADS: usize = 512;

/// What is left of an answer's say after each later one.
const FADING: f64 = 0.99;

/// The threads of one target.
#[derive(Debug)]
pub(super) struct Work {
    pid: u32,
    threads: Vec<File>,
    listed_ns: Option<u64>,
    next: usize,
    asked: f64,
    found: f64,
}

impl Work {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid, threads: Vec::new(), listed_ns: None, next: 0, asked: 0.0, found: 0.0 }
    }

    /// Whether a thread is running, or would if a processor were free.
    pub(super) fn is_found(&mut self, now_ns: u64) -> bool {
        if self.listed_ns.is_none_or(|at_ns| now_ns >= at_ns + LIST_EVERY_NS) {
            self.listed_ns = Some(now_ns);
            self.threads = threads(self.pid);
        }
        let count = self.threads.len();
        let asked = (0..count.min(ASKED)).map(|index| &self.threads[(self.next + index) % count]);
        let found = asked.into_iter().any(is_running);
        self.next = if count > ASKED { fastrand::usize(..count) } else { 0 };
        self.asked = self.asked * FADING + 1.0;
        self.found = self.found * FADING + f64::from(u8::from(found));
        found
    }

    /// The share of the time in which it was lately; 1 before anybody asked.
    pub(super) fn share(&self) -> f64 {
        (self.found + 1.0) / (self.asked + 1.0)
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
        assert!((0..100).all(|_| !work.is_found(0)));
        assert!(work.share() < 0.05);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!work.is_found(u64::MAX));
    }
}
