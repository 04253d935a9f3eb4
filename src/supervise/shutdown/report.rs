//! What a shutdown came to.

use std::fmt;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use crate::name::Name;

use super::super::Phase;
use super::signals::Signal;

/// Why a process shuts down.
///
/// ```
/// use buttress::supervise::shutdown::{ShutdownCause, Signal};
/// assert_eq!(ShutdownCause::Signal(Signal::TERM).to_string(), "SIGTERM");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShutdownCause {
    /// It was told to.
    Signal(Signal),
    /// The program wanted it.
    Triggered,
    /// A failure budget, or whatever else pulls levers, was spent.
    Lever,
    /// The program's work was done.
    ScopeEnded,
}

impl fmt::Display for ShutdownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => signal.fmt(f),
            Self::Triggered => f.write_str("triggered"),
            Self::Lever => f.write_str("lever"),
            Self::ScopeEnded => f.write_str("scope ended"),
        }
    }
}

/// What ended a process before its shutdown, or its `main`, had ended.
///
/// ```
/// use buttress::supervise::shutdown::{ForcedExit, Signal};
/// assert_eq!(ForcedExit::Escalated(Signal::INT).to_string(), "SIGINT again");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForcedExit {
    /// The deadline.
    Deadline,
    /// A signal that came again.
    Escalated(Signal),
}

impl fmt::Display for ForcedExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("deadline"),
            Self::Escalated(signal) => write!(f, "{signal} again"),
        }
    }
}

/// What became of a callback.
///
/// ```
/// use buttress::supervise::shutdown::CallbackOutcome;
/// assert_eq!(CallbackOutcome::Failed("disk full".into()).to_string(), "failed: disk full");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallbackOutcome {
    /// It ran.
    Ok,
    /// It returned this error.
    Failed(String),
    /// It had not ended at its limit and was left.
    TimedOut,
    /// It panicked with this message.
    Panicked(String),
    /// It has not begun: in a finished report, because there was no time.
    Skipped,
    /// It runs. In the report of a forced exit, it was running.
    Running,
}

impl fmt::Display for CallbackOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Skipped => f.write_str("skipped"),
            Self::Running => f.write_str("running"),
        }
    }
}

/// One phase of a [`ShutdownReport`].
///
/// ```
/// use buttress::supervise::{Phase, shutdown::{GracefulShutdown, PhaseReport}};
/// let report = GracefulShutdown::new("orders").trigger_blocking();
/// let drain: &PhaseReport = &report.phases[1];
/// assert_eq!(drain.phase, Phase::Draining);
/// assert!(drain.took < Some(drain.limit), "nothing to wait for");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhaseReport {
    /// Which.
    pub phase: Phase,
    /// How long it took. `None`: it has not ended.
    pub took: Option<Duration>,
    /// How long it could have taken: its own limit, or what was left until the deadline.
    pub limit: Duration,
}

/// One callback of a [`ShutdownReport`].
///
/// ```
/// use buttress::supervise::shutdown::{CallbackOutcome, CallbackReport, CleanupCallback, GracefulShutdown};
/// let shutdown = GracefulShutdown::new("orders");
/// shutdown.register(CleanupCallback::blocking("db", || ()))?;
/// let report = shutdown.trigger_blocking();
/// let db: &CallbackReport = &report.callbacks[0];
/// assert_eq!((db.name.as_str(), &db.outcome), ("db", &CallbackOutcome::Ok));
/// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallbackReport {
    /// Its name.
    pub name: Name,
    /// How long it took, or had been given.
    pub took: Duration,
    /// What became of it.
    pub outcome: CallbackOutcome,
}

