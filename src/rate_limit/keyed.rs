use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::config::missing_quota;
use super::core::{Bucket, Denied, Receipt, Rule, RuleCell, duration};
use super::ledger::{Ledger, Level, RateLimitStats, Refusal};
use super::limits::ByKey;
use super::print::Seeds;
use super::shared::now;
use super::table::{Miss, Print, Table};
use crate::name::Name;
use crate::observe::{EventKind, Observe, Observers};
use crate::quota::Quota;
use crate::rejection::{ConfigError, Rejection};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, Padded, lock};

const MAX_CAPACITY: usize = 1 << 28;
/// A full table is reported at most this often.
const REPORT_EVERY: u64 = 16 * 1_000_000_000;

/// What happens to a key that finds no room in a [`KeyedRateLimiter`]: more than `capacity` keys are
/// alive, that is, have not got all their tokens back.
///
/// ```
/// assert_eq!(buttress::rate_limit::WhenFull::default(), buttress::rate_limit::WhenFull::Reject);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Its calls are refused as `Overloaded` until a slot dies; the refusal says when. The default: a
    /// flood of made-up keys must not switch the limit off.
    #[default]
    Reject,
    /// Its calls are let through unlimited.
    Allow,
    /// It shares one bucket with all others that found no room.
    ShareOne,
}

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

#[derive(Debug)]
pub(crate) struct Keyed {
    table: Table,
    seeds: Seeds,
    rule: RuleCell,
    when_full: WhenFull,
    capacity: usize,
    ledger: Ledger,
    /// The bucket of `WhenFull::ShareOne`.
    overflow: Padded<Bucket>,
    /// Units given back so far. Written under the lock, after the bucket: who reads it before charging
    /// counts too much rather than too little.
    refunded: AtomicU64,
    refunds: Mutex<()>,
    /// When a full table was last reported.
    reported: AtomicU64,
    /// Writers of the rule, one at a time.
    quota: Mutex<Quota>,
}

/// Where a charge of a [`Keyed`] went.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Charged {
    Slot(Receipt),
    Overflow(Receipt),
    Nothing,
}

impl Keyed {
    #[inline]
    fn rule(&self) -> (Rule, u64) {
        self.rule.read().unwrap_or_else(|| self.rule_after_change())
    }

    #[cold]
    fn rule_after_change(&self) -> (Rule, u64) {
        loop {
            drop(lock(&self.quota));
            if let Some(read) = self.rule.read() {
                return read;
            }
        }
    }

    fn at(&self, rule: Rule, tat: u64, now: u64) -> Level {
        Level { name: self.ledger.name, rule, tat, now }
    }

    /// The level of a bucket nobody has touched.
    pub(crate) fn full(&self, now: u64) -> Level {
        self.at(self.rule().0, 0, now)
    }

    #[inline]
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    #[inline]
    pub(crate) fn print<Q: Hash + ?Sized>(&self, key: &Q) -> Print {
        self.seeds.print(key)
    }

    pub(crate) fn nobody(&self) -> Print {
        self.seeds.nobody()
    }

    #[inline]
    pub(crate) fn charge(&self, print: Print, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        let (rule, _) = self.rule();
        let cost = rule.cost(n);
        if cost == 0 {
            return Ok(self.at(rule, self.table.tat(print), now));
        }
        match self.table.charge(print, rule, now, cost) {
            Ok(tat) => Ok(self.at(rule, tat, now)),
            Err(Miss::Denied(denied)) => Err(Refusal::quota(&self.ledger, denied)),
            Err(Miss::Full(until)) => self.no_room(rule, now, cost, until).map(|(level, _)| level),
        }
    }

