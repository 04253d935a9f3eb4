use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::core::{Admit, Core, Phase};
use super::layer::ThrottleLayer;
use crate::clock::{self, Tick, nanos};
use crate::deadline::Deadline;
use crate::error::{ConfigError, Error};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observe, Observers};
use crate::outcome::{Outcome, Verdict};
use crate::rejection::{Rejection, RejectionKind};
use crate::sync::{Mutex, lock};

/// The rate at which one callee accepts calls: see the [module](super). Clones are the same object.
///
/// ```
/// use buttress::throttle::Throttle;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let throttle = Throttle::new("api");
/// let permit = throttle.acquire(None).await?;
/// // Call, then tell what became of it.
/// permit.throttled(None);
/// # Ok::<(), buttress::Rejection>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Throttle {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) name: Name,
    max_wait: u64,
    /// Whether anything is throttled; while not, calls take no lock.
    active: AtomicBool,
    core: Mutex<Core>,
    observers: Observers,
    throttled: AtomicU64,
    waited: AtomicU64,
    refused: AtomicU64,
}

/// Builds a [`Throttle`]; see [`Throttle::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ThrottleBuilder {
    name: Name,
    max_wait: Duration,
    pub(crate) observers: Observers,
}

impl ThrottleBuilder {
    /// The longest that a call waits for its turn: default 1 s, and never more than half of what its deadline
    /// leaves. Zero refuses at once.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// use std::time::Duration;
    /// let built = Throttle::builder("api").max_wait(Duration::from_secs(7200)).build();
    /// assert_eq!(built.unwrap_err().field(), "max_wait");
    /// ```
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::builder("api")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// # Errors
    /// If `max_wait` is more than an hour.
    ///
    /// ```
    /// assert!(buttress::throttle::Throttle::builder("api").build().is_ok());
    /// ```
    pub fn build(self) -> Result<Throttle, ConfigError> {
        if self.max_wait > Duration::from_secs(3600) {
            let value = format!("{:?}", self.max_wait);
            return Err(ConfigError::new("max_wait", value, "at most 1 hour"));
        }
        let shared = Arc::new(Shared {
            name: self.name,
            max_wait: nanos(self.max_wait),
            active: AtomicBool::new(false),
            core: Mutex::new(Core::new()),
            observers: self.observers,
            throttled: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        shared.observers.register(&shared);
        Ok(Throttle { shared })
    }
}

impl Throttle {
    /// A throttle with the defaults.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").rate(), None);
    /// ```
    ///
    /// # Panics
    /// Never: the defaults are valid.
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::builder(name).build().expect("the defaults are valid")
    }

    /// A throttle with other numbers.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// use std::time::Duration;
    /// let throttle = Throttle::builder("api").max_wait(Duration::ZERO).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> ThrottleBuilder {
        let max_wait = Duration::from_secs(1);
        ThrottleBuilder { name: name.into(), max_wait, observers: Observers::default() }
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").name(), "api");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    /// As a layer.
    ///
    /// ```
    /// let layer = buttress::throttle::Throttle::new("api").layer();
    /// ```
    #[must_use]
    pub fn layer(&self) -> ThrottleLayer {
        ThrottleLayer::new(self.clone())
    }

    /// Calls a second that are sent now; `None` while nothing is throttled.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").rate(), None);
    /// ```
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.shared.stats().rate
    }

    /// What it knows and has done.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").stats().refused, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> ThrottleStats {
        self.shared.stats()
    }

    /// Waits for this call's turn.
    ///
    /// # Errors
    /// `RateLimited`, at once, if its turn comes too late; with the time until it would.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let throttle = buttress::throttle::Throttle::new("api");
    /// throttle.acquire(None).await?.accepted();
    /// # Ok::<(), buttress::Rejection>(())
    /// # }).unwrap();
    /// ```
    pub async fn acquire(
        &self,
        deadline: impl Into<Option<Deadline>>,
    ) -> Result<ThrottlePermit, Rejection> {
        let now = clock::now();
        let (mut permit, wait) = self.shared.admit(deadline.into(), now)?;
        if wait > 0 {
            tokio::time::sleep(Duration::from_nanos(wait)).await;
            permit.waited();
        }
        permit.send();
        Ok(permit)
    }

    /// Makes a call in its turn, and learns from what it comes to.
    ///
    /// # Errors
    /// The call's own, or `RateLimited`.
    ///
    /// ```
    /// use buttress::Verdict;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let throttle = buttress::throttle::Throttle::new("api");
    /// let judge = |result: &Result<u32, u16>| match result {
    ///     Err(429) => Verdict::throttled(None),
    ///     _ => Verdict::success(),
    /// };
    /// assert!(throttle.run(async { Err(429) }, judge).await.is_err());
    /// assert_eq!(throttle.stats().throttled, 1);
    /// # });
    /// ```
    pub async fn run<F, T, E>(
        &self,
        call: F,
        judge: impl FnOnce(&Result<T, E>) -> Verdict,
    ) -> Result<T, Error<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let permit = self.acquire(None).await?;
        let result = call.await;
        permit.judged(judge(&result));
        result.map_err(Error::Inner)
    }
}

