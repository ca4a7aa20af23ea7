//! The walk that BPF runs, on captured memory of real interpreters: no root, no kernel, no Python.
//!
//! `LEAKTRACE_CAPTURE=1` captures the images anew from the CPythons that are here: whatever the walk and the naming of
//! its frames read while a script stands still, and what the script itself says of its stack.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use leaktrace::cpython::code::{CodeCache, Resolved};
use leaktrace::cpython::layout::Layout;
use leaktrace::cpython::runtime::Runtime;
use leaktrace::target::memory::{ProcessMemory, ReadMemory};
use leaktrace::target::module::Module;
use leaktrace_common::event::{Frame, stack_end};
use leaktrace_common::layout::{THREAD_POINTER, ThreadLayout};
use leaktrace_common::limits::MAX_STEPS;
use leaktrace_common::memory::{Fault, Memory};
use leaktrace_common::thread;
use leaktrace_common::unwind::{FrameSink, Walked, walk};
use serde_json::{Value, json};

/// Stands still below a stack of each kind; prints the thread, and the stack as Python sees it.
const SCRIPT: &str = r#"
import _thread, sys, time
def stop():
    frame = sys._getframe()
    lines = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        lines.append("%d %s %s" % (frame.f_lineno, name, code.co_filename))
        frame = frame.f_back
    print(_thread.get_ident()); print("\n".join(lines)); print("end"); sys.stdout.flush(); sys.stdin.read()
def plain(depth):
    return plain(depth - 1) if depth else stop()
def extension():
    return sorted([2, 1], key=lambda number: stop())
def generator():
    def inner():
        yield stop()
    def outer():
        yield from inner()
    return list(outer())
def in_thread():
    # Without the standard library: no path of it is to be in an image.
    _thread.start_new_thread(plain, (3,))
    time.sleep(1000)
class Slotted:
    @property
    def value(self):
        return stop()
def descriptor():
    return Slotted().value
globals()[sys.argv[1]](*map(int, sys.argv[2:]))
"#;

const CASES: [(&str, &[&str]); 5] = [
    ("plain", &["4"]),
    ("extension", &[]),
    ("generator", &[]),
    ("in_thread", &[]),
    ("descriptor", &[]),
];

/// Where a replayed image keeps the address of its thread state.
const POINTER: u64 = 0x10;

/// Captured bytes, by address.
#[derive(Clone, Default)]
struct Image(BTreeMap<u64, u8>);

impl ReadMemory for Image {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        for (byte, address) in buffer.iter_mut().zip(address..) {
            *byte = *self.0.get(&address).ok_or(Fault)?;
        }
        Ok(())
    }
}

/// A live process, of which every byte that is read is kept.
struct Recorder {
    memory: ProcessMemory,
    read: RefCell<Image>,
}

impl ReadMemory for Recorder {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        self.memory.read_bytes(address, buffer)?;
        self.read.borrow_mut().0.extend((address..).zip(buffer.iter().copied()));
        Ok(())
    }
}

/// What the shared logic reads through.
struct Words<'a, M>(&'a M);

