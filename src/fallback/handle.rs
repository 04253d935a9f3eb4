use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::cause::{Cause, Covers, Refusals};
use super::config::FallbackBuilder;
use super::layer::FallbackLayer;
use crate::classify::Typed;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::replay::CloneRequest;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The count and the bound of the answers that are given in place of others: see the [module](super). Clones are
/// the same object.
///
/// ```
/// use buttress::fallback::Fallback;
/// let fallback = Fallback::new("recommendations");
/// let layer = fallback.layer::<buttress::Boxed>().value(Vec::<u32>::new());
/// assert_eq!(fallback.stats().answered, 0);
/// ```
#[derive(Clone)]
pub struct Fallback {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) max_in_flight: u32,
    observers: Observers,
    pub(super) in_flight: AtomicU32,
    /// When there was an answer last; 0: never.
    pub(super) last: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) not_kept: AtomicU64,
}

/// A fallback under way, until it is dropped.
pub(super) struct Entered {
    shared: Arc<Shared>,
    settled: bool,
}

impl Entered {
    pub(super) fn settle(&mut self, cause: &'static str, answered: bool) {
        self.settled = true;
        let Shared { name, observers, last, .. } = &*self.shared;
        if answered {
            last.store(clock::now().0.max(1), Ordering::Relaxed);
        }
        let counter = if answered { &self.shared.answered } else { &self.shared.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        if observers.see_refusals() {
            observers.emit(LayerKind::Fallback, *name, EventKind::FellBack { cause, answered });
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.settled {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// `None` if as many are under way as may be.
    #[cold]
    pub(super) fn enter(self: &Arc<Self>) -> Option<Entered> {
        let room = |n: u32| (n < self.max_in_flight).then_some(n + 1);
        match self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Some(Entered { shared: Arc::clone(self), settled: false }),
            Err(_) => {
                self.full.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    #[cold]
    pub(super) fn not_kept(&self, _: &Cause) {
        self.not_kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Option<Tick> {
        Some(self.last.load(Ordering::Relaxed)).filter(|&at| at != 0).map(Tick)
    }

    pub(super) fn stats(&self) -> FallbackStats {
        FallbackStats {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            full: self.full.load(Ordering::Relaxed),
            not_kept: self.not_kept.load(Ordering::Relaxed),
        }
    }
}

impl Fallback {
    /// A fallback with the defaults.
    ///
    /// ```
    /// assert_eq!(buttress::fallback::Fallback::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::from_parts(FallbackBuilder::new(name.into()))
    }

    /// A fallback with other numbers.
    ///
    /// ```
    /// let fallback = buttress::fallback::Fallback::builder("db").max_in_flight(20).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> FallbackBuilder {
        FallbackBuilder::new(name.into())
    }

    pub(super) fn from_parts(config: FallbackBuilder) -> Self {
        let shared = Arc::new(Shared {
            name: config.name,
            max_in_flight: config.max_in_flight,
            observers: config.observers,
            in_flight: AtomicU32::new(0),
            last: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            full: AtomicU64::new(0),
            not_kept: AtomicU64::new(0),
        });
        shared.observers.register(&shared);
        Self { shared }
    }

    /// As a layer. What it answers is still to be said: [`value`](FallbackLayer::value),
    /// [`respond`](FallbackLayer::respond), [`call`](FallbackLayer::call) or
    /// [`service`](FallbackLayer::service). The marker is inferred from the error of the inner service.
    ///
    /// ```
    /// let layer = buttress::fallback::Fallback::new("db").layer::<buttress::Typed>().value(0);
    /// ```
    #[must_use]
    pub fn layer<M>(&self) -> FallbackLayer<(), Refusals<M>, CloneRequest> {
        FallbackLayer::new(self.clone())
    }

    /// Makes a call, and answers with `or` if that is refused by one of our layers or objects because it cannot be made now: by
    /// a rate limit, a circuit breaker, an admission, a timeout. [`run_with`](Self::run_with) chooses the cases. A `None` of `or`
    /// leaves the refusal as it is, and so does a fallback of which as many are under way as may be.
    ///
    /// Dropped while `or` is at work, the future counts as a fallback that was dropped.
    ///
    /// # Errors
    /// The call's own, or the refusal, where it is not answered.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use buttress::fallback::Fallback;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (breaker, fallback) = (CircuitBreaker::new("prices"), Fallback::new("prices"));
    /// breaker.force_open();
    /// let call = breaker.call(|| async { Ok::<_, std::io::Error>(7) });
    /// let price = fallback.run(call, |_cause| async { Some(5) }).await;
    /// assert_eq!(price.unwrap(), 5);
    /// assert_eq!(fallback.stats().answered, 1);
    /// # }
    /// ```
    pub async fn run<F, T, E, G, Fut>(&self, call: F, or: G) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: StdError + 'static,
        G: FnOnce(Cause) -> Fut,
        Fut: Future<Output = Option<T>>,
    {
        self.run_with(call, &Refusals::<Typed>::default(), or).await
    }

    /// As [`run`](Self::run) in the cases that `covers` names for the request `()`: [`Refusals`], also those in a
    /// [`BoxError`](crate::BoxError), or [`Failures`](super::Failures), too.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::fallback::{Failures, Fallback, Refusals};
    /// use buttress::{AnyError, Boxed, BoxError};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let covers = Failures::new(AnyError, Refusals::<Boxed>::default());
    /// let call = async { Err::<u32, BoxError>("broken".into()) };
    /// let answer = Fallback::new("prices").run_with(call, &covers, |_cause| async { Some(5) }).await;
    /// assert_eq!(answer.unwrap(), 5);
    /// # }
    /// ```
    pub async fn run_with<F, T, E, V, G, Fut>(&self, call: F, covers: &V, or: G) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        V: Covers<(), T, E>,
        G: FnOnce(Cause) -> Fut,
        Fut: Future<Output = Option<T>>,
    {
        let ticket = covers.start(&());
        let result = call.await;
        let Some(cause) = covers.covers(ticket, result.as_ref()) else { return result };
        let Some(mut entered) = self.shared.enter() else { return result };
        let why = cause.as_str();
        let answer = or(cause).await;
        entered.settle(why, answer.is_some());
        answer.map_or(result, Ok)
    }

    /// As [`run`](Self::run) on a thread. Needs no runtime.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::Context;
    /// use buttress::admission::Admission;
    /// use buttress::fallback::Fallback;
    /// let admission = Admission::bulkhead("prices", 1)?;
    /// let _one = admission.try_acquire(Context::new())?;
    /// let call = || admission.try_acquire(Context::new()).map(|permit| { permit.success(); 7 });
    /// let price = Fallback::new("prices").run_blocking(call, |_cause| Some(5));
    /// assert_eq!(price.unwrap(), 5);
    /// # Ok::<(), buttress::BoxError>(())
    /// ```
    pub fn run_blocking<F, T, E, G>(&self, call: F, or: G) -> Result<T, E>
    where
        F: FnOnce() -> Result<T, E>,
        E: StdError + 'static,
        G: FnOnce(Cause) -> Option<T>,
    {
        self.run_blocking_with(call, &Refusals::<Typed>::default(), or)
    }

    /// As [`run_with`](Self::run_with) on a thread. Needs no runtime.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::fallback::{Failures, Fallback, Refusals};
    /// use buttress::{AnyError, Boxed, BoxError};
    /// let covers = Failures::new(AnyError, Refusals::<Boxed>::default());
    /// let call = || Err::<u32, BoxError>("broken".into());
    /// let answer = Fallback::new("prices").run_blocking_with(call, &covers, |_cause| Some(5));
    /// assert_eq!(answer.unwrap(), 5);
    /// ```
    pub fn run_blocking_with<F, T, E, V, G>(&self, call: F, covers: &V, or: G) -> Result<T, E>
    where
        F: FnOnce() -> Result<T, E>,
        V: Covers<(), T, E>,
        G: FnOnce(Cause) -> Option<T>,
    {
        let ticket = covers.start(&());
        let result = call();
        let Some(cause) = covers.covers(ticket, result.as_ref()) else { return result };
        let Some(mut entered) = self.shared.enter() else { return result };
        let why = cause.as_str();
        let answer = or(cause);
        entered.settle(why, answer.is_some());
        answer.map_or(result, Ok)
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::fallback::Fallback::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    /// What it has done.
    ///
    /// ```
    /// assert_eq!(buttress::fallback::Fallback::new("db").stats().answered, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> FallbackStats {
        self.shared.stats()
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What a [`Fallback`] has done.
///
/// ```
/// assert_eq!(buttress::fallback::Fallback::new("db").stats().failed, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FallbackStats {
    /// Fallbacks under way.
    pub in_flight: u32,
    /// Calls answered in place of the inner service.
    pub answered: u64,
    /// Fallbacks without an answer: the original result was given.
    pub failed: u64,
    /// Fallbacks whose callers went, or that panicked.
    pub dropped: u64,
    /// Calls that got their original result because as many fallbacks were under way as may be.
    pub full: u64,
    /// Calls that got their original result because nothing could be kept of the request.
    pub not_kept: u64,
}