    pub(crate) fn charge_refundably(
        &self,
        print: Print,
        n: u64,
        now: u64,
    ) -> Result<(Level, Charged), Refusal<'_>> {
        let refunded = self.refunded.load(Ordering::Acquire);
        let (rule, version) = self.rule();
        let cost = rule.cost(n);
        if cost == 0 {
            return Ok((self.at(rule, self.table.tat(print), now), Charged::Nothing));
        }
        match self.table.charge(print, rule, now, cost) {
            Ok(after) => {
                let receipt = Receipt { after, cost, version, refunded };
                Ok((self.at(rule, after, now), Charged::Slot(receipt)))
            }
            Err(Miss::Denied(denied)) => Err(Refusal::quota(&self.ledger, denied)),
            Err(Miss::Full(until)) => {
                let (level, shared) = self.no_room(rule, now, cost, until)?;
                let receipt = Receipt { after: level.tat, cost, version, refunded };
                Ok((level, if shared { Charged::Overflow(receipt) } else { Charged::Nothing }))
            }
        }
    }

    /// The table has no slot for a key. `Ok((_, true))`: charged to the shared bucket.
    #[cold]
    fn no_room(
        &self,
        rule: Rule,
        now: u64,
        cost: u64,
        until: u64,
    ) -> Result<(Level, bool), Refusal<'_>> {
        let last = self.reported.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= REPORT_EVERY
            && self
                .reported
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.ledger.emit(EventKind::TableFull { capacity: self.capacity });
        }
        match self.when_full {
            WhenFull::Allow => Ok((self.at(rule, 0, now), false)),
            WhenFull::ShareOne => match self.overflow.charge(rule, now, cost) {
                Ok(tat) => Ok((self.at(rule, tat, now), true)),
                Err(denied) => Err(Refusal::quota(&self.ledger, denied)),
            },
            WhenFull::Reject => {
                // As if the bucket of the first slot to die were the key's own, full when it dies.
                let tat = until.saturating_add(rule.tolerance).saturating_sub(cost);
                let denied = Denied { rule, tat, now, cost };
                Err(Refusal { ledger: &self.ledger, denied, no_room: true })
            }
        }
    }

    pub(crate) fn probe(&self, print: Print, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        let (rule, _) = self.rule();
        let cost = rule.cost(n);
        if cost == 0 {
            return Ok(());
        }
        self.table
            .probe(print, rule, now, cost)
            .map_err(|denied| Refusal::quota(&self.ledger, denied))
    }

    pub(crate) fn refund(&self, print: Print, charged: Charged) {
        let (Charged::Slot(receipt) | Charged::Overflow(receipt)) = charged else { return };
        let _one_at_a_time = lock(&self.refunds);
        if receipt.version != self.rule().1 {
            return;
        }
        let refunded = self.refunded.load(Ordering::Relaxed);
        let given = match charged {
            Charged::Slot(_) => self.table.refund(print, receipt, refunded, now),
            _ => self.overflow.refund(receipt, refunded, now),
        };
        self.refunded.store(refunded.wrapping_add(given), Ordering::Release);
    }

    fn reset(&self, print: Print) {
        let _one_at_a_time = lock(&self.refunds);
        let given = self.table.reset(print, now());
        self.refunded.fetch_add(given, Ordering::Release);
    }

    fn level(&self, print: Print) -> Level {
        self.at(self.rule().0, self.table.tat(print), now())
    }

    fn set_quota(&self, quota: Quota) {
        let mut shown = lock(&self.quota);
        if let Some((old, _)) = self.rule.read() {
            let new = Rule::from(quota);
            self.rule.begin();
            let now = now();
            self.table.rebuild(now, |tat| old.rescale(new, tat, now));
            let _ = self.overflow.replace(self.overflow.load(), 0);
            self.rule.end(new);
        }
        *shown = quota;
    }
}

