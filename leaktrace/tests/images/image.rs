//! Captured memory of interpreters, as it is kept in files: one for each minor version, a case for each shape of stack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leaktrace::cpython::code::CodeCache;
use leaktrace::cpython::layout::Layout;
use leaktrace::session::{Symbolizer, Walked as Record};
use leaktrace::stack::Stack;
use leaktrace::target::memory::ReadMemory;
use leaktrace_common::event::Frame;
use leaktrace_common::layout::{THREAD_POINTER, ThreadLayout};
use leaktrace_common::memory::{Fault, Memory};
use leaktrace_common::thread::{self, NoStack, Thread};
use leaktrace_common::unwind::{FrameSink, Walked, walk};
use serde_json::{Value, json};

/// Where an image keeps the address of its thread state.
pub(crate) const POINTER: u64 = 0x10;

/// Bytes, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image(pub(crate) BTreeMap<u64, u8>);

impl ReadMemory for Image {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        for (index, byte) in buffer.iter_mut().enumerate() {
            let address = address.checked_add(index as u64).ok_or(Fault)?;
            *byte = *self.0.get(&address).ok_or(Fault)?;
        }
        Ok(())
    }
}

impl Image {
    /// Takes out what lies in the page around an address.
    pub(crate) fn without_page_of(&self, address: u64) -> Self {
        const PAGE: u64 = 4096;
        let start = address / PAGE * PAGE;
        let mut image = self.clone();
        image.0.retain(|&at, _| !(start..start + PAGE).contains(&at));
        image
    }

    /// Puts a word at an address.
    pub(crate) fn with_word(&self, address: u64, word: u64) -> Self {
        let mut image = self.clone();
        image.0.extend((address..).zip(word.to_le_bytes()));
        image
    }

    fn from_json(value: &Value) -> Self {
        let mut image = Self::default();
        for (address, bytes) in value.as_object().expect("an object") {
            let start = u64::from_str_radix(address, 16).expect("hexadecimal");
            let digits = bytes.as_str().expect("text").as_bytes();
            let bytes = digits.as_chunks::<2>().0.iter().map(|pair| {
                let pair = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            });
            image.0.extend((start..).zip(bytes));
        }
        image
    }

    fn to_json(&self) -> Value {
        let mut ranges: Vec<(u64, String)> = Vec::new();
        let mut end = None;
        for (&address, &byte) in &self.0 {
            if end != Some(address) {
                ranges.push((address, String::new()));
            }
            let last = ranges.last_mut().expect("one was pushed");
            last.1 += &format!("{byte:02x}");
            end = address.checked_add(1);
        }
        let range = |(address, bytes)| (format!("{address:x}"), Value::String(bytes));
        Value::Object(ranges.into_iter().map(range).collect())
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
            *word = self.0.read_u64(address.wrapping_add(8 * index as u64))?;
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

/// The thread whose state the word at [`POINTER`] leads to.
pub(crate) fn thread<M: ReadMemory>(
    memory: &M,
    layout: &Layout,
    pointer: u64,
) -> Result<Thread, NoStack> {
    let layout =
        ThreadLayout { source: THREAD_POINTER, location: POINTER, ..layout.thread_layout() };
    thread::current(&Words(memory), &layout, pointer)
}

/// The walk that BPF runs, from the frame at `first`.
pub(crate) fn walk_from<M: ReadMemory>(
    memory: &M,
    layout: &Layout,
    first: u64,
) -> (Vec<Frame>, Walked) {
    let mut frames = Frames::default();
    let walked = walk(&Words(memory), &layout.frame_layout(), first, &mut frames);
    (frames.0, walked)
}

/// The names that the report would have for a walk, and percent of the stacks that were whole.
pub(crate) fn named<M: ReadMemory>(
    memory: &M,
    layout: &Layout,
    frames: &[Frame],
    walked: Walked,
) -> (Stack, Option<f64>) {
    let mut symbolizer = Symbolizer::new(CodeCache::new(layout.clone(), None, true));
    let record: Vec<u8> = frames.iter().flat_map(bytes).collect();
    let (id, at_ns, frees_seen, counts) = (1, 1, true, true);
    let end = walked.end;
    symbolizer.read(memory, Record { id, end, frames: &record, at_ns, frees_seen, counts });
    symbolizer.prove(true, 2);
    let (_, stack) = symbolizer.next_stack().expect("one was read");
    (stack, symbolizer.whole_pct())
}

/// A frame as a record holds it.
fn bytes(frame: &Frame) -> Vec<u8> {
    let Frame { code, offset, owner } = frame;
    [&code.to_le_bytes()[..], &offset.to_le_bytes(), &owner.to_le_bytes()].concat()
}

/// A stack as the goldens have it: line, function and file of each frame.
pub(crate) fn lines(stack: &Stack) -> Vec<String> {
    let line = |frame: &leaktrace::stack::Frame| {
        format!("{} {} {}", frame.line.unwrap_or(0), frame.function, frame.file)
    };
    stack.frames.iter().map(line).collect()
}

/// An image, and what the interpreter said of its own stack.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pub(crate) name: String,
    pub(crate) minor: u8,
    pub(crate) pointer: u64,
    pub(crate) image: Image,
    pub(crate) expected: Vec<String>,
}

impl Captured {
    /// All that are checked in.
    pub(crate) fn all() -> Vec<Self> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
            .expect("the images are checked in")
            .map(|entry| entry.expect("it can be listed").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        files.sort();
        files.iter().flat_map(|file| Self::read(file)).collect()
    }

    fn read(file: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(file).expect("an image can be read");
        let value: Value = serde_json::from_str(&text).expect("an image is JSON");
        let minor = value["minor"].as_u64().expect("a number") as u8;
        let cases = value["cases"].as_object().expect("an object");
        let case = |(name, case): (&String, &Value)| Self {
            name: format!("{name} of 3.{minor}"),
            minor,
            pointer: case["thread"].as_u64().expect("a number"),
            image: Image::from_json(&case["memory"]),
            expected: case["frames"]
                .as_array()
                .expect("an array")
                .iter()
                .map(|line| line.as_str().expect("text").to_owned())
                .collect(),
        };
        cases.iter().map(case).collect()
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::for_version(3, self.minor).expect("the version is supported")
    }

    /// Address of the innermost frame.
    pub(crate) fn innermost(&self) -> u64 {
        thread(&self.image, &self.layout(), self.pointer).expect("it was captured").frame
    }

    /// Addresses of all frames, innermost first.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let link = self.layout().frame_layout().previous;
        let (frames, _) = self.walk(&self.image);
        let outwards = |&address: &u64| self.image.read_u64(address + link).ok();
        std::iter::successors(Some(self.innermost()), outwards).take(frames.len()).collect()
    }

    pub(crate) fn walk(&self, image: &Image) -> (Vec<Frame>, Walked) {
        walk_from(image, &self.layout(), self.innermost())
    }
}

/// Writes the file of a version.
pub(crate) fn write(minor: u8, python: &str, cases: &[Captured]) {
    let case = |case: &Captured| {
        let memory = case.image.to_json();
        let value = json!({ "thread": case.pointer, "frames": case.expected, "memory": memory });
        (case.name.clone(), value)
    };
    let cases: serde_json::Map<String, Value> = cases.iter().map(case).collect();
    let value = json!({ "minor": minor, "python": python, "cases": cases });
    let text = serde_json::to_string_pretty(&value).expect("it is plain");
    let file = folder().join(format!("cpython-3.{minor}.json"));
    std::fs::write(file, text + "\n").expect("the image can be written");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}
