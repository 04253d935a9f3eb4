use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::core::duration;
use super::keyed_config::KeyedRateLimiterBuilder;
use super::keyed_shared::Keyed;
use super::ledger::RateLimitStats;
use super::limits::ByKey;
use super::shared::now;
use super::table::Print;
use crate::error::ConfigError;
use crate::name::Name;
use crate::quota::Quota;
use crate::rejection::Rejection;

/// One bucket per key: per client, per tenant, per host.
///
/// Memory is fixed when it is made: 32 bytes for each key of `capacity`, whatever the key type (keys are
/// hashed, not kept). At least `capacity` keys can be alive at a time; a key is alive until its bucket is
/// full again, after that it cannot be told from one never seen, and its slot is free for others. There
/// is no sweeping and nothing to tune.
///
/// Two different keys share a bucket if their 64-bit hashes are equal; with `n` live keys the
/// probability that any do is `n^2 / 2^65`, 3 in 100 million for a million keys. The hash is seeded at random.
///
/// ```
/// use buttress::rate_limit::RateLimiter;
/// use buttress::Quota;
///
/// let per_client = RateLimiter::keyed::<u32>(Quota::per_minute(1)?, 10_000)?;
/// assert!(per_client.try_acquire(&1).is_ok());
/// assert!(per_client.try_acquire(&1).is_err());
/// assert!(per_client.try_acquire(&2).is_ok());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub struct KeyedRateLimiter<K: ?Sized> {
    pub(crate) shared: Arc<Keyed>,
    key: PhantomData<fn(&K)>,
}

impl<K: ?Sized> KeyedRateLimiter<K> {
    pub(crate) fn from_shared(shared: Keyed) -> Self {
        let shared = Arc::new(shared);
        shared.ledger().register(&shared);
        Self { shared, key: PhantomData }
    }

