//! Predictions must prove themselves against return probes before they are relied on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use leaktrace_common::counter::Counter;

use super::SessionError;
use crate::kernel::Programs;

/// Right predictions in a row, with none wrong, after which they are trusted.
pub(super) const PROOF: u64 = 300;

/// How long a call that began before predictions were trusted may take to reach its return probe.
const LAST_RETURNS: Duration = Duration::from_millis(100);

/// Whether blocks are predicted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verification {
    /// They are awaited, and compared with what was predicted.
    Comparing,
    /// They are predicted; calls that began before may still come back.
    Trusted {
        /// Since when.
        since: Instant,
    },
    /// They are predicted, and the return probes are off.
    Settled,
    /// They are awaited, for good.
    Awaiting,
}

impl Verification {
    /// Where it begins.
    ///
    /// # Errors
    /// Blocks can be neither predicted nor awaited.
    pub(super) fn new(
        can_predict: bool,
        return_probes: bool,
        programs: &mut Programs,
        warnings: &mut Vec<String>,
    ) -> Result<Self, SessionError> {
        match (can_predict, return_probes) {
            (true, true) => Ok(Self::Comparing),
            (false, true) => Ok(Self::Awaiting),
            (false, false) => Err(SessionError::NothingToProbe),
            (true, false) => {
                programs.trust_predictions()?;
                warnings.push(
                    "the prediction of blocks could not be verified, for want of return probes"
                        .to_owned(),
                );
                Ok(Self::Settled)
            }
        }
    }

    /// Looks at the counts so far. Returns whether return probes are not needed from now on.
    ///
    /// # Errors
    /// The kernel side cannot be told.
    pub(super) fn tick(
        &mut self,
        counters: &BTreeMap<Counter, u64>,
        programs: &mut Programs,
        warnings: &mut Vec<String>,
    ) -> Result<bool, SessionError> {
        let count = |counter| counters.get(&counter).copied().unwrap_or(0);
        let (right, wrong) = (count(Counter::PredictionRight), count(Counter::PredictionWrong));
        match *self {
            Self::Comparing if wrong > 0 => {
                warnings.push(format!(
                    "{wrong} of {} predicted blocks were wrong: blocks are awaited, at a higher cost to the target",
                    right + wrong
                ));
                *self = Self::Awaiting;
            }
            Self::Comparing if right >= PROOF => {
                programs.trust_predictions()?;
                *self = Self::Trusted { since: Instant::now() };
            }
            Self::Trusted { since } if since.elapsed() >= LAST_RETURNS => {
                *self = Self::Settled;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }
}
