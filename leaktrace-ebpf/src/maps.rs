//! All maps: what they hold, who writes them, and why they have the size that they have.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use leaktrace_common::config::{TargetIdentity, switch};
use leaktrace_common::counter::{Counter, SLOTS};
use leaktrace_common::limits::{
    DESCENDANTS as MOST_DESCENDANTS, FORK_RING_BYTES, IN_FLIGHT, INTERPRETERS, KNOWN_STACKS,
    RING_BYTES,
};
use leaktrace_common::window::{GateSlots, Passed, Window, channel};

/// Records for userspace, written by the programs, read by a timer: no record wakes the reader up.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Ids of the stacks whose frames were sent. Userspace removes the ids of code objects that were freed.
#[map]
pub(crate) static KNOWN: LruHashMap<u64, u8> = LruHashMap::with_max_entries(KNOWN_STACKS, 0);

/// Calls into obj or mem functions that wait for their return probe, by thread.
#[map]
pub(crate) static IN_OBJ: HashMap<u64, Call> = HashMap::with_max_entries(IN_FLIGHT, 0);

/// Calls into raw functions that wait for their return probe, by thread. A raw call can nest in an obj call.
#[map]
pub(crate) static IN_RAW: HashMap<u64, Call> = HashMap::with_max_entries(IN_FLIGHT, 0);

/// The allocation from a fresh pool whose block the next event of the interpreter tells, at [`MAIN`]; at most one at a
/// time, since the GIL is held from one to the other. At [`OTHERS`], `size` is 1 once an interpreter with pools of its
/// own had one: theirs are in [`FRESH_OF_OTHERS`].
#[map]
pub(crate) static FRESH: Array<Call> = Array::with_max_entries(2, 0);

/// Index into [`FRESH`]: of the main interpreter, and of those that share its pools.
pub(crate) const MAIN: u32 = 0;
/// Index into [`FRESH`]: of the sign that others have been seen.
pub(crate) const OTHERS: u32 = 1;

/// The same for interpreters with pools of their own, by the address of their `usedpools`. Each has a GIL of its own or
/// shares one: either way it has one such allocation at most.
#[map]
pub(crate) static FRESH_OF_OTHERS: LruHashMap<u64, Call> =
    LruHashMap::with_max_entries(INTERPRETERS, 0);

/// Records of processes that the target made. Not among the others, which can fill their buffer and keep the reader
/// busy: a child's gate must be closed soon.
#[map]
pub(crate) static FORKS: RingBuf = RingBuf::with_byte_size(FORK_RING_BYTES, 0);

/// Descendants of the target whose own children have its tables as well: by thread group, as the initial pid namespace
/// numbers it, the level of the pid namespace that userspace sees. Userspace removes those it has seen to.
#[map]
pub(crate) static DESCENDANTS: HashMap<u32, u32> = HashMap::with_max_entries(MOST_DESCENDANTS, 0);

/// Counts of [`Counter`]s, by number.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SLOTS, 0);

/// What userspace changes while the programs run: see [`switch`].
#[map]
static SWITCHES: Array<u32> = Array::with_max_entries(switch::COUNT, 0);

/// How far each channel may be open; written by userspace.
#[map]
pub(crate) static WINDOWS: Array<Window> = Array::with_max_entries(channel::COUNT, 0);

/// What the hits of each channel have come to.
#[map]
pub(crate) static PASSED: Array<Passed> = Array::with_max_entries(channel::COUNT, 0);

/// The pointers that close each channel; written by userspace once.
#[map]
pub(crate) static GATES: Array<GateSlots> = Array::with_max_entries(channel::COUNT, 0);

/// Whom this leaktrace traces. Maps are visible from every namespace and vanish with their process, so this is the
/// lock against a second leaktrace on the same target; no program reads it.
#[map(name = "LEAKTRACE_LOCK")]
static LOCK: Array<TargetIdentity> = Array::with_max_entries(1, 0);

/// An allocator call that was entered, and what its end still needs.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// Requested bytes; in [`FRESH`] 0 where nothing is pending.
    pub(crate) size: u64,
    /// Stack id.
    pub(crate) stack: u64,
    /// The block that is predicted, 0 where none is; in [`FRESH`] the window that the call was made in: see
    /// [`current`](crate::window::current).
    pub(crate) predicted: u64,
    /// The old block of a realloc, else 0.
    pub(crate) old: u64,
    /// Thread.
    pub(crate) tid: u64,
    /// What the call's end must record: an event domain.
    pub(crate) domain: u64,
    /// The `usedpools` that the block comes from; 0 where that is not known or does not matter.
    pub(crate) usedpools: u64,
}

/// Counts one more of `counter`.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's; a preempting program can at worst lose one count.
        unsafe { *slot += 1 };
    }
}

/// Whether predictions have proved themselves.
#[inline(always)]
pub(crate) fn predictions_trusted() -> bool {
    SWITCHES.get(switch::TRUST_PREDICTION).is_some_and(|&on| on != 0)
}
