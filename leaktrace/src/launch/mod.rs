//! Starts a command and holds it where its interpreter is about to run the main module.
//!
//! The command is started by a second leaktrace, which waits for a word before it becomes the command: by then this one
//! follows it with ptrace. Shells, `env` and `#!` lines are followed from program to program. Where one holds CPython,
//! a hardware breakpoint, which writes nothing into the process, stops it at the function that runs the main module.
//! There it is held until the probes are in place, and ptrace lets go of it for good.
//!
//! If leaktrace dies, the kernel lets go of the command, which runs on.

#![forbid(unsafe_code)]

mod breakpoint;
mod invoker;
mod main_module;
mod starter;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGQUIT};

use crate::target::module::ModuleError;
use breakpoint::Breakpoints;
use main_module::MainModule;

pub use invoker::InvokerError;
pub use starter::become_command;

/// `PTRACE_EVENT_STOP`: where an interrupted process stops.
const EVENT_STOP: i32 = 128;

/// How often the command is looked at: its stops are short.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How often a command that has not yet come to its main module is asked whether it runs Python without.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long an interpreter may be there without running a main module: imports of `site` take a second at most, but on
/// a busy machine more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no command to trace.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Whom to run it as cannot be told.
    #[error(transparent)]
    Invoker(#[from] InvokerError),
    /// It cannot be started.
    #[error(
        "cannot start `{command}`: {cause}; check that it is there and may be run by the user who called sudo"
    )]
    Start {
        /// Its name.
        command: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// It ended before it came to be Python.
    #[error(
        "`{command}` {status} and never ran CPython itself; give the command that becomes the Python process"
    )]
    NeverPython {
        /// Its name.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It is another interpreter.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// It cannot be followed.
    #[error("cannot follow `{command}` with ptrace: {cause}; check kernel.yama.ptrace_scope")]
    Follow {
        /// Its name.
        command: String,
        /// Why not.
        cause: Errno,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Code(code) => write!(formatter, "ended with exit code {code}"),
            Self::Signal(number) => {
                let name = Signal::try_from(number).map_or("", Signal::as_str);
                write!(formatter, "was killed by signal {number} {name}")
            }
        }
    }
}

/// Where a command was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It is held before its main module runs.
    BeforeMain,
    /// It runs already: it never came to a main module, as programs do that have an interpreter inside.
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is followed from program to program.
    Followed,
    /// It stands still.
    Held,
    /// It runs on its own.
    Free,
    /// It has ended.
    Ended(ExitStatus),
}

/// A command that leaktrace has started. One that has not come to its main module is killed when this is dropped.
#[derive(Debug)]
pub struct Command {
    name: String,
    pid: Pid,
    state: State,
    is_started: bool,
    breakpoints: Breakpoints,
    main_module: MainModule,
}