impl Shared {
    pub(super) fn stats(&self) -> ThrottleStats {
        let core = lock(&self.core);
        let limiting = core.phase == Phase::Limiting;
        let (rate, accepted_rate) = (core.rate(), core.accepted_rate);
        drop(core);
        ThrottleStats {
            rate: limiting.then_some(rate),
            accepted_rate: limiting.then_some(accepted_rate),
            throttled: self.throttled.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// A permit and how long to wait before it is used.
    pub(super) fn admit(
        self: &Arc<Self>,
        deadline: Option<Deadline>,
        now: Tick,
    ) -> Result<(ThrottlePermit, u64), Rejection> {
        let permit = |held| ThrottlePermit { shared: Arc::clone(self), sent: now, held };
        if !self.active.load(Ordering::Relaxed) {
            return Ok((permit(false), 0));
        }
        let left = deadline.map_or(u64::MAX, |at| nanos(at.remaining_at(now)));
        let admit = self.change(|core| core.admit(left, self.max_wait, now));
        match admit {
            Admit::After(wait) => Ok((permit(true), wait)),
            Admit::Refused(wait) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let why =
                    Rejection::new(RejectionKind::RateLimited, LayerKind::Throttle, self.name)
                        .with_retry_after(Duration::from_nanos(wait));
                if self.observers.see_refusals() {
                    self.observers.emit(LayerKind::Throttle, self.name, EventKind::Rejected(&why));
                }
                Err(why)
            }
        }
    }

    fn change<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = lock(&self.core);
        let before = core.phase;
        let answer = f(&mut core);
        let (after, rate) = (core.phase, core.rate());
        if before != after {
            self.active.store(after != Phase::Free, Ordering::Relaxed);
        }
        drop(core);
        if before != after && after != Phase::Measuring {
            let (from, to) = match after {
                Phase::Free => ("limiting", "up"),
                _ => ("up", "limiting"),
            };
            let kind = EventKind::StateChanged {
                from,
                to,
                reason: format_args!("{rate:.1} calls a second are sent"),
            };
            self.observers.emit(LayerKind::Throttle, self.name, kind);
        }
        answer
    }
}

/// A call's turn. Tell it what became of the call; dropped, it learns nothing.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let throttle = buttress::throttle::Throttle::new("api");
/// throttle.acquire(None).await?.throttled(Some(std::time::Duration::from_secs(1)));
/// assert_eq!(throttle.stats().throttled, 1);
/// # Ok::<(), buttress::Rejection>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct ThrottlePermit {
    shared: Arc<Shared>,
    sent: Tick,
    /// A place that is not used yet.
    held: bool,
}

impl ThrottlePermit {
    pub(super) fn waited(&mut self) {
        let now = clock::now();
        let waited = now.since(self.sent);
        self.sent = now;
        self.shared.waited.fetch_add(1, Ordering::Relaxed);
        if self.shared.observers.see_refusals() {
            let kind = EventKind::Waited { waited };
            self.shared.observers.emit(LayerKind::Throttle, self.shared.name, kind);
        }
    }

    pub(super) fn send(&mut self) {
        self.held = false;
    }

    /// The callee took the call, whatever came of it.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// buttress::throttle::Throttle::new("api").acquire(None).await.unwrap().accepted();
    /// # });
    /// ```
    pub fn accepted(self) {
        let shared = &self.shared;
        if shared.active.load(Ordering::Relaxed) {
            let now = clock::now();
            shared.change(|core| core.accepted(self.sent, now));
        }
    }

    /// The callee refused it, and perhaps said for how long.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// buttress::throttle::Throttle::new("api").acquire(None).await.unwrap().throttled(None);
    /// # });
    /// ```
    pub fn throttled(self, retry_after: Option<Duration>) {
        self.shared.throttled.fetch_add(1, Ordering::Relaxed);
        let now = clock::now();
        self.shared.change(|core| core.throttled(self.sent, retry_after, now));
    }

    /// As a classifier judged it. A failure that comes with a time (503 with `Retry-After`) is throttled, too.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use buttress::Verdict;
    /// let throttle = buttress::throttle::Throttle::new("api");
    /// throttle.acquire(None).await.unwrap().judged(Verdict::success());
    /// assert_eq!(throttle.stats().throttled, 0);
    /// # });
    /// ```
    pub fn judged(self, verdict: Verdict) {
        match verdict.outcome {
            Outcome::Throttled => self.throttled(verdict.retry.after()),
            Outcome::Failure(_) if verdict.retry.after().is_some() => {
                self.throttled(verdict.retry.after());
            }
            Outcome::Success | Outcome::Failure(_) => self.accepted(),
            Outcome::Ignored | Outcome::Cancelled { .. } => {}
        }
    }
}

impl Drop for ThrottlePermit {
    fn drop(&mut self) {
        if self.held {
            let now = clock::now();
            self.shared.change(|core| core.give_back(now));
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate();
        f.debug_struct("Throttle").field("name", &self.name()).field("rate", &rate).finish()
    }
}

/// What a [`Throttle`] knows and has done.
///
/// ```
/// assert_eq!(buttress::throttle::Throttle::new("api").stats().rate, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThrottleStats {
    /// Calls a second that are sent; `None` while nothing is throttled.
    pub rate: Option<f64>,
    /// Calls a second that the callee accepts.
    pub accepted_rate: Option<f64>,
    /// Calls that the callee refused.
    pub throttled: u64,
    /// Calls that waited for their turn.
    pub waited: u64,
    /// Calls refused here.
    pub refused: u64,
}
