//! The object users hold.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::classify::{AnyError, Classify};
use crate::clock;
use crate::error::{ConfigError, Error};
use crate::guarded::{Call, Guarding};
use crate::managed::Managed;
use crate::name::Name;
use crate::observe::Observers;
use crate::rejection::Rejection;
use crate::sync::{Lease, stripe_count};

use super::config::{CircuitBreakerBuilder, Config};
use super::core::Core;
use super::guard::Guard;
use super::layer::CircuitBreakerLayer;
use super::permit::{Permit, StateChanges};
use super::shared::Shared;
use super::state::{CircuitBreakerSnapshot, CircuitBreakerStats, CircuitState};

/// A circuit breaker: stops calling a callee that keeps failing, and finds out when to start again.
///
/// Clones share one state; a layer made from it is a view of the same state. It works alone, async
/// ([`call`](Self::call)), blocking ([`call_blocking`](Self::call_blocking)) and by permit
/// ([`try_acquire`](Self::try_acquire)), and needs a runtime for none of them.
///
/// See the [module](super) for how it decides, and what happens on cancellation.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use std::io;
///
/// let breaker = CircuitBreaker::new("payments"); // 5 failures in a row, 60 s open, 1 probe
/// for _ in 0..5 {
///     let failed = breaker.call_blocking(|| Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)));
///     assert!(failed.is_err());
/// }
/// let refused = breaker.call_blocking(|| Ok::<_, io::Error>(())).unwrap_err();
/// let why = refused.rejection().expect("the sixth call is not made");
/// assert!(why.retry_after().unwrap().as_secs() >= 59);
/// ```
#[derive(Clone)]
pub struct CircuitBreaker {
    pub(super) lease: Lease<Shared>,
}

