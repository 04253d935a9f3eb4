//! What a runtime watchdog tells.

use std::time::Duration;

use crate::name::Name;

use super::threads::ThreadState;

/// A worker of the runtime that is blocked, or the runtime as a whole.
///
/// ```
/// use buttress::supervise::watchdog::RuntimeFreeze;
/// fn one_of_many(freeze: &RuntimeFreeze) -> bool { freeze.worker.is_some() && freeze.workers > 1 }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeFreeze {
    /// Which watchdog.
    pub watchdog: Name,
    /// Which worker, from 0. `None`: a task that has only to answer has not, so no worker takes up new tasks.
    pub worker: Option<usize>,
    /// How many workers there are.
    pub workers: usize,
    /// For how long.
    pub silent: Duration,
    /// What the threads of the process were doing when it was seen; empty outside Linux. Which of them is the
    /// worker, the runtime does not say; a blocked one is not in the wait that idle ones share.
    pub threads: Vec<ThreadState>,
}

/// The end of a [`RuntimeFreeze`].
///
/// ```
/// use buttress::supervise::watchdog::RuntimeRecovery;
/// fn long(recovery: &RuntimeRecovery) -> bool { recovery.after.as_secs() > 5 }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeRecovery {
    /// Which watchdog.
    pub watchdog: Name,
    /// Which worker, or `None` for the runtime as a whole.
    pub worker: Option<usize>,
    /// How long it was frozen.
    pub after: Duration,
}

/// What a runtime watchdog has seen so far.
///
/// ```
/// # let runtime = tokio::runtime::Runtime::new().unwrap();
/// use buttress::supervise::watchdog::RuntimeWatchdog;
/// let dog = RuntimeWatchdog::builder("api", runtime.handle()).build()?;
/// assert_eq!(dog.stats().freezes, 0);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeWatchdogStats {
    /// How often a worker was blocked.
    pub freezes: u64,
    /// How often the runtime as a whole did not answer.
    pub canary_freezes: u64,
    /// How often the watchdog came too late itself to say anything.
    pub observer_gaps: u64,
    /// Looks at which all was well.
    pub healthy_checks: u64,
}
