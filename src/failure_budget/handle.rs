//! The object users hold.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::classify::{AnyError, Classify};
use crate::clock;
use crate::error::{ConfigError, Error};
use crate::guarded::{Call, Guarding};
use crate::managed::Managed;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::sync::{Lease, stripe_count};

use super::config::{FailureBudgetBuilder, Parts};
use super::core::Core;
use super::guard::Guard;
use super::layer::FailureBudgetLayer;
use super::permit::Permit;
use super::saved::SavedState;
use super::shared::Shared;
use super::state::{BudgetState, FailureBudgetSnapshot, FailureBudgetStats};

/// The share of calls that may fail, and what happens when more do.
///
/// Clones share one state; a layer made from it is a view of the same state. It works alone, async
/// ([`call`](Self::call)), blocking ([`call_blocking`](Self::call_blocking)), by permit
/// ([`try_acquire`](Self::try_acquire)) or as a mere counter ([`record`](Self::record)), and needs a
/// runtime for none of them.
///
/// See the [module](super) for how it decides.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
///
/// let budget = FailureBudget::new("checkout"); // 5 % of at least 50 calls in 30 s
/// for n in 0..50 {
///     budget.record(n % 10 == 0);
/// }
/// assert_eq!(budget.failure_rate(), 0.1);
/// assert!(budget.is_breached() && budget.tripped());
/// ```
#[derive(Clone)]
pub struct FailureBudget {
    pub(super) lease: Lease<Shared>,
}

