//! The document `leaktrace.report/1`, field by field. Only additions are allowed.
//!
//! What is not known is null. `*_pct` are percent, `*_fraction` and `confidence` 0 to 1, bytes and blocks integers,
//! times seconds; `low` and `high` bound 95 %.

use serde::Serialize;

/// The name and version of the document.
pub const SCHEMA: &str = "leaktrace.report/1";

/// A report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The version of leaktrace.
    pub leaktrace: &'static str,
    /// The process.
    pub target: Target,
    /// The trace.
    pub session: Session,
    /// The process's memory.
    pub memory: Memory,
    /// Every site, the worst first.
    pub sites: Vec<Site>,
    /// What the kernel side counted, where not zero.
    pub counters: Vec<Counter>,
    /// What the reader should know, in sentences.
    pub warnings: Vec<String>,
}

/// The traced process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Target {
    /// Its pid, as the host numbers it.
    pub pid: u32,
    /// Its program.
    pub exe: Option<String>,
    /// Its command line, without secrets; null where it was not to be told.
    pub cmdline: Option<Vec<String>>,
    /// Version of CPython.
    pub python: Option<String>,
    /// Build id of the module that holds the interpreter.
    pub build_id: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<String>,
}

/// How it was traced.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Seconds.
    pub duration_s: f64,
    /// `exact` or `budget`.
    pub mode: &'static str,
    /// The budget, in budget mode.
    pub budget_pct: Option<f64>,
    /// Estimated share of the target's time spent in traps; within a budget of the time in which it did not wait for a
    /// processor.
    pub overhead_pct: Option<f64>,
    /// That time in seconds. Not part of the document.
    #[serde(skip)]
    pub overhead_s: Option<f64>,
    /// Share of the time in which events were taken.
    pub traced_fraction: Option<f64>,
    /// Estimated share of the allocations that were seen.
    pub allocations_fraction: Option<f64>,
    /// `nop`, `endbr`, `entry` or `off`.
    pub gate: &'static str,
    /// Share of the allocator's functions whose calls can be seen.
    pub coverage_pct: Option<f64>,
    /// The functions of the allocator tables, and how their calls are seen.
    pub functions: Vec<Function>,
    /// `duration`, `signal`, `target_exited`, `target_exec` or `lost`.
    pub end: &'static str,
    /// How the process ended, where leaktrace started it and the trace lasted until then.
    pub exit_status: Option<ExitStatus>,
    /// Blocks handed out, as seen.
    pub allocations_seen: u64,
    /// Blocks given back, as seen.
    pub frees_seen: u64,
    /// Of these, blocks that no site knows.
    pub frees_of_older_blocks: u64,
    /// Events that were lost.
    pub events_lost: u64,
    /// Windows that stayed open for too long.
    pub window_overruns: u64,
    /// What closes a window that does, whatever becomes of leaktrace: `kernel` or `guard`; null where there are none.
    pub window_closer: Option<&'static str>,
    /// Whether the numbers of blocks of the raw domain, those over 512 bytes among them, are counts (`exact`) or estimates
    /// (`sampled`).
    pub raw_blocks: &'static str,
    /// Share of the heap's true growth that the sites explain.
    pub heap_growth_explained_pct: Option<f64>,
    /// Seconds from the last count of the heap that the numbers rest on to the end: 0 where that was at the end, more where
    /// the target was gone by then; null where they rest on none.
    pub census_age_s: Option<f64>,
    /// What the trace could verify of itself; null where nothing was traced.
    pub self_check: Option<SelfCheck>,
    /// Processes with a copy of its memory that it made meanwhile, or that these made; null where they are not noticed.
    pub children_seen: Option<u64>,
    /// Of these, those whose copy of the gate was closed; the others ended or ran another program first, or a warning
    /// names them.
    pub children_closed: Option<u64>,
}

/// A function of the allocator tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Function {
    /// `malloc`, `calloc`, `realloc` or `free`.
    pub name: &'static str,
    /// The tables that it stands in: `raw`, `mem`, `obj`.
    pub tables: Vec<&'static str>,
    /// How its calls are seen: `nop`, `endbr` or `entry`; null where they are not.
    pub seen: Option<&'static str>,
}

/// How a process ended: one of the two is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExitStatus {
    /// Its exit code.
    pub code: Option<i32>,
    /// The number of the signal that killed it.
    pub signal: Option<i32>,
}

/// What a trace could verify of itself on the live process.
#[derive(Clone, Debug, Serialize)]
pub struct SelfCheck {
    /// Whether the data show the allocator tables that the code led to: `agree` or `unchecked`.
    pub tables: &'static str,
    /// Whether predicted blocks were those handed out: `right`, `wrong`, `unproven` (too few were compared), or `none`
    /// where nothing is predicted.
    pub predictions: &'static str,
    /// Percent of the stacks that were read and named in full. Frames of code that was freed before its name could be
    /// read, which are `?`, are no fault of the build, and do not count against a stack.
    pub stacks_pct: Option<f64>,
    /// How pymalloc's blocks were counted: `exact`, `partial` (some pools could not be read), `sampled` (the target was
    /// gone in the end, and the last count before was of some of its pools) or `none`.
    pub census: &'static str,
}

