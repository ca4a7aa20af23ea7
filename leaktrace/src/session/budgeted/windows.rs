//! Opens the gate for windows and closes it again, at the times and to the extent that the controller says.

use std::time::Duration;

use leaktrace_common::event::Head;
use leaktrace_common::window::channel;

use super::super::{SessionError, now_ns};
use super::contention::Contention;
use super::lane::Lane;
use super::limits::{Closer, gate_slots, hits};
use super::switch::Switch;
use super::weights::{Part, Seen, weight};
use super::work::Work;
use crate::aggregator::Domain;
use crate::budget::{Controller, Limits, Spell};
use crate::gate::Gate;
use crate::guard::SpellProbe;
use crate::kernel::Programs;
use crate::kernel::priority::Haste;

/// How much longer than until it is looked at next a window that goes on may be open.
const UNATTENDED_NS: u64 = 15_000_000;

/// The shortest and the longest sleep in an open window.
const NAP_NS: std::ops::RangeInclusive<u64> = 20_000..=500_000;

/// The first of them, as a share of what the hits of the window are expected to take.
const FIRST_NAP: f64 = 0.7;

/// From one look at a window that goes on to the next: the sooner its hits may come to what is paid for, the shorter.
const LOOK_EVERY_NS: std::ops::RangeInclusive<u64> = 5_000_000..=20_000_000;

/// How much of the time until they would come to that passes before the next look.
const BEFOREHAND: f64 = 0.5;

/// Hits a second through a closed gate that something is done about.
const MANY_STRAYS: f64 = 1_000.0;

/// How long a thread may take from the probe to its record, or a call to its return, once the gate is closed.
const ON_THEIR_WAY_NS: u64 = 2_000_000;

/// When a gate that could not be opened is tried again.
const RETRY_NS: u64 = 100_000_000;

/// How long a window that is due waits at most for a target to be at work that lately made many calls.
const HOT_PATIENCE_NS: u64 = 2_000_000_000;

/// The share of a window's time in probes from which on a target is taken to make many calls.
const HOT: f64 = 0.25;

/// How long that is lately; and how long no window is prolonged.
const HOT_NS: u64 = 5_000_000_000;
const DEAR_NS: u64 = 1_000_000_000;

/// An open window.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: u64,
    /// From when on it was not booked yet, and how many hits there were until then.
    since_ns: u64,
    since_hits: u64,
    /// The hit that ends it.
    until_hit: u64,
    /// When it is looked at next.
    looks_at_ns: u64,
}

/// What is opened and closed for a window.
pub(super) struct Parts<'a> {
    pub(super) gate: &'a Gate,
    pub(super) probes: Vec<SpellProbe>,
}

/// The windows of one target.
pub(in super::super) struct Windows {
    pub(super) controller: Controller,
    pub(super) switch: Switch,
    pub(super) lane: Lane,
    /// What the kernel side was told last of the raw slots that stay open.
    pub(super) lane_id: u64,
    /// Whether the guard closed these.
    pub(super) raw_closed_by_others: bool,
    /// What a raw hit costs, once that was measured.
    pub(super) raw_hit_ns: Option<f64>,
    /// The channels that have a gate.
    pub(super) gated: Vec<u32>,
    pub(super) closer: Closer,
    work: Work,
    /// The share of the target's own time that may be spent.
    share: f64,
    contention: Contention,
    /// Windows that nobody ends in time tell nothing; all else can wait.
    pub(super) haste: Haste,
    open: Option<Open>,
    opens_at_ns: u64,
    /// When the next window was due first.
    due_ns: u64,
    /// When a window ended by its hits last.
    met_hits_ns: u64,
    /// The end of the last part.
    ended_ns: u64,
    /// The end of the last part whose blocks count.
    counted_ns: u64,
    /// When the last window began and ended, and the hits until then.
    opened_ns: u64,
    closed_ns: u64,
    hits_at_close: u64,
    /// Hits while the gate was closed, where they were many.
    pub(super) strays: u64,
    pub(super) last_id: u64,
    parts: u32,
    open_ns: u64,
    /// Whether the open window was closed, in part or as a whole, by the kernel side or by the guard.
    closed_by_others: bool,
    pub(super) overruns: u64,
    /// Times that the gate was opened.
    pub(super) opened: u64,
    /// Of these, how often other tools' hooks stood over it.
    pub(super) hooked: u64,
    /// Times that it could not be opened.
    pub(super) unopened: u64,
    began_ns: u64,
    /// How much of the time until then, since it was asked first, was the target's own.
    own_before_ns: f64,
}

