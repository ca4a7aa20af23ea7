//! A target that allocates, frees and resizes from several threads, gives the events of its gates, and knows the truth.

use super::*;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const SMALL: u64 = 512;

/// (allocations, frees, live blocks, live bytes) by (line, domain)
type Books = BTreeMap<(u32, Domain), (u64, u64, u64, u64)>;

#[derive(Clone, Copy)]
struct Held {
    size: u64,
    /// Line and domain; none for a block that is older than the trace.
    site: Option<(u32, Domain)>,
}

struct Target {
    random: Rng,
    now_ns: u64,
    live: HashMap<u64, Held>,
    addresses: Vec<u64>,
    unused: BTreeSet<u64>,
    books: Books,
    /// The second half of a raw realloc.
    pending: HashMap<u32, (u64, Held, Event<'static>)>,
    events: Vec<Event<'static>>,
    older_frees: u64,
    frees: u64,
    allocations: u64,
    /// Whether malloc and free are probed at their own entry.
    entry_probes: bool,
}

impl Target {
    fn new(seed: u64) -> Self {
        let mut target = Self {
            random: Rng::with_seed(seed),
            now_ns: 0,
            live: HashMap::new(),
            addresses: Vec::new(),
            // Small blocks below, raw ones above; few of them, so that addresses are used again and again.
            unused: (1..200).flat_map(|n| [n * 16, 0x10_0000 + n * 16]).collect(),
            books: Books::new(),
            pending: HashMap::new(),
            events: Vec::new(),
            older_frees: 0,
            frees: 0,
            allocations: 0,
            entry_probes: seed.is_multiple_of(2),
        };
        for _ in 0..60 {
            let size = target.size();
            let block = target.take(size);
            target.hold(block, Held { size, site: None });
        }
        target
    }

    fn step(&mut self) {
        self.now_ns += self.random.u64(..20_000_000);
        let tid = self.random.u32(1..5);
        if let Some((old, held, event)) = self.pending.remove(&tid) {
            return self.finish_raw_realloc(tid, old, held, event);
        }
        let raw = self.unused.iter().filter(|&&block| block >= 0x10_0000).count();
        let full = raw.min(self.unused.len() - raw) < 10;
        match self.random.u32(..10) {
            0..=4 if !full => self.alloc(tid),
            5..=6 if !full => self.realloc(tid),
            _ => self.free(tid),
        }
    }

    fn alloc(&mut self, tid: u32) {
        let (size, line) = (self.size(), self.random.u32(1..10));
        let block = self.take(size);
        let number = domain_of(size);
        if self.random.u8(..10) == 0 && size <= SMALL {
            self.emit(realloc(tid, 0, block, size, u64::from(line)));
        } else {
            self.emit(alloc(number, tid, block, size, u64::from(line)));
        }
        self.birth(block, size, line, Domain::of_event(number));
    }

    fn free(&mut self, tid: u32) {
        let Some((block, held)) = self.pick() else { return };
        self.death(block, held);
        self.give(block);
        if held.size <= SMALL {
            self.emit(free(kind::FREE, domain::OBJ, tid, block));
        } else {
            if self.random.bool() {
                self.emit(free(kind::FREE, domain::OBJ, tid, block));
            }
            self.emit(free(kind::FREE, domain::RAW, tid, block));
        }
    }

    fn realloc(&mut self, tid: u32) {
        let Some((old, held)) = self.pick() else { return };
        let (size, line) = (self.size(), self.random.u32(1..10));
        let stack = u64::from(line);
        if held.size > SMALL {
            return self.raw_realloc(tid, old, held, size.max(SMALL + 1), line);
        }
        let new = if size <= SMALL && self.random.bool() { old } else { self.take(size) };
        self.death(old, held);
        if size > SMALL || self.random.u8(..8) == 0 {
            self.emit(realloc(tid, old, 0, size, stack));
            self.emit(alloc(domain_of(size), tid, new, size, stack));
        } else {
            self.emit(realloc(tid, old, new, size, stack));
            if self.entry_probes && new != old && self.random.bool() {
                self.emit(alloc(domain::OBJ, tid, new, size, stack));
            }
        }
        if new != old {
            if self.entry_probes {
                self.emit(free(kind::FREE, domain::OBJ, tid, old));
            }
            self.give(old);
        }
        self.birth(new, size, line, Domain::of_event(domain_of(size)));
    }

