//! From a pid to everything that must be known of its interpreter before it can be traced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leaktrace_common::config::Config;
use leaktrace_common::layout::{
    PymallocLayout, THREAD_NONE, THREAD_POINTER, THREAD_TLS, THREAD_VECTOR, ThreadLayout,
};

use super::{SessionError, children, guess};
use procfs::Current as _;

use crate::cpython::layout::Layout;
use crate::cpython::root::Root;
use crate::cpython::runtime::Runtime;
use crate::cpython::tables::{self, AllocatorTables};
use crate::cpython::thread_source::Place;
use crate::cpython::version::{self, Version};
use crate::cpython::{description, obmalloc, thread_source, usedpools};
use crate::kernel::features::Kernel;
use crate::target::maps;
use crate::target::memory::ProcessMemory;
use crate::target::module::Module;
use crate::target::process::{Process, ProcessError};

/// How long a program that was just started may take until its interpreter is there.
pub(super) const STARTING: Duration = Duration::from_secs(5);

/// How often either is looked for meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// A CPython process, recognised.
#[derive(Debug)]
pub struct Target {
    /// The process.
    pub process: Process,
    /// The module that holds its interpreter.
    pub module: Module,
    /// Its memory.
    pub memory: Arc<ProcessMemory>,
    /// Its version.
    pub version: Version,
    /// Where its structures keep what.
    pub layout: Layout,
    /// What leads to its interpreters.
    pub root: Root,
    /// Its allocator tables.
    pub tables: AllocatorTables,
    /// How the kernel side finds the thread state.
    pub thread: ThreadLayout,
    /// How the kernel side predicts blocks; `usedpools` is 0 where it cannot.
    pub pymalloc: PymallocLayout,
    /// What the user should know of this process.
    pub warnings: Vec<String>,
}

