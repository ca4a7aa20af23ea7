//! The configuration that userspace writes into read-only data before the programs are loaded.
//!
//! Every field is read by itself, and volatile: the compiler must not take the zeros of this file for the values, and
//! a copy of the whole would fill half of the BPF stack.

use leaktrace_common::config::{Config, Forks};
use leaktrace_common::layout::{FrameLayout, PymallocLayout, ThreadLayout};

/// Overwritten by the loader. The zeros are what the object file carries.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    tgid: 0,
    fsbase: 0,
    record_at_obj: 0,
    windows: 0,
    thread: ThreadLayout {
        source: 0,
        location: 0,
        vector_entry: 0,
        interp: 0,
        thread_id: 0,
        frame: 0,
        indirect: 0,
        cframe_current_frame: 0,
    },
    frame: FrameLayout {
        bytes: 0,
        previous: 0,
        code: 0,
        position: 0,
        owner: 0,
        first_shim_owner: 0,
        code_start: 0,
        lasti_unit: 0,
        code_tag: 0,
    },
    pymalloc: PymallocLayout {
        usedpools: 0,
        interpreter: 0,
        state: 0,
        used: 0,
        feature_flags: 0,
        pool_bytes: 0,
        pool_header: 0,
        class_shift: 0,
    },
    forks: Forks {
        tgid: 0,
        thread_pid: 0,
        level: 0,
        numbers: 0,
        number_bytes: 0,
        device: 0,
        inode: 0,
        pid: 0,
        depth: 0,
    },
};

macro_rules! load {
    ($($field:tt)+) => {
        // SAFETY: the reference is to a live static.
        unsafe { core::ptr::read_volatile(&raw const CONFIG.$($field)+) }
    };
}

/// The thread group to trace; 0 for any.
#[inline(always)]
pub(crate) fn tgid() -> u64 {
    load!(tgid)
}

/// Offset of `thread.fsbase` in `task_struct`.
#[inline(always)]
pub(crate) fn fsbase() -> u64 {
    load!(fsbase)
}

/// Whether all that is asked of the obj and mem tables is recorded there.
#[inline(always)]
pub(crate) fn record_at_obj() -> bool {
    load!(record_at_obj) != 0
}

/// Whether hits are counted, and close a gate that is open for too long: one of
/// [`windows`](leaktrace_common::config::windows).
#[inline(always)]
pub(crate) fn windows() -> u64 {
    load!(windows)
}

/// The layout of thread states.
#[inline(always)]
pub(crate) fn thread() -> ThreadLayout {
    ThreadLayout {
        source: load!(thread.source),
        location: load!(thread.location),
        vector_entry: load!(thread.vector_entry),
        interp: load!(thread.interp),
        thread_id: load!(thread.thread_id),
        frame: load!(thread.frame),
        indirect: load!(thread.indirect),
        cframe_current_frame: load!(thread.cframe_current_frame),
    }
}

/// The layout of frames.
#[inline(always)]
pub(crate) fn frame() -> FrameLayout {
    FrameLayout {
        bytes: load!(frame.bytes),
        previous: load!(frame.previous),
        code: load!(frame.code),
        position: load!(frame.position),
        owner: load!(frame.owner),
        first_shim_owner: load!(frame.first_shim_owner),
        code_start: load!(frame.code_start),
        lasti_unit: load!(frame.lasti_unit),
        code_tag: load!(frame.code_tag),
    }
}

/// The layout of pools.
#[inline(always)]
pub(crate) fn pymalloc() -> PymallocLayout {
    PymallocLayout {
        usedpools: load!(pymalloc.usedpools),
        interpreter: load!(pymalloc.interpreter),
        state: load!(pymalloc.state),
        used: load!(pymalloc.used),
        feature_flags: load!(pymalloc.feature_flags),
        pool_bytes: load!(pymalloc.pool_bytes),
        pool_header: load!(pymalloc.pool_header),
        class_shift: load!(pymalloc.class_shift),
    }
}

/// How forks are noticed.
#[inline(always)]
pub(crate) fn forks() -> Forks {
    Forks {
        tgid: load!(forks.tgid),
        thread_pid: load!(forks.thread_pid),
        level: load!(forks.level),
        numbers: load!(forks.numbers),
        number_bytes: load!(forks.number_bytes),
        device: load!(forks.device),
        inode: load!(forks.inode),
        pid: load!(forks.pid),
        depth: load!(forks.depth),
    }
}
