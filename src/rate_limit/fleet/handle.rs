use std::fmt;
use std::sync::Arc;

use super::inner::Inner;
use crate::quota::Quota;
use crate::rejection::Rejection;
use crate::store::RecordId;
use crate::sync::atomic::Ordering;

/// A limit that several processes keep together: the bucket is in a [store](crate::store::RateStore) that all
/// of them reach. Cheap to clone; clones are one limiter.
///
/// Used directly, or through a [`SharedRateLimitLayer`](super::SharedRateLimitLayer). The same limiter has one
/// bucket for all calls ([`try_acquire`](Self::try_acquire)) and one for each key ([`bucket`](Self::bucket)).
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "store-redis")] {
/// use buttress::rate_limit::{RateLimiter, WhenDown};
/// use buttress::store::RedisStore;
///
/// let store = RedisStore::builder(redis::Client::open("redis://127.0.0.1/")?).build()?;
/// let limiter = RateLimiter::shared(store, "tenant", WhenDown::LocalShare { of: 4 })
///     .quota("100/s burst 20".parse()?)
///     .build()?;
/// if let Err(why) = limiter.bucket("tenant-7").try_acquire().await {
///     eprintln!("{why}");
/// }
/// # }
/// # Ok(()) }
/// ```
///
/// # Semantics
///
/// *What is promised.* All processes with the same store, name and quota together let through at most
/// `burst + rate * t` in every interval of length `t`, by the clock of the store. Also with tokens taken in
/// [advance](super::SharedRateLimiterBuilder::advance). Not promised while the store is down
/// ([`WhenDown`](super::WhenDown) decides), nor if it forgets: then the bucket is full again.
///
/// *A call* asks the store, once. No question is needed for a call that tokens taken in advance pay for, and
/// for one that the store would surely refuse, because it has told how empty the bucket is. It never waits
/// for tokens, only for the store, and no longer than the [deadline](super::SharedRateLimiterBuilder::deadline).
///
/// *Cancellation.* A call that is dropped while it asks may have taken its tokens.
///
/// *Outage.* After 5 errors in a row the store is left alone for a second, then one call asks again. So an
/// outage costs each process one deadline per second.
///
/// *Keys* are told apart by their text, and the store is given a hash.
#[derive(Clone)]
pub struct SharedRateLimiter {
    pub(super) inner: Arc<Inner>,
}

/// What a [`SharedRateLimiter`] has done so far, in this process.
///
/// ```no_run
/// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
/// let stats = limiter.stats();
/// println!("{} questions for {} calls", stats.questions, stats.acquired + stats.rejected);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedRateLimitStats {
    /// Calls let through and charged.
    pub acquired: u64,
    /// Calls refused.
    pub rejected: u64,
    /// Calls let through in shadow mode that would have been refused.
    pub would_reject: u64,
    /// How often the store was asked.
    pub questions: u64,
    /// How often it did not answer in time, or with an error.
    pub errors: u64,
    /// Calls that [`WhenDown`](super::WhenDown) decided.
    pub without_store: u64,
}

impl SharedRateLimiter {
    pub(super) fn from_inner(inner: Inner) -> Self {
        let inner = Arc::new(inner);
        inner.ledger.register(&inner);
        Self { inner }
    }

    /// Takes one token from the bucket for all, or says when there will be one.
    ///
    /// # Errors
    /// `RateLimited` with `retry_after`; `StoreUnavailable` while the store is down and
    /// [`WhenDown`](super::WhenDown) says so.
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<(), Rejection> {
        self.try_acquire_n(1).await
    }

    /// Takes `n` tokens from the bucket for all, or none. 0 is always granted.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire); `ExceedsBurst` if `n` is more than a full bucket holds.
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.try_acquire_n(10).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire_n(&self, n: u64) -> Result<(), Rejection> {
        self.inner.acquire(&self.inner.whole, n).await.map(drop)
    }

    /// The bucket of one key.
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// let address: std::net::IpAddr = [127, 0, 0, 1].into();
    /// limiter.bucket(address).try_acquire().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn bucket(&self, key: impl fmt::Display) -> SharedBucket {
        SharedBucket { limiter: self.clone(), id: self.inner.id(Some(&key)) }
    }

    /// What it has done so far.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// assert_eq!(limiter.stats().errors, 0);
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> SharedRateLimitStats {
        let inner = &*self.inner;
        let counted = inner.ledger.stats();
        SharedRateLimitStats {
            acquired: counted.acquired,
            rejected: counted.rejected,
            would_reject: counted.would_reject,
            questions: inner.questions.load(Ordering::Relaxed),
            errors: inner.errors.load(Ordering::Relaxed),
            without_store: inner.without_store.load(Ordering::Relaxed),
        }
    }

    /// The quota of the bucket in the store: what was asked for, except that tokens taken in advance make the
    /// burst smaller.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// println!("{}", limiter.quota());
    /// # }
    /// ```
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.inner.quota
    }

    /// Whether the store is left alone at the moment, after some errors in a row.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// let healthy = !limiter.is_store_down();
    /// # }
    /// ```
    #[must_use]
    pub fn is_store_down(&self) -> bool {
        self.inner.health.is_resting()
    }

    /// Switches shadow mode.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// limiter.set_shadow(true);
    /// # }
    /// ```
    pub fn set_shadow(&self, on: bool) {
        self.inner.shadow.store(on, Ordering::Relaxed);
    }

    /// Its name in events, refusals, and in what the store keeps: limiters with different names share
    /// nothing.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// assert_eq!(limiter.name(), "tenant");
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.ledger.name.as_str()
    }
}

/// The bucket of one key; see [`SharedRateLimiter::bucket`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// use buttress::rate_limit::{RateLimiter, SharedBucket, WhenDown};
/// use buttress::store::MemoryStore;
/// // One connection is charged to one bucket, which is looked up once.
/// struct Connection {
///     budget: SharedBucket,
/// }
/// let limiter = RateLimiter::shared(MemoryStore::default(), "tenant", WhenDown::Deny)
///     .quota("1/min".parse()?)
///     .build()?;
/// let connection = Connection { budget: limiter.bucket("tenant-7") };
/// connection.budget.try_acquire().await?;
/// assert!(connection.budget.try_acquire().await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SharedBucket {
    limiter: SharedRateLimiter,
    id: RecordId,
}

impl SharedBucket {
    /// Takes one token, or says when there will be one.
    ///
    /// # Errors
    /// As [`SharedRateLimiter::try_acquire`].
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.bucket("tenant-7").try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<(), Rejection> {
        self.try_acquire_n(1).await
    }

    /// Takes `n` tokens, or none.
    ///
    /// # Errors
    /// As [`SharedRateLimiter::try_acquire_n`].
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.bucket("tenant-7").try_acquire_n(10).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire_n(&self, n: u64) -> Result<(), Rejection> {
        self.limiter.inner.acquire(&self.id, n).await.map(drop)
    }
}

impl fmt::Debug for SharedRateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimiter")
            .field("name", &self.name())
            .field("quota", &self.inner.quota)
            .field("when_down", &self.inner.when_down)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBucket").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}