impl Windows {
    pub(super) fn new(
        pid: u32,
        Parts { gate, probes }: Parts<'_>,
        (controller, share, contention): (Controller, f64, Contention),
        closer: Closer,
        programs: &mut Programs,
    ) -> Result<Self, SessionError> {
        let mut gated = Vec::new();
        for (index, of_raw) in [(channel::OBJ, false), (channel::RAW, true)] {
            let slots = gate.slots().iter().filter(|slot| slot.moves() && slot.raw == of_raw);
            let slots = gate_slots(slots);
            programs.windows.set_gate(index, &slots)?;
            gated.extend((slots.all > 0).then_some(index));
        }
        let switch = Switch::new(pid, gate, probes).map_err(SessionError::Guard)?;
        let now = now_ns();
        let mut windows = Self {
            controller,
            lane: Lane::new(share, switch.has_raw_in(gate), closer, now),
            lane_id: 0,
            raw_hit_ns: None,
            gated,
            raw_closed_by_others: false,
            switch,
            closer,
            work: Work::new(pid),
            share,
            contention,
            haste: Haste::default(),
            open: None,
            opens_at_ns: now,
            due_ns: now,
            met_hits_ns: 0,
            ended_ns: now,
            counted_ns: now,
            opened_ns: now,
            closed_ns: now,
            hits_at_close: 0,
            strays: 0,
            last_id: 0,
            parts: 0,
            open_ns: 0,
            closed_by_others: false,
            overruns: 0,
            opened: 0,
            hooked: 0,
            unopened: 0,
            began_ns: now,
            own_before_ns: 0.0,
        };
        windows.heed_contention();
        Ok(windows)
    }

    /// How long nothing needs to be done.
    pub(super) fn idle(&self) -> Duration {
        let until = self.open.map_or(self.work.asks_at_ns(), |open| open.looks_at_ns);
        let until = self.lane.tend_at_ns().map_or(until, |at_ns| until.min(at_ns));
        Duration::from_nanos(until.saturating_sub(now_ns()))
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// From now on another share of the target's time may be spent.
    pub(super) fn set_share(&mut self, share: f64) {
        self.share = share;
        self.spend(self.contention.share());
    }

    /// Where the target does not get all of the time that it could use, the budget is a share of what it gets.
    pub(super) fn heed_contention(&mut self) {
        if let Some(own) = self.contention.ask(now_ns()) {
            self.spend(own);
        }
    }

    /// From now on so much of the time is the target's own.
    fn spend(&mut self, own: f64) {
        let (share, now) = (self.share * own, now_ns());
        self.controller.set_share(share, now);
        self.lane.set_share(share, now);
        // A window that waits for a smaller share may come sooner.
        let soonest = now + self.controller.wait_ns(now, fastrand::f64());
        self.opens_at_ns = self.opens_at_ns.min(soonest);
        self.due_ns = self.due_ns.min(soonest);
    }

    /// Whether probes cannot be put in yet.
    pub(super) fn must_wait_for(&self, programs: &Programs) -> bool {
        self.switch.switching_ns() > 0 && programs.is_detaching()
    }

    /// Opens the gate, and waits until the window has had its hits or its time.
    ///
    /// # Errors
    /// The gate cannot be opened: what could be opened of it is closed again, by the guard if need be.
    pub(super) fn open(
        &mut self,
        gate: &Gate,
        programs: &mut Programs,
    ) -> Result<(), SessionError> {
        self.haste.begin();
        let is_new = self.switch.revive(gate).map_err(SessionError::Guard)?;
        if is_new && self.lane.is_open() {
            self.switch.keep_raw();
        }
        if self.lane.is_waiting() {
            self.open_lane(gate, programs)?;
        }
        let limits = self.controller.open(fastrand::f64());
        self.last_id += 1;
        let before = self.hits(programs)?;
        let until_hit = before + limits.hits;
        self.book_strays(before, gate);
        let switching_ns = self.switch.switching_ns();
        self.limit(programs, limits.length_ns + switching_ns, limits.hits)?;
        let (reach, kept) = (self.reach(), self.lane.is_open());
        let opened = self.switch.open((gate, reach), || hits(programs, kept));
        // One that cannot be opened is not tried again at once.
        self.opens_at_ns = now_ns() + RETRY_NS;
        let opened = opened.map_err(|error| {
            self.unopened += 1;
            SessionError::Gate(error)
        })?;
        let since_hits = opened.counted?;
        self.controller.book(Spell { hits: since_hits - before, open_ns: 0, by_hits: false });
        if switching_ns > 0 {
            self.limit(programs, limits.length_ns, limits.hits)?;
        }
        self.opened += 1;
        self.hooked += u64::from(!opened.all);
        let since_ns = opened.since_ns;
        if self.opened == 1 {
            // The trace begins with it.
            (self.began_ns, self.ended_ns) = (since_ns, since_ns);
            self.own_before_ns = self.contention.own_ns(since_ns);
        }
        let id = self.last_id;
        self.opened_ns = since_ns;
        let looks_at_ns = since_ns;
        self.open = Some(Open { id, since_ns, since_hits, until_hit, looks_at_ns });
        self.wait(&limits, until_hit, programs)
    }

    /// Books hits that came while the gate was closed; where they are many, somebody calls through a copy of the open
    /// tables, and all that are known are closed.
    fn book_strays(&mut self, hits: u64, gate: &Gate) {
        let strays = hits.saturating_sub(self.hits_at_close);
        if self.opened == 0 || strays == 0 {
            return;
        }
        self.controller.book(Spell { hits: strays, open_ns: 0, by_hits: false });
        let closed_ns = now_ns().saturating_sub(self.closed_ns).max(1);
        if strays as f64 * 1e9 / closed_ns as f64 > MANY_STRAYS {
            self.strays += strays;
            let _ = gate.close_all_of(self.reach());
        }
    }

    /// Raw hits, so many so far, are counted in windows from now on.
    pub(super) fn count_raw_from_now_on(&mut self, raw: u64) {
        self.hits_at_close += raw;
        if let Some(open) = &mut self.open {
            open.since_hits += raw;
            open.until_hit += raw;
        }
    }

    /// Takes note of what the guard had to close.
    pub(super) fn note_closings(&mut self) {
        let closings = self.switch.closings();
        self.closed_by_others |= closings.windows > 0 && self.open.is_some();
        self.raw_closed_by_others |= closings.raw > 0;
    }

    pub(super) fn next_part(&mut self) -> u32 {
        self.parts += 1;
        self.parts
    }

    /// Whether a birth was in a window, or on its way when it was closed; or a raw one while all of these are seen.
    pub(in super::super) fn saw(&self, birth: &Head) -> bool {
        let at_ns = birth.at_ns;
        let is_raw = Domain::of_event(birth.domain) == Domain::Raw;
        let was_on_its_way = at_ns < self.closed_ns + ON_THEIR_WAY_NS;
        is_raw && self.lane.contains(at_ns)
            || at_ns >= self.opened_ns && (self.open.is_some() || was_on_its_way)
    }

    /// Probes on returns of obj and mem are not needed any more.
    pub(super) fn forget_obj_returns(&mut self) {
        self.switch.forget_obj_returns();
    }

    /// Sleeps until the window has had its hits or its time.
    fn wait(
        &self,
        limits: &Limits,
        until_hit: u64,
        programs: &Programs,
    ) -> Result<(), SessionError> {
        let since_ns = now_ns();
        let end = since_ns + limits.length_ns;
        let mut nap = (limits.hits as f64 * self.controller.hit_ns() * FIRST_NAP) as u64;
        loop {
            let left = end.saturating_sub(now_ns());
            if left == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_nanos(clamp(nap).min(left)));
            let hits = self.hits(programs)?;
            if hits >= until_hit {
                return Ok(());
            }
            let seen = hits.saturating_sub(until_hit - limits.hits).max(1);
            let passed = now_ns().saturating_sub(since_ns);
            nap = passed.saturating_mul(until_hit - hits) / seen;
        }
    }

