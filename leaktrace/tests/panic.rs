//! A leaktrace that panics closes its gate on the way out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};

use leaktrace::cpython::tables::Slot as Function;
use leaktrace::session::{Options, Session, Target};
use leaktrace::target::memory::ReadMemory as _;

const SCRIPT: &str = "print('ready', flush=True)\nwhile True: [str(i) for i in range(100)]";

/// A Python that is ended with its value.
struct Python(Child);

impl Python {
    fn start() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", SCRIPT]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the system's python3 starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it writes");
        Self(child)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn can_trace() -> bool {
    let uprobes = std::path::Path::new("/sys/bus/event_source/devices/uprobe").exists();
    if rustix::process::geteuid().is_root() && uprobes {
        return true;
    }
    let required = std::env::var("LEAKTRACE_E2E").is_ok_and(|value| value == "required");
    assert!(!required, "this test must run here");
    let _closed = writeln!(std::io::stderr(), "skipped: not root, or no uprobes");
    false
}

#[tokio::test]
async fn a_panic_closes_the_gate() {
    if !can_trace() {
        return;
    }
    let python = Python::start();
    let target = Target::recognise(python.0.id()).await.expect("it is a CPython");
    let slots: Vec<u64> = [target.tables.raw, target.tables.obj, target.tables.mem]
        .iter()
        .flat_map(|table| Function::ALL.map(|function| table.slot_address(function)))
        .collect();
    let held = || -> Vec<u64> {
        slots.iter().map(|&slot| target.memory.read_u64(slot).expect("it lives")).collect()
    };
    let closed = held();
    let options =
        Options { gate: true, max_memory: 64 << 20, bpf_log: false, ..Options::default() };
    let session = Session::start(python.0.id(), options).await.expect("it can be traced");
    assert_ne!(held(), closed, "the gate was never open");
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _session = session;
        panic!("as a bug would");
    }));
    assert!(panicked.is_err());
    assert_eq!(held(), closed);
}
