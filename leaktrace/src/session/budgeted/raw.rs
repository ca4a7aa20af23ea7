//! Keeps the raw slots of the gate open between windows, where [`Lane`](super::lane::Lane) lets them.

use leaktrace_common::window::{Window, channel};

use super::super::{SessionError, now_ns};
use super::limits::Closer;
use super::weights::Part;
use super::windows::Windows;
use crate::aggregator::Weight;
use crate::gate::{Gate, Reach};
use crate::kernel::Programs;

/// How long the slots stay open without another word: as long as the guard leaves them.
const KEPT_NS: u64 = 300_000_000;

/// How much more a raw hit costs than others where that was not measured: a trap on its return.
const DEARER: f64 = 2.0;

/// Numbers of the windows that the kernel side is told of the raw slots: far from those of real ones.
const FIRST_ID: u64 = 1 << 62;

impl Windows {
    /// Opens the raw slots, for as long as they do not cost too much.
    ///
    /// # Errors
    /// The kernel side cannot be asked.
    pub(super) fn open_lane(
        &mut self,
        gate: &Gate,
        programs: &mut Programs,
    ) -> Result<(), SessionError> {
        let kept = self.switch.keep_raw() && self.limit_lane(programs).is_ok();
        let opened = kept
            && gate.open_frees(Reach::Raw).is_ok_and(|all| all)
            && gate.open_allocations(Reach::Raw).is_ok_and(|all| all);
        self.lane.open(now_ns(), programs.windows.passed(channel::RAW)?.hits);
        if opened {
            return Ok(());
        }
        let _ = gate.close_all_of(Reach::Raw);
        self.end_lane(programs)
    }

    /// Books raw hits. Closes the slots where these are too many, and returns false: [`Self::end_lane`] is to come.
    ///
    /// # Errors
    /// The kernel side cannot be asked.
    pub(super) fn tend_lane(
        &mut self,
        gate: &Gate,
        programs: &mut Programs,
    ) -> Result<bool, SessionError> {
        let now = now_ns();
        if !self.lane.is_due(now) {
            return Ok(true);
        }
        let passed = programs.windows.passed(channel::RAW)?;
        let hit_ns = self.raw_hit_ns();
        let (hits, goes_on) = self.lane.tend(now, passed.hits, hit_ns);
        self.controller.spend(hits as f64 * hit_ns);
        self.note_closings();
        let by_kernel = self.lane_id >= FIRST_ID && passed.closed == self.lane_id;
        let renews = self.lane.is_to_be_renewed(now);
        let is_over = self.raw_closed_by_others || by_kernel || renews && self.lost_lane(gate);
        if goes_on && !is_over && (!renews || self.switch.keep_raw()) {
            self.limit_lane(programs)?;
            return Ok(true);
        }
        // A target that is gone has none left to close.
        let _ = gate.close_all_of(Reach::Raw);
        Ok(false)
    }

    /// Whether the slots are not open any more although nobody meant to close them: leaktrace was stopped for long, or the
    /// target put back tables of its own. What came since was not seen.
    pub(super) fn lost_lane(&self, gate: &Gate) -> bool {
        self.lane.is_open() && gate.is_shut(Reach::Raw)
    }

    /// From now on the slots are opened in windows.
    ///
    /// # Errors
    /// The kernel side cannot be asked.
    pub(super) fn end_lane(&mut self, programs: &Programs) -> Result<(), SessionError> {
        self.lane.fall(now_ns());
        self.switch.drop_raw();
        self.count_raw_from_now_on(programs.windows.passed(channel::RAW)?.hits);
        Ok(())
    }

    fn raw_hit_ns(&self) -> f64 {
        self.raw_hit_ns.unwrap_or_else(|| DEARER * self.controller.hit_ns())
    }

    /// Tells the kernel side until when the slots may be open.
    fn limit_lane(&mut self, programs: &mut Programs) -> Result<(), SessionError> {
        if self.closer == Closer::Guard {
            return Ok(());
        }
        self.lane_id = (self.lane_id + 1).max(FIRST_ID);
        let now = now_ns();
        let hits = programs.windows.passed(channel::RAW)?.hits;
        let until_hit = hits + self.lane.left(now, self.raw_hit_ns());
        let until_ns = now + KEPT_NS;
        programs.windows.set(
            channel::RAW,
            &Window {
                id: self.lane_id,
                allocations_until_ns: until_ns,
                allocations_until_hit: until_hit,
                until_ns,
                until_hit,
            },
        )?;
        Ok(())
    }

    /// Whether every raw call since the trace began was seen.
    pub(super) fn sees_all_raw(&self) -> bool {
        self.lane.is_whole()
    }

    /// A part in which everything was seen.
    pub(super) fn seen_part(&mut self, ended_ns: u64) -> Part {
        Part { number: self.next_part(), weight: Weight::ONE, ended_ns }
    }
}
