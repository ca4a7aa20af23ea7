//! What a probe on the exported symbols sees: the kernel's own count of uprobe hits, without leaktrace.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use leaktrace::target::module::Module;

const TRACING: &str = "/sys/kernel/tracing";

/// The functions by which programs allocate, as every tracer that goes by symbols would probe them.
const SYMBOLS: [&str; 6] = [
    "PyObject_Malloc",
    "PyObject_Calloc",
    "PyObject_Realloc",
    "PyMem_Malloc",
    "PyMem_Calloc",
    "PyMem_Realloc",
];

/// Uprobes on the exported allocation functions of one interpreter. Removed when it is dropped.
#[derive(Debug)]
pub struct SymbolProbes {
    group: String,
}

impl SymbolProbes {
    /// Puts them on the interpreter of `pid`; `None` where tracefs is not there.
    ///
    /// # Panics
    /// The interpreter cannot be found.
    #[must_use]
    pub fn attach(pid: u32) -> Option<Self> {
        if !Path::new(TRACING).join("uprobe_events").exists() {
            return None;
        }
        let module = Module::find(pid).expect("the target is a CPython");
        let probes = Self { group: format!("leaktrace_test_{pid}") };
        for symbol in SYMBOLS {
            let address = module.symbol(symbol).expect("CPython exports it");
            let offset = module.file_offset_of(address).expect("it is in the file");
            let file = fs::canonicalize(module.path()).expect("the file is there");
            append(
                "uprobe_events",
                &format!("p:{}/{symbol} {}:{offset:#x}", probes.group, file.display()),
            );
        }
        fs::write(format!("{TRACING}/events/{}/enable", probes.group), "1").expect("it can be on");
        Some(probes)
    }

    /// Hits so far.
    ///
    /// # Panics
    /// The kernel does not say.
    #[must_use]
    pub fn hits(&self) -> u64 {
        let profile = fs::read_to_string(format!("{TRACING}/uprobe_profile")).expect("it says");
        let wanted = |name: &str| SYMBOLS.contains(&name);
        profile
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next().filter(|name| wanted(name))?;
                words.next()?.parse::<u64>().ok()
            })
            .sum()
    }
}

impl Drop for SymbolProbes {
    fn drop(&mut self) {
        // What is not there any more need not be removed.
        let _ = fs::write(format!("{TRACING}/events/{}/enable", self.group), "0");
        for symbol in SYMBOLS {
            append("uprobe_events", &format!("-:{}/{symbol}", self.group));
        }
    }
}

fn append(file: &str, line: &str) {
    let path = format!("{TRACING}/{file}");
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("tracefs can be written");
    writeln!(file, "{line}").unwrap_or_else(|error| panic!("{line} > {path}: {error}"));
}