    fn raw_realloc(&mut self, tid: u32, old: u64, held: Held, size: u64, line: u32) {
        let fooled = self.random.u8(..4) == 0;
        if fooled {
            let other = 16 * self.random.u64(1..200);
            let bogus = self.random.choice([old, other, 0]).unwrap();
            self.emit(realloc(tid, old, bogus, size, u64::from(line)));
        }
        self.emit(free(kind::REALLOC_FREE, domain::RAW, tid, old));
        let second = if self.random.u8(..4) == 0 {
            free(kind::REALLOC_FAILED, domain::RAW, tid, old)
        } else {
            let new = if self.random.bool() { old } else { self.take(size) };
            alloc(domain::RAW, tid, new, size, u64::from(line))
        };
        // Nobody else can touch the block meanwhile.
        self.live.remove(&old);
        self.addresses.retain(|&address| address != old);
        self.pending.insert(tid, (old, held, second));
    }

    fn finish_raw_realloc(&mut self, _tid: u32, old: u64, held: Held, event: Event<'static>) {
        self.hold(old, held);
        self.emit(event);
        let Event::Alloc(alloc) = event else { return };
        self.death(old, held);
        if alloc.block != old {
            self.give(old);
        }
        self.birth(alloc.block, alloc.size, alloc.stack as u32, Domain::Raw);
    }

    fn birth(&mut self, block: u64, size: u64, line: u32, domain: Domain) {
        self.allocations += 1;
        let book = self.books.entry((line, domain)).or_default();
        (book.0, book.2, book.3) = (book.0 + 1, book.2 + 1, book.3 + size);
        self.hold(block, Held { size, site: Some((line, domain)) });
    }

    fn death(&mut self, block: u64, held: Held) {
        self.frees += 1;
        self.live.remove(&block);
        self.addresses.retain(|&address| address != block);
        let Some(site) = held.site else {
            self.older_frees += 1;
            return;
        };
        let book = self.books.get_mut(&site).unwrap();
        (book.1, book.2, book.3) = (book.1 + 1, book.2 - 1, book.3 - held.size);
    }

    fn pick(&mut self) -> Option<(u64, Held)> {
        let block = self.random.choice(&self.addresses).copied()?;
        Some((block, self.live[&block]))
    }

    fn hold(&mut self, block: u64, held: Held) {
        self.live.insert(block, held);
        self.addresses.push(block);
    }

    /// The last one given back, as pymalloc does it, or any.
    fn take(&mut self, size: u64) -> u64 {
        let raw = size > SMALL;
        let fitting = self.unused.iter().copied().filter(|&block| (block >= 0x10_0000) == raw);
        let fitting: Vec<_> = fitting.collect();
        let block = *self.random.choice(&fitting).unwrap();
        self.unused.remove(&block);
        block
    }

    fn give(&mut self, block: u64) {
        self.unused.insert(block);
    }

    fn size(&mut self) -> u64 {
        if self.random.u8(..4) == 0 { self.random.u64(513..6000) } else { self.random.u64(1..512) }
    }

    fn emit(&mut self, event: Event<'static>) {
        self.events.push(at(event, self.now_ns));
    }