impl FailureBudget {
    /// A budget with the default settings: spent when more than 5 % of at least 50 calls in the last 30 s
    /// failed; then it tells its observers.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// assert!(!FailureBudget::new("checkout").tripped());
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        match Self::builder(name).into_parts() {
            Ok(parts) => Self::from_parts(parts),
            Err(error) => unreachable!("the default settings are in range: {error}"),
        }
    }

    /// A budget with other settings.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use std::time::Duration;
    /// let budget = FailureBudget::builder("checkout")
    ///     .threshold(0.02)
    ///     .window(Duration::from_secs(60))
    ///     .min_samples(100)
    ///     .shed()
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> FailureBudgetBuilder {
        FailureBudgetBuilder::new(name.into())
    }

    pub(super) fn from_parts(parts: Parts) -> Self {
        let now = clock::now();
        let core = Core::new(parts.config, stripe_count(), now);
        let tripped = parts.restore.is_some_and(|saved| core.restore(&saved, now));
        let shared = Shared::new(core, parts.name, parts.hooks);
        if tripped {
            shared.settle();
        }
        let shared = Arc::new(shared);
        shared.register(&shared);
        Self { lease: Lease::new(shared) }
    }

    /// The layer that puts this budget around a service. The same as
    /// `FailureBudgetLayer::new(self.clone())`.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// let stack = tower::ServiceBuilder::new().layer(budget.layer());
    /// ```
    #[must_use]
    pub fn layer(&self) -> FailureBudgetLayer {
        FailureBudgetLayer::new(self.clone())
    }

    /// Counts one call. Lock-free but when a page of the window is full or a judgement is due.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// budget.record(true);
    /// budget.record(false);
    /// assert_eq!(budget.failure_rate(), 0.5);
    /// ```
    #[inline]
    pub fn record(&self, failed: bool) {
        self.lease.record(failed);
    }

    /// Makes a call unless it is refused, and counts what comes of it. Errors are judged by
    /// [`AnyError`].
    ///
    /// Nothing happens before the returned future is first polled. Dropping it while the call is in
    /// flight counts as told by [`cancelled_after`](FailureBudgetBuilder::cancelled_after). A panic in
    /// the call counts as a failure and goes on.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the call was not made, [`Error::Inner`] with the call's own error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// let answer = budget.call(|| async { Ok::<_, std::io::Error>(42) }).await;
    /// assert_eq!(answer.unwrap(), 42);
    /// # }
    /// ```
    pub async fn call<F, Fut, T, E>(&self, f: F) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: 'static,
    {
        self.call_with(&AnyError, f).await
    }

    /// The same with a classifier of your own.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::failure_budget::FailureBudget;
    /// use buttress::{Verdict, classify_fn};
    /// let budget = FailureBudget::new("checkout");
    /// let fine = classify_fn(|_: Result<&(), &&str>| Verdict::success());
    /// let _ = budget.call_with(&fine, || async { Err("all is well") }).await;
    /// assert_eq!(budget.failure_rate(), 0.0);
    /// # }
    /// ```
    pub async fn call_with<C, F, Fut, T, E>(&self, classify: &C, f: F) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let shared = &*self.lease;
        shared.admit().map_err(|refusal| shared.refused(refusal))?;
        let mut guard = Guard::new(shared);
        let judge = classify.start(&());
        let inner = guard.run(f);
        let mut call = pin!(Call::new(inner, guard));
        let result = call.as_mut().await;
        call.guard().report(classify.finish(judge, result.as_ref()).outcome);
        result.map_err(Error::Inner)
    }

    /// Makes a blocking call unless it is refused, and counts what comes of it. Errors are judged by
    /// [`AnyError`]. Needs no runtime.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// assert_eq!(budget.call_blocking(|| Ok::<_, std::io::Error>(42)).unwrap(), 42);
    /// ```
    pub fn call_blocking<F, T, E>(&self, f: F) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Result<T, E>,
        E: 'static,
    {
        self.call_blocking_with(&AnyError, f)
    }

    /// The same with a classifier of your own.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use buttress::{Verdict, classify_fn};
    /// let budget = FailureBudget::new("checkout");
    /// let ignored = classify_fn(|_: Result<&(), &&str>| Verdict::ignored());
    /// let _ = budget.call_blocking_with(&ignored, || Err("injected"));
    /// assert_eq!(budget.sample_count(), 0);
    /// ```
    pub fn call_blocking_with<C, F, T, E>(&self, classify: &C, f: F) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        F: FnOnce() -> Result<T, E>,
    {
        let shared = &*self.lease;
        shared.admit().map_err(|refusal| shared.refused(refusal))?;
        let mut guard = Guard::new(shared);
        let judge = classify.start(&());
        let result = guard.run(f);
        guard.report(classify.finish(judge, result.as_ref()).outcome);
        result.map_err(Error::Inner)
    }

    /// Permission for one call, for code that fits neither form above. Report what came of it to the
    /// [`Permit`]; dropping the permit counts as a cancelled call.
    ///
    /// # Errors
    /// The [`Rejection`] if the call is refused.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// let permit = budget.try_acquire()?;
    /// // … make the call …
    /// permit.success();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let shared = Arc::clone(self.lease.shared());
        match shared.admit() {
            Ok(()) => {
                let mut guard = Guard::new(shared);
                guard.stamp();
                Ok(Permit { guard })
            }
            Err(refusal) => Err(shared.refused(refusal)),
        }
    }

    /// The share of failed calls in the window, 0 if there are none.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").failure_rate(), 0.0);
    /// ```
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        self.lease.core.totals(clock::now()).failure_rate()
    }

    /// Calls in the window.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").sample_count(), 0);
    /// ```
    #[must_use]
    pub fn sample_count(&self) -> u64 {
        self.lease.core.totals(clock::now()).calls
    }

    /// Whether the failure rate is above the threshold now, on enough calls. Unlike
    /// [`tripped`](Self::tripped) it knows no past: at a rate between recovery and threshold a breached
    /// budget is tripped and not breached. In SLO mode the same as `tripped`.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("checkout").min_samples(1).build()?;
    /// budget.record(true);
    /// assert!(budget.is_breached());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_breached(&self) -> bool {
        let now = clock::now();
        if self.lease.core.has_slo() {
            self.lease.tell(self.lease.core.poll(now));
        }
        self.lease.core.is_breached(now)
    }

    /// Where it stands. A recovery that is due happens by being asked.
    ///
    /// ```
    /// use buttress::failure_budget::{BudgetState, FailureBudget};
    /// assert_eq!(FailureBudget::new("checkout").state(), BudgetState::Healthy);
    /// ```
    #[must_use]
    pub fn state(&self) -> BudgetState {
        self.lease.tell(self.lease.core.poll(clock::now()));
        self.lease.core.state()
    }

    /// Whether it acts: it was breached and has not recovered, or was tripped.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// budget.trip();
    /// assert!(budget.tripped());
    /// ```
    #[must_use]
    pub fn tripped(&self) -> bool {
        self.state().is_acting()
    }

    /// The failure rate above which it is spent.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").threshold(), 0.05);
    /// ```
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.lease.core.settings().threshold
    }

    /// How far back it looks.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").window().as_secs(), 30);
    /// ```
    #[must_use]
    pub fn window(&self) -> Duration {
        self.lease.core.settings().window
    }

    /// With fewer calls than this in the window it is never spent.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").min_samples(), 50);
    /// ```
    #[must_use]
    pub fn min_samples(&self) -> u64 {
        self.lease.core.settings().min_samples
    }

    /// The name, as in events and errors.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").name(), "checkout");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.lease.name.as_str()
    }

    /// Totals so far.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").stats().breaches, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> FailureBudgetStats {
        self.lease.core.stats()
    }

    /// State, window, totals and alerts at one instant. Calls that are made meanwhile may be in some of its
    /// numbers.
    ///
    /// ```
    /// use buttress::failure_budget::{BreachReason, FailureBudget};
    /// let budget = FailureBudget::new("checkout");
    /// budget.trip();
    /// assert_eq!(budget.snapshot().breach.unwrap().reason, BreachReason::Operator);
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> FailureBudgetSnapshot {
        let now = clock::now();
        self.lease.tell(self.lease.core.poll(now));
        self.lease.core.snapshot(now)
    }

    /// In SLO mode the share of the period's error budget that is left, below 0 if it is overdrawn.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// assert_eq!(FailureBudget::new("checkout").budget_remaining(), None, "no SLO");
    /// ```
    #[must_use]
    pub fn budget_remaining(&self) -> Option<f64> {
        self.lease.core.slo(clock::now()).map(|slo| slo.budget_remaining)
    }

    /// In SLO mode the time until the budget is spent if it goes on to burn as it does; `None` if it does
    /// not burn.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use std::time::Duration;
    /// let day = Duration::from_secs(86_400);
    /// let budget = FailureBudget::builder("checkout").slo(0.5, day).build()?;
    /// assert_eq!(budget.time_to_exhaustion(), None);
    /// for n in 0..100 {
    ///     budget.record(n % 4 == 0);
    /// }
    /// assert_eq!(budget.time_to_exhaustion(), Some(day), "half is left and burns at half speed");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn time_to_exhaustion(&self) -> Option<Duration> {
        self.lease.core.slo(clock::now())?.time_to_exhaustion
    }

    /// Goes by other settings from now on, and keeps what it knows. Judges by them at once: a breach may begin
    /// or end with the change.
    ///
    /// No call sees some of the old settings and some of the new. What stays: the name, callbacks, levers,
    /// observers, totals, and a budget that is tripped or retired until it is [`reset`](Self::reset). Those of
    /// `settings` are not looked at, and neither are its registry and what it would
    /// [`restore`](FailureBudgetBuilder::restore). A breach that has begun does not become latched by
    /// [`latch`](FailureBudgetBuilder::latch); the next one does.
    ///
    /// The window keeps its calls. If it becomes longer, those that have left it already do not come back: it
    /// fills up as time passes. If it becomes shorter, calls that are too old leave at once, and some that
    /// are younger by up to a 128th of the longer window with them.
    ///
    /// In SLO mode the objective and the alerts' factors and severities can change.
    ///
    /// Takes a mutex; calls go on without one.
    ///
    /// # Errors
    /// A [`ConfigError`] naming the first setting that is out of range or contradicts another, or that a
    /// budget cannot change: whether there is an `slo`, its `slo.period`, and the windows of its
    /// `burn_alerts`. Then nothing has changed.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let settings = || FailureBudget::builder("checkout").min_samples(10);
    /// let budget = settings().threshold(0.5).build()?;
    /// for n in 0..10 {
    ///     budget.record(n < 3);
    /// }
    /// assert!(!budget.tripped());
    /// budget.reconfigure(settings().threshold(0.2))?;
    /// assert!(budget.tripped(), "three of ten are more than a fifth");
    ///
    /// let error = budget.reconfigure(settings().threshold(2.0)).unwrap_err();
    /// assert_eq!((error.field(), budget.threshold()), ("threshold", 0.2));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, settings: FailureBudgetBuilder) -> Result<(), ConfigError> {
        let config = settings.into_config()?;
        let change = self.lease.core.reconfigure(config, clock::now())?;
        self.lease.tell(change);
        Ok(())
    }

    /// What a registry shows of it.
    pub(crate) fn managed(&self) -> Weak<dyn Managed> {
        let weak: Weak<Shared> = Arc::downgrade(self.lease.shared());
        weak
    }

    /// It again, as long as somebody else has it.
    pub(crate) fn weakly(&self) -> impl Fn() -> Option<Self> + Clone + Send + Sync + use<> {
        let shared = Arc::downgrade(self.lease.shared());
        move || shared.upgrade().map(|shared| Self { lease: Lease::new(shared) })
    }

    /// No registry shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget(&self, home: &crate::managed::Home) {
        home.forget(self.lease.shared());
    }

    /// Acts, whatever the calls do, until [`reset`](Self::reset). The layer measures no more meanwhile.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("checkout").reject().build()?;
    /// budget.trip();
    /// assert!(budget.call_blocking(|| Ok::<_, std::io::Error>(())).is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn trip(&self) {
        self.lease.tell(self.lease.core.trip(clock::now()));
    }

    /// Healthy again, with nothing in its windows. Totals stay. A budget that was retired is back in
    /// service.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::new("checkout");
    /// budget.record(true);
    /// budget.trip();
    /// budget.reset();
    /// assert!(!budget.tripped());
    /// assert_eq!(budget.sample_count(), 0);
    /// ```
    pub fn reset(&self) {
        self.lease.tell(self.lease.core.reset(clock::now()));
    }

    /// Takes it out of service: it lets go of its levers, counts nothing and refuses nothing, also for
    /// services and calls that still hold it. Only a service that has said it is ready to refuse a call
    /// still refuses that one. For a budget that was uninstalled or replaced.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("checkout").reject().build()?;
    /// budget.trip();
    /// budget.retire();
    /// assert!(budget.try_acquire().is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn retire(&self) {
        self.lease.tell(self.lease.core.retire(clock::now()));
    }

    /// Whether that is this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.lease.shared(), other.lease.shared())
    }

    /// What it remembers, for [`restore`](FailureBudgetBuilder::restore) after a restart: the windows and
    /// whether it is tripped. A breach is not: the successor judges the windows at its first call, and
    /// tells of it again.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use std::time::Duration;
    /// let week = Duration::from_secs(7 * 86_400);
    /// let before = FailureBudget::builder("checkout").slo(0.99, week).build()?;
    /// before.record(true);
    /// let saved = before.save();
    /// let after = FailureBudget::builder("checkout").slo(0.99, week).restore(saved).build()?;
    /// assert_eq!(after.snapshot().slo.unwrap().failures, 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn save(&self) -> SavedState {
        self.lease.core.save(clock::now())
    }
}

impl fmt::Debug for FailureBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}
