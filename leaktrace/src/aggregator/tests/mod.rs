//! Each rule of the events as a sentence, and the aggregator against a target that keeps its own books.

mod drawn;
mod rules;
mod sampled;
mod target;

use super::{Aggregator, Domain, Options, SiteSnapshot};
use crate::stack::{Frame, Stack};
use leaktrace_common::event::{Alloc, Event, Free, Head, Realloc, domain, kind};

const SECOND: u64 = 1_000_000_000;

fn aggregator() -> Aggregator {
    bounded(1 << 30)
}

fn bounded(max_memory: usize) -> Aggregator {
    let mut aggregator =
        Aggregator::new(Options { max_memory, started_at_ns: 0, raw_free_seen: true });
    for id in 1..10 {
        aggregator.define_stack(id, stack(id as u32));
    }
    aggregator
}

fn stack(line: u32) -> Stack {
    let frame = Frame { function: "f".into(), file: "/app/f.py".into(), line: Some(line) };
    Stack { frames: [frame].into(), truncated: false }
}

fn head(kind: u16, domain: u16, tid: u32) -> Head {
    Head { kind, domain, tid, at_ns: 0 }
}

fn alloc(domain: u16, tid: u32, block: u64, size: u64, stack: u64) -> Event<'static> {
    Event::Alloc(Alloc { head: head(kind::ALLOC, domain, tid), block, size, stack })
}

fn free(kind: u16, domain: u16, tid: u32, block: u64) -> Event<'static> {
    Event::Free(Free { head: head(kind, domain, tid), block })
}

fn realloc(tid: u32, old: u64, new: u64, size: u64, stack: u64) -> Event<'static> {
    let head = head(kind::REALLOC, domain::OBJ, tid);
    Event::Realloc(Realloc { head, old, new, size, stack })
}

fn obj_alloc(block: u64, size: u64, stack: u64) -> Event<'static> {
    alloc(domain::OBJ, 1, block, size, stack)
}

fn raw_alloc(block: u64, size: u64, stack: u64) -> Event<'static> {
    alloc(domain::RAW, 1, block, size, stack)
}

fn obj_free(block: u64) -> Event<'static> {
    free(kind::FREE, domain::OBJ, 1, block)
}

fn raw_free(block: u64) -> Event<'static> {
    free(kind::FREE, domain::RAW, 1, block)
}

fn realloc_free(block: u64) -> Event<'static> {
    free(kind::REALLOC_FREE, domain::RAW, 1, block)
}

fn realloc_failed(block: u64) -> Event<'static> {
    free(kind::REALLOC_FAILED, domain::RAW, 1, block)
}

fn at(mut event: Event<'static>, at_ns: u64) -> Event<'static> {
    match &mut event {
        Event::Alloc(alloc) => alloc.head.at_ns = at_ns,
        Event::Free(free) => free.head.at_ns = at_ns,
        Event::Realloc(realloc) => realloc.head.at_ns = at_ns,
        Event::Stack { .. } => {}
    }
    event
}

fn after(events: &[Event<'static>]) -> Aggregator {
    let mut aggregator = aggregator();
    events.iter().for_each(|event| aggregator.apply(event));
    aggregator
}

fn site(aggregator: &Aggregator, line: u32, domain: Domain) -> SiteSnapshot {
    let sites = aggregator.snapshot(SECOND).sites;
    let found = sites.into_iter().find(|site| site.stack == stack(line) && site.domain == domain);
    found.unwrap_or_else(|| panic!("no site of line {line} in {}", domain.name()))
}

/// (allocations, frees, live blocks, live bytes)
fn numbers(aggregator: &Aggregator, line: u32, domain: Domain) -> (u64, u64, u64, u64) {
    let counts = site(aggregator, line, domain).counts;
    (counts.allocations, counts.frees, counts.live_blocks(), counts.live_bytes())
}
