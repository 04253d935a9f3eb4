use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::config::{DEFAULT_MAX_WAITING, RateLimiterBuilder};
use super::core::{Bucket, duration};
use super::ledger::{Ledger, RateLimitStats, Refusal};
use super::shared::{Shared, now};
use super::wait::{Acquire, block};
use crate::error::ConfigError;
use crate::managed::Managed;
use crate::name::Name;
use crate::observe::Observers;
use crate::quota::Quota;
use crate::rejection::Rejection;
use crate::slot::Slot;

/// A limit on how often something happens: one bucket of tokens, shared by all clones of this handle.
///
/// Refuse with [`try_acquire`](Self::try_acquire), wait with [`acquire`](Self::acquire) or
/// [`acquire_blocking`](Self::acquire_blocking); or wrap a service with
/// [`RateLimitLayer`](super::RateLimitLayer). All of them share the bucket and its one queue.
///
/// ```
/// use buttress::rate_limit::RateLimiter;
/// use buttress::{Quota, RejectionKind};
///
/// let limiter = RateLimiter::new(Quota::per_minute(2)?);
/// assert!(limiter.try_acquire().is_ok());
/// assert!(limiter.try_acquire().is_ok());
/// let refused = limiter.try_acquire().unwrap_err();
/// assert_eq!(refused.kind(), RejectionKind::RateLimited);
/// assert!(refused.retry_after().unwrap().as_secs() < 31);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    pub(crate) shared: Arc<Shared>,
}

