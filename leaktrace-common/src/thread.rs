//! From the thread pointer to the Python thread state and its innermost frame, over any [`Memory`].

use crate::layout::{THREAD_NONE, THREAD_TLS, ThreadLayout};
use crate::limits::THREAD_WORDS;
use crate::memory::{Memory, field};

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
/// # Errors
/// [`NoStack`] says why there is none.
#[inline(always)]
pub fn current<M: Memory>(
    memory: &M,
    layout: &ThreadLayout,
    fsbase: u64,
) -> Result<Thread, NoStack> {
    if layout.source == THREAD_NONE {
        return Err(NoStack::NoThread);
    }
    let location = if layout.source == THREAD_TLS {
        fsbase.wrapping_add(layout.location)
    } else {
        layout.location
    };
    let state = memory.word(location).map_err(|_| NoStack::Fault)?;
    if state == 0 {
        return Err(NoStack::NoThread);
    }
    let mut words = [0; THREAD_WORDS];
    memory.read(state, layout.bytes, &mut words).map_err(|_| NoStack::Fault)?;
    if field(&words, layout.thread_id) != fsbase {
        return Err(NoStack::Foreign);
    }
    let mut frame = field(&words, layout.frame);
    if layout.indirect != 0 && frame != 0 {
        frame = memory
            .word(frame.wrapping_add(layout.cframe_current_frame))
            .map_err(|_| NoStack::Fault)?;
    }
    Ok(Thread { interpreter: field(&words, layout.interp), frame })
}