impl<M: ReadMemory> Memory for Words<'_, M> {
    fn read<const N: usize>(
        &self,
        address: u64,
        bytes: u64,
        words: &mut [u64; N],
    ) -> Result<(), Fault> {
        for (index, word) in words.iter_mut().enumerate().take((bytes / 8) as usize) {
            *word = self.0.read_u64(address + 8 * index as u64)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Frames(Vec<Frame>);

impl FrameSink for Frames {
    fn frame(&mut self, _index: u32, frame: Frame) {
        self.0.push(frame);
    }
}

/// Walks from the thread state that the word at `location` leads to.
fn walk_from<M: ReadMemory>(
    memory: &M,
    layout: &Layout,
    location: u64,
    pointer: u64,
) -> (Vec<Frame>, Walked) {
    let thread = ThreadLayout { source: THREAD_POINTER, location, ..layout.thread_layout() };
    let found = thread::current(&Words(memory), &thread, pointer).expect("it is this thread's");
    let mut frames = Frames::default();
    let walked = walk(&Words(memory), &layout.frame_layout(), found.frame, &mut frames);
    (frames.0, walked)
}

fn named<M: ReadMemory>(memory: &M, layout: &Layout, frames: &[Frame]) -> Vec<String> {
    let mut codes = CodeCache::new(layout.clone(), None);
    frames
        .iter()
        .filter(|frame| frame.code != 0)
        .filter_map(|frame| match codes.resolve(memory, frame.code, frame.offset, frame.owner) {
            Resolved::Frame(frame) => {
                Some(format!("{} {} {}", frame.line.unwrap_or(0), frame.function, frame.file))
            }
            Resolved::Incomplete => None,
            Resolved::Unknown(reason) => panic!("{frame:?}: {reason}"),
        })
        .collect()
}

/// An image as it is kept in a file.
struct Captured {
    name: String,
    minor: u8,
    pointer: u64,
    image: Image,
    expected: Vec<String>,
}

impl Captured {
    fn all() -> Vec<Self> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
            .expect("the images are checked in")
            .map(|entry| entry.expect("it can be listed").path())
            .collect();
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).expect("an image can be read");
        let value: Value = serde_json::from_str(&text).expect("an image is JSON");
        let mut image = Image::default();
        for (address, bytes) in value["memory"].as_object().expect("an object") {
            let start = u64::from_str_radix(address, 16).expect("hexadecimal");
            let digits = bytes.as_str().expect("text").as_bytes();
            let bytes = digits.as_chunks::<2>().0.iter().map(|pair| {
                let pair = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            });
            image.0.extend((start..).zip(bytes));
        }
        let lines = value["expected"].as_array().expect("an array");
        Self {
            name: file.file_stem().expect("a name").to_string_lossy().into_owned(),
            minor: value["minor"].as_u64().expect("a number") as u8,
            pointer: value["thread"].as_u64().expect("a number"),
            image,
            expected: lines.iter().map(|line| line.as_str().expect("text").to_owned()).collect(),
        }
    }

    fn layout(&self) -> Layout {
        Layout::for_version(3, self.minor).expect("the version is supported")
    }

    fn walk(&self, image: &Image) -> (Vec<Frame>, Walked) {
        walk_from(image, &self.layout(), POINTER, self.pointer)
    }

    /// Address of the frame that a word of the innermost frame leads to.
    fn innermost(&self) -> u64 {
        let layout = self.layout().thread_layout();
        let state = self.image.read_u64(POINTER).expect("it is there");
        let thread = ThreadLayout { source: THREAD_POINTER, location: POINTER, ..layout };
        assert_ne!(state, 0);
        thread::current(&Words(&self.image), &thread, self.pointer).expect("as above").frame
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

#[test]
fn the_stacks_of_captured_interpreters_are_what_python_said() {
    capture_if_wanted();
    let images = Captured::all();
    let minors: std::collections::BTreeSet<u8> = images.iter().map(|image| image.minor).collect();
    assert_eq!(minors.into_iter().collect::<Vec<_>>(), [8, 9, 10, 11, 12, 13]);
    for captured in images {
        let (frames, walked) = captured.walk(&captured.image);
        assert_eq!(walked.end, stack_end::COMPLETE, "{}", captured.name);
        let names = named(&captured.image, &captured.layout(), &frames);
        assert_eq!(names, captured.expected, "{}", captured.name);
    }
}

#[test]
fn a_captured_stack_that_cannot_be_read_on_is_cut_there() {
    for captured in Captured::all() {
        let (frames, _) = captured.walk(&captured.image);
        let layout = captured.layout().frame_layout();
        let second = captured
            .image
            .read_u64(captured.innermost() + layout.previous)
            .expect("the link was captured");
        let mut cut = captured.image.clone();
        for address in second..second + layout.bytes {
            cut.0.remove(&address);
        }
        let (left, walked) = captured.walk(&cut);
        assert_eq!((left.len(), walked.end), (1, stack_end::FAULT), "{}", captured.name);
        assert_eq!(left[0], frames[0]);
    }
}

#[test]
fn a_captured_stack_whose_links_run_in_a_circle_ends_at_the_limit() {
    for captured in Captured::all() {
        let first = captured.innermost();
        let link = first + captured.layout().frame_layout().previous;
        let mut circle = captured.image.clone();
        circle.0.extend((link..).zip(first.to_le_bytes()));
        let (frames, walked) = captured.walk(&circle);
        assert_eq!(walked, Walked { depth: MAX_STEPS, end: stack_end::LIMIT });
        assert!(frames.iter().all(|frame| frame == &frames[0]));
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

fn capture_if_wanted() {
    if std::env::var_os("LEAKTRACE_CAPTURE").is_none() {
        return;
    }
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").expect("there is a home")).join(".pyenv")
    });
    for entry in std::fs::read_dir(root.join("versions")).expect("pyenv is there") {
        let path = entry.expect("it can be listed").path();
        let version = path.file_name().expect("a name").to_string_lossy().into_owned();
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
        if version.starts_with("3.") && (8..=13).contains(&minor) {
            for (case, arguments) in CASES {
                capture(&path.join("bin/python3"), minor, case, arguments);
            }
        }
    }
}

fn capture(python: &Path, minor: u8, case: &str, arguments: &[&str]) {
    let script = std::env::temp_dir().join("stack.py");
    std::fs::write(&script, SCRIPT).expect("a temporary file can be written");
    let child = Command::new(python)
        .args(["-I", "stack.py", case])
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut child = Script(child);
    let pid = child.0.id();
    let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("the script prints").expect("it is text");
    let pointer: u64 = next().parse().expect("a number");
    let mut expected: Vec<String> =
        std::iter::from_fn(|| Some(next()).filter(|line| line != "end")).collect();
    // While it waits, the innermost function stands on the line that prints.
    let waits =
        SCRIPT.lines().position(|line| line.contains("sys.stdin.read()")).expect("it is there") + 1;
    let rest = expected[0].split_once(' ').expect("a line has a number").1.to_owned();
    expected[0] = format!("{waits} {rest}");
    std::thread::sleep(std::time::Duration::from_millis(100));
    let layout = Layout::for_version(3, minor).expect("the version is supported");
    let module = Module::find(pid).expect("it is a CPython");
    let runtime = module.symbol("_PyRuntime").expect("it is exported");
    let memory = ProcessMemory::open(pid).expect("it is our child");
    let threads = Runtime::read(&memory, &layout, runtime).expect("it runs").threads;
    let state = threads.iter().find(|thread| thread.pointer == pointer).expect("it is known").state;
    let recorder = Recorder { memory, read: RefCell::default() };
    let frames = frames_of(&recorder, &layout, state, pointer);
    assert_eq!(named(&recorder, &layout, &frames), expected, "{case} of {}", python.display());
    let image = recorder.read.into_inner();
    write(
        &folder().join(format!("cpython-3.{minor}-{case}.json")),
        minor,
        pointer,
        state,
        &image,
        &expected,
    );
}

/// As [`walk_from`], for a thread state whose address stands nowhere in the target.
fn frames_of(recorder: &Recorder, layout: &Layout, state: u64, pointer: u64) -> Vec<Frame> {
    struct WithPointer<'a>(&'a Recorder, u64);
    impl ReadMemory for WithPointer<'_> {
        fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            if address == POINTER {
                buffer.copy_from_slice(&self.1.to_le_bytes());
                return Ok(());
            }
            self.0.read_bytes(address, buffer)
        }
    }
    walk_from(&WithPointer(recorder, state), layout, POINTER, pointer).0
}

fn write(file: &Path, minor: u8, pointer: u64, state: u64, image: &Image, expected: &[String]) {
    let mut ranges: Vec<(u64, String)> = vec![(POINTER, hex(&state.to_le_bytes()))];
    let mut end = None;
    for (&address, &byte) in &image.0 {
        if end != Some(address) {
            ranges.push((address, String::new()));
        }
        let last = ranges.last_mut().expect("one was pushed");
        last.1 += &hex(&[byte]);
        end = address.checked_add(1);
    }
    let memory: serde_json::Map<String, Value> =
        ranges.into_iter().map(|(address, bytes)| (format!("{address:x}"), bytes.into())).collect();
    let value =
        json!({ "minor": minor, "thread": pointer, "expected": expected, "memory": memory });
    let text = serde_json::to_string_pretty(&value).expect("it is plain");
    std::fs::create_dir_all(folder()).expect("the folder can be made");
    std::fs::write(file, text + "\n").expect("the image can be written");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
