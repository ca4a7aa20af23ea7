//! Captures images anew: whatever the walk and the naming of its frames read while a script stands still in a live
//! interpreter, and what the script itself says of its stack.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use leaktrace::cpython::runtime::Runtime;
use leaktrace::session::Target;
use leaktrace::target::memory::{ProcessMemory, ReadMemory};
use leaktrace_common::memory::Fault;
use serde_json::Value;

use crate::image::{self, Captured, Image, POINTER, lines, named, thread, walk_from};

const SCRIPT: &str = include_str!("stacks.py");

/// Runs the script under a file name that is the same everywhere.
const BOOT: &str = "import sys; exec(compile(sys.argv[1], 'stacks.py', 'exec'))";

/// A live process, of which every byte that is read is kept.
struct Recorder<'a> {
    memory: &'a ProcessMemory,
    read: RefCell<Image>,
}

impl ReadMemory for Recorder<'_> {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let known = self.read.borrow().read_bytes(address, buffer);
        if known.is_err() {
            self.memory.read_bytes(address, buffer)?;
            self.read.borrow_mut().0.extend((address..).zip(buffer.iter().copied()));
        }
        Ok(())
    }
}

/// A script that is ended when it is dropped.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Captures every case from the interpreter at `path`, which lies below `root` and is run with it as its root.
pub(crate) fn capture(root: Option<&OsStr>, path: &Path, cases: &[&str]) {
    let mut version = None;
    let mut captured = Vec::new();
    for case in cases {
        let (minor, python, image) = one(root, path, case);
        version = Some((minor, python));
        captured.push(image);
    }
    let (minor, python) = version.expect("there are cases");
    image::write(minor, &python, &captured);
}

fn one(root: Option<&OsStr>, path: &Path, case: &str) -> (u8, String, Captured) {
    let mut command = match root {
        Some(root) => {
            let mut chroot = Command::new("chroot");
            chroot.arg(root).arg(path);
            chroot
        }
        None => Command::new(path),
    };
    command.args(["-I", "-X", "utf8", "-c", BOOT, SCRIPT, case]);
    // 3.6 knows no `-X utf8`.
    command.env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Script(command.spawn().expect("Python starts"));
    let pid = child.0.id();
    let mut said = String::new();
    let stdout = child.0.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut said).expect("it is text");
    let said: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{case}: {said:?}: {error}"));
    wait_until_it_reads(pid);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let target = runtime.expect("a runtime can be made").block_on(Target::recognise(pid));
    let target = target.expect("it is a CPython");
    let captured = image_of(&target, case, &said);
    let minor = said["minor"].as_u64().expect("a number") as u8;
    (minor, said["python"].as_str().expect("text").to_owned(), captured)
}

/// Its account was given just before: now it has to stand in the call behind it. (One thread does; another may sleep.)
fn wait_until_it_reads(pid: u32) {
    const READ: &str = "0 ";
    let tasks = format!("/proc/{pid}/task");
    let reads = || {
        let tasks = std::fs::read_dir(&tasks).expect("it lives").flatten();
        let calls =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("syscall")).ok());
        calls.into_iter().any(|call| call.starts_with(READ))
    };
    while !reads() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn image_of(target: &Target, case: &str, said: &Value) -> Captured {
    let pointer = said["thread"].as_u64().expect("a number");
    let frames = said["frames"].as_array().expect("an array").iter();
    let expected: Vec<String> =
        frames.map(|line| line.as_str().expect("text").to_owned()).collect();
    let memory = target.memory.as_ref();
    let threads = Runtime::read(memory, &target.layout, target.root).expect("it runs").threads;
    let state = threads.iter().find(|thread| thread.pointer == pointer).expect("it is known").state;
    let read = Image::default().with_word(POINTER, state);
    let recorder = Recorder { memory, read: RefCell::new(read) };
    let found = thread(&recorder, &target.layout, pointer).expect("it is this thread's");
    let (frames, walked) = walk_from(&recorder, &target.layout, found.frame);
    let (stack, _) = named(&recorder, &target.layout, &frames, walked);
    let seen = lines(&stack);
    assert_eq!(seen, expected[..seen.len()], "{case}");
    Captured {
        name: case.to_owned(),
        minor: target.version.minor,
        pointer,
        image: recorder.read.into_inner(),
        expected,
    }
}
