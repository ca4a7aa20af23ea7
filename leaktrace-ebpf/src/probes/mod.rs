//! One program for each probe: kernels before 5.15 have no cookies to tell probes apart by.
//!
//! A gate point is the entry of a function with nothing pushed yet, so the arguments are in their registers:
//! `malloc(ctx, size)`, `calloc(ctx, count, size)`, `realloc(ctx, block, size)`, `free(ctx, block)`.

mod calibrate;
mod new_task;
mod obj;
mod raw;

use aya_ebpf::programs::ProbeContext;

/// Argument `n` of the function whose entry was hit; 0 is its `ctx`.
#[inline(always)]
fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}