    /// The books as the events so far tell them: a raw realloc that is under way has freed its old block.
    fn books(&self) -> Books {
        let mut books = self.books.clone();
        for (_, held, _) in self.pending.values() {
            let Some(site) = held.site else { continue };
            let book = books.get_mut(&site).unwrap();
            (book.1, book.2, book.3) = (book.1 + 1, book.2 - 1, book.3 - held.size);
        }
        books
    }
}

fn domain_of(size: u64) -> u16 {
    if size <= SMALL { domain::OBJ } else { domain::RAW }
}

fn books_of(aggregator: &Aggregator, now_ns: u64) -> Books {
    let sites = aggregator.snapshot(now_ns).sites;
    let books = sites.iter().map(|site| {
        let counts = site.counts;
        let line = site.stack.frames[0].line.unwrap();
        let numbers = (counts.allocations, counts.frees, counts.live_blocks(), counts.live_bytes());
        ((line, site.domain), numbers)
    });
    books.filter(|(_, numbers)| numbers.0 > 0).collect()
}

#[test]
fn the_aggregator_agrees_with_the_targets_own_books() {
    for seed in 0..300 {
        let mut target = Target::new(seed);
        let mut seen = aggregator();
        for _ in 0..20 {
            (0..100).for_each(|_| target.step());
            target.events.drain(..).for_each(|event| seen.apply(&event));
            assert_eq!(books_of(&seen, target.now_ns), target.books(), "seed {seed}");
            let totals = seen.totals();
            let pending = target.pending.len() as u64;
            assert_eq!(totals.allocations_seen, target.allocations, "seed {seed}");
            assert_eq!(totals.frees_seen, target.frees + pending, "seed {seed}");
            assert_eq!(totals.missed_frees, 0, "seed {seed}");
        }
    }
}

#[test]
fn the_points_agree_with_the_counts_and_the_survivors_with_the_live_blocks() {
    for seed in 0..100 {
        let mut target = Target::new(seed);
        let mut seen = aggregator();
        (0..3000).for_each(|_| target.step());
        target.events.iter().for_each(|event| seen.apply(event));
        for site in seen.snapshot(target.now_ns).sites {
            let last = site.points.last().unwrap();
            assert_eq!(u64::from(last.live_blocks), site.counts.live_blocks());
            assert_eq!(last.live_bytes, site.counts.live_bytes());
            assert!(site.points.iter().all(|point| point.low_bytes <= point.live_bytes));
            let survivors: u64 = site.points.iter().map(|point| u64::from(point.survivors)).sum();
            assert_eq!(survivors, site.counts.live_blocks(), "seed {seed}");
        }
    }
}

#[test]
fn a_day_of_events_takes_about_a_second() {
    // A block every 40 ms that is freed 10 s later, but one in a hundred.
    let mut seen = aggregator();
    let step = SECOND / 25;
    for n in 0..24 * 3600 * 25_u64 {
        seen.apply(&at(obj_alloc(16 * (n + 1), 64, 1 + n % 9), n * step));
        if n >= 250 && n % 100 != 0 {
            seen.apply(&at(obj_free(16 * (n + 1 - 250)), n * step));
        }
    }
    let snapshot = seen.snapshot(24 * 3600 * SECOND);
    let live: u64 = snapshot.sites.iter().map(|site| site.counts.live_blocks()).sum();
    assert_eq!(live, 24 * 36 * 25 + 247);
    assert_eq!(snapshot.interval_ns, (SECOND / 10) << 12);
}

/// Twelve million events a second were seen where this was written; a machine that is busy with other tests has room.
#[test]
fn a_second_is_enough_for_a_busy_targets_second_of_events() {
    let mut seen = bounded(1 << 30);
    (1..=1_000_000_u64).for_each(|block| seen.apply(&obj_alloc(block << 20, 64, block % 9)));
    let mut random = Rng::with_seed(1);
    let blocks: Vec<u64> = (0..1 << 16).map(|_| (1 + random.u64(..1 << 20)) * 16).collect();
    let began = std::time::Instant::now();
    let pairs = 500_000_u64;
    for n in 0..pairs {
        let block = blocks[n as usize % blocks.len()] + ((n % 64) << 30);
        let tid = (n / 1000 % 8) as u32;
        seen.apply(&at(alloc(domain::OBJ, tid, block, 16 + n % 5 * 16, 1 + n % 9), n * 200));
        seen.apply(&at(free(kind::FREE, domain::OBJ, tid, block), n * 200));
    }
    let rate = 2.0 * pairs as f64 / began.elapsed().as_secs_f64();
    println!("{:.1} million events/s, {} bytes", rate / 1e6, seen.memory());
    assert!(rate > 5e5, "only {:.1} million events/s", rate / 1e6);
}