/// What a shutdown came to: whole once the process is [`Exited`](Phase::Exited), before that so far.
///
/// `main` can return it. The exit codes:
///
/// | code | when |
/// |---|---|
/// | 0 | everything ended in time |
/// | [`force_exit_code`](super::GracefulShutdownBuilder::force_exit_code), 124 | the deadline, or the drain or a callback cut off |
/// | [`failed_exit_code`](super::GracefulShutdownBuilder::failed_exit_code), 0 | a callback failed or panicked, in time |
/// | 128 + n | signal n came again and escalated |
///
/// ```
/// use buttress::supervise::shutdown::{CallbackOutcome, CleanupCallback, GracefulShutdown, ShutdownReport};
///
/// fn main() -> ShutdownReport {
///     let shutdown = GracefulShutdown::new("orders");
///     shutdown.register(CleanupCallback::blocking("db", || Err("no answer"))).unwrap();
///     let report = shutdown.trigger_blocking();
///     assert_eq!(report.callbacks[0].outcome, CallbackOutcome::Failed("no answer".into()));
///     assert!(!report.is_clean());
///     report
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The name of the shutdown.
    pub name: Name,
    /// Why it began.
    pub cause: ShutdownCause,
    /// The phases so far.
    pub phases: Vec<PhaseReport>,
    /// Who still held the drain when it ended.
    pub held_by: Vec<Name>,
    /// The callbacks, in the order in which they run.
    pub callbacks: Vec<CallbackReport>,
    /// What ended it early.
    pub forced: Option<ForcedExit>,
    /// From the first signal to the end.
    pub took: Duration,
    pub(super) codes: Codes,
}

/// The exit codes of what is not clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes {
    pub(super) forced: u8,
    pub(super) failed: u8,
}

impl ShutdownReport {
    /// Whether the drain ended by itself and every callback ran.
    ///
    /// ```
    /// assert!(buttress::supervise::shutdown::GracefulShutdown::new("orders").trigger_blocking().is_clean());
    /// ```
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.forced.is_none()
            && self.held_by.is_empty()
            && self.callbacks.iter().all(|callback| callback.outcome == CallbackOutcome::Ok)
    }

    /// What the process should end with; see the table above.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::shutdown::GracefulShutdown::new("orders").trigger_blocking().exit_code(), 0);
    /// ```
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use CallbackOutcome::{Ok, Running, Skipped, TimedOut};
        match self.forced {
            Some(ForcedExit::Escalated(signal)) => return signal.exit_code(),
            Some(ForcedExit::Deadline) => return self.codes.forced,
            None => {}
        }
        let any = |of: fn(&CallbackOutcome) -> bool| {
            self.callbacks.iter().any(|callback| of(&callback.outcome))
        };
        if !self.held_by.is_empty() || any(|of| matches!(of, TimedOut | Skipped | Running)) {
            self.codes.forced
        } else if any(|of| *of != Ok) {
            self.codes.failed
        } else {
            0
        }
    }

    /// Ends the process with [`exit_code`](Self::exit_code), as [`std::process::exit`] does. Returning from an async `main` waits for every
    /// blocking task of the runtime; this does not.
    ///
    /// ```no_run
    /// # async fn f(shutdown: buttress::supervise::shutdown::GracefulShutdown) {
    /// let report = shutdown.wait().await;
    /// report.exit()
    /// # }
    /// ```
    pub fn exit(&self) -> ! {
        std::process::exit(i32::from(self.exit_code()))
    }
}

impl fmt::Display for ShutdownReport {
    /// Several lines, the last without an end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shutdown of {} ({}): ", self.name, self.cause)?;
        match self.forced {
            Some(forced) => write!(f, "forced exit ({forced})")?,
            None if self.is_clean() => f.write_str("clean")?,
            None => f.write_str("not clean")?,
        }
        write!(f, " after {:.1?}, exit code {}", self.took, self.exit_code())?;
        for PhaseReport { phase, took, limit } in &self.phases {
            let phase = phase.as_str();
            match took {
                Some(took) => write!(f, "\n  {phase} took {took:.1?} of {limit:.1?}")?,
                None => write!(f, "\n  {phase} had not ended, limit {limit:.1?}")?,
            }
        }
        for (n, name) in self.held_by.iter().enumerate() {
            write!(f, "{}{name}", if n == 0 { "\n  drain cut off, held by " } else { ", " })?;
        }
        for CallbackReport { name, took, outcome } in &self.callbacks {
            write!(f, "\n  callback {name}: {outcome}")?;
            if *outcome != CallbackOutcome::Skipped {
                write!(f, " after {took:.1?}")?;
            }
        }
        Ok(())
    }
}

impl From<&ShutdownReport> for ExitCode {
    fn from(report: &ShutdownReport) -> Self {
        report.exit_code().into()
    }
}

impl Termination for ShutdownReport {
    fn report(self) -> ExitCode {
        ExitCode::from(&self)
    }
}
