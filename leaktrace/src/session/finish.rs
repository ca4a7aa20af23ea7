//! Ends a session: the gate is closed, what is still to come is taken, the books are closed.

use std::time::Duration;

use super::budgeted::{Budgeted, Estimated};
use super::hooks::UnwantedHits;
use super::outcome::Traced;
use super::types::SiteTypes;
use super::{STRAGGLERS, Session, SessionError, lost, now_ns, self_check};
use crate::aggregator::Snapshot;
use crate::gate::Outcome;
use crate::report::{End, HeapPoint};

/// How long calls that should not come any more are counted, once the gate was closed for the second time.
const SECOND_LOOK: Duration = Duration::from_millis(20);

impl Session {
    /// Closes the gate and takes what is still to come. Once the probes are dropped as well, the target is as it was.
    ///
    /// # Errors
    /// The maps of the kernel side cannot be read any more.
    pub fn finish(mut self, end: End) -> Result<Traced, SessionError> {
        let end = self.watch.how_it_ended(end, &self.target);
        self.close_for_good();
        let duration = self.started.elapsed();
        let is_there = !matches!(end, End::TargetExited | End::TargetExec);
        let census = is_there.then(|| self.heap.count_again(&self.target));
        if end == End::TargetExec {
            self.give_up();
        } else {
            self.drain_rest();
            self.see_to_unwanted_hits();
        }
        let last = census.as_ref().and_then(|census| census.as_ref().ok());
        let estimated = self.estimate(last, is_there);
        let rss_end = self.target.process.rss().ok().filter(|&rss| rss > 0);
        let rss_end = rss_end.or(self.watch.last_rss());
        let counters = self.programs.counters()?;
        self.aggregator.set_losses(lost(&counters));
        let overhead_pct = self.overhead_pct(duration);
        let budget = self.budgeted.as_ref().map(Budgeted::outcome);
        let seen_bytes = estimated.as_ref().and_then(|estimated| estimated.net_pool_bytes);
        let (snapshot, types) = self.sites(estimated, is_there);
        self.children.close_all(&mut self.programs, &self.attached.gate, &self.target.process);
        self.add_warnings();
        let known = (seen_bytes, self.recounted(), duration);
        let mut heap = self.heap.close_books(census, &self.aggregator, known, &mut self.warnings);
        if let Some(earlier) = self.budgeted.as_ref().and_then(Budgeted::rests_on) {
            earlier.tell(duration, &mut heap, &mut self.warnings);
        }
        heap.self_check = Some(self_check::of(
            &self.target,
            &self.verification,
            &counters,
            self.intake.symbolizer.whole_pct(),
            heap.census,
            &mut self.warnings,
        ));
        let gate = self.attached.main_kind().filter(|_| self.options.gate);
        Ok(Traced {
            started_at: self.started_at,
            duration,
            end,
            gate,
            coverage_pct: self.attached.coverage_pct(self.target.tables.inlined),
            functions: self.attached.functions(&self.target.tables),
            overhead_pct,
            budget,
            snapshot,
            types,
            counters,
            unresolved: self.intake.symbolizer.unresolved().clone(),
            about: self.about,
            limit_bytes: self.limit_bytes,
            rss_start: self.rss_start,
            rss_end,
            heap,
            children: self.children.counts(),
            warnings: self.warnings,
            target: self.target,
            probes: (self.programs, self.attached.gate, self.lock),
        })
    }

    /// The numbers of all sites and, of a target that is still there, what their live blocks are.
    fn sites(
        &mut self,
        estimated: Option<Estimated>,
        is_there: bool,
    ) -> (Snapshot, Vec<SiteTypes>) {
        let (snapshot, scale) = match estimated {
            Some(Estimated { snapshot, scale, .. }) => (snapshot, Some(scale)),
            None => (self.aggregator.snapshot(self.window.end), None),
        };
        let types = if is_there { self.read_types(&snapshot, scale.as_ref()) } else { Vec::new() };
        (snapshot, types)
    }

    /// What the heap held between the start and the end, as far as that was counted.
    fn recounted(&self) -> Vec<HeapPoint> {
        self.budgeted.as_ref().map_or_else(Vec::new, |it| it.heap_points().to_vec())
    }

    /// Percent of the target's time that went into probes.
    fn overhead_pct(&self, duration: Duration) -> Option<f64> {
        if let Some(budgeted) = &self.budgeted {
            return Some(budgeted.outcome().overhead_pct);
        }
        let totals = self.aggregator.totals();
        let (allocations, frees) = (totals.allocations_seen, totals.frees_seen);
        self.cost.overhead_pct(&self.programs, allocations, frees, duration)
    }

    /// What came up while it was traced.
    fn add_warnings(&mut self) {
        self.warnings.extend(self.hooks.warnings());
        self.warnings.extend(self.budgeted.iter().flat_map(Budgeted::warnings));
        self.warnings.extend(self.children.warnings());
        self.warnings.extend(unreadable(self.malformed));
    }

    /// Closes the gate: the target then takes its own fast path again, and leaktrace may end in any way.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.check_raw();
        self.end_window();
        // Once frees are not seen any more, the names of new stacks cannot be trusted.
        self.drain();
        self.window.end = now_ns();
        let outcomes = self.attached.gate.close();
        // Those that were made before now have a copy of the open gate.
        self.children.close_all(&mut self.programs, &self.attached.gate, &self.target.process);
        if outcomes.is_ok_and(|outcomes| outcomes.contains(&Outcome::Foreign)) {
            self.warnings.push(
                "somebody else's hooks stood over the gate in the end; if they keep a copy of the table, run \
                 `leaktrace doctor` when they are gone"
                    .to_owned(),
            );
        }
    }

    fn close_for_good(&mut self) {
        self.close();
        std::thread::sleep(STRAGGLERS);
        // Whoever put back an old table meanwhile does not get away with it.
        let _ = self.attached.gate.close();
    }

    /// Where many calls still come by the closed gate, closes it once more; the target may have put back a table that it
    /// had saved.
    fn see_to_unwanted_hits(&mut self) {
        self.warnings.extend(self.unwanted.early_words());
        let open_until = Duration::from_nanos(self.window.end) + STRAGGLERS;
        let since = Duration::from_nanos(now_ns()).saturating_sub(open_until);
        if self.unwanted.many_late(since).is_none() {
            return;
        }
        let _ = self.attached.gate.close();
        std::thread::sleep(STRAGGLERS);
        self.drain_rest();
        // What was drained until now was on its way before.
        let _ = self.unwanted.many_late(STRAGGLERS);
        std::thread::sleep(SECOND_LOOK);
        self.drain_rest();
        let still = self.unwanted.many_late(SECOND_LOOK);
        self.warnings.extend(still.map(UnwantedHits::late_words));
    }
}

fn unreadable(records: u64) -> Option<String> {
    (records > 0).then(|| format!("{records} records of the kernel side could not be read"))
}
