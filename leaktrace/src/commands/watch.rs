//! Watches one session until it ends.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::report::End;
use crate::session::{Session, SessionError};

/// How often records are taken from the kernel side. Its ring buffer bridges seconds.
const DRAIN_EVERY: Duration = Duration::from_millis(10);

/// The same where most of them are taken at the end of a window. Being woken costs as much as what is done then.
const DRAIN_BETWEEN_WINDOWS: Duration = Duration::from_millis(35);

/// How often the session looks after everything else, and `stop` is asked.
const TICK_EVERY: Duration = Duration::from_millis(100);

/// What is due that soon is done at once: whoever is awake need not be woken again for it.
const SOON: Duration = Duration::from_millis(10);

/// The runtime looks at signals and at its clock only while it waits: at each tick for so long at least, also where a window is
/// due already.
const LISTEN: Duration = Duration::from_millis(1);

/// Takes the records of `session` until its target ends or `stop` says how it is to end. `look` is called each time.
///
/// # Errors
/// The kernel side fails.
pub(super) async fn until_end(
    session: &mut Session,
    stop: impl Future<Output = End>,
    mut look: impl FnMut(&mut Session),
) -> Result<End, SessionError> {
    tokio::pin!(stop);
    let (mut next_tick, mut next_drain) = (Instant::now(), Instant::now());
    let every = session.idle().map_or(DRAIN_EVERY, |_| DRAIN_BETWEEN_WINDOWS);
    loop {
        if let Err(error) = session.step() {
            session.warn(format!("the tracing ended early: {error}"));
            return Ok(End::Lost);
        }
        let now = Instant::now();
        let is_tick = now + SOON >= next_tick;
        // What outlived a window is looked at before its records are counted.
        if now + SOON >= next_drain && !session.is_in_window() {
            session.drain();
            next_drain = now + every;
        }
        if is_tick {
            if let Some(end) = session.tick()? {
                return Ok(end);
            }
            next_tick = now + TICK_EVERY;
        }
        look(session);
        let drains_in = match session.is_in_window() {
            true => every,
            false => next_drain.saturating_duration_since(now),
        };
        let nap = session.idle().unwrap_or(every).min(drains_in);
        session.get_ready();
        // The runtime's own timer takes three system calls and wakes within the next millisecond.
        if !is_tick {
            std::thread::sleep(nap);
            continue;
        }
        tokio::select! {
            biased;
            end = &mut stop => return Ok(end),
            () = sleep(nap.max(LISTEN)) => {}
        }
    }
}
