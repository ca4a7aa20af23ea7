//! What each event does to the numbers: every block counted once, whichever gates its call passed.

use super::domain::Domain;
use super::live::{Block, Inserted};
use super::threads::{Last, Undo};
use super::{Aggregator, TICK_NS};
use leaktrace_common::event::{Alloc, Event, Free, Realloc, kind};

/// Bytes that CPython's debug hooks keep before a block (`2 * SST` in `obmalloc.c`).
const DEBUG_HEAD: u64 = 16;

/// What was handed out.
struct Birth {
    block: u64,
    size: u64,
    stack: u64,
    domain: Domain,
    at_ns: u64,
}

impl Aggregator {
    /// Counts one event. The frames of [`Event::Stack`] are the caller's to resolve: see
    /// [`define_stack`](Self::define_stack).
    pub fn apply(&mut self, event: &Event<'_>) {
        match event {
            Event::Alloc(alloc) => self.alloc(alloc),
            Event::Free(free) => match free.head.kind {
                kind::REALLOC_FREE => self.awaited_resize(free),
                kind::REALLOC_FAILED => self.awaited_resize_failed(free),
                _ => self.free(free),
            },
            Event::Realloc(realloc) => self.realloc(realloc),
            Event::Stack { .. } => {}
        }
    }

    fn alloc(&mut self, event: &Alloc) {
        self.sample(event.head.at_ns);
        let domain = Domain::of_event(event.head.domain);
        let last = *self.threads.last_of(event.head.tid);
        let next = match (last, domain) {
            // The raw gate behind the obj gate.
            (Last::ObjAlloc { block }, Domain::Raw) if self.holds(block, event) => Last::Nothing,
            // The malloc inside of a realloc, where that is probed at its entry.
            (Last::ObjResize { old, new, .. }, Domain::Obj) if self.holds(new, event) => {
                Last::ObjResize { old, new, undo: None }
            }
            _ => {
                self.birth(&Birth {
                    block: event.block,
                    size: event.size,
                    stack: event.stack,
                    domain,
                    at_ns: event.head.at_ns,
                });
                after_birth(last, event.block, domain)
            }
        };
        self.settle(last);
        *self.threads.last_of(event.head.tid) = next;
    }

    fn free(&mut self, event: &Free) {
        self.sample(event.head.at_ns);
        let domain = Domain::of_event(event.head.domain);
        let last = *self.threads.last_of(event.head.tid);
        let freed = self.live.remove(event.block);
        // A block that is live again was handed out to somebody else meanwhile, so this free is one of its own.
        let next = match (last, domain, freed) {
            (Last::ObjFree { block, older }, Domain::Raw, None) if block == event.block => {
                self.shift_older_to_raw(block, older);
                Last::Nothing
            }
            (Last::ObjResize { old, .. }, Domain::Obj, None) if old == event.block => Last::Nothing,
            // Debug hooks put 16 bytes before a block and pass on what begins there. No two blocks begin that close.
            (Last::ObjFree { block, .. } | Last::RawFree { block }, Domain::Raw, None)
                if block.wrapping_sub(DEBUG_HEAD) == event.block =>
            {
                last
            }
            // Nobody frees a block twice: one function that stands in several tables was passed twice on its way.
            (Last::RawFree { block }, _, None) if block == event.block => Last::Nothing,
            _ => {
                self.death(event.block, freed, domain);
                match domain {
                    Domain::Obj => Last::ObjFree { block: event.block, older: freed.is_none() },
                    _ => Last::RawFree { block: event.block },
                }
            }
        };
        self.settle(last);
        *self.threads.last_of(event.head.tid) = next;
    }

    fn realloc(&mut self, event: &Realloc) {
        self.sample(event.head.at_ns);
        let last = *self.threads.last_of(event.head.tid);
        let held = self.live.get(event.old);
        let next = if held.is_some_and(|block| self.is_raw(&block)) {
            // The kernel side took a raw block for one of pymalloc's; the raw gate says what really happens to it.
            Last::Nothing
        } else {
            self.resize(event, held)
        };
        self.settle(last);
        *self.threads.last_of(event.head.tid) = next;
    }

    fn resize(&mut self, event: &Realloc, held: Option<Block>) -> Last {
        if held.is_some() {
            self.live.remove(event.old);
        }
        let mut undo = Undo { born: None, displaced: None };
        if event.new != 0 {
            undo = self.birth(&Birth {
                block: event.new,
                size: event.size,
                stack: event.stack,
                domain: Domain::Obj,
                at_ns: event.head.at_ns,
            });
        }
        if event.old == 0 {
            return after_birth(Last::Nothing, event.new, Domain::Obj);
        }
        // The death after the birth, so that the site's low does not dip by a block that only moves.
        self.death(event.old, held, Domain::Obj);
        let undo = held.is_none().then_some(undo);
        Last::ObjResize { old: event.old, new: event.new, undo }
    }

    fn awaited_resize(&mut self, event: &Free) {
        self.sample(event.head.at_ns);
        let last = *self.threads.last_of(event.head.tid);
        if let Last::ObjResize { old, new, undo: Some(undo) } = last
            && old == event.block
        {
            self.unresize(old, new, undo);
        }
        let held = self.live.remove(event.block);
        self.totals.frees_seen += 1;
        match held {
            // Its low is noted when the new block is there, or the realloc failed.
            Some(block) => {
                self.sites.change(block.site, self.axis.open).death(block.size);
                if let Some(turnover) = &mut self.turnover {
                    turnover.died.push(event.block);
                }
            }
            None => self.count_older(event.block, Domain::of_event(event.head.domain)),
        }
        self.settle(last);
        *self.threads.last_of(event.head.tid) = Last::RawResize { old: event.block, held };
    }

