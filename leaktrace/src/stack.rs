//! A Python stack as people read it: what the target's memory gave, and what sites are told apart by.

use std::sync::Arc;

/// One line of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// `co_qualname`; `co_name` before 3.11.
    pub function: Arc<str>,
    /// `co_filename`, as it stands.
    pub file: Arc<str>,
    /// The line that runs; `None` where its instruction has none, or where it is not known.
    pub line: Option<u32>,
}

/// A stack, innermost frame first. The default is the stack of code that runs outside of Python.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The frames; none where no Python function ran.
    pub frames: Arc<[Frame]>,
    /// Whether the outermost frames are missing.
    pub truncated: bool,
}
