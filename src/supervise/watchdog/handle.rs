//! The object that users hold.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock;
use crate::name::Name;
use crate::observe::Severity;

use super::super::progress::{Progress, Pulse};
use super::config::{Source, WatchdogBuilder};
use super::core::Limits;
use super::error::{WatchdogError, WatchdogTimeoutError};
use super::guard::{Guarded, WatchdogGuard};
use super::shared::{Shared, hold};

/// Notices that something does not get on, while it does not: see the [module](super).
///
/// ```
/// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
/// dog.start()?;
/// dog.ping();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Watchdog {
    pulse: Pulse,
    owner: Arc<Owner>,
}

struct Owner(Arc<Shared>);

/// What a watchdog has seen so far.
///
/// ```
/// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
/// dog.ping();
/// assert_eq!(dog.stats().pings_total, 1);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchdogStats {
    /// Pings; several at once may have been counted as one.
    pub pings_total: u64,
    /// How often it has fired.
    pub timeouts_triggered: u64,
    /// How often it came too late itself to say anything.
    pub observer_gaps: u64,
    /// How long it has been running; zero if it is not.
    pub uptime: Duration,
}

impl Watchdog {
    /// A watchdog that has to be pinged.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> WatchdogBuilder {
        WatchdogBuilder::new(name.into(), Source::Pings)
    }

    /// A watchdog that watches the heartbeat file of another process, and that process.
    ///
    /// Pings count, and have no effect.
    ///
    /// ```
    /// use buttress::supervise::watchdog::{FreezeCause, Watchdog};
    /// let dog = Watchdog::from_state_file("bot", "/run/bot.json")
    ///     .on_timeout(|freeze| match freeze.cause {
    ///         FreezeCause::Dead => println!("start it again"),
    ///         // That it has gone is told then.
    ///         FreezeCause::Silent | FreezeCause::Stopped => println!("kill it"),
    ///         _ => println!("see what became of its file"),
    ///     })
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn from_state_file(name: impl Into<Name>, path: impl Into<PathBuf>) -> WatchdogBuilder {
        WatchdogBuilder::new(name.into(), Source::File(path.into()))
    }

    pub(super) fn from_builder(builder: WatchdogBuilder, limits: Limits) -> Self {
        let shared = Arc::new(Shared::new(builder, limits));
        shared.observers.register(&shared);
        Self { pulse: shared.pulse.clone(), owner: Arc::new(Owner(shared)) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }

    /// Work goes on: a relaxed load and a relaxed store, no clock.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// dog.ping();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[inline]
    pub fn ping(&self) {
        self.pulse.ping();
    }

    /// [`ping`](Self::ping), and an error if it has frozen meanwhile and nobody has seen it recover: ends a
    /// loop that was frozen.
    ///
    /// # Errors
    /// If it is triggered.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// dog.try_ping()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_ping(&self) -> Result<(), WatchdogTimeoutError> {
        self.ping();
        self.shared().triggered()
    }

    /// The pings as something that others can watch, or ping.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// dog.pulse().ping();
    /// assert_eq!(dog.stats().pings_total, 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Begins to watch. The silence before does not count.
    ///
    /// # Errors
    /// If it runs already, or there is no thread to be had.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// dog.start()?;
    /// assert!(dog.is_running());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&self) -> Result<(), WatchdogError> {
        self.shared().start()
    }

    /// Watches until the guard is dropped.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// let guard = dog.start_scoped()?;
    /// drop(guard);
    /// assert!(!dog.is_running());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_scoped(&self) -> Result<WatchdogGuard, WatchdogError> {
        self.start()?;
        Ok(WatchdogGuard::new(self.clone()))
    }

    /// Ends the watch. Nothing happens if it is not running.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// dog.stop();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn stop(&self) {
        self.shared().stop();
    }

    /// Ends `future` with an error when the watchdog fires: it is dropped at its next point of suspension.
    /// Starts the watch if it does not run, and then ends it with the future.
    ///
    /// A poll that blocks cannot be ended: the error comes when it returns.
    ///
    /// # Errors
    /// As [`start`](Self::start); the future's own is [`WatchdogTimeoutError`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// let worker = dog.clone();
    /// let done = dog.guard(async move {
    ///     worker.ping();
    ///     7
    /// })?;
    /// assert_eq!(done.await?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn guard<F: Future>(&self, future: F) -> Result<Guarded<F>, WatchdogError> {
        let owns = match self.start() {
            Ok(()) => Some(WatchdogGuard::new(self.clone())),
            Err(WatchdogError::AlreadyRunning) => None,
            Err(error) => return Err(error),
        };
        Ok(Guarded::new(self.clone(), owns, future))
    }

    /// Runs `work`, and gives an error instead of its result if the watchdog fired meanwhile. Work that is to
    /// end early asks [`try_ping`](Self::try_ping). Watches meanwhile if it did not before.
    ///
    /// # Errors
    /// If it fired. If there is no thread to be had, nothing is watched, and an event says so.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// let done = dog.scope(|dog| {
    ///     dog.ping();
    ///     7
    /// });
    /// assert_eq!(done, Ok(7));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn scope<T>(&self, work: impl FnOnce(&Self) -> T) -> Result<T, WatchdogTimeoutError> {
        let before = self.shared().fired();
        let guard = self.start_scoped();
        if let Err(error @ WatchdogError::Thread(_)) = &guard {
            self.shared().event(Severity::Error, "watchdog_blind", format_args!("{error}"));
        }
        let result = work(self);
        self.shared().fired_since(before).map_or(Ok(result), Err)
    }

    /// Forgets a freeze and the silence so far; a state file gets its grace again.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// dog.reset();
    /// assert!(!dog.is_triggered());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reset(&self) {
        hold(&self.shared().state).core.reset();
    }

    /// Whether it watches.
    ///
    /// ```
    /// assert!(!buttress::supervise::watchdog::Watchdog::builder("worker").build()?.is_running());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_running(&self) -> bool {
        hold(&self.shared().state).running
    }

    /// Whether there is a freeze, which has not ended yet.
    ///
    /// ```
    /// assert!(!buttress::supervise::watchdog::Watchdog::builder("worker").build()?.is_triggered());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        hold(&self.shared().state).core.is_frozen()
    }

    /// How long it has been silent, as of the checks: a ping counts from the check that sees it. Zero before
    /// the first.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// assert!(dog.since_ping().is_zero());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn since_ping(&self) -> Duration {
        let shared = self.shared();
        let sight = Arc::clone(&hold(&shared.state).sight);
        // User code, so without the lock.
        let value = shared.count(&sight);
        let now = clock::now();
        let state = hold(&shared.state);
        match value {
            Some(value) => state.core.silent(now, value),
            None => state.core.silent_as_seen(now),
        }
    }

    /// How much silence is allowed.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// assert_eq!(dog.timeout().as_secs(), 30);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared().limits.timeout
    }

    /// How often it looks.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// assert_eq!(dog.check_interval().as_secs(), 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn check_interval(&self) -> Duration {
        self.shared().limits.check
    }

    /// Its name.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// assert_eq!(dog.name().as_str(), "worker");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> Name {
        self.shared().name
    }

    /// What it has seen so far.
    ///
    /// ```
    /// let dog = buttress::supervise::watchdog::Watchdog::builder("worker").build()?;
    /// assert_eq!(dog.stats().timeouts_triggered, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> WatchdogStats {
        let shared = self.shared();
        let started = hold(&shared.state).started;
        WatchdogStats {
            pings_total: shared.pulse.count(),
            timeouts_triggered: shared.timeouts.load(Ordering::Relaxed),
            observer_gaps: shared.gaps.load(Ordering::Relaxed),
            uptime: started.map_or(Duration::ZERO, |started| clock::now().since(started)),
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog")
            .field("name", &self.name())
            .field("timeout", &self.timeout())
            .field("running", &self.is_running())
            .field("triggered", &self.is_triggered())
            .finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop();
    }
}
