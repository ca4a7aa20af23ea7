//! Whose a block is: the other half of what a site is keyed by, beside its stack.

use leaktrace_common::event;

/// Whose block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// pymalloc's: objects and their small buffers.
    Obj,
    /// The `mem` domain, where it can be told apart.
    Mem,
    /// The C library's, by way of Python: also every block over 512 bytes.
    Raw,
    /// Native code's own.
    Native,
}

impl Domain {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// The domain of an event. A number that is not known can only come from a newer kernel side; it is taken for raw,
    /// which promises least.
    #[must_use]
    pub const fn of_event(number: u16) -> Self {
        match number {
            event::domain::OBJ => Self::Obj,
            _ => Self::Raw,
        }
    }

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Obj => "obj",
            Self::Mem => "mem",
            Self::Raw => "raw",
            Self::Native => "native",
        }
    }
}