impl RateLimiter {
    /// A limiter named `rate_limit`, with a full bucket.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_second(100)?.burst(20)?);
    /// assert_eq!(limiter.tokens(), 20.0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        let ledger = Ledger::new(Name::from("rate_limit"), Observers::default());
        let shared = Shared::new(quota, false, Bucket::full(), ledger, DEFAULT_MAX_WAITING);
        Self::from_shared(shared)
    }

    /// A limiter with a name of its own and everything adjustable.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("payments")
    ///     .quota("100/s burst 20".parse()?)
    ///     .max_waiting(50)
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> RateLimiterBuilder {
        RateLimiterBuilder::new(name.into())
    }

    pub(crate) fn from_shared(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        shared.ledger.register(&shared);
        Self { shared }
    }

    /// Takes one token, or says exactly when there will be one. Never waits, never allocates.
    ///
    /// # Errors
    /// `RateLimited` with `retry_after`: the same call made that much later is admitted if nobody else
    /// comes. Its detail is a [`Quota`](crate::RejectionDetail::Quota). While others wait in the queue,
    /// their turn comes first.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_second(1)?);
    /// assert!(limiter.try_acquire().is_ok());
    /// assert!(limiter.try_acquire().is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[inline]
    pub fn try_acquire(&self) -> Result<(), Rejection> {
        self.take(1)
    }

    /// Takes `n` tokens, all or none. 0 is always granted.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire); `ExceedsBurst`, without a `retry_after`, if `n` is more than
    /// a full bucket holds.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::{Quota, RejectionKind};
    /// let limiter = RateLimiter::new(Quota::per_second(10)?);
    /// assert!(limiter.try_acquire_n(8).is_ok());
    /// assert_eq!(limiter.try_acquire_n(8).unwrap_err().kind(), RejectionKind::RateLimited);
    /// let never = limiter.try_acquire_n(11).unwrap_err();
    /// assert_eq!(never.kind(), RejectionKind::ExceedsBurst);
    /// assert!(never.to_string().ends_with("(rate_limit `rate_limit`), burst 10"));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[inline]
    pub fn try_acquire_n(&self, n: u64) -> Result<(), Rejection> {
        self.take(n)
    }

    /// Inlined into both, so that the common cost of 1 is a constant.
    #[inline(always)]
    fn take(&self, n: u64) -> Result<(), Rejection> {
        match self.shared.charge(n, now()) {
            Ok(_) => {
                self.shared.ledger.acquired();
                Ok(())
            }
            Err(denied) => Refusal::quota(&self.shared.ledger, denied).answer(),
        }
    }

    /// Takes one token, waiting for it if need be, first come, first served.
    ///
    /// Nothing is taken before the first poll. Dropping the future while it waits gives its place to
    /// those behind it. `Ok` is a token, unless [`release_waiting`](Self::release_waiting) has let it go. Waiting needs a tokio runtime with time enabled; a token that is there does not.
    ///
    /// # Errors
    /// `Overloaded` if [`max_waiting`](RateLimiterBuilder::max_waiting) callers wait already.
    ///
    /// ```
    /// # use buttress::rate_limit::RateLimiter;
    /// # use buttress::Quota;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let limiter = RateLimiter::new(Quota::per_second(1)?);
    /// limiter.acquire().await.unwrap();
    /// let start = tokio::time::Instant::now();
    /// limiter.acquire().await.unwrap();
    /// assert!(start.elapsed().as_millis() >= 1000);
    /// # Ok::<(), buttress::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_n(1)
    }

    /// [`acquire`](Self::acquire) for `n` tokens at once.
    ///
    /// # Errors
    /// Also `ExceedsBurst`, at once, if `n` is more than a full bucket holds.
    ///
    /// ```
    /// # use buttress::rate_limit::RateLimiter;
    /// # use buttress::{Quota, RejectionKind};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let limiter = RateLimiter::new(Quota::per_second(10)?);
    /// limiter.acquire_n(10).await.unwrap();
    /// assert_eq!(limiter.acquire_n(11).await.unwrap_err().kind(), RejectionKind::ExceedsBurst);
    /// # Ok::<(), buttress::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn acquire_n(&self, n: u64) -> Acquire<'_> {
        Acquire::new(&self.shared, n, None)
    }

    /// [`acquire`](Self::acquire) that waits no longer than `timeout`.
    ///
    /// How long a wait will take is known when it begins. If it is longer than `timeout` the call is
    /// refused *at once*, and its place is not taken. A wait once begun can only become shorter, unless
    /// the quota is changed.
    ///
    /// # Errors
    /// Also `RateLimited`, with `retry_after`, if the token would come too late.
    ///
    /// ```
    /// # use buttress::rate_limit::RateLimiter;
    /// # use buttress::Quota;
    /// # use std::time::Duration;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let limiter = RateLimiter::new(Quota::per_minute(1)?);
    /// limiter.acquire().await.unwrap();
    /// let refused = limiter.acquire_timeout(Duration::from_secs(1)).await.unwrap_err();
    /// assert!(refused.retry_after().unwrap().as_secs() >= 59);
    /// # Ok::<(), buttress::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn acquire_timeout(&self, timeout: Duration) -> Acquire<'_> {
        self.acquire_n_timeout(1, timeout)
    }

    /// [`acquire_timeout`](Self::acquire_timeout) for `n` tokens at once.
    ///
    /// # Errors
    /// As [`acquire_n`](Self::acquire_n) and [`acquire_timeout`](Self::acquire_timeout).
    ///
    /// ```
    /// # use buttress::rate_limit::RateLimiter;
    /// # use buttress::Quota;
    /// # use std::time::Duration;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let limiter = RateLimiter::new(Quota::per_second(10)?);
    /// limiter.acquire_n_timeout(10, Duration::ZERO).await.unwrap();
    /// # Ok::<(), buttress::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn acquire_n_timeout(&self, n: u64, timeout: Duration) -> Acquire<'_> {
        Acquire::new(&self.shared, n, Some(timeout))
    }

    /// Takes one token, parking the calling thread until it is there. `None` waits as long as it takes.
    /// Needs no runtime; shares the queue with [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// As [`acquire_timeout`](Self::acquire_timeout); at once when the wait cannot succeed.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// use std::time::Duration;
    /// let limiter = RateLimiter::new(Quota::per_second(1_000)?.burst(1)?);
    /// for _ in 0..3 {
    ///     limiter.acquire_blocking(Some(Duration::from_secs(1))).unwrap();
    /// }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn acquire_blocking(&self, timeout: Option<Duration>) -> Result<(), Rejection> {
        self.acquire_n_blocking(1, timeout)
    }

    /// [`acquire_blocking`](Self::acquire_blocking) for `n` tokens at once.
    ///
    /// # Errors
    /// Also `ExceedsBurst`, at once, if `n` is more than a full bucket holds.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_second(1_000)?);
    /// limiter.acquire_n_blocking(1_000, None).unwrap();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn acquire_n_blocking(&self, n: u64, timeout: Option<Duration>) -> Result<(), Rejection> {
        block(&self.shared, n, timeout)
    }

    /// Tokens in the bucket now, with fractions. 0 while callers wait.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_minute(1)?.burst(5)?);
    /// limiter.try_acquire().unwrap();
    /// assert!((4.0..4.1).contains(&limiter.tokens()));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn tokens(&self) -> f64 {
        let level = self.shared.level(now());
        level.rule.tokens(level.tat, level.now)
    }

    /// How long a caller that comes now has to wait for one token: zero if there is one.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_minute(1)?);
    /// assert!(limiter.time_until_token().is_zero());
    /// limiter.try_acquire().unwrap();
    /// assert!(limiter.time_until_token().as_secs() >= 59);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn time_until_token(&self) -> Duration {
        let level = self.shared.level(now());
        match level.rule.admit(level.tat, level.now, level.rule.interval) {
            Ok(_) => Duration::ZERO,
            Err(denied) => duration(denied.wait()),
        }
    }

    /// Callers in the queue.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::new(buttress::Quota::per_second(1)?);
    /// assert_eq!(limiter.waiting(), 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting()
    }

    /// Fills the bucket. Those who wait are served from it first. Counters stay.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_minute(1)?);
    /// limiter.try_acquire().unwrap();
    /// limiter.reset();
    /// assert!(limiter.try_acquire().is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// What it has done so far.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::new(buttress::Quota::per_second(1)?);
    /// assert_eq!(limiter.stats().acquired, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> RateLimitStats {
        self.shared.stats()
    }

    /// Changes the quota of a running limiter.
    ///
    /// The bucket keeps its number of tokens, up to the new capacity. Those who wait keep their order and
    /// are served at the new rate; who can no longer be served before its deadline, or at all, is refused
    /// at once.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::new(Quota::per_minute(10)?);
    /// limiter.try_acquire_n(6).unwrap();
    /// limiter.set_quota(Quota::per_minute(100)?);
    /// assert!((4.0..4.1).contains(&limiter.tokens()));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn set_quota(&self, quota: Quota) {
        self.shared.set_quota(quota);
    }

    /// Lets all who wait now go on at once, without a token: for a limiter that has been taken out of service. What their
    /// places cost goes back to the bucket; who comes later is limited as before. Their [`acquire`](Self::acquire) is `Ok`, and
    /// [`RateLimitStats::released`] counts them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::new("1/h".parse()?);
    /// limiter.try_acquire()?;
    /// let waiter = tokio::spawn({
    ///     let limiter = limiter.clone();
    ///     async move { limiter.acquire().await }
    /// });
    /// tokio::task::yield_now().await;
    /// limiter.release_waiting();
    /// waiter.await??;
    /// assert!(limiter.try_acquire().is_err());
    /// # Ok(()) }
    /// ```
    pub fn release_waiting(&self) {
        self.shared.release_waiting(None);
    }

    /// The same for those who came by this slot.
    pub(crate) fn release_waiting_by(&self, slot: &Slot<Self>) {
        self.shared.release_waiting(Some(slot.id()));
    }

    /// What a registry shows of it.
    pub(crate) fn managed(&self) -> Weak<dyn Managed> {
        let weak: Weak<Shared> = Arc::downgrade(&self.shared);
        weak
    }

    /// For as long as somebody waits at it.
    pub(crate) fn downgrade(&self) -> WeakRateLimiter {
        WeakRateLimiter(Arc::downgrade(&self.shared))
    }

    /// Gives a running limiter all the settings of `builder`: quota, `max_waiting` and shadow mode.
    ///
    /// They change at one point in time: no call is decided by some of the old and some of the new. The
    /// bucket, the counters and those who wait are kept, as by [`set_quota`](Self::set_quota); more than
    /// `max_waiting` may then be waiting for a while. A setting that the builder was not given has its
    /// default. The name stays, and so do observers and the place in a registry: the builder's are not
    /// looked at. Its `initial_tokens` are checked, and not used.
    ///
    /// # Errors
    /// As [`RateLimiterBuilder::build`]; then nothing has changed.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("maps").quota("10/min".parse()?).build()?;
    /// limiter.try_acquire_n(6).unwrap();
    /// limiter.reconfigure(RateLimiter::builder("maps").quota("100/min".parse()?).max_waiting(5))?;
    /// assert!((4.0..4.1).contains(&limiter.tokens()));
    /// assert_eq!(limiter.stats().acquired, 1);
    ///
    /// let error = limiter.reconfigure(RateLimiter::builder("maps")).unwrap_err();
    /// assert_eq!((error.field(), limiter.quota().capacity()), ("quota", 100));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "as `build` takes it")]
    pub fn reconfigure(&self, builder: RateLimiterBuilder) -> Result<(), ConfigError> {
        builder.apply(&self.shared)
    }

    /// The quota in force.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::new(buttress::Quota::per_second(1)?);
    /// assert_eq!(limiter.quota().to_string(), "1/s");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.shared.quota()
    }

    /// Whether that is this one.
    #[cfg(feature = "config")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// No registry shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget(&self, home: &crate::managed::Home) {
        home.forget(&self.shared);
    }

    /// Switches shadow mode; see [`RateLimiterBuilder::shadow`]. Who waits already goes on waiting.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::new(buttress::Quota::per_minute(1)?);
    /// limiter.set_shadow(true);
    /// assert!(limiter.try_acquire_n(100).is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn set_shadow(&self, on: bool) {
        self.shared.set_shadow(on);
    }

    /// Its name in events and refusals.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::new(buttress::Quota::per_minute(1)?);
    /// assert_eq!(limiter.name(), "rate_limit");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.ledger.name.as_str()
    }
}

/// One that may be gone.
pub(crate) struct WeakRateLimiter(Weak<Shared>);

impl WeakRateLimiter {
    /// If somebody waits at it.
    pub(crate) fn awaited(&self) -> Option<RateLimiter> {
        let shared = self.0.upgrade().filter(|shared| shared.waiting() > 0)?;
        Some(RateLimiter { shared })
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.name())
            .field("quota", &self.quota())
            .field("tokens", &self.tokens())
            .finish_non_exhaustive()
    }
}
