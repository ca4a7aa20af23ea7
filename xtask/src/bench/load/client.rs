//! The client itself: `PORT RATE SECONDS` on its command line; then for each line `FROM TO` on stdin, in nanoseconds of the
//! shared clock, one line of JSON with the latencies of what was due in between.

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::connection::Connection;
use crate::bench::clock;
use crate::bench::latencies::Latencies;

/// What it says when it asks.
pub(super) const READY: &str = "asking";

/// Requests that can be under way at the same time.
const CONNECTIONS: u64 = 8;

/// A request that is so late is not sent any more: a service that cannot keep up would otherwise have to work off the
/// requests of one stretch of time in the next.
const TOO_LATE_NS: u64 = 500_000_000;

/// How long the answers to what was due are waited for.
const PATIENCE: Duration = Duration::from_millis(700);

/// When requests are due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start_ns: u64,
    period_ns: u64,
    end_ns: u64,
}

/// A request that was due: when, and how long it took if there was an answer.
type Request = (u64, Option<u64>);

/// What became of requests.
type Requests = Arc<Mutex<Vec<Request>>>;

/// Asks until the time is over, or until nobody wants to know any more.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let number = |index: usize| -> Result<u64> {
        let text = arguments.get(index).context("the client needs PORT RATE SECONDS")?;
        Ok(text.parse()?)
    };
    let port = u16::try_from(number(0)?)?;
    let start_ns = clock::now_ns();
    let period_ns = 1_000_000_000 / number(1)?.max(1);
    let schedule = Schedule { start_ns, period_ns, end_ns: start_ns + number(2)? * 1_000_000_000 };
    let requests = Requests::default();
    for connection in 0..CONNECTIONS {
        let requests = Arc::clone(&requests);
        thread::spawn(move || ask(port, schedule, connection, &requests));
    }
    println!("{READY}");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (from, to) = line.split_once(' ').context("a line is `FROM TO`")?;
        let latencies = take(&requests, schedule, from.parse()?, to.parse()?);
        println!("{}", serde_json::to_string(&latencies)?);
        std::io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks at the times of one connection: each takes every eighth.
fn ask(port: u16, schedule: Schedule, connection: u64, requests: &Requests) {
    let mut stream = Connection::new(port);
    let mut number = connection;
    loop {
        let due = schedule.start_ns + number * schedule.period_ns;
        if due >= schedule.end_ns {
            return;
        }
        clock::sleep_until(due);
        let is_sent = clock::now_ns() - due < TOO_LATE_NS;
        let answered = is_sent && stream.get(&format!("/items?first={}", number % 1000)).is_ok();
        let took = answered.then(|| clock::now_ns() - due);
        lock(requests).push((due, took));
        number += CONNECTIONS;
    }
}

/// Waits for what was due in a stretch of time, takes it out, and forgets what was before.
fn take(requests: &Requests, schedule: Schedule, from_ns: u64, to_ns: u64) -> Latencies {
    let expected = schedule.count(from_ns, to_ns);
    let end = Instant::now() + PATIENCE;
    let is_due = |request: &Request| (from_ns..to_ns).contains(&request.0);
    while lock(requests).iter().filter(|request| is_due(request)).count() < expected
        && Instant::now() < end
    {
        thread::sleep(Duration::from_millis(5));
    }
    let mut requests = lock(requests);
    let known: Vec<_> = requests.iter().filter(|request| is_due(request)).copied().collect();
    requests.retain(|request| request.0 >= to_ns);
    let unknown = expected.saturating_sub(known.len());
    let never = std::iter::repeat_n(None, unknown);
    Latencies::of(known.into_iter().map(|(_, took)| took).chain(never))
}

impl Schedule {
    /// How many requests are due from one moment to another.
    fn count(self, from_ns: u64, to_ns: u64) -> usize {
        let before =
            |at: u64| at.min(self.end_ns).saturating_sub(self.start_ns).div_ceil(self.period_ns);
        usize::try_from(before(to_ns).saturating_sub(before(from_ns))).unwrap_or(0)
    }
}

fn lock(requests: &Requests) -> MutexGuard<'_, Vec<Request>> {
    // A list that was only pushed to is whole, whoever panicked.
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { start_ns: 1_000, period_ns: 100, end_ns: 2_000 };

    #[test]
    fn requests_are_due_at_the_start_and_no_more_at_the_end() {
        assert_eq!(SCHEDULE.count(0, 10_000), 10);
        assert_eq!(SCHEDULE.count(1_000, 1_100), 1);
        assert_eq!(SCHEDULE.count(1_001, 1_100), 0);
        assert_eq!(SCHEDULE.count(1_001, 1_101), 1);
        assert_eq!(SCHEDULE.count(2_000, 3_000), 0);
    }

    #[test]
    fn what_was_due_and_is_not_known_is_missing_and_what_is_due_later_is_kept() {
        let requests = Requests::default();
        lock(&requests).extend([(1_000, Some(5_000)), (1_100, None), (1_300, Some(7_000))]);
        let latencies = take(&requests, SCHEDULE, 1_000, 1_300);
        assert_eq!(latencies, Latencies { counts: vec![(5, 1)], missing: 2 });
        assert_eq!(*lock(&requests), [(1_300, Some(7_000))]);
    }
}