    /// Books what came since the last time. Returns it, and whether the window goes on.
    ///
    /// # Errors
    /// The kernel side cannot be asked.
    pub(super) fn look(
        &mut self,
        gate: &Gate,
        programs: &mut Programs,
    ) -> Result<Option<(Seen, bool)>, SessionError> {
        let Some(open) = self.open else { return Ok(None) };
        let (hits, now) = (self.hits(programs)?, now_ns());
        let by_hits = hits >= open.until_hit;
        let spell = Spell {
            hits: hits.saturating_sub(open.since_hits),
            open_ns: now.saturating_sub(open.since_ns),
            by_hits,
        };
        self.controller.book(spell);
        let seen = Seen { spell, since_ns: open.since_ns, ended_ns: now };
        // Not where they only came faster than what was saved up for them.
        let probes = spell.hits as f64 * self.controller.hit_ns();
        if by_hits && probes > spell.open_ns.min(*LOOK_EVERY_NS.start()) as f64 * HOT {
            self.met_hits_ns = now;
        }
        // What has just cost too much will soon do so again: a window that outlasted it would begin with that.
        let is_hot = now < self.met_hits_ns + DEAR_NS;
        let more = if is_hot { 0 } else { self.controller.prolonged(now) };
        self.note_closings();
        self.closed_by_others |= self.was_closed(programs, open.id)?;
        let goes_on = more > 0 && !self.closed_by_others && self.switch.is_open(gate);
        let looks_in_ns = self.looks_in_ns(&spell, more);
        // What was booked is not booked again, whether it goes on or not.
        self.open = Some(Open {
            since_ns: now,
            since_hits: hits,
            until_hit: hits + more,
            looks_at_ns: now + looks_in_ns,
            ..open
        });
        if goes_on {
            self.limit(programs, looks_in_ns + UNATTENDED_NS, more)?;
            self.counted_ns = now;
        }
        Ok(Some((seen, goes_on)))
    }

