//! One process of a family: a thread of its own traces it, and tells what it comes to.

use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch::Receiver;

use crate::commands::{findings, watch};
use crate::report::{Cmdline, End, Report};
use crate::session::{Forked, Options, Session, SessionError, Traced};

/// Bytes of the thread's stack: as many as a program's main thread has.
const STACK: usize = 8 << 20;

/// What a member tells.
pub(super) enum Told {
    /// Its probes and its gate are in place.
    Tracing {
        /// The process.
        pid: u32,
        /// Its CPython.
        version: String,
    },
    /// A process of the family was made, or was there already.
    Forked(Forked),
    /// Its gate is closed.
    Closed {
        /// The process.
        pid: u32,
    },
    /// It has ended.
    Ended {
        /// The process.
        pid: u32,
        /// Its report; `None` where it was told to stop before it began.
        outcome: Result<Option<Box<Process>>, SessionError>,
    },
    /// Its probes are off, and its lock is given back. This comes in any case, the last of all.
    Gone {
        /// The process.
        pid: u32,
    },
}

/// A process that was traced.
pub(super) struct Process {
    /// Its report.
    pub(super) report: Report,
    /// When its tracing began.
    pub(super) started_at: SystemTime,
    /// How it ended.
    pub(super) end: End,
}

/// How members are traced.
#[derive(Clone)]
pub(super) struct Member {
    /// The process.
    pub(super) pid: u32,
    /// How to trace it.
    pub(super) options: Options,
    /// How its command line is shown.
    pub(super) cmdline: Cmdline,
    /// Where to tell.
    pub(super) tell: UnboundedSender<Told>,
    /// Says how it is to end, once it is.
    pub(super) stop: Receiver<Option<End>>,
    /// Says what it may be made to pay, in percent of its time; `None` where every call is traced.
    pub(super) share_pct: Option<Receiver<f64>>,
}

impl Member {
    /// Has it traced.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(self) -> std::io::Result<JoinHandle<()>> {
        let name = format!("trace-{}", self.pid);
        std::thread::Builder::new().name(name).stack_size(STACK).spawn(move || self.run())
    }

    fn run(self) {
        let (pid, tell) = (self.pid, self.tell.clone());
        let _farewell = Farewell { pid, tell: tell.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = match runtime {
            Ok(runtime) => runtime.block_on(self.trace()),
            Err(cause) => Err(SessionError::Memory { pid, cause }),
        };
        let (outcome, probes) = match outcome {
            Ok(Some((process, probes))) => (Ok(Some(process)), Some(probes)),
            Ok(None) => (Ok(None), None),
            Err(error) => (Err(error), None),
        };
        // Whoever listened may have left, at a second signal.
        let _ = tell.send(Told::Ended { pid, outcome });
        drop(probes);
    }

    async fn trace(mut self) -> Result<Option<(Box<Process>, Traced)>, SessionError> {
        let mut session = tokio::select! {
            session = Session::start(self.pid, self.options.clone()) => session?,
            _end = stopped(&mut self.stop) => return Ok(None),
        };
        self.say(Told::Tracing { pid: self.pid, version: session.target().version.to_string() });
        for pid in session.children() {
            self.say(Told::Forked(Forked { pid, shares_memory: false }));
        }
        let tell = self.tell.clone();
        let mut share_pct = self.share_pct.take();
        // What there was to be said before it listened counts as well.
        share_pct.iter_mut().for_each(Receiver::mark_changed);
        let end = watch::until_end(&mut session, stopped(&mut self.stop), |session| {
            share_pct.iter_mut().for_each(|share_pct| heed(share_pct, session));
            for forked in session.forked() {
                let _ = tell.send(Told::Forked(forked));
            }
        })
        .await;
        session.close();
        self.say(Told::Closed { pid: self.pid });
        let end = end?;
        let traced = session.finish(end)?;
        let report = findings::report(&traced, self.cmdline);
        let process = Process { report, started_at: traced.started_at, end: traced.end };
        Ok(Some((Box::new(process), traced)))
    }

    fn say(&self, told: Told) {
        // As above.
        let _ = self.tell.send(told);
    }
}

/// Tells that a member is gone, whichever way.
struct Farewell {
    pid: u32,
    tell: UnboundedSender<Told>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // As above.
        let _ = self.tell.send(Told::Gone { pid: self.pid });
    }
}

/// Has the session keep to what it may be made to pay, where that has changed.
fn heed(share_pct: &mut Receiver<f64>, session: &mut Session) {
    if share_pct.has_changed().unwrap_or(false) {
        session.keep_within(*share_pct.borrow_and_update());
    }
}

/// How it is to end, as soon as that is said.
async fn stopped(stop: &mut Receiver<Option<End>>) -> End {
    match stop.wait_for(Option::is_some).await {
        Ok(end) => end.unwrap_or(End::Signal),
        Err(_left) => End::Signal,
    }
}
