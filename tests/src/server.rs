//! A server with several workers that answers requests with the pid of the worker.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::PATIENCE;
use crate::target::workloads;

/// How long a server may take to end.
const ENDING: Duration = Duration::from_secs(20);

/// Pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(3);

/// One that runs `wsgi_app.py`, on a free port of the loopback interface. It is ended when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts it by a command for this address, and waits until it has its workers and answers.
    ///
    /// # Panics
    /// It does not.
    #[must_use]
    pub fn start(workers: usize, command: impl FnOnce(&str) -> Command) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let child = command(&address)
            .current_dir(workloads())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while server.workers().len() < workers || server.request().is_none() {
            assert!(Instant::now() < deadline, "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// The process that has the workers.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The workers.
    ///
    /// # Panics
    /// It is gone.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("it lives");
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Does something while so many clients make requests, one after the other each.
    pub fn under_load<R>(&self, clients: usize, work: impl FnOnce() -> R) -> R {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _done = Done(&done);
            for _ in 0..clients {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _ = self.request();
                        std::thread::sleep(PAUSE);
                    }
                });
            }
            work()
        })
    }

    /// One request; the pid of the worker that answered.
    fn request(&self) -> Option<u32> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /path HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().last()?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a process with its workers, which only a signal that it can catch makes it do. What of them does not end is
/// killed.
pub fn end(child: &mut Child) {
    let workers = descendants(child.id());
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + ENDING;
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for worker in workers {
        // Most have ended.
        let _ = pidfd_send_signal(&worker, Signal::KILL);
    }
}

/// The processes that a process has started, and those that they have.
fn descendants(pid: u32) -> Vec<OwnedFd> {
    let tasks = Process::new(pid.cast_signed()).and_then(|process| process.tasks());
    let children = tasks.into_iter().flatten().flatten().filter_map(|task| task.children().ok());
    let mut found = Vec::new();
    for child in children.flatten() {
        let process = Pid::from_raw(child.cast_signed());
        found.extend(process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()));
        found.extend(descendants(child));
    }
    found
}

/// Says that it is done when it is dropped, by a panic as well.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