impl Command {
    /// Starts `command`, the first word of which is its program.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing of the command has run then.
    pub fn start(command: &[OsString]) -> Result<Self, LaunchError> {
        let name = command.first().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
        invoker::invoker()?;
        let failed = |cause| LaunchError::Start { command: name.clone(), cause };
        let starter = starter::Starter::start(command).map_err(failed)?;
        let pid = Pid::from_raw(starter.pid().cast_signed());
        let started = Self {
            name: name.clone(),
            pid,
            state: State::Followed,
            is_started: false,
            breakpoints: Breakpoints::of(pid),
            main_module: MainModule::default(),
        };
        ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXEC)
            .map_err(|cause| started.not_followed(cause))?;
        starter.go().map_err(|cause| LaunchError::Start { command: name, cause })?;
        Ok(started)
    }

    /// Its pid, which stays the same from program to program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Follows it to where it is about to run its main module, and holds it there.
    ///
    /// # Errors
    /// [`LaunchError`]: it ended before, or is another interpreter.
    pub async fn until_main(&mut self) -> Result<Met, LaunchError> {
        let mut next_question = Instant::now() + ASK_EVERY;
        loop {
            if let Some(status) = self.look()? {
                match self.at_stop(status)? {
                    State::Held => return Ok(Met::BeforeMain),
                    State::Ended(status) => return Err(self.never_python(status)),
                    State::Followed | State::Free => {}
                }
                continue;
            }
            let now = Instant::now();
            if self.is_started && now >= next_question {
                next_question = now + ASK_EVERY;
                if self.main_module.is_passed_by(self.pid(), PATIENCE) {
                    self.let_go()?;
                    return Ok(Met::Running);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets it run on its own: ptrace has done its part.
    ///
    /// # Errors
    /// It is gone.
    pub fn let_run(&mut self) -> Result<(), LaunchError> {
        if self.state == State::Held {
            ptrace::detach(self.pid, None).map_err(|cause| self.not_followed(cause))?;
            self.state = State::Free;
        }
        Ok(())
    }

    /// How it has ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.state == State::Free {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    self.state = State::Ended(ExitStatus::Code(code))
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.state = State::Ended(ExitStatus::Signal(signal as i32));
                }
                _ => {}
            }
        }
        match self.state {
            State::Ended(status) => Some(status),
            State::Followed | State::Held | State::Free => None,
        }
    }

    /// Whether it runs, or has run, without ptrace: a mistake of leaktrace's is no reason to end it.
    #[must_use]
    pub fn is_on_its_own(&self) -> bool {
        self.state == State::Free
    }

    /// To hand signals on to it.
    #[must_use]
    pub const fn heir(&self) -> Heir {
        Heir { pid: self.pid }
    }

    fn look(&self) -> Result<Option<WaitStatus>, LaunchError> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(None),
            Ok(status) => Ok(Some(status)),
            // A signal that the library has no name for: a realtime signal, which is not handed on.
            Err(Errno::EINVAL) => self.go_on(None).map(|()| None),
            Err(cause) => Err(self.not_followed(cause)),
        }
    }

    /// Deals with a stop; returns what it is now.
    fn at_stop(&mut self, stop: WaitStatus) -> Result<State, LaunchError> {
        match stop {
            WaitStatus::Exited(_, code) => self.state = State::Ended(ExitStatus::Code(code)),
            WaitStatus::Signaled(_, signal, _) => {
                self.state = State::Ended(ExitStatus::Signal(signal as i32));
            }
            WaitStatus::PtraceEvent(_, _, EVENT_STOP) if self.main_module.is_reached() => {
                self.state = State::Held;
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 {
                    // The first may be the starter's own: it is met where it is only becoming one.
                    self.is_started = !main_module::is_leaktrace(self.pid());
                    self.main_module = MainModule::default();
                    // Without breakpoints it is met later.
                    let _ = self.breakpoints.set(&main_module::program_entry(self.pid()));
                }
                self.go_on(None)?;
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) if self.breakpoints.is_hit() => {
                self.at_breakpoint()?
            }
            WaitStatus::Stopped(_, signal) => self.go_on(Some(signal))?,
            _ => {}
        }
        Ok(self.state)
    }

    fn at_breakpoint(&mut self) -> Result<(), LaunchError> {
        // As above.
        let _ = self.breakpoints.clear();
        if self.main_module.is_awaited() {
            self.main_module.reach();
            // At this stop the kernel would deliver the trap if leaktrace died, at the next one it does not.
            ptrace::interrupt(self.pid).map_err(|cause| self.not_followed(cause))?;
        } else {
            // All libraries of the program are in place.
            let places = self.main_module.find(self.pid())?;
            let _ = self.breakpoints.set(&places);
        }
        self.go_on(None)
    }

    fn go_on(&self, signal: Option<Signal>) -> Result<(), LaunchError> {
        match ptrace::cont(self.pid, signal) {
            // It was killed meanwhile, which the next look tells.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(cause) => Err(self.not_followed(cause)),
        }
    }

    /// Takes ptrace off a command that runs: it stops for that, and goes on at once.
    fn let_go(&mut self) -> Result<(), LaunchError> {
        ptrace::interrupt(self.pid).map_err(|cause| self.not_followed(cause))?;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(cause) => return Err(self.not_followed(cause)),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    return Err(self.not_followed(Errno::ESRCH));
                }
                Ok(stop) => {
                    let _ = self.breakpoints.clear();
                    let signal = match stop {
                        WaitStatus::Stopped(_, signal) => Some(signal),
                        _ => None,
                    };
                    ptrace::detach(self.pid, signal).map_err(|cause| self.not_followed(cause))?;
                    self.state = State::Free;
                    return Ok(());
                }
            }
        }
    }

    fn never_python(&self, status: ExitStatus) -> LaunchError {
        let command = self.name.clone();
        match status {
            ExitStatus::Code(code) if !self.is_started => {
                LaunchError::Start { command, cause: starter::cause(code) }
            }
            status => LaunchError::NeverPython { command, status },
        }
    }

    fn not_followed(&self, cause: Errno) -> LaunchError {
        LaunchError::Follow { command: self.name.clone(), cause }
    }
}

/// A command that runs, and gets the signals that leaktrace gets.
#[derive(Clone, Copy, Debug)]
pub struct Heir {
    pid: Pid,
}

impl Heir {
    /// Hands on a signal, unless the terminal has sent it to both.
    pub fn hand_on(self, number: i32) {
        let is_from_terminal = matches!(number, SIGINT | SIGQUIT) && is_in_foreground();
        if !is_from_terminal {
            // It may have ended by itself.
            let _ = Signal::try_from(number).and_then(|signal| kill(self.pid, signal));
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if !matches!(self.state, State::Followed | State::Held) {
            return;
        }
        // It may have ended by itself.
        let _ = kill(self.pid, Signal::SIGKILL);
        while !matches!(
            waitpid(self.pid, Some(WaitPidFlag::__WALL)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
        ) {}
    }
}

/// Whether the terminal sends its signals to leaktrace, and so to the command, which is in the same group.
fn is_in_foreground() -> bool {
    std::fs::File::open("/dev/tty")
        .ok()
        .and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok())
        .is_some_and(|group| group == rustix::process::getpgrp())
}
