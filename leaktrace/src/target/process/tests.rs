//! What is known of a process, on processes that these tests start.

use std::process::{Child, Command, Stdio};

use super::{Process, ProcessError, split_arguments};

/// A child that ends with the test.
struct Running(Child);

impl Running {
    fn sleep() -> Self {
        Self(Command::new("sleep").args(["1000", "1s"]).stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn a_process_is_described() {
    let child = Running::sleep();
    let process = Process::open(child.pid()).unwrap();
    let itself = Process::open(std::process::id()).unwrap();
    assert!(process.is_alive());
    assert!(process.rss().is_ok() && itself.rss().unwrap() > 0);
    assert!(process.seccomp().unwrap().is_some());
    assert!(process.started_ticks() >= itself.started_ticks());
    assert_ne!(process.identity().unwrap(), itself.identity().unwrap());
    assert_eq!(process.identity().unwrap().namespace, itself.identity().unwrap().namespace);
    assert!(process.memory_limit().is_ok());
    assert!(itself.exe().unwrap().is_absolute());
}

#[test]
fn a_process_that_ends_is_not_another_one() {
    let child = Running::sleep();
    let process = Process::open(child.pid()).unwrap();
    drop(child);
    assert!(!process.is_alive());
    assert!(matches!(process.rss(), Err(ProcessError::NoSuchProcess { .. })));
    assert!(matches!(process.cmdline(), Err(ProcessError::NoSuchProcess { .. })));
    assert!(matches!(Process::open(process.pid()), Err(ProcessError::NoSuchProcess { .. })));
}

#[test]
fn a_zombie_is_refused() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    while Process::open(pid).is_ok() {
        std::thread::yield_now();
    }
    let refused = Process::open(pid);
    child.wait().unwrap();
    assert!(matches!(refused, Err(ProcessError::Zombie { .. })), "{refused:?}");
}

#[test]
fn a_thread_names_its_process() {
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
        let _disconnected = stopped.recv();
    });
    let tid = told.recv().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let refused = Process::open(tid);
    drop(stop);
    thread.join().unwrap();
    let own = std::process::id();
    assert!(matches!(refused, Err(ProcessError::Thread { process, .. }) if process == own));
}

#[test]
fn pids_that_cannot_be_are_refused() {
    for pid in [0, u32::MAX, i32::MAX.cast_unsigned()] {
        assert!(matches!(Process::open(pid), Err(ProcessError::NoSuchProcess { .. })));
    }
}

#[test]
fn arguments_are_split_at_each_nul() {
    assert_eq!(split_arguments(b"python\0-c\0\0x\xff\0"), ["python", "-c", "", "x\u{fffd}"]);
    assert_eq!(split_arguments(b"gunicorn: master"), ["gunicorn: master"]);
    assert!(split_arguments(b"").is_empty());
}
