//! What a session does to keep to its budget, beside what every session does.

use std::time::Duration;

use super::super::{Session, SessionError};
use super::{Budgeted, Estimated};
use crate::aggregator::Weight;
use crate::budget::share_of_hits;
use crate::cpython::census::Census;
use crate::kernel::Probe;

impl Session {
    /// Has it keep to `percent` of the target's time from now on, if it keeps to a budget at all: less than what it was
    /// started with, where other processes are traced as well. The report names what it was started with.
    pub fn keep_within(&mut self, percent: f64) {
        if let Some(budgeted) = &mut self.budgeted {
            budgeted.windows.set_share(share_of_hits(percent));
        }
    }

    /// How long nothing needs to be done.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        self.budgeted.as_ref().map(Budgeted::idle)
    }

    /// What comes next may be a window.
    pub fn get_ready(&mut self) {
        if let Some(budgeted) = &mut self.budgeted {
            budgeted.windows.haste.begin();
        }
    }

    /// Opens or ends a window whose time has come.
    ///
    /// # Errors
    /// The gate cannot be opened, or must not be.
    pub fn step(&mut self) -> Result<(), SessionError> {
        // A child goes on with its open gate until then.
        self.children.look(&mut self.programs, &self.attached.gate);
        let stepped = self.see_to_raw().and_then(|()| self.see_to_window());
        if let Some(budgeted) = &mut self.budgeted {
            budgeted.windows.haste.end();
        }
        self.count_between_windows();
        match stepped {
            // The target is gone, which the next tick tells.
            Err(SessionError::Gate(_)) => Ok(()),
            other => other,
        }
    }

    fn see_to_window(&mut self) -> Result<(), SessionError> {
        let Some(budgeted) = &mut self.budgeted else { return Ok(()) };
        if budgeted.meets_work(&self.programs) {
            budgeted.windows.open(&self.attached.gate, &mut self.programs)?;
        }
        if budgeted.is_to_be_looked_at() {
            self.look_at_window(false)?;
        }
        Ok(())
    }

    /// Where raw calls have become too many, they are seen in windows from now on.
    fn see_to_raw(&mut self) -> Result<(), SessionError> {
        let Some(budgeted) = &mut self.budgeted else { return Ok(()) };
        if budgeted.windows.tend_lane(&self.attached.gate, &mut self.programs)? {
            return Ok(());
        }
        // What was seen until then was all there was.
        self.look_at_window(true)?;
        self.drain();
        match &mut self.budgeted {
            Some(budgeted) => budgeted.windows.end_lane(&self.programs),
            None => Ok(()),
        }
    }

    /// Takes in what was counted between windows.
    pub(in super::super) fn admit_between(&mut self) {
        if let Some(budgeted) = self.budgeted.as_mut().filter(|it| !it.windows.is_open()) {
            budgeted.admit_between(&mut self.aggregator);
        }
    }

    /// Says that raw calls went unseen, if they did: the end has come.
    pub(in super::super) fn check_raw(&mut self) {
        let Self { budgeted: Some(budgeted), attached, programs, .. } = self else { return };
        if budgeted.windows.lost_lane(&attached.gate)
            && let Err(error) = budgeted.windows.end_lane(programs)
        {
            tracing::debug!("raw calls: {error}");
        }
    }

    /// Ends the window that is open, if there is one.
    pub(in super::super) fn end_window(&mut self) {
        if let Err(error) = self.look_at_window(true) {
            // A target that has ended has no gate to close, and the guard sees to any other.
            tracing::debug!("the last window: {error}");
        }
    }

    fn look_at_window(&mut self, end: bool) -> Result<(), SessionError> {
        let Self { budgeted: Some(budgeted), target, attached, programs, .. } = self else {
            return Ok(());
        };
        let Some(looked) = budgeted.look(end, target, &attached.gate, programs)? else {
            return Ok(());
        };
        let weight = looked.weight();
        let raw = if budgeted.windows.sees_all_raw() { Weight::ONE } else { weight };
        self.aggregator.weigh(weight, raw);
        self.take_records();
        if let Some(budgeted) = &mut self.budgeted {
            budgeted.admit(&looked, &mut self.aggregator);
        }
        Ok(())
    }

    /// Whether a window is open, which is looked at before its records are taken.
    #[must_use]
    pub fn is_in_window(&self) -> bool {
        self.budgeted.as_ref().is_some_and(|budgeted| budgeted.windows.is_open())
    }

    /// Takes off the probes on returns of obj and mem, which are not needed any more.
    pub(in super::super) fn forget_obj_returns(&mut self) {
        // What stands in the target could not be taken out meanwhile.
        self.end_window();
        if let Some(budgeted) = &mut self.budgeted {
            budgeted.windows.forget_obj_returns();
        }
        self.programs.detach_behind(Probe::ObjReturn);
    }

    pub(in super::super) fn tick_budget(&mut self) {
        let Self { budgeted: Some(budgeted), target, aggregator, cost, started, .. } = self else {
            return;
        };
        budgeted.tick(target, aggregator, cost, started.elapsed());
        budgeted.counts_next = true;
    }

    /// The numbers of all sites as they are estimated, where not everything was seen. `end` is the last census; `is_there`
    /// says whether the target can be looked at.
    pub(in super::super) fn estimate(
        &mut self,
        end: Option<&Census>,
        is_there: bool,
    ) -> Option<Estimated> {
        let budgeted = self.budgeted.as_mut()?;
        if is_there {
            budgeted.look_at_all(&self.target, &mut self.aggregator, self.window.end);
        }
        budgeted.estimate(&self.aggregator, &self.heap, end, self.window.end)
    }
}
