//! The object users hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::ConfigError;
use crate::lever::Lever;
use crate::name::Name;
use crate::sync::lock;

use super::super::{Lifecycle, Phase};
use super::callback::{CleanupCallback, RegisterError, RegisterErrorKind};
use super::config::GracefulShutdownBuilder;
use super::report::{ShutdownCause, ShutdownReport};
use super::shared::Shared;

/// Ends a process in order and in time: see the [module](super).
///
/// A cheap handle: clones are the same shutdown. Every method that waits has an async and a blocking form.
///
/// ```
/// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
/// assert_eq!(shutdown.trigger_blocking().exit_code(), 0);
/// ```
#[derive(Clone)]
pub struct GracefulShutdown(pub(super) Arc<Shared>);

impl GracefulShutdown {
    /// One with the defaults of [`builder`](Self::builder).
    ///
    /// ```
    /// use buttress::supervise::shutdown::GracefulShutdown;
    /// assert!(!GracefulShutdown::new("orders").is_shutting_down());
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        match Self::builder(name).build() {
            Ok(shutdown) => shutdown,
            Err(error) => unreachable!("the defaults are valid: {error}"),
        }
    }

    /// Starts to describe one.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{Budget, GracefulShutdown};
    /// use std::time::Duration;
    /// let shutdown = GracefulShutdown::builder("orders")
    ///     .budget(Budget::new(Duration::from_secs(10)))
    ///     .force_exit_code(7)
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> GracefulShutdownBuilder {
        GracefulShutdownBuilder::new(name.into())
    }

    pub(super) fn of(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Adds a callback, to be run in [`Phase::Cleanup`].
    ///
    /// # Errors
    /// Hands the callback back if its name is taken, the shutdown has begun, or its limit is zero.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
    /// let shutdown = GracefulShutdown::new("orders");
    /// shutdown.register(CleanupCallback::new("db", async || ()).priority(10))?;
    /// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
    /// ```
    pub fn register(&self, mut callback: CleanupCallback) -> Result<(), RegisterError> {
        if callback.timeout == Some(Duration::ZERO) {
            let error = ConfigError::new("timeout", "0ns", "above 0");
            return Err(RegisterError::new(callback, RegisterErrorKind::Config(error)));
        }
        if callback.is_async() {
            callback.runtime = Handle::try_current().ok();
        }
        let mut run = lock(&self.0.run);
        let kind = if run.begun.is_some() {
            RegisterErrorKind::ShuttingDown
        } else if run.callbacks.iter().any(|other| other.name == callback.name) {
            RegisterErrorKind::Duplicate
        } else {
            run.callbacks.push(callback);
            return Ok(());
        };
        drop(run);
        Err(RegisterError::new(callback, kind))
    }

    /// Takes a callback away. `None` if there is none with this name, or the shutdown has begun.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
    /// let shutdown = GracefulShutdown::new("orders");
    /// shutdown.register(CleanupCallback::blocking("db", || ()))?;
    /// assert!(shutdown.unregister("db").is_some());
    /// assert!(shutdown.unregister("db").is_none());
    /// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
    /// ```
    #[allow(clippy::must_use_candidate, reason = "most callers want it gone")]
    pub fn unregister(&self, name: impl Into<Name>) -> Option<CleanupCallback> {
        let name = name.into();
        let mut run = lock(&self.0.run);
        if run.begun.is_some() {
            return None;
        }
        let place = run.callbacks.iter().position(|callback| callback.name == name)?;
        Some(run.callbacks.remove(place))
    }

    /// Begins the shutdown, which goes on by itself. False if it had begun.
    ///
    /// ```
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// assert!(shutdown.begin());
    /// assert!(shutdown.is_shutting_down());
    /// assert!(!shutdown.begin());
    /// ```
    #[allow(clippy::must_use_candidate, reason = "most callers do not care who was first")]
    pub fn begin(&self) -> bool {
        self.0.begin(ShutdownCause::Triggered, false)
    }

    /// Begins the shutdown if it has not begun, and waits for its end. Dropping the future does not
    /// stop it.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// assert!(shutdown.trigger().await.is_clean());
    /// # })
    /// ```
    pub async fn trigger(&self) -> ShutdownReport {
        self.begin();
        self.wait().await
    }

    /// As [`trigger`](Self::trigger), blocking the thread. Within a runtime, where it should not be called,
    /// async callbacks run outside that: it may be the thread they need.
    ///
    /// ```
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// assert!(shutdown.trigger_blocking().is_clean());
    /// ```
    #[allow(clippy::must_use_candidate, reason = "not everybody looks at the report")]
    pub fn trigger_blocking(&self) -> ShutdownReport {
        self.finish_blocking(ShutdownCause::Triggered)
    }

    pub(super) fn finish_blocking(&self, cause: ShutdownCause) -> ShutdownReport {
        self.0.begin(cause, Handle::try_current().is_ok());
        loop {
            if let Some(report) = self.wait_blocking(Duration::from_secs(3600)) {
                return report;
            }
        }
    }

    /// Returns when the process is to exit: the shutdown has begun and ended, with all callbacks, whoever else
    /// moves the phases. Dropping the future has no effect.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// shutdown.begin(); // or a signal
    /// let report = shutdown.wait().await;
    /// assert_eq!(report.exit_code(), 0);
    /// # })
    /// ```
    pub async fn wait(&self) -> ShutdownReport {
        self.0.ended().await;
        match self.report() {
            Some(report) => report,
            None => unreachable!("it ends after it has begun"),
        }
    }

    /// As [`wait`](Self::wait), blocking the thread for at most `timeout`.
    ///
    /// ```
    /// use std::time::Duration;
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// assert!(shutdown.wait_blocking(Duration::ZERO).is_none());
    /// ```
    #[must_use]
    pub fn wait_blocking(&self, timeout: Duration) -> Option<ShutdownReport> {
        self.0.ended_blocking(timeout).then(|| self.report()).flatten()
    }

    /// What it has come to so far. `None` if it has not begun.
    ///
    /// ```
    /// assert!(buttress::supervise::shutdown::GracefulShutdown::new("orders").report().is_none());
    /// ```
    #[must_use]
    pub fn report(&self) -> Option<ShutdownReport> {
        self.0.report()
    }

    /// Whether the shutdown has begun: one load.
    ///
    /// ```
    /// assert!(!buttress::supervise::shutdown::GracefulShutdown::new("orders").is_shutting_down());
    /// ```
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.0.life.is_shutting_down()
    }

    /// The phase of the process.
    ///
    /// ```
    /// use buttress::supervise::{Phase, shutdown::GracefulShutdown};
    /// assert_eq!(GracefulShutdown::new("orders").phase(), Phase::Starting);
    /// ```
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.life.phase()
    }

    /// The phases, for whoever has a part in them: servers hold the drain, health looks at it.
    ///
    /// ```
    /// use buttress::supervise::{Phase, shutdown::GracefulShutdown};
    /// let shutdown = GracefulShutdown::new("orders");
    /// shutdown.lifecycle().advance(Phase::Ready, None);
    /// let hold = shutdown.lifecycle().hold("consumer");
    /// ```
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.0.life
    }

    /// The name it was made with.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::shutdown::GracefulShutdown::new("orders").name().as_str(), "orders");
    /// ```
    #[must_use]
    pub fn name(&self) -> Name {
        self.0.name
    }
}

impl fmt::Debug for GracefulShutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GracefulShutdown")
            .field("name", &self.0.name)
            .field("lifecycle", &self.0.life)
            .field("installed", &self.is_installed())
            .finish_non_exhaustive()
    }
}

/// A failure budget can pull it: a shutdown begins, and is not taken back.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// use buttress::supervise::shutdown::{GracefulShutdown, ShutdownCause};
///
/// let shutdown = GracefulShutdown::new("worker");
/// let budget = FailureBudget::builder("jobs").lever(shutdown.clone()).build()?;
/// budget.trip();
/// assert_eq!(shutdown.report().unwrap().cause, ShutdownCause::Lever);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
impl Lever for GracefulShutdown {
    fn engage(&self) {
        self.0.begin(ShutdownCause::Lever, false);
    }

    fn release(&self) {}
}
