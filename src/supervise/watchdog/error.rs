//! A freeze, and how it is told.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::name::Name;

/// Why a watchdog fires.
///
/// ```
/// assert_eq!(buttress::supervise::watchdog::FreezeCause::Dead.as_str(), "dead");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FreezeCause {
    /// There was no ping, no beat, no progress for too long.
    Silent,
    /// The process is stopped by a signal or a debugger, for too long.
    Stopped,
    /// The process has gone. Also told of one that was found frozen for another cause before.
    Dead,
    /// There is no state file: it was removed, or did not come in time after the start.
    Missing,
    /// The state file is no heartbeat.
    Corrupt,
    /// The state file could not be read for too long: of the process nothing is known. What is known of it later, before it
    /// goes on, is told as another freeze.
    Unreadable,
}

impl FreezeCause {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::watchdog::FreezeCause::Silent.as_str(), "silent");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A freeze, as callbacks are told.
///
/// ```
/// use buttress::supervise::watchdog::{Freeze, FreezeCause};
/// fn must_be_killed(freeze: &Freeze) -> bool { freeze.cause != FreezeCause::Dead }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freeze {
    /// Which watchdog.
    pub watchdog: Name,
    /// Why.
    pub cause: FreezeCause,
    /// How long there has been nothing.
    pub silent: Duration,
}

/// What was guarded did not get on in time.
///
/// ```
/// use buttress::supervise::watchdog::Watchdog;
/// # use std::time::Duration;
/// let dog = Watchdog::builder("import").timeout(Duration::from_secs(1)).build()?;
/// let error = dog.scope(|_| std::thread::park_timeout(Duration::from_millis(2500))).unwrap_err();
/// assert!(error.to_string().starts_with("watchdog import: silent for "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogTimeoutError(pub(super) Freeze);

impl WatchdogTimeoutError {
    /// How long there had been nothing.
    ///
    /// ```
    /// use buttress::supervise::watchdog::WatchdogTimeoutError;
    /// fn too_long(error: &WatchdogTimeoutError) -> bool { error.inactive().as_secs() > 60 }
    /// ```
    #[must_use]
    pub const fn inactive(&self) -> Duration {
        self.0.silent
    }

    /// The freeze.
    ///
    /// ```
    /// use buttress::supervise::watchdog::{FreezeCause, WatchdogTimeoutError};
    /// fn dead(error: &WatchdogTimeoutError) -> bool { error.freeze().cause == FreezeCause::Dead }
    /// ```
    #[must_use]
    pub const fn freeze(&self) -> Freeze {
        self.0
    }
}

impl fmt::Display for WatchdogTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Freeze { watchdog, cause, silent } = self.0;
        write!(f, "watchdog {watchdog}: {} for {silent:.3?}", cause.as_str())
    }
}

impl std::error::Error for WatchdogTimeoutError {}

/// A watchdog that cannot start.
///
/// ```
/// use buttress::supervise::watchdog::{Watchdog, WatchdogError};
/// let dog = Watchdog::builder("worker").build()?;
/// dog.start()?;
/// assert!(matches!(dog.start(), Err(WatchdogError::AlreadyRunning)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WatchdogError {
    /// It runs already.
    AlreadyRunning,
    /// There is no thread, or no descriptor, to be had.
    Thread(Arc<io::Error>),
}

impl WatchdogError {
    pub(super) fn thread(error: io::Error) -> Self {
        Self::Thread(Arc::new(error))
    }
}

impl fmt::Display for WatchdogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyRunning => f.write_str("the watchdog is running already"),
            Self::Thread(error) => write!(f, "cannot start the watchdog: {error}"),
        }
    }
}

impl std::error::Error for WatchdogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::AlreadyRunning => None,
            Self::Thread(error) => Some(error),
        }
    }
}