impl Target {
    /// Recognises `pid`. One that was started less than five seconds ago and has no interpreter yet is waited for.
    ///
    /// # Errors
    /// [`SessionError`] says what it is instead, or what is missing.
    pub async fn recognise(pid: u32) -> Result<Self, SessionError> {
        let process = Process::open(pid)?;
        let started = Instant::now();
        let young = STARTING.saturating_sub(age(&process));
        loop {
            let error = match Self::inspect(pid) {
                Ok(target) => return Ok(target),
                Err(error) => error,
            };
            // A CPython without an interpreter is just starting, or its lists changed while they were read.
            let patience = if error.may_pass() { STARTING } else { young };
            if !process.is_alive() || started.elapsed() >= patience {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn inspect(pid: u32) -> Result<Self, SessionError> {
        let process = Process::open(pid)?;
        let module = Module::find(pid)?;
        let memory =
            ProcessMemory::open(pid).map_err(|cause| SessionError::Memory { pid, cause })?;
        let version = version::find(&module, &memory)?;
        let root =
            Root::find(&module, &version).map_err(|cause| SessionError::NoRoot { pid, cause })?;
        let layout = description::layout(&memory, root, &version)?;
        // All was opened by number: it is the same process as long as the first one to be opened lives.
        if !process.is_alive() {
            return Err(ProcessError::NoSuchProcess { pid }.into());
        }
        let interpreters = Runtime::read(&memory, &layout, root)
            .ok_or_else(|| SessionError::NoInterpreter { pid, version: version.clone() })?;
        let tables = tables::find(&module, &memory, &version)?;
        let mut warnings = Vec::new();
        let thread = thread_layout(&module, &memory, &layout, root, &interpreters, &mut warnings);
        if layout.is_guess {
            let missing = guess::missing(&memory, &layout, &interpreters, &thread);
            if let Some(missing) = missing {
                return Err(SessionError::Unproven { pid, version, missing });
            }
        }
        warnings.extend(caution(&version, &layout));
        let mut pymalloc = PymallocLayout::default();
        if !layout.is_guess && serves_from_pools(&tables, &module) {
            match pools(&module, &memory, &layout, &version, interpreters.main) {
                Ok(known) => pymalloc = known,
                Err(reason) => warnings.push(format!(
                    "blocks are not predicted but awaited, at a higher cost to the target: {reason}"
                )),
            }
        }
        let memory = Arc::new(memory);
        Ok(Self {
            process,
            module,
            memory,
            version,
            layout,
            root,
            tables,
            thread,
            pymalloc,
            warnings,
        })
    }

    /// What the kernel side needs to know. `record_at_obj` and `windows` as in [`Config`].
    #[must_use]
    pub fn config(&self, kernel: &Kernel, record_at_obj: bool, windows: u64) -> Config {
        Config {
            tgid: if in_initial_pid_namespace() { u64::from(self.process.pid()) } else { 0 },
            fsbase: kernel.fsbase,
            record_at_obj: u64::from(record_at_obj),
            windows,
            thread: self.thread,
            frame: self.layout.frame_layout(),
            pymalloc: self.pymalloc,
            forks: children::how_to_notice(kernel, &self.process),
        }
    }
}

/// Names of libraries that replace the C library's `malloc`.
const OTHER_ALLOCATORS: [&str; 3] = ["jemalloc", "tcmalloc", "mimalloc"];

impl Target {
    /// Whether its C library is glibc, and nothing that is known stands in for its `malloc`.
    #[must_use]
    pub fn has_glibc_heap(&self) -> bool {
        let mappings = maps::read(self.process.pid()).unwrap_or_default();
        let has = |text: &str| {
            let named = |map: &maps::Mapping| {
                map.path.rsplit('/').next().is_some_and(|name| name.contains(text))
            };
            mappings.iter().any(named)
        };
        (has("libc.so.6") || has("libc-2.")) && !OTHER_ALLOCATORS.iter().any(|name| has(name))
    }
}

/// How long ago a process was started; long ago where that cannot be told.
pub(super) fn age(process: &Process) -> Duration {
    let uptime = procfs::Uptime::current().map_or(Duration::MAX, |uptime| uptime.uptime_duration());
    let started = process.started_ticks() as f64 / procfs::ticks_per_second() as f64;
    uptime.saturating_sub(Duration::try_from_secs_f64(started).unwrap_or_default())
}

/// Whether pids here are those that BPF programs see. The number is `PROC_PID_INIT_INO` of the kernel's
/// `include/linux/proc_ns.h`.
fn in_initial_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

/// What is less than usual about the build.
fn caution(version: &Version, layout: &Layout) -> Option<String> {
    if layout.is_guess {
        return Some(format!(
            "leaktrace does not know CPython {version} yet: it goes by what that says of its own structures. Stacks \
             were checked on this process; blocks are awaited, at a higher cost to the target, and nothing counts the \
             heap"
        ));
    }
    layout.free_threaded.then(|| {
        "a free-threaded build: blocks are awaited, at a higher cost to the target, and nothing counts the heap"
            .to_owned()
    })
}

/// Where the interpreters' pools are.
fn pools(
    module: &Module,
    memory: &ProcessMemory,
    layout: &Layout,
    version: &Version,
    main: u64,
) -> Result<PymallocLayout, usedpools::Reason> {
    let found = usedpools::find(module, memory, version)?;
    let known = obmalloc::places(memory, layout, main, found);
    known.ok_or(usedpools::Reason::UnknownClasses)
}

fn thread_layout(
    module: &Module,
    memory: &ProcessMemory,
    layout: &Layout,
    root: Root,
    interpreters: &Runtime,
    warnings: &mut Vec<String>,
) -> ThreadLayout {
    let known = layout.thread_layout();
    if let Some(location) = root.current(layout) {
        return ThreadLayout { source: THREAD_POINTER, location, ..known };
    }
    match thread_source::place(module, memory, &interpreters.threads) {
        Ok(Place::Offset(offset)) => {
            ThreadLayout { source: THREAD_TLS, location: offset.cast_unsigned(), ..known }
        }
        Ok(Place::Vector { entry, inside }) => {
            ThreadLayout { source: THREAD_VECTOR, location: inside, vector_entry: entry, ..known }
        }
        Err(reason) => {
            warnings.push(format!("no Python stacks: {reason}"));
            ThreadLayout { source: THREAD_NONE, ..known }
        }
    }
}

/// Whether what the obj and mem gates are asked for is what pymalloc is asked for: hooks ask it for more, and
/// `PYTHONMALLOC=malloc` does not ask it at all.
fn serves_from_pools(tables: &AllocatorTables, module: &Module) -> bool {
    tables.obj.all_plain(module)
        && tables.obj.functions() == tables.mem.functions()
        && tables.obj.malloc != tables.raw.malloc
}