impl CircuitBreaker {
    /// A breaker with the default settings: opens after 5 failures in a row, stays open for 60 s, closes
    /// when one probe has succeeded.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    /// assert_eq!(CircuitBreaker::new("db").state(), CircuitState::Closed);
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        let builder = Self::builder(name);
        match builder.into_parts() {
            Ok((name, config, shadow, observers)) => {
                Self::from_parts(name, config, shadow, observers, None).registered()
            }
            Err(error) => unreachable!("the default settings are in range: {error}"),
        }
    }

    /// A breaker with other settings.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("payments")
    ///     .failure_rate(0.5)
    ///     .window(Duration::from_secs(10))
    ///     .min_calls(20)
    ///     .slow_calls(Duration::from_secs(2), 0.8)
    ///     .open_for(Duration::from_secs(1))
    ///     .open_for_max(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::new(name.into())
    }

    pub(super) fn registered(self) -> Self {
        self.lease.observers.register(self.lease.shared());
        self
    }

    pub(super) fn from_parts(
        name: Name,
        config: Config,
        shadow: bool,
        observers: Observers,
        stripes: Option<usize>,
    ) -> Self {
        // The standard library's own per-process randomness is enough to spread a fleet's probes.
        let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(name));
        let core = Core::new(config, stripes.unwrap_or_else(stripe_count), seed, clock::now());
        let (states, _) = watch::channel((0, CircuitState::Closed));
        let shared = Shared { core, name, shadow: AtomicBool::new(shadow), observers, states };
        Self { lease: Lease::new(Arc::new(shared)) }
    }

    /// The layer that puts this breaker around a service. The same as `CircuitBreakerLayer::new(self.clone())`.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// let stack = tower::ServiceBuilder::new().layer(breaker.layer());
    /// ```
    #[must_use]
    pub fn layer(&self) -> CircuitBreakerLayer {
        CircuitBreakerLayer::new(self.clone())
    }

    /// Makes a call unless the circuit is open. Errors are judged by [`AnyError`].
    ///
    /// Nothing happens before the returned future is first polled. Dropping it while the call is in
    /// flight gives a probe's place back and counts as told by
    /// [`cancelled_after`](CircuitBreakerBuilder::cancelled_after). A panic in the call counts as a
    /// failure and goes on.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the call was not made, [`Error::Inner`] with the call's own error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// let answer = breaker.call(|| async { Ok::<_, std::io::Error>(42) }).await;
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
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use buttress::{exclude, AnyError};
    /// use std::io;
    ///
    /// let breaker = CircuitBreaker::builder("db").consecutive_failures(1).build().unwrap();
    /// let not_missing = exclude(AnyError, |e: &io::Error| e.kind() == io::ErrorKind::NotFound);
    /// let missing = breaker
    ///     .call_with(&not_missing, || async { Err::<(), _>(io::Error::from(io::ErrorKind::NotFound)) })
    ///     .await;
    /// assert!(missing.is_err());
    /// assert_eq!(breaker.failure_count(), 0);
    /// # }
    /// ```
    pub async fn call_with<C, F, Fut, T, E>(&self, classify: &C, f: F) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let shared = &*self.lease;
        let ticket = shared.admit().map_err(|refusal| shared.refused(refusal))?;
        let mut guard = Guard::new(shared, ticket);
        let judge = classify.start(&());
        let inner = guard.run(f);
        let mut call = pin!(Call::new(inner, guard));
        let result = call.as_mut().await;
        call.guard().report(&classify.finish(judge, result.as_ref()).outcome);
        result.map_err(Error::Inner)
    }

    /// Makes a blocking call unless the circuit is open. Errors are judged by [`AnyError`]. Needs no
    /// runtime.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// assert_eq!(breaker.call_blocking(|| Ok::<_, std::io::Error>(42)).unwrap(), 42);
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
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use buttress::{classify_fn, Verdict};
    /// let breaker = CircuitBreaker::new("db");
    /// let fine = classify_fn(|_: Result<&(), &&str>| Verdict::success());
    /// let _ = breaker.call_blocking_with(&fine, || Err("all is well"));
    /// assert_eq!(breaker.stats().successful_calls, 1);
    /// ```
    pub fn call_blocking_with<C, F, T, E>(&self, classify: &C, f: F) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        F: FnOnce() -> Result<T, E>,
    {
        let shared = &*self.lease;
        let ticket = shared.admit().map_err(|refusal| shared.refused(refusal))?;
        let mut guard = Guard::new(shared, ticket);
        let judge = classify.start(&());
        let result = guard.run(f);
        guard.report(&classify.finish(judge, result.as_ref()).outcome);
        result.map_err(Error::Inner)
    }

    /// Permission for one call, for code that fits neither form above. Report what came of it to the
    /// [`Permit`]; dropping the permit counts as a cancelled call.
    ///
    /// # Errors
    /// The [`Rejection`] if the circuit is open.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// let permit = breaker.try_acquire()?;
    /// // … make the call …
    /// permit.success();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let shared = Arc::clone(self.lease.shared());
        match shared.admit() {
            Ok(ticket) => {
                let mut guard = Guard::new(shared, ticket);
                guard.stamp();
                Ok(Permit { guard })
            }
            Err(refusal) => Err(shared.refused(refusal)),
        }
    }

    /// The state now. An open breaker whose time has passed becomes half-open by being asked.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    /// assert_eq!(CircuitBreaker::new("db").state(), CircuitState::Closed);
    /// ```
    #[must_use]
    pub fn state(&self) -> CircuitState {
        let shared = &*self.lease;
        let (state, change) = shared.core.poll(clock::now());
        if let Some(change) = change {
            shared.changed(change);
        }
        state
    }

    /// Failures in a row. Goes on counting failed probes; a success, or closing, sets it to zero.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// assert_eq!(CircuitBreaker::new("db").failure_count(), 0);
    /// ```
    #[must_use]
    pub fn failure_count(&self) -> u32 {
        self.lease.core.failure_count()
    }

    /// The name, as in events and errors.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// assert_eq!(CircuitBreaker::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.lease.name.as_str()
    }

    /// Totals so far.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// assert_eq!(CircuitBreaker::new("db").stats().total_calls, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> CircuitBreakerStats {
        self.lease.core.stats()
    }

    /// State, reason, window and totals at one instant. Changes nothing.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, TripReason};
    /// let breaker = CircuitBreaker::new("db");
    /// breaker.force_open();
    /// assert_eq!(breaker.snapshot().reason, TripReason::Operator);
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> CircuitBreakerSnapshot {
        self.lease.core.snapshot(clock::now())
    }

    fn operate(&self, to: CircuitState) {
        if let Some(change) = self.lease.core.operate(to, clock::now()) {
            self.lease.changed(change);
        }
    }

    /// Refuses every call until [`reset`](Self::reset) or another command.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// breaker.force_open();
    /// assert!(breaker.try_acquire().is_err());
    /// ```
    pub fn force_open(&self) {
        self.operate(CircuitState::ForcedOpen);
    }

    /// Lets every call through and goes on counting, but never trips, until [`reset`](Self::reset) or
    /// another command.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// breaker.force_closed();
    /// assert!(breaker.try_acquire().is_ok());
    /// ```
    pub fn force_closed(&self) {
        self.operate(CircuitState::ForcedClosed);
    }

    /// Lets every call through and counts nothing, until [`reset`](Self::reset) or another command.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// breaker.disable();
    /// breaker.try_acquire().unwrap().failure();
    /// assert_eq!(breaker.stats().failed_calls, 0);
    /// ```
    pub fn disable(&self) {
        self.operate(CircuitState::Disabled);
    }

    /// Back to closed, with an empty window and no failures. Totals stay, and the reset is not counted as
    /// a change of state. Calls in flight no longer decide anything, unless the circuit was closed already.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    /// let breaker = CircuitBreaker::new("db");
    /// breaker.force_open();
    /// breaker.reset();
    /// assert_eq!(breaker.state(), CircuitState::Closed);
    /// ```
    pub fn reset(&self) {
        self.operate(CircuitState::Closed);
    }

    /// Goes by other settings from now on, and keeps what it knows.
    ///
    /// A call is judged by the settings that are in force when its result is recorded; no call sees some
    /// of the old ones and some of the new. What stays: the name, the state (an open circuit stays open, and
    /// so does what an operator forced), the generation, the failures in a row, shadow mode, observers, the
    /// seed and all totals. The name, [`shadow`](CircuitBreakerBuilder::shadow),
    /// [`seed`](CircuitBreakerBuilder::seed) and observers of `settings` are not looked at, and neither is
    /// its registry.
    ///
    /// - The window keeps its calls if its kind and length are the same; otherwise it starts empty.
    /// - An open circuit keeps what is left of its open time, but no more than the longest that the new
    ///   settings would give it: [`open_for_max`](CircuitBreakerBuilder::open_for_max), or else
    ///   [`open_for`](CircuitBreakerBuilder::open_for).
    /// - Half-open, the probes in flight keep their places and leases, and results so far count. If they are
    ///   already the verdict that is now asked for, it falls at once.
    /// - A ramp that has begun ends as it would have.
    /// - Nothing else is judged by the change itself: a threshold that has been passed already trips with
    ///   the next call that would have been judged anyway.
    /// - A call that began while no slow calls were asked for is timed from when it was first found pending.
    ///
    /// Takes the mutex that changes of state take; calls that succeed go on without one. Memory: a window of
    /// another kind, and of each power of two of calls, is kept once it has been used.
    ///
    /// # Errors
    /// A [`ConfigError`] naming the first setting that is out of range or contradicts another. Then nothing
    /// has changed.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    /// use std::time::Duration;
    ///
    /// let settings = || CircuitBreaker::builder("db").consecutive_failures(1);
    /// let breaker = settings().open_for(Duration::from_secs(60)).build()?;
    /// breaker.try_acquire().unwrap().failure();
    /// assert_eq!(breaker.state(), CircuitState::Open);
    ///
    /// breaker.reconfigure(settings().open_for(Duration::from_secs(5)))?;
    /// assert_eq!(breaker.state(), CircuitState::Open);
    /// assert!(breaker.snapshot().next_probe.unwrap() <= Duration::from_secs(5));
    ///
    /// let error = breaker.reconfigure(settings().open_for(Duration::ZERO)).unwrap_err();
    /// assert_eq!(error.field(), "open_for");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, settings: CircuitBreakerBuilder) -> Result<(), ConfigError> {
        let (_, config, ..) = settings.into_parts()?;
        self.lease.reconfigure(config);
        Ok(())
    }

    /// Whether that is this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.lease.shared(), other.lease.shared())
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

    /// Switches shadow mode, in which the breaker does everything but refuse.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// breaker.force_open();
    /// breaker.set_shadow(true);
    /// assert!(breaker.try_acquire().is_ok());
    /// ```
    pub fn set_shadow(&self, shadow: bool) {
        self.lease.shadow.store(shadow, Ordering::Relaxed);
        // Who waits for an open circuit has to look again.
        self.lease.states.send_modify(|_| ());
    }

    /// Whether it is in shadow mode.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// assert!(!CircuitBreaker::new("db").is_shadow());
    /// ```
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.lease.is_shadow()
    }

    /// Follows the changes of state from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    /// let breaker = CircuitBreaker::new("db");
    /// let mut states = breaker.subscribe();
    /// breaker.force_open();
    /// assert_eq!(states.changed().await, Some(CircuitState::ForcedOpen));
    /// # }
    /// ```
    #[must_use]
    pub fn subscribe(&self) -> StateChanges {
        StateChanges::new(self.lease.subscribe())
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}
