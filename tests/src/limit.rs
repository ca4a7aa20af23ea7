//! Nothing that a test waits for lasts for ever.

use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Longest time for the work that a process is told to do, or for its end.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// Kills a process whose time is over before this is dropped, so that whoever reads its output comes to the end of it.
#[derive(Debug)]
pub(crate) struct Limit {
    _in_time: Sender<()>,
}

impl Limit {
    /// Gives a process that was not waited for yet so much time.
    ///
    /// # Panics
    /// There are no more file descriptors.
    pub(crate) fn on(child: &Child, time: Duration) -> Self {
        let pid = Pid::from_child(child);
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("it was not waited for");
        let (in_time, dropped) = channel();
        std::thread::spawn(move || {
            if dropped.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                #[expect(clippy::print_stderr, reason = "it is why the test fails")]
                {
                    eprintln!("process {pid:?} is killed: it did nothing for {time:?}");
                }
                // It may have ended by itself.
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        });
        Self { _in_time: in_time }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_process_lives_no_longer_than_its_time() {
        let start = Instant::now();
        let mut child = Command::new("sleep").arg("60").spawn().expect("it starts");
        let _limit = Limit::on(&child, Duration::from_millis(50));
        assert!(!child.wait().expect("it can be waited for").success());
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_process_that_is_in_time_is_left_alone() {
        let mut child = Command::new("sleep").arg("0.3").spawn().expect("it starts");
        drop(Limit::on(&child, Duration::from_millis(100)));
        assert!(child.wait().expect("it can be waited for").success());
    }
}
