//! Windows: spells in which the gate is open, and what ends one of them in the kernel.
//!
//! The functions of a target's tables form channels, each with a gate of its own. Userspace says until when, and until
//! which hit, a channel may be open. The hit that comes too late, or is one too many, closes the gate: it runs in the
//! target, whatever has become of leaktrace.

/// Slots of one channel at most: three tables of four functions.
pub const SLOTS: usize = 12;

/// Indices of channels.
pub mod channel {
    /// Functions of the obj and mem tables that are not also raw ones.
    pub const OBJ: u32 = 0;
    /// Functions of the raw table, and whatever they serve beside it.
    pub const RAW: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// How far a channel may be open. Hits are counted from the loading of the programs on: see [`Passed`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Tells one window from the next; never 0.
    pub id: u64,
    /// When allocations are closed, in nanoseconds of `CLOCK_MONOTONIC`.
    pub allocations_until_ns: u64,
    /// The hit that closes allocations.
    pub allocations_until_hit: u64,
    /// When everything is closed. Not before allocations.
    pub until_ns: u64,
    /// The hit that closes everything.
    pub until_hit: u64,
}

/// What the programs have counted in a channel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Hits so far, in windows or not.
    pub hits: u64,
    /// When a hit closed allocations last; 0 before the first time.
    pub allocations_closed_ns: u64,
    /// When a hit closed everything last; 0 before the first time.
    pub closed_ns: u64,
    /// The window whose allocations a hit has closed last; 0 before the first.
    pub allocations_closed: u64,
    /// The window that a hit has closed last; 0 before the first.
    pub closed: u64,
}

/// One pointer of one table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateSlot {
    /// Its address.
    pub address: u64,
    /// What it holds while it is open: it is not written where it holds anything else.
    pub open: u64,
    /// What it holds while it is closed.
    pub closed: u64,
}

/// The pointers of one channel: allocations first, then frees.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateSlots {
    /// Those that are filled.
    pub slots: [GateSlot; SLOTS],
    /// How many of them are of allocations.
    pub allocations: u64,
    /// How many there are in all.
    pub all: u64,
}

const _: () = assert!(size_of::<Window>() == 40);
const _: () = assert!(size_of::<Passed>() == 40);
const _: () = assert!(size_of::<GateSlots>() == 24 * SLOTS + 16);

// SAFETY: `Window` is `repr(C)` and made of `u64` alone: no padding, no pointer, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Window {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Passed {}

// SAFETY: as above: `GateSlot` is made of `u64` alone, too.
#[cfg(feature = "user")]
unsafe impl aya::Pod for GateSlots {}
