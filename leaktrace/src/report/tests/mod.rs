//! Reports of a made-up trace: against the schema, in their order, and as text.

mod document;
mod headlines;
mod lines;
mod secrets;
mod together;
mod words;

use super::*;
use crate::aggregator::{self, Aggregator, Options};
use crate::detector::judge_all;
use crate::stack::Stack;
use leaktrace_common::counter::Counter as KernelCounter;
use leaktrace_common::event::{Alloc, Event, Free as FreeEvent, Head, domain, kind};
use time::OffsetDateTime;

const SECOND: u64 = 1_000_000_000;

fn frame(file: &str, line: u32, function: &str) -> crate::stack::Frame {
    crate::stack::Frame { function: function.into(), file: file.into(), line: Some(line) }
}

fn stack(frames: &[(&str, u32, &str)]) -> Stack {
    let frames = frames.iter().map(|&(file, line, function)| frame(file, line, function)).collect();
    Stack { frames, truncated: false }
}

/// A shop: orders that are never forgotten, a buffer, a reader of settings, a name with an escape in it.
fn stacks() -> [Stack; 4] {
    let main = ("/srv/shop/app.py", 210, "main");
    [
        stack(&[
            ("/usr/lib/python3.11/json/decoder.py", 353, "JSONDecoder.raw_decode"),
            ("/usr/lib/python3.11/json/__init__.py", 346, "loads"),
            ("/srv/shop/handlers/orders/remember_orders.py", 42, "OrderHandler.remember"),
            main,
        ]),
        stack(&[("/srv/shop/handlers/buffer.py", 7, "Buffer.append"), main]),
        stack(&[("/srv/shop/venv/lib/python3.11/site-packages/yaml/reader.py", 99, "Reader.peek")]),
        stack(&[("/srv/shop/\x1b[31mred.py", 1, "<lambda>\u{202e}")]),
    ]
}

fn shop(seconds: u64, is_leaking: bool) -> Aggregator {
    let options = Options { max_memory: 1 << 26, started_at_ns: 0, raw_free_seen: true };
    let mut aggregator = Aggregator::new(options);
    for (id, stack) in (1..).zip(stacks()) {
        aggregator.define_stack(id, stack);
    }
    for n in 0..seconds * 100 {
        let at_ns = n * SECOND / 100;
        let mut alloc = |stack: u64, size| {
            let (domain, block) =
                (if size > 512 { domain::RAW } else { domain::OBJ }, (stack << 40) + n * 4096);
            let head = Head { kind: kind::ALLOC, domain, tid: 1, at_ns };
            aggregator.apply(&Event::Alloc(Alloc { head, block, size, stack }));
            if stack != 1 || !is_leaking {
                let head = Head { kind: kind::FREE, ..head };
                let old = if stack == 2 { block.saturating_sub(3 * 4096) } else { block };
                aggregator.apply(&Event::Free(FreeEvent { head, block: old }));
            }
        };
        alloc(1, 120 + n % 7);
        alloc(2, 4000);
        if n == 0 {
            alloc(3, 64);
        }
        if n % 100 == 0 {
            alloc(0, 32);
            alloc(4, 17);
        }
    }
    aggregator
}

fn report_of(aggregator: &Aggregator, seconds: u64) -> Report {
    let snapshot = aggregator.snapshot(seconds * SECOND);
    let arguments = ["python3", "app.py", "--db-password", "hunter2"];
    build(Findings {
        judgements: &judge_all(&snapshot),
        types: &[],
        snapshot: &snapshot,
        target: TargetInfo {
            pid: 4711,
            exe: Some("/usr/bin/python3.11".to_owned()),
            cmdline: arguments.map(str::to_owned).to_vec(),
            python: Some("3.11.2".to_owned()),
            ..TargetInfo::default()
        },
        session: SessionInfo {
            started_at: OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap(),
            duration_s: seconds as f64,
            mode: Mode::Exact,
            overhead_pct: Some(f64::NAN),
            overhead_s: None,
            traced_fraction: Some(1.0),
            gate: Gate::Nop,
            coverage_pct: Some(100.0),
            functions: vec![
                Function { name: "malloc", tables: vec!["obj", "mem"], seen: Some("nop") },
                Function { name: "free", tables: vec!["raw"], seen: None },
            ],
            end: End::Duration,
            window_overruns: 0,
            window_closer: None,
            raw_blocks: "exact",
            children: Some((3, 2)),
        },
        memory: MemoryInfo {
            rss_start: Some(100 << 20),
            rss_end: Some(101 << 20),
            limit_bytes: Some(512 << 20),
        },
        heap: HeapInfo {
            live_start: Some(40 << 20),
            live_end: Some(41 << 20),
            held_end: Some(48 << 20),
            explained_pct: Some(99.9),
            census: "exact",
            census_age_s: Some(0.0),
            points: Some(counts()),
            self_check: Some(SelfCheck {
                tables: "agree",
                predictions: "right",
                stacks_pct: Some(100.0),
                census: "exact",
            }),
        },
        counters: &[(KernelCounter::StackCut, 12), (KernelCounter::AllocLost, 0)],
        warnings: vec!["the target runs under a debugger".to_owned()],
    })
}

/// All pools counted at first, some of them later.
fn counts() -> Vec<HeapPoint> {
    let count = |at_s, mib: u64, bounds| HeapPoint {
        at_s,
        live_bytes: mib << 20,
        held_bytes: 48 << 20,
        bounds,
    };
    vec![count(0.0, 40, None), count(10.0, 41, Some((40 << 20, 42 << 20)))]
}

pub(super) fn leaking() -> Report {
    report_of(&shop(60, true), 60)
}

fn healthy() -> Report {
    report_of(&shop(60, false), 60)
}

fn text_of(report: &Report, options: TextOptions) -> String {
    let mut out = Vec::new();
    text(report, options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json_of(report: &Report) -> serde_json::Value {
    let mut out = Vec::new();
    json(report, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}