    /// A limiter named `rate_limit` with room for `capacity` live keys.
    ///
    /// # Errors
    /// `capacity` 0 or above 2^28.
    ///
    /// ```
    /// use buttress::rate_limit::KeyedRateLimiter;
    /// use buttress::Quota;
    /// use std::net::IpAddr;
    /// let per_client: KeyedRateLimiter<IpAddr> = KeyedRateLimiter::new(Quota::per_second(10)?, 100_000)?;
    /// let error = KeyedRateLimiter::<u64>::new(Quota::per_second(10)?, 0).unwrap_err();
    /// assert_eq!(error.field(), "capacity");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn new(quota: Quota, capacity: usize) -> Result<Self, ConfigError> {
        Self::builder("rate_limit").quota(quota).capacity(capacity).build()
    }

    /// A limiter with a name of its own and everything adjustable.
    ///
    /// ```
    /// use buttress::rate_limit::{KeyedRateLimiter, WhenFull};
    /// let per_tenant = KeyedRateLimiter::<str>::builder("tenants")
    ///     .quota("50/s burst 200".parse()?)
    ///     .capacity(10_000)
    ///     .when_full(WhenFull::ShareOne)
    ///     .build()?;
    /// assert!(per_tenant.try_acquire("acme").is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> KeyedRateLimiterBuilder<K> {
        KeyedRateLimiterBuilder::new(name.into())
    }

    /// Takes one token of a key's bucket, or says exactly when there will be one. Never waits, never
    /// allocates, takes no lock except for a key that is not in the table.
    ///
    /// # Errors
    /// `RateLimited` as [`RateLimiter::try_acquire`](super::RateLimiter::try_acquire); `Overloaded` if there is
    /// no room for a new key and [`WhenFull::Reject`](super::WhenFull::Reject) is in force.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::keyed::<str>(Quota::per_minute(1)?, 100)?;
    /// assert!(limiter.try_acquire("a").is_ok());
    /// assert!(limiter.try_acquire("a").unwrap_err().retry_after().is_some());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[inline]
    pub fn try_acquire<Q>(&self, key: &Q) -> Result<(), Rejection>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.try_acquire_n(key, 1)
    }

    /// Takes `n` tokens of a key's bucket, all or none. 0 is always granted.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire); `ExceedsBurst` if `n` is more than a full bucket holds.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let limiter = RateLimiter::keyed::<u64>(Quota::per_minute(10)?, 100)?;
    /// assert!(limiter.try_acquire_n(&7, 10).is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[inline]
    pub fn try_acquire_n<Q>(&self, key: &Q, n: u64) -> Result<(), Rejection>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let shared = &*self.shared;
        match shared.charge(shared.print(key), n, now()) {
            Ok(_) => {
                shared.ledger().acquired();
                Ok(())
            }
            Err(refusal) => refusal.answer(),
        }
    }

    /// The bucket of one key, to be combined with other limits: see [`Meter`](super::Meter).
    ///
    /// ```
    /// use buttress::rate_limit::{Meter, RateLimiter};
    /// use buttress::Quota;
    /// let everyone = RateLimiter::new(Quota::per_second(1000)?);
    /// let each = RateLimiter::keyed::<u64>(Quota::per_second(10)?, 100)?;
    /// assert!(everyone.and(each.bucket(&7)).try_acquire().is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn bucket<Q>(&self, key: &Q) -> KeyBucket<'_>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        KeyBucket { shared: &self.shared, print: Some(self.shared.print(key)) }
    }

    /// This limiter with a way to find the key of a request, for a layer: see
    /// [`RateLimitLayer::key`](super::RateLimitLayer::key).
    ///
    /// ```
    /// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// use buttress::Quota;
    /// let everyone = RateLimiter::new(Quota::per_second(1000)?);
    /// let each = RateLimiter::keyed::<u64>(Quota::per_second(10)?, 100)?;
    /// let layer = RateLimitLayer::new(everyone).and(each.by(|req: &(u64, String)| Some(req.0)));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn by<X>(&self, extractor: X) -> ByKey<K, X> {
        ByKey::new(self.clone(), extractor)
    }

    /// Tokens in a key's bucket, with fractions. The capacity for a key not in the table.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_second(5)?, 100)?;
    /// assert_eq!(limiter.tokens(&1), 5.0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn tokens<Q>(&self, key: &Q) -> f64
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let level = self.shared.level(self.shared.print(key));
        level.rule.tokens(level.tat, level.now)
    }

    /// How long a call of this key that comes now would have to wait for one token.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_second(5)?, 100)?;
    /// assert!(limiter.time_until_token(&1).is_zero());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn time_until_token<Q>(&self, key: &Q) -> Duration
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let level = self.shared.level(self.shared.print(key));
        match level.rule.admit(level.tat, level.now, level.rule.interval) {
            Ok(_) => Duration::ZERO,
            Err(denied) => duration(denied.wait()),
        }
    }

    /// Fills the bucket of a key.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// limiter.try_acquire(&1).unwrap();
    /// limiter.reset(&1);
    /// assert!(limiter.try_acquire(&1).is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reset<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.shared.reset(self.shared.print(key));
    }

    /// Changes the quota of a running limiter. Every bucket keeps its number of tokens, up to the new
    /// capacity; one that is full is full after it, too, also of a larger capacity. Walks the whole table (some 10 ms for a million keys), during which new calls wait.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// limiter.set_quota("10/min".parse()?);
    /// assert_eq!(limiter.quota().capacity(), 10);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn set_quota(&self, quota: Quota) {
        self.shared.set_quota(quota);
    }

    /// Gives a running limiter all the settings of `builder`: quota, [`WhenFull`](super::WhenFull) and shadow
    /// mode.
    ///
    /// They change at one point in time: no call is decided by some of the old and some of the new. The
    /// buckets of all keys and the counters are kept, as by [`set_quota`](Self::set_quota). A setting that
    /// the builder was not given has its default. The capacity cannot change: leave it out, or give the one
    /// that it has. The name stays, and so do observers and the place in a registry: the builder's are not
    /// looked at.
    ///
    /// # Errors
    /// No quota, or another capacity; then nothing has changed.
    ///
    /// ```
    /// use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = || KeyedRateLimiter::<u64>::builder("clients");
    /// let limiter = builder().quota("10/min".parse()?).capacity(100).build()?;
    /// limiter.try_acquire_n(&7, 6).unwrap();
    /// limiter.reconfigure(builder().quota("100/min".parse()?))?;
    /// assert!((4.0..4.1).contains(&limiter.tokens(&7)));
    ///
    /// let larger = builder().quota("1/s".parse()?).capacity(200);
    /// assert_eq!(limiter.reconfigure(larger).unwrap_err().field(), "capacity");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "as `build` takes it")]
    pub fn reconfigure(&self, builder: KeyedRateLimiterBuilder<K>) -> Result<(), ConfigError> {
        builder.apply(&self.shared)
    }

    /// The quota in force.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// assert_eq!(limiter.quota().to_string(), "1/min");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.shared.quota()
    }

    /// Keys whose buckets are not full. Walks the whole table: for a status page, not for every call.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// limiter.try_acquire(&1).unwrap();
    /// assert_eq!(limiter.live_keys(), 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn live_keys(&self) -> usize {
        self.shared.live()
    }

    /// How many live keys there is room for, at least.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// assert_eq!(limiter.capacity(), 100);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity()
    }

    /// What it has done so far, over all keys. Nobody waits here.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// assert_eq!(limiter.stats().acquired, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> RateLimitStats {
        self.shared.ledger().stats()
    }

    /// Switches shadow mode; see [`RateLimiterBuilder::shadow`](super::RateLimiterBuilder::shadow).
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// limiter.set_shadow(true);
    /// assert!(limiter.try_acquire_n(&1, 100).is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn set_shadow(&self, on: bool) {
        self.shared.set_shadow(on);
    }

    /// Its name in events and refusals.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// assert_eq!(limiter.name(), "rate_limit");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.ledger().name.as_str()
    }
}

