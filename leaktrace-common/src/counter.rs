//! Every way in which the kernel side can fail or drop something: a number, a name, a sentence.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $lost:literal, $text:literal;)+) => {
        /// A way to fail, numbered. Numbers are never reused: reports and recordings carry them.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Counter {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in reports: snake case, stable.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What happened, as the end of a sentence that begins with the count.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Whether a reader should be told: the others only say that all went as it should.
            #[must_use]
            pub const fn is_trouble(self) -> bool {
                !matches!(
                    self,
                    Self::PredictionRight | Self::FreshPoolFound | Self::FreshPoolOutlived
                )
            }

            /// Whether each count is an allocation or a free that no site knows of.
            #[must_use]
            pub const fn loses_events(self) -> bool {
                match self { $(Self::$variant => $lost,)+ }
            }
        }
    };
}

counters! {
    /// The ring buffer was full when a block was handed out.
    AllocLost = 1, "alloc_lost", true, "allocations lost: the ring buffer was full";
    /// The ring buffer was full when a block was given back.
    FreeLost = 2, "free_lost", true, "frees lost: the ring buffer was full";
    /// The ring buffer was full when a block was resized.
    ReallocLost = 3, "realloc_lost", true, "reallocs lost: the ring buffer was full";
    /// The ring buffer was full when the frames of a stack were sent; they are sent again with the next event.
    StackLost = 4, "stack_lost", false, "stacks not sent at first: the ring buffer was full";
    /// No thread state: a raw allocation without the GIL, or a thread that is not Python's.
    NoThread = 5, "no_thread", false, "allocations without a Python thread (the GIL was not held)";
    /// The thread state that was found belongs to another thread.
    ForeignThread = 6, "foreign_thread", false, "allocations by a thread that did not hold the GIL";
    /// The thread state could not be read.
    ThreadFault = 7, "thread_fault", false, "stacks missing: the thread state could not be read";
    /// A frame could not be read, the stack ends there.
    FrameFault = 8, "frame_fault", false, "stacks cut: a frame could not be read";
    /// The stack was deeper than the limit, the outermost frames are cut off.
    StackCut = 9, "stack_cut", false, "new stacks cut: deeper than the limit";
    /// Too many threads inside the allocator at once: the return of a call cannot be matched.
    InFlightFull = 10, "in_flight_full", true, "allocations lost: too many threads inside the allocator";
    /// A call came back whose entry was not seen (it began before the probes were in place).
    ReturnWithoutEntry = 11, "return_without_entry", false,
        "calls came back that had begun before the probes were in place";
    /// The prediction was checked against a return probe, and right.
    PredictionRight = 12, "prediction_right", false, "predictions of the next block checked, and right";
    /// The prediction was checked against a return probe, and wrong.
    PredictionWrong = 13, "prediction_wrong", false, "predictions of the next block checked, and wrong";
    /// A pool could not be read to predict its next block.
    PredictionFault = 14, "prediction_fault", true, "allocations lost: a pool could not be read";
    /// The block of a fresh pool could not be told afterwards.
    FreshPoolLost = 15, "fresh_pool_lost", true, "allocations lost: the first block of a fresh pool was not found";
    /// The allocation was made in an interpreter whose pools are not known.
    OtherInterpreter = 16, "other_interpreter", true, "allocations lost: made in a sub-interpreter with its own pools";
    /// An allocator call failed: the target was out of memory.
    AllocationFailed = 17, "allocation_failed", false, "allocator calls of the target failed (out of memory)";
    /// The allocation had no frame at all (C code before or beside Python's main loop).
    NoFrame = 18, "no_frame", false, "allocations outside of any Python frame";
    /// Fresh pools whose block was found at the next event.
    FreshPoolFound = 19, "fresh_pool_found", false, "first blocks of fresh pools found at the following event";
    /// A child of the target was made, and userspace could not be told.
    ForkLost = 20, "fork_lost", false, "forked children that leaktrace was not told of: their gate may be open";
    /// A gate that was open for too long could not be closed by the hit that found it so.
    GateNotClosed = 21, "gate_not_closed", false, "hits could not close a gate that was open for too long";
    /// The first block of a fresh pool was to be told by the next event, which came in a later window.
    FreshPoolOutlived = 22, "fresh_pool_outlived", false, "allocations not sampled: first blocks of fresh pools at the end of a window";
}

/// Slots of the counter map: one more than the highest number.
pub const SLOTS: u32 = 23;
