//! The settings of a shutdown, checked.

use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::super::Lifecycle;
use super::budget::Budget;
use super::handle::GracefulShutdown;
use super::report::Codes;
use super::shared::Shared;
use super::signals::Signals;

/// What `timeout(1)` ends with, too.
const FORCED: u8 = 124;

/// Builds a [`GracefulShutdown`]; see [`GracefulShutdown::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`budget`](Self::budget) | 28 s: Kubernetes' 30 | phases that fit |
/// | [`signals`](Self::signals) | `TERM` graceful, `INT` escalates | signals that can be handled |
/// | [`force_exit_code`](Self::force_exit_code) | 124 | 1 to 255 |
/// | [`failed_exit_code`](Self::failed_exit_code) | 0 | 0 to 255 |
/// | [`exit_at_deadline`](Self::exit_at_deadline) | only for signals | |
/// | [`lifecycle`](Self::lifecycle) | a new one | |
///
/// ```
/// use buttress::supervise::shutdown::GracefulShutdown;
/// let shutdown = GracefulShutdown::builder("api").failed_exit_code(3).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct GracefulShutdownBuilder {
    name: Name,
    budget: Budget,
    signals: Signals,
    codes: Codes,
    exit_at_deadline: bool,
    lifecycle: Lifecycle,
    observers: Observers,
}

impl GracefulShutdownBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            budget: Budget::default(),
            signals: Signals::default(),
            codes: Codes { forced: FORCED, failed: 0 },
            exit_at_deadline: false,
            lifecycle: Lifecycle::new(),
            observers: Observers::default(),
        }
    }

    /// How long it may take, and how much of that each phase.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{Budget, GracefulShutdown};
    /// use std::time::Duration;
    /// let budget = Budget::kubernetes(Duration::from_secs(60)).lame_duck(Duration::from_secs(10));
    /// let shutdown = GracefulShutdown::builder("orders").budget(budget).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Which signals [`install`](GracefulShutdown::install) handles, and how.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{GracefulShutdown, OnSignal, Signal, Signals};
    /// let signals = Signals::default().on(Signal::INT, OnSignal::Hurry);
    /// let shutdown = GracefulShutdown::builder("orders").signals(signals).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn signals(mut self, signals: Signals) -> Self {
        self.signals = signals;
        self
    }

    /// The exit code of a shutdown that was cut off: by the deadline, or a drain or callback by its limit.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::GracefulShutdown;
    /// let shutdown = GracefulShutdown::builder("orders").force_exit_code(7).build()?;
    /// assert!(GracefulShutdown::builder("orders").force_exit_code(0).build().is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn force_exit_code(mut self, code: u8) -> Self {
        self.codes.forced = code;
        self
    }

    /// The exit code of a shutdown that ended in time, but a callback failed or panicked.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::GracefulShutdown;
    /// let shutdown = GracefulShutdown::builder("orders").failed_exit_code(1).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn failed_exit_code(mut self, code: u8) -> Self {
        self.codes.failed = code;
        self
    }

    /// Ends the process at the deadline whoever began the shutdown, and not only after a signal.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::GracefulShutdown;
    /// let shutdown = GracefulShutdown::builder("orders").exit_at_deadline().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn exit_at_deadline(mut self) -> Self {
        self.exit_at_deadline = true;
        self
    }

    /// Moves these phases, which others may look at already.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, Phase, shutdown::GracefulShutdown};
    /// let life = Lifecycle::new();
    /// let shutdown = GracefulShutdown::builder("orders").lifecycle(life.clone()).build()?;
    /// shutdown.trigger_blocking();
    /// assert_eq!(life.phase(), Phase::Exited);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn lifecycle(mut self, lifecycle: Lifecycle) -> Self {
        self.lifecycle = lifecycle;
        self
    }

    /// Adds a listener; see [`crate::observe`]. It is called on a thread of its own, and the shutdown waits for that,
    /// but no longer than a moment: one that hangs holds up nothing.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::GracefulShutdown;
    /// let shutdown = GracefulShutdown::builder("orders")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The shutdown, which has not begun and handles no signals yet.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::{Budget, GracefulShutdown};
    /// let budget = Budget::new(std::time::Duration::ZERO);
    /// let error = GracefulShutdown::builder("orders").budget(budget).build().unwrap_err();
    /// assert_eq!(error.field(), "budget");
    /// ```
    pub fn build(self) -> Result<GracefulShutdown, ConfigError> {
        let plan = self.budget.plan()?;
        self.signals.check()?;
        if self.codes.forced == 0 {
            return Err(ConfigError::new("force_exit_code", 0, "1 to 255: 0 is a clean exit"));
        }
        Ok(GracefulShutdown::of(Shared::new(
            self.name,
            self.lifecycle,
            plan,
            self.signals,
            self.codes,
            self.exit_at_deadline,
            self.observers,
        )))
    }
}
