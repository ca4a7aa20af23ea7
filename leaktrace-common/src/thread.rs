//! From the thread pointer to the Python thread state and its innermost frame, over any [`Memory`].

use crate::layout::{DYNAMIC_THREAD_VECTOR, THREAD_NONE, THREAD_TLS, THREAD_VECTOR, ThreadLayout};
use crate::memory::Memory;

/// Why a thread has no Python stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStack {
    /// There is no current thread state.
    NoThread,
    /// The current thread state is another thread's: this one does not hold the GIL.
    Foreign,
    /// The thread state could not be read.
    Fault,
}

/// A thread state, read for the thread that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Address of its interpreter.
    pub interpreter: u64,
    /// Address of its innermost frame; 0 where no Python function runs.
    pub frame: u64,
}

/// Reads the thread state of the thread whose thread pointer is `fsbase`.
///
/// A thread-local thread state is the thread's own, and 0 while it does not hold the GIL. The one that a word of the
/// runtime names is the holder's, and its `thread_id` tells whether that is this thread. So it is asked of one that was
/// found by a vector: that of a thread which began before the library was loaded may be too short to have its block.
///
/// # Errors
/// [`NoStack`] says why there is none.
#[inline(always)]
pub fn current<M: Memory>(
    memory: &M,
    layout: &ThreadLayout,
    fsbase: u64,
) -> Result<Thread, NoStack> {
    let state = found(memory, layout, fsbase)?;
    if layout.source != THREAD_TLS && word(memory, state, layout.thread_id)? != fsbase {
        return Err(NoStack::Foreign);
    }
    follow(memory, layout, state)
}

/// As [`current`], for a thread that must hold the GIL in what it does. Of such a thread `thread_id` is not asked: up to
/// 3.12 a sub-interpreter may run on another thread than the one that made its thread state.
///
/// # Errors
/// [`NoStack`] says why there is none.
#[inline(always)]
pub fn gil_holder<M: Memory>(
    memory: &M,
    layout: &ThreadLayout,
    fsbase: u64,
) -> Result<Thread, NoStack> {
    let state = found(memory, layout, fsbase)?;
    follow(memory, layout, state)
}

/// The address of the current thread state.
#[inline(always)]
fn found<M: Memory>(memory: &M, layout: &ThreadLayout, fsbase: u64) -> Result<u64, NoStack> {
    if layout.source == THREAD_NONE {
        return Err(NoStack::NoThread);
    }
    let base = match layout.source {
        THREAD_TLS => fsbase,
        THREAD_VECTOR => block(memory, layout, fsbase)?,
        _ => 0,
    };
    let state = word(memory, base, layout.location)?;
    if state == 0 { Err(NoStack::NoThread) } else { Ok(state) }
}

/// The thread's block of the interpreter's library.
#[inline(always)]
fn block<M: Memory>(memory: &M, layout: &ThreadLayout, fsbase: u64) -> Result<u64, NoStack> {
    let vector = word(memory, fsbase, DYNAMIC_THREAD_VECTOR)?;
    let block = word(memory, vector, layout.vector_entry)?;
    // Both stand for a block that this thread has not asked for yet.
    if block == 0 || block == u64::MAX { Err(NoStack::NoThread) } else { Ok(block) }
}

#[inline(always)]
fn follow<M: Memory>(memory: &M, layout: &ThreadLayout, state: u64) -> Result<Thread, NoStack> {
    let mut frame = word(memory, state, layout.frame)?;
    if layout.indirect != 0 && frame != 0 {
        frame = word(memory, frame, layout.cframe_current_frame)?;
    }
    Ok(Thread { interpreter: word(memory, state, layout.interp)?, frame })
}

#[inline(always)]
fn word<M: Memory>(memory: &M, base: u64, offset: u64) -> Result<u64, NoStack> {
    memory.word(base.wrapping_add(offset)).map_err(|_fault| NoStack::Fault)
}
