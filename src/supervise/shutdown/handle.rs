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

/// Ends a process in order and in time.
///
/// **Failures it prevents**: a process that dies in the middle of its requests; one that never dies, because
/// a callback hangs, the runtime is blocked or a blocking task goes on; one that is killed at the end of a
/// grace period which its own plan exceeds.
///
/// A cheap handle: clones are the same shutdown. Every method that waits has an async and a blocking form.
///
/// ```
/// use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
///
/// let shutdown = GracefulShutdown::new("orders");
/// shutdown.register(CleanupCallback::blocking("db", || println!("closed")))?;
/// shutdown.install()?; // SIGTERM, SIGINT
/// // ... until somebody wants it to end:
/// let report = shutdown.trigger_blocking();
/// assert_eq!(report.exit_code(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Customised:
///
/// ```
/// use buttress::supervise::{Phase, shutdown::{Budget, CleanupCallback, GracefulShutdown, OnSignal, ShutdownReport, Signal, Signals}};
/// use std::time::Duration;
///
/// const SECOND: Duration = Duration::from_secs(1);
///
/// fn main() -> ShutdownReport {
///     let shutdown = GracefulShutdown::builder("orders")
///         .budget(Budget::kubernetes(30 * SECOND).drain(15 * SECOND).cleanup(8 * SECOND))
///         .signals(Signals::default().on(Signal::INT, OnSignal::Hurry))
///         .force_exit_code(75)
///         .build()
///         .expect("a plan that fits");
///     let flush = CleanupCallback::new("queue", async || Err("the broker is gone"));
///     shutdown.register(flush.priority(10).timeout(2 * SECOND)).expect("a new name");
///     let life = shutdown.lifecycle().clone();
///     let work = || {
///         let _hold = life.hold("work"); // the drain waits for it
///         life.advance(Phase::Ready, None);
///     };
///     let ((), report) = shutdown.run_blocking(work).expect("signals can be handled");
///     assert_eq!(report.callbacks.len(), 1);
///     report
/// }
/// ```
///
/// # How it goes
///
/// | phase | ends when |
/// |---|---|
/// | [`LameDuck`](Phase::LameDuck) | its time is over: nothing here knows when the outside has noticed |
/// | [`Draining`](Phase::Draining) | nobody has a [`Hold`](super::super::Hold) any more, or at its limit |
/// | [`Cleanup`](Phase::Cleanup) | the callbacks have run, or at the deadline |
/// | [`Exited`](Phase::Exited) | the program is to return from `main` |
///
/// There is one deadline, set by what began the shutdown; see [`Budget`](super::Budget). A thread of
/// its own drives the phases, so a blocked runtime does not stop it, nor does dropping the future that
/// began it.
///
/// Callbacks run one after the other: lower [priority](CleanupCallback::priority) first, equal ones in
/// the order of registration. An error or a panic is the callback's own, noted in the
/// [report](ShutdownReport), and the next one runs. One that is not done at its limit is left: it
/// holds up neither the next one nor the exit. Without a limit of its own it may take what is left,
/// less a twentieth for each of those after it.
///
/// # Signals and the exit
///
/// | signal | the first | the second | the third |
/// |---|---|---|---|
/// | `TERM` | begins it | nothing: orchestrators repeat it | nothing |
/// | `INT` | begins it | report, exit 130 | exit 130 from the signal handler |
///
/// Other policies: [`Signals`](super::Signals), [`OnSignal`](super::OnSignal). In a handler nothing is
/// done but to read a flag, to write to a pipe, or to leave the process. A thread at the other end of
/// the pipe does the rest; once a *signal* has come that begins a shutdown, it is also the one that
/// ends the process at the deadline: it writes the report to standard error and leaves by `_exit`,
/// whatever is blocked, even if the shutdown has ended and only `main` has not returned. After
/// [`trigger`](Self::trigger) and the like nothing ends the process, unless
/// [asked for](GracefulShutdownBuilder::exit_at_deadline). The exit codes are those of the
/// [report](ShutdownReport).
///
/// Returning from an async `main` waits for the runtime's blocking tasks, until the deadline;
/// [`ShutdownReport::exit`] does not.
///
/// On Windows, `INT` is Ctrl-C, `QUIT` Ctrl-Break, `HUP` a closed window, and `TERM` the end of the
/// session or of the system. Windows itself ends the process a few seconds after the last two, whatever
/// the budget, and the third `INT` is heard by the thread, too. The Windows part is compiled but not tested.
///
/// # Semantics
///
/// - *Sharing*: the [lifecycle](Self::lifecycle) is where the others come in: servers flip their
///   readiness and hold the drain, health looks at it.
/// - *Cancellation*: a future of [`trigger`](Self::trigger), [`wait`](Self::wait) or [`run`](Self::run)
///   can be dropped; the shutdown goes on.
/// - *Runtime*: none is needed. Async callbacks run in the one in which they were registered, or else in
///   one of their own; blocking ones on threads that nothing waits for.
/// - *Time* is real, also where a test has paused tokio's.
/// - *Cost*: [`is_shutting_down`](Self::is_shutting_down) and [`phase`](Self::phase) are one load. No
///   thread before the shutdown itself or [`install`](Self::install), which starts the two that it takes:
///   when the signal comes there may be none to be had. Callbacks run without limits then, up to the
///   deadline.
/// - *Events*: `shutdown_begun`, `shutdown_phase_ended`, `drain_cut_off`, `callback_failed`,
///   `callback_panicked`, `callback_timed_out`, `callback_skipped`, `forced_exit`, `no_exit_guard`,
///   `is_process_1`.
///
/// # Comparison
///
/// `tokio::signal` never gives a signal back and needs a worker that is free: with all of them blocked,
/// a program that waits for it cannot be ended by Ctrl-C. `tokio-graceful-shutdown` and
/// `tokio-graceful` wait for subsystems or guards, up to a deadline; their signals are tokio's, and
/// neither ends a process whose runtime is stuck.
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
