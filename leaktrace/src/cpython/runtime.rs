//! The interpreters of a process and their thread states.

use super::layout::Layout;
use super::root::Root;
use super::thread_source::KnownThread;
use crate::target::memory::ReadMemory;

/// Interpreters that are looked at; a process rarely has more than one.
const MAX_INTERPRETERS: usize = 64;

/// Thread states that are looked at.
const MAX_THREADS: usize = 4096;

/// The interpreters and thread states of a process, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Address of the main interpreter.
    pub main: u64,
    /// Addresses of all interpreters.
    pub interpreters: Vec<u64>,
    /// The thread states of all interpreters that a thread runs with.
    pub threads: Vec<KnownThread>,
}

impl Runtime {
    /// Reads what `root` leads to. `None` where there is no interpreter yet, or where what is found cannot be one: then
    /// the layout does not fit the process.
    #[must_use]
    pub fn read(memory: &impl ReadMemory, layout: &Layout, root: Root) -> Option<Self> {
        let head = memory.read_u64(root.head(layout)?).ok()?;
        let interpreters = chain(memory, head, layout.interpreter.next, MAX_INTERPRETERS)?;
        // New interpreters are put at the head of the list (`PyInterpreterState_New`).
        let main = match root.main(layout) {
            Some(main) => memory.read_u64(main).ok()?,
            None => interpreters.last().copied()?,
        };
        if main == 0 || !interpreters.contains(&main) {
            return None;
        }
        let mut threads = Vec::new();
        for &interpreter in &interpreters {
            threads.extend(threads_of(memory, layout, interpreter)?);
        }
        Some(Self { main, interpreters, threads })
    }
}

fn threads_of(
    memory: &impl ReadMemory,
    layout: &Layout,
    interpreter: u64,
) -> Option<Vec<KnownThread>> {
    let head = memory.read_u64(interpreter.wrapping_add(layout.interpreter.threads)).ok()?;
    let mut known = Vec::new();
    for state in chain(memory, head, layout.thread.next, MAX_THREADS)? {
        if memory.read_u64(state.wrapping_add(layout.thread.interp)).ok()? != interpreter {
            return None;
        }
        let pointer = memory.read_u64(state.wrapping_add(layout.thread.thread_id)).ok()?;
        // A thread state that was made for a thread that has not started yet has none.
        if pointer != 0 {
            known.push(KnownThread { pointer, state });
        }
    }
    Some(known)
}

/// The addresses along a list that ends with 0; `None` where it cannot be read or is longer than `most`.
fn chain(memory: &impl ReadMemory, head: u64, next: u64, most: usize) -> Option<Vec<u64>> {
    let mut addresses = Vec::new();
    let mut address = head;
    while address != 0 {
        if addresses.len() == most {
            return None;
        }
        addresses.push(address);
        address = memory.read_u64(address.wrapping_add(next)).ok()?;
    }
    Some(addresses)
}
