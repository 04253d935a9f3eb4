//! What a supervisor tells of itself and its children.

use std::time::Duration;

use crate::name::Name;

use super::exit::Exit;

/// Why a supervisor ended.
///
/// ```
/// assert_eq!(buttress::supervise::process::SupervisorEnd::Stopped.as_str(), "stopped");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SupervisorEnd {
    /// All children have ended, and none is to be started again.
    Finished,
    /// It was asked to.
    Stopped,
    /// There were more restarts than the [`intensity`](super::ProcessSupervisorBuilder::intensity) allows. Whoever
    /// is above has to decide, commonly by ending the process; see
    /// [`has_given_up`](super::ProcessSupervisor::has_given_up) for a liveness check.
    Escalated {
        /// Whose failure was one too many.
        child: Name,
        /// What that was.
        exit: Exit,
    },
    /// Its thread panicked, which is a bug. On Linux the kernel has sent the children their
    /// [`parent_death_signal`](super::Child::parent_death_signal).
    Failed,
}

impl SupervisorEnd {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::SupervisorEnd::Finished.as_str(), "finished");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Escalated { .. } => "escalated",
            Self::Failed => "failed",
        }
    }
}

/// How a supervisor ended.
///
/// ```
/// # fn code(report: &buttress::supervise::process::SupervisorReport) -> u8 {
/// u8::from(report.end != buttress::supervise::process::SupervisorEnd::Stopped)
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SupervisorReport {
    /// Why.
    pub end: SupervisorEnd,
    /// Those that have not even died of `SIGKILL`, with the number of their process.
    pub unkillable: Vec<(Name, u32)>,
    /// What had happened until then.
    pub stats: SupervisorStats,
}

/// Totals of a supervisor.
///
/// ```
/// assert_eq!(buttress::supervise::process::SupervisorStats::default().restarts, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SupervisorStats {
    /// Attempts to start a process, the first ones included.
    pub starts: u64,
    /// Restarts decided because of a failure (or an end, of permanent children).
    pub restarts: u64,
    /// Children found frozen.
    pub freezes: u64,
    /// Children that were not ready in time.
    pub start_timeouts: u64,
    /// Groups that had to be killed.
    pub kills: u64,
    /// Processes that a child had left behind and that were collected
    /// ([`subreaper`](super::ProcessSupervisorBuilder::subreaper)).
    pub orphans_collected: u64,
}

/// What a child is doing.
///
/// ```
/// assert_eq!(buttress::supervise::process::ChildState::Finished.as_str(), "finished");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildState {
    /// It waits for its turn: for those before it to be ready.
    Waiting,
    /// It failed and will be started again.
    Backoff {
        /// In so long.
        remaining: Duration,
    },
    /// It runs, but is not ready yet.
    Starting,
    /// It runs and is ready.
    Up {
        /// For how long it has been.
        since: Duration,
    },
    /// It has been asked to end.
    Stopping,
    /// It was killed, and has not died.
    Unkillable,
    /// It does not run, until the others of its group have stopped or for good.
    Stopped,
    /// It ended, and its [`Restart`](super::Restart) says that this was all.
    Finished,
}

impl ChildState {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::ChildState::Waiting.as_str(), "waiting");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Backoff { .. } => "backoff",
            Self::Starting => "starting",
            Self::Up { .. } => "up",
            Self::Stopping => "stopping",
            Self::Unkillable => "unkillable",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

/// A child as it is now.
///
/// ```
/// use buttress::supervise::process::{Child, ChildState, ProcessSupervisor};
/// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
/// let status = &supervisor.status()[0];
/// assert_eq!((status.name.as_str(), status.state), ("b", ChildState::Waiting));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildStatus {
    /// Its name.
    pub name: Name,
    /// What it is doing.
    pub state: ChildState,
    /// The number of its process, if it has one.
    pub pid: Option<u32>,
    /// How often it has been started.
    pub runs: u64,
    /// How often because it had failed itself.
    pub restarts: u64,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
}
