//! What a probe on the exported symbols sees: an empty program there, whose runs the kernel counts.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use leaktrace::kernel::{Probe, Programs, measure_runs};
use leaktrace::target::module::Module;
use leaktrace_common::config::Config;

/// The functions by which programs allocate, as every tracer that goes by symbols would probe them.
const SYMBOLS: [&str; 6] = [
    "PyObject_Malloc",
    "PyObject_Calloc",
    "PyObject_Realloc",
    "PyMem_Malloc",
    "PyMem_Calloc",
    "PyMem_Realloc",
];

/// Probes on the exported allocation functions of one process.
pub struct SymbolProbes {
    programs: Programs,
    _counting: OwnedFd,
}

impl SymbolProbes {
    /// Puts them on the interpreter of `pid`.
    ///
    /// # Panics
    /// The interpreter cannot be found or probed.
    #[must_use]
    pub fn attach(pid: u32) -> Self {
        let module = Module::find(pid).expect("the target is a CPython");
        let mut programs = Programs::load(&Config::default(), false).expect("BPF is there");
        let pid = NonZeroU32::new(pid).expect("pids are positive");
        for symbol in SYMBOLS {
            let address = module.symbol(symbol).expect("CPython exports it");
            let offset = module.file_offset_of(address).expect("it is in the file");
            programs
                .attach(Probe::Calibrate, module.map_file(), offset, pid)
                .expect("a function's entry can be probed");
        }
        Self { programs, _counting: measure_runs().expect("the kernel counts runs") }
    }

    /// Hits so far.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.programs.runs(Probe::Calibrate).count
    }
}