impl<K: ?Sized> KeyedRateLimiter<K> {
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
        KeyedRateLimiterBuilder {
            name: name.into(),
            quota: None,
            capacity: None,
            when_full: WhenFull::default(),
            shadow: false,
            observers: Observers::default(),
            key: PhantomData,
        }
    }

    /// Takes one token of a key's bucket, or says exactly when there will be one. Never waits, never
    /// allocates, takes no lock except for a key that is not in the table.
    ///
    /// # Errors
    /// `RateLimited` as [`RateLimiter::try_acquire`](super::RateLimiter::try_acquire); `Overloaded` if there is
    /// no room for a new key and [`WhenFull::Reject`] is in force.
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
                shared.ledger.acquired();
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
    /// capacity. Walks the whole table (some 10 ms for a million keys), during which new calls wait.
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

    /// The quota in force.
    ///
    /// ```
    /// # let limiter = buttress::rate_limit::RateLimiter::keyed::<u64>(buttress::Quota::per_minute(1)?, 100)?;
    /// assert_eq!(limiter.quota().to_string(), "1/min");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn quota(&self) -> Quota {
        *lock(&self.shared.quota)
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
        self.shared.table.live(now())
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
        self.shared.capacity
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
        self.shared.ledger.stats()
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
        self.shared.ledger.set_shadow(on);
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
        self.shared.ledger.name.as_str()
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
#[derive(Clone, Copy, Debug)]
pub struct KeyBucket<'a> {
    pub(crate) shared: &'a Keyed,
    /// `None`: not limited.
    pub(crate) print: Option<Print>,
}

/// Makes a [`KeyedRateLimiter`]; see [`KeyedRateLimiter::builder`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`quota`](Self::quota) | any valid one | none: must be given |
/// | [`capacity`](Self::capacity) | 1 to 2^28 | none: must be given |
/// | [`when_full`](Self::when_full) | | [`WhenFull::Reject`] |
/// | [`shadow`](Self::shadow) | | off |
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct KeyedRateLimiterBuilder<K: ?Sized> {
    name: Name,
    quota: Option<Quota>,
    capacity: Option<usize>,
    when_full: WhenFull,
    shadow: bool,
    observers: Observers,
    key: PhantomData<fn(&K)>,
}

impl<K: ?Sized> KeyedRateLimiterBuilder<K> {
    /// What each key is let through.
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").quota("10/s".parse()?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// For how many live keys there must be room. Choose the number of keys you expect to see within
    /// [`Quota::fill_time`], with a margin: 32 bytes each.
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").capacity(10_000);
    /// ```
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = Some(keys);
        self
    }

    /// What happens to a key that finds no room.
    ///
    /// ```
    /// # use buttress::rate_limit::{KeyedRateLimiter, WhenFull};
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").when_full(WhenFull::ShareOne);
    /// ```
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Shadow mode; see [`RateLimiterBuilder::shadow`](super::RateLimiterBuilder::shadow).
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").shadow(true);
    /// ```
    pub fn shadow(mut self, on: bool) -> Self {
        self.shadow = on;
        self
    }

    /// Adds a listener for refusals, and for a full table (at most once a second).
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// # use buttress::observe::Event;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").observe(|_: &Event<'_>| ());
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The limiter.
    ///
    /// # Errors
    /// No quota, no capacity, or a capacity of 0 or above 2^28.
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let error = KeyedRateLimiter::<u64>::builder("clients").quota("10/s".parse()?).build().unwrap_err();
    /// assert_eq!(error.field(), "capacity");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn build(self) -> Result<KeyedRateLimiter<K>, ConfigError> {
        const EXPECTED: &str = "room for at least 1 and at most 2^28 keys";
        let quota = self.quota.ok_or_else(missing_quota)?;
        let capacity =
            self.capacity.ok_or_else(|| ConfigError::new("capacity", "none", EXPECTED))?;
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(ConfigError::new("capacity", capacity, EXPECTED));
        }
        let shared = Keyed {
            table: Table::new(capacity),
            seeds: Seeds::random(),
            rule: RuleCell::new(Rule::from(quota)),
            when_full: self.when_full,
            capacity,
            ledger: Ledger::new(self.name, self.shadow, self.observers),
            overflow: Padded(Bucket::full()),
            refunded: AtomicU64::new(0),
            refunds: Mutex::new(()),
            reported: AtomicU64::new(0),
            quota: Mutex::new(quota),
        };
        Ok(KeyedRateLimiter { shared: Arc::new(shared), key: PhantomData })
    }
}