/// The process's memory, in bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident at the start.
    pub rss_start: Option<u64>,
    /// Resident at the end.
    pub rss_end: Option<u64>,
    /// In live pymalloc blocks at the start.
    pub pymalloc_live_start: Option<u64>,
    /// In live pymalloc blocks at the end.
    pub pymalloc_live_end: Option<u64>,
    /// In pymalloc's arenas at the end.
    pub pymalloc_held_end: Option<u64>,
    /// What pymalloc's heap held over time, at most 300 counts of it; null where it cannot be counted.
    pub pymalloc_series: Option<Vec<HeapCount>>,
    /// The limit of its cgroup.
    pub limit_bytes: Option<u64>,
    /// Seconds until that limit is hit.
    pub time_to_limit_s: Option<f64>,
    /// Where the memory is.
    pub breakdown: Option<Breakdown>,
}

/// A count of pymalloc's heap, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HeapCount {
    /// Seconds since the start.
    pub at_s: f64,
    /// In live blocks, rounded up to their size classes; estimated where some of the pools were counted alone.
    pub live_bytes: u64,
    /// The low end of the 95 % interval of an estimate; null where all pools were counted.
    pub low: Option<u64>,
    /// The high end.
    pub high: Option<u64>,
    /// In arenas.
    pub held_bytes: u64,
}

/// Where the memory is, in bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Breakdown {
    /// Live Python blocks.
    pub python_live: Option<u64>,
    /// Held by pymalloc, but free.
    pub pymalloc_free: Option<u64>,
    /// The C library's heap and native code's own.
    pub raw_native: Option<u64>,
    /// Mapped files.
    pub file_backed: Option<u64>,
    /// The rest.
    pub other: Option<u64>,
}

/// One (stack, domain).
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// 16 hex digits, the same for the same code everywhere.
    pub id: String,
    /// `leaking`, `growing`, `sawtooth`, `plateaued` or `stable`.
    pub verdict: &'static str,
    /// Whether it was seen for long enough to judge it. Not part of the document.
    #[serde(skip)]
    pub judged: bool,
    /// How sure the verdict is.
    pub confidence: Option<f64>,
    /// Why, in sentences.
    pub evidence: Vec<String>,
    /// The shape of its series.
    pub pattern: Option<String>,
    /// Growth of its live bytes.
    pub growth_bytes_per_s: Option<Growth>,
    /// Growth of its live blocks.
    pub growth_blocks_per_s: Option<f64>,
    /// Requested bytes of the blocks that live.
    pub live_bytes: u64,
    /// Blocks that live.
    pub live_blocks: u64,
    /// Requested bytes of all births.
    pub allocated_bytes: u64,
    /// Requested bytes of all deaths.
    pub freed_bytes: u64,
    /// Births.
    pub allocations: u64,
    /// Deaths.
    pub frees: u64,
    /// Blocks whose birth was seen.
    pub sampled_blocks: u64,
    /// `obj`, `mem`, `raw` or `native`.
    pub domain: &'static str,
    /// What the live blocks are.
    pub types: Option<Vec<TypeShare>>,
    /// Ages of the blocks live at the end.
    pub age_s: Option<Seconds>,
    /// Sizes of all births.
    pub size_bytes: Option<Bytes>,
    /// Innermost first.
    pub stack: Vec<Frame>,
    /// Whether outer frames are missing.
    pub stack_truncated: bool,
    /// Seconds since the start, live bytes; at most 300 of them, the last at the end.
    pub series: Vec<(f64, u64)>,
}

/// A rate with its 95 % interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// The best guess.
    pub estimate: f64,
    /// The low end.
    pub low: f64,
    /// The high end.
    pub high: f64,
}

/// What blocks without an object are called: the items of lists, the tables of dicts and sets, buffers, and whatever else
/// is memory of an object that lies elsewhere.
pub const NO_OBJECT: &str = "(no object)";

/// What blocks are called of which it cannot be told what they hold: they are swapped out, or cannot be read.
pub const UNKNOWN_TYPE: &str = "(unknown)";

/// One type of the live blocks.
#[derive(Clone, Debug, Serialize)]
pub struct TypeShare {
    /// Its name, with its module where that is not `builtins`; or [`NO_OBJECT`] or [`UNKNOWN_TYPE`].
    pub name: String,
    /// How many blocks.
    pub blocks: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Quantiles of ages.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Seconds {
    /// The median.
    pub p50: f64,
    /// The ninth decile.
    pub p90: f64,
    /// The largest.
    pub max: f64,
}

/// Quantiles of sizes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bytes {
    /// The median.
    pub p50: u64,
    /// The ninth decile.
    pub p90: u64,
    /// The largest.
    pub max: u64,
}

/// One Python frame.
#[derive(Clone, Debug, Serialize)]
pub struct Frame {
    /// `co_qualname`, or `co_name` before 3.11.
    pub function: String,
    /// `co_filename` as it stands.
    pub file: String,
    /// The line.
    pub line: Option<u32>,
    /// The installed package the file belongs to by its path, `stdlib`, or null for the application's own.
    pub package: Option<String>,
}

/// One way in which the kernel side failed or dropped something.
#[derive(Clone, Debug, Serialize)]
pub struct Counter {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// How often.
    pub count: u64,
    /// The end of a sentence that begins with the count.
    pub text: &'static str,
}
