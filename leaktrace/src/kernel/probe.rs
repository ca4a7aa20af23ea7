//! The names of the BPF programs.

/// The programs, by where they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// Entry of `malloc` of the obj and mem tables.
    ObjMalloc,
    /// Entry of their `calloc`.
    ObjCalloc,
    /// Entry of their `realloc`.
    ObjRealloc,
    /// Entry of their `free`.
    ObjFree,
    /// Return of their `malloc`, `calloc`, `realloc`.
    ObjReturn,
    /// Entry of `malloc` of the raw table.
    RawMalloc,
    /// Entry of its `calloc`.
    RawCalloc,
    /// Entry of its `realloc`.
    RawRealloc,
    /// Entry of its `free`.
    RawFree,
    /// Return of its `malloc`, `calloc`, `realloc`.
    RawReturn,
    /// The empty program that times a hit.
    Calibrate,
}

impl Probe {
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::ObjMalloc,
        Self::ObjCalloc,
        Self::ObjRealloc,
        Self::ObjFree,
        Self::ObjReturn,
        Self::RawMalloc,
        Self::RawCalloc,
        Self::RawRealloc,
        Self::RawFree,
        Self::RawReturn,
        Self::Calibrate,
    ];

    /// Those that the target's calls run.
    pub fn of_targets() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|&probe| probe != Self::Calibrate)
    }

    /// The program's name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ObjMalloc => "obj_malloc",
            Self::ObjCalloc => "obj_calloc",
            Self::ObjRealloc => "obj_realloc",
            Self::ObjFree => "obj_free",
            Self::ObjReturn => "obj_return",
            Self::RawMalloc => "raw_malloc",
            Self::RawCalloc => "raw_calloc",
            Self::RawRealloc => "raw_realloc",
            Self::RawFree => "raw_free",
            Self::RawReturn => "raw_return",
            Self::Calibrate => "calibrate",
        }
    }

    /// Whether it is one of the raw table's functions.
    #[must_use]
    pub const fn is_raw(self) -> bool {
        matches!(
            self,
            Self::RawMalloc | Self::RawCalloc | Self::RawRealloc | Self::RawFree | Self::RawReturn
        )
    }

    /// Whether it sits on returns.
    #[must_use]
    pub const fn is_return(self) -> bool {
        matches!(self, Self::ObjReturn | Self::RawReturn)
    }
}