    /// When a window that has come to this and may take so many hits more is to be looked at again. The guard counts no hits:
    /// where it is alone, nothing but a look ends what costs too much.
    fn looks_in_ns(&self, spell: &Spell, more: u64) -> u64 {
        let (soonest, latest) = LOOK_EVERY_NS.into_inner();
        let latest = if self.closer == Closer::Guard { latest / 2 } else { latest };
        let lasts = more as f64 * spell.open_ns as f64 / spell.hits.max(1) as f64;
        ((lasts * BEFOREHAND) as u64).clamp(soonest, latest)
    }

    /// What a spell of a window stands for, in which the target was at work for `active_ns`. To be asked once for each.
    pub(super) fn weigh(&mut self, seen: &Seen, active_ns: u64) -> Part {
        let Seen { spell, since_ns, ended_ns } = *seen;
        let gap_ns = since_ns.saturating_sub(self.ended_ns);
        let (share, hit_ns) = (self.work.share(), self.controller.hit_ns());
        self.ended_ns = ended_ns;
        self.open_ns += spell.open_ns;
        let weight = weight(&spell, active_ns, gap_ns, share, hit_ns);
        Part { number: self.next_part(), weight, ended_ns }
    }

    /// Whether a window is to open now: one is due, and the target is at work, or has not been met at work for too long.
    pub(super) fn meets_work(&mut self) -> bool {
        let now = now_ns();
        if self.open.is_some() {
            return false;
        }
        let Some(found) = self.work.ask(now).or((self.opened == 0).then_some(true)) else {
            return false;
        };
        // A window of a quiet target goes on through pauses: it need not wait for their end.
        let is_hot = now < self.met_hits_ns + HOT_NS;
        let patience = if is_hot { HOT_PATIENCE_NS } else { 0 };
        now >= self.opens_at_ns && (found || self.opened == 0 || now >= self.due_ns + patience)
    }

    /// Closes what is left of the gate, whoever closed the rest; frees last, after `before_frees`. Returns whether frees
    /// were seen until then.
    ///
    /// # Errors
    /// The target is gone.
    pub(super) fn close(
        &mut self,
        gate: &Gate,
        programs: &mut Programs,
        before_frees: impl FnOnce(&mut Programs),
    ) -> Result<bool, SessionError> {
        let Some(open) = self.open.take() else { return Ok(false) };
        let reach = self.reach();
        let closed = self.switch.close_allocations(gate, reach);
        before_frees(programs);
        let closed = closed.and(self.switch.close_frees(gate, reach)).map_err(SessionError::Gate);
        let now = now_ns();
        self.haste.end();
        if closed.is_ok() {
            self.switch.disarm().map_err(SessionError::Guard)?;
        }
        self.note_closings();
        let by_kernel = self.was_closed(programs, open.id)?;
        let overrun = std::mem::take(&mut self.closed_by_others) || by_kernel;
        self.overruns += u64::from(overrun);
        let hits = self.hits(programs)?;
        (self.hits_at_close, self.closed_ns) = (hits, now);
        // Frees, from the end of the last part on.
        self.controller.book(Spell {
            hits: hits.saturating_sub(open.since_hits),
            open_ns: now.saturating_sub(open.since_ns),
            by_hits: false,
        });
        if overrun {
            // Nobody knows what became of the blocks of this window: the next one stands for its time as well.
            self.ended_ns = self.counted_ns;
        } else {
            self.ended_ns = now;
            self.counted_ns = now;
        }
        self.opens_at_ns = now + self.controller.wait_ns(now, fastrand::f64());
        self.due_ns = self.opens_at_ns;
        self.work.begin_gap(self.controller.period_ns());
        closed.map(|()| !overrun)
    }

    /// Seconds that the gate was open, as a share of all since the start.
    pub(super) fn traced_fraction(&self) -> f64 {
        let all = now_ns().saturating_sub(self.began_ns).max(1);
        (self.open_ns as f64 / all as f64).min(1.0)
    }

    /// Share of the target's own time that went into hits.
    pub(super) fn overhead_pct(&self) -> f64 {
        let own_ns = self.contention.own_ns(now_ns()) - self.own_before_ns;
        100.0 * self.controller.spent_ns() / own_ns.max(1.0)
    }
}

fn clamp(nap_ns: u64) -> u64 {
    nap_ns.clamp(*NAP_NS.start(), *NAP_NS.end())
}
