//! What a session could verify of itself on this very target.

use std::collections::BTreeMap;

use leaktrace_common::counter::Counter;

use super::prediction::{PROOF, Verification};
use super::recognise::Target;
use crate::cpython::tables::Check;
use crate::report::SelfCheck;

/// Percent of the stacks that should be whole; below, the build is said not to be seen well. Frames that are being
/// made or left are cut now and then, in far fewer than one stack of a hundred.
const WHOLE_PCT: f64 = 95.0;

/// The results, and words for those that are bad.
pub(super) fn of(
    target: &Target,
    verification: &Verification,
    counters: &BTreeMap<Counter, u64>,
    stacks_pct: Option<f64>,
    census: &'static str,
    warnings: &mut Vec<String>,
) -> SelfCheck {
    if let Some(pct) = stacks_pct.filter(|&pct| pct < WHOLE_PCT) {
        warnings.push(format!(
            "only {pct:.0} % of the different stacks could be read and named in full: frees were lost or not seen, or \
             this build's stacks are not seen well"
        ));
    }
    SelfCheck {
        tables: match target.tables.check {
            Check::Agrees => "agree",
            Check::FoundNothing | Check::DoesNotApply => "unchecked",
        },
        predictions: predictions(target, verification, counters),
        stacks_pct,
        census,
    }
}

fn predictions(
    target: &Target,
    verification: &Verification,
    counters: &BTreeMap<Counter, u64>,
) -> &'static str {
    let count = |counter| counters.get(&counter).copied().unwrap_or(0);
    let (right, wrong) = (count(Counter::PredictionRight), count(Counter::PredictionWrong));
    match verification {
        _ if wrong > 0 => "wrong",
        _ if target.pymalloc.usedpools == 0 => "none",
        Verification::Awaiting => "none",
        Verification::Trusted { .. } | Verification::Settled if right > 0 => "right",
        // The trace ended before they were relied on.
        Verification::Comparing if right >= PROOF => "right",
        _ => "unproven",
    }
}