impl<K: ?Sized> Clone for KeyedRateLimiter<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), key: PhantomData }
    }
}

impl<K: ?Sized> fmt::Debug for KeyedRateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRateLimiter")
            .field("name", &self.name())
            .field("quota", &self.quota())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl super::RateLimiter {
    /// One bucket per key, with room for `capacity` keys: [`KeyedRateLimiter::new`].
    ///
    /// # Errors
    /// `capacity` 0 or above 2^28.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// use buttress::Quota;
    /// let per_client = RateLimiter::keyed::<std::net::IpAddr>(Quota::per_second(10)?, 100_000)?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn keyed<K: ?Sized>(
        quota: Quota,
        capacity: usize,
    ) -> Result<KeyedRateLimiter<K>, ConfigError> {
        KeyedRateLimiter::new(quota, capacity)
    }
}

/// The bucket of one key of a [`KeyedRateLimiter`]; see [`KeyedRateLimiter::bucket`].
///
/// ```
/// use buttress::rate_limit::{KeyBucket, Meter, RateLimiter};
/// use buttress::{Quota, Rejection};
/// // A page costs one token, and each picture on it another one.
/// fn charge(bucket: KeyBucket<'_>, pictures: u64) -> Result<(), Rejection> {
///     bucket.try_acquire_n(1 + pictures)
/// }
/// let each = RateLimiter::keyed::<str>(Quota::per_minute(10)?, 10_000)?;
/// assert!(charge(each.bucket("ada"), 8).is_ok());
/// assert!(charge(each.bucket("ada"), 8).is_err());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KeyBucket<'a> {
    pub(crate) shared: &'a Keyed,
    /// `None`: not limited.
    pub(crate) print: Option<Print>,
}
