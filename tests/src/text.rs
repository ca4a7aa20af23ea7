//! The interpreter's code as it is in a process's memory.

use leaktrace::target::maps;
use leaktrace::target::memory::{ProcessMemory, ReadMemory as _};
use leaktrace::target::module::Module;

/// What the code of a process's interpreter is by itself.
#[derive(Debug)]
pub struct Text {
    start: u64,
    bytes: Vec<u8>,
}

impl Text {
    /// Reads that of `pid`, which nobody traces.
    ///
    /// # Panics
    /// It is no CPython.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let module = Module::find(pid).expect("the target is a CPython");
        let malloc = module.symbol("PyObject_Malloc").expect("every CPython has it");
        let mappings = maps::read(pid).expect("it has a map");
        let mapping = mappings.into_iter().find(|mapping| mapping.range.contains(&malloc));
        let range = mapping.expect("the function is mapped").range;
        let mut text =
            Self { start: range.start, bytes: vec![0; (range.end - range.start) as usize] };
        text.bytes = text.read(pid);
        text
    }

    /// How many bytes of it are different now: each is a breakpoint.
    ///
    /// # Panics
    /// The process is gone.
    #[must_use]
    pub fn breakpoints_in(&self, pid: u32) -> usize {
        self.read(pid).iter().zip(&self.bytes).filter(|(now, before)| now != before).count()
    }

    fn read(&self, pid: u32) -> Vec<u8> {
        let memory = ProcessMemory::open(pid).expect("its memory can be opened");
        let mut bytes = vec![0; self.bytes.len()];
        memory.read_bytes(self.start, &mut bytes).expect("code can be read");
        bytes
    }
}
