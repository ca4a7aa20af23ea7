//! An empty program: what a probe hit costs on this host, without anything done in it.

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;

/// Attached to leaktrace's own process to time an empty hit.
#[uprobe]
fn calibrate(_ctx: ProbeContext) -> u32 {
    0
}