    fn awaited_resize_failed(&mut self, event: &Free) {
        self.sample(event.head.at_ns);
        let last = std::mem::take(self.threads.last_of(event.head.tid));
        let Last::RawResize { old, held } = last else { return self.settle(last) };
        if old != event.block || self.live.get(old).is_some() {
            return self.settle(last);
        }
        self.totals.frees_seen = self.totals.frees_seen.saturating_sub(1);
        match held {
            Some(block) => self.restore(old, block),
            None => self.uncount_older(old, Domain::of_event(event.head.domain)),
        }
    }

    fn birth(&mut self, birth: &Birth) -> Undo {
        let nothing = Undo { born: None, displaced: None };
        self.totals.allocations_seen += 1;
        let Some(found) = self.sites.find(birth.stack, birth.domain, birth.at_ns) else {
            self.totals.untracked_blocks += 1;
            let displaced = self.live.remove(birth.block);
            self.miss_free(displaced);
            return nothing;
        };
        self.totals.undefined_stacks += u64::from(found.undefined);
        let block = Block { site: found.site, size: birth.size, born: self.tick(birth.at_ns) };
        let displaced = match self.live.insert(birth.block, block) {
            Inserted::New => None,
            Inserted::Replaced(displaced) => Some(displaced),
            Inserted::Full => {
                self.totals.untracked_blocks += 1;
                return nothing;
            }
        };
        let weight = if birth.domain == Domain::Raw { self.raw_weight } else { self.weight };
        self.sites.change(found.site, self.axis.open).birth(birth.size, weight);
        self.miss_free(displaced);
        if let Some(turnover) = &mut self.turnover {
            turnover.died.extend(displaced.map(|_| birth.block));
            turnover.born.push(birth.block);
        }
        Undo { born: Some(block), displaced }
    }

    fn death(&mut self, address: u64, freed: Option<Block>, domain: Domain) {
        self.totals.frees_seen += 1;
        match freed {
            Some(block) => {
                self.end(&block);
                if let Some(turnover) = &mut self.turnover {
                    turnover.died.push(address);
                }
            }
            None => self.count_older(address, domain),
        }
    }

    pub(super) fn end(&mut self, block: &Block) {
        let site = self.sites.change(block.site, self.axis.open);
        site.death(block.size);
        site.sink();
    }

    fn miss_free(&mut self, displaced: Option<Block>) {
        if let Some(block) = displaced {
            self.totals.missed_frees += 1;
            self.end(&block);
        }
    }

    /// A raw realloc is over when its thread goes on: now its old block's site is as low as it gets.
    fn settle(&mut self, last: Last) {
        if let Last::RawResize { held: Some(block), .. } = last {
            self.sites.change(block.site, self.axis.open).sink();
        }
    }

    /// The realloc of an unknown block was a raw one: what pymalloc would have done with it did not happen.
    fn unresize(&mut self, old: u64, new: u64, undo: Undo) {
        self.totals.frees_seen = self.totals.frees_seen.saturating_sub(1);
        self.uncount_older(old, Domain::Obj);
        let Some(born) = undo.born else { return };
        if self.live.get(new) != Some(born) {
            return;
        }
        self.live.remove(new);
        self.totals.allocations_seen = self.totals.allocations_seen.saturating_sub(1);
        let site = self.sites.change(born.site, self.axis.open);
        site.unbirth(born.size, self.weight);
        site.sink();
        if let Some(block) = undo.displaced {
            self.totals.missed_frees = self.totals.missed_frees.saturating_sub(1);
            self.restore(new, block);
        }
    }

    /// Puts a block back whose end was counted and did not happen.
    fn restore(&mut self, address: u64, block: Block) {
        if self.live.insert(address, block) == Inserted::Full {
            self.totals.untracked_blocks += 1;
            return;
        }
        self.sites.change(block.site, self.axis.open).undeath(block.size);
    }

    fn count_older(&mut self, address: u64, domain: Domain) {
        self.books.older(address, 1);
        self.totals.frees_of_older_blocks += 1;
        *self.older_of(domain) += 1;
    }

    fn uncount_older(&mut self, address: u64, domain: Domain) {
        self.books.older(address, -1);
        let frees = &mut self.totals.frees_of_older_blocks;
        *frees = frees.saturating_sub(1);
        let older = self.older_of(domain);
        *older = older.saturating_sub(1);
    }

    /// The raw gate tells whose block it was that the obj gate saw first.
    fn shift_older_to_raw(&mut self, address: u64, older: bool) {
        if older {
            self.uncount_older(address, Domain::Obj);
            self.count_older(address, Domain::Raw);
        }
    }

    fn older_of(&mut self, domain: Domain) -> &mut u64 {
        match domain {
            Domain::Obj | Domain::Mem => &mut self.older.obj,
            Domain::Raw | Domain::Native => &mut self.older.raw,
        }
    }

    fn is_raw(&self, block: &Block) -> bool {
        self.sites.list[block.site as usize].domain == Domain::Raw
    }

    /// Whether an event only repeats the block that its thread got just before.
    fn holds(&self, block: u64, event: &Alloc) -> bool {
        block == event.block && self.live.get(block).is_some()
    }

    fn tick(&self, at_ns: u64) -> u32 {
        let ticks = at_ns.saturating_sub(self.options.started_at_ns) / TICK_NS;
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

/// What the thread did last once it has a new block.
fn after_birth(last: Last, block: u64, domain: Domain) -> Last {
    match (last, domain) {
        // The new place of a block that left pymalloc; the free of its old one may follow.
        (Last::ObjResize { old, new: 0, .. }, _) => Last::ObjResize { old, new: block, undo: None },
        (_, Domain::Obj) => Last::ObjAlloc { block },
        _ => Last::Nothing,
    }
}
