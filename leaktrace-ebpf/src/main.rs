//! The BPF programs of leaktrace: what must run in the kernel, at the target's allocator entry points.
//!
//! What the programs know of CPython is in `leaktrace-common`, which host tests run as well. Here is only what binds
//! it to the kernel: maps, helpers, and one small program for each probe.
#![no_std]
#![no_main]

mod config;
mod emit;
mod maps;
mod probes;
mod stack;
mod target;
mod window;

/// The kernel checks this string: the helpers that read user memory want a GPL-compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic would have to loop: a program that could reach it is refused by the verifier.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
