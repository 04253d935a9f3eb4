//! Several limits at once: all are checked, then all are charged.

use std::fmt;
use std::hash::Hash;

use super::core::Receipt;
use super::handle::RateLimiter;
use super::keyed::{Charged, KeyBucket, KeyedRateLimiter};
use super::ledger::{Level, Refusal};
use super::shared::now;
use crate::key::Key;
use crate::rejection::Rejection;

/// Something a call can be charged to: a [`RateLimiter`], one key's [`KeyBucket`], or several of them
/// combined with [`and`](Self::and).
///
/// A combination admits a call only if all its parts do, and charges either all of them or none. A
/// refusal charges nothing and names the part that makes the call wait longest.
///
/// How: first every part is asked, which changes nothing. If all agree they are charged one after the
/// other. If another thread took the last token of a part in between, the parts charged so far get
/// their tokens back and everything is asked again. A token is given back by subtracting it from the
/// bucket's time, which is done only while no later charge can have built on it (see the source of
/// `core.rs` for the argument), so no interval ever sees more than `burst + rate * t`. What
/// concurrency can cost: in the instant between charge and return a third caller may be refused for a
/// token that comes back at once, at most one such token per losing thread.
///
/// ```
/// use buttress::rate_limit::{Meter, RateLimiter};
/// use buttress::Quota;
///
/// let everyone = RateLimiter::new(Quota::per_second(100)?);
/// let each = RateLimiter::keyed::<str>(Quota::per_minute(1)?, 10_000)?;
/// assert!((&everyone).and(each.bucket("ada")).try_acquire().is_ok());
/// assert!((&everyone).and(each.bucket("ada")).try_acquire().is_err());
/// assert!(everyone.tokens() >= 99.0); // the refused call was not charged
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[diagnostic::on_unimplemented(message = "`{Self}` is not something a call can be charged to")]
pub trait Meter: sealed::Meter {
    /// Both limits.
    ///
    /// ```
    /// # use buttress::{Quota, rate_limit::{Meter, RateLimiter}};
    /// let short = RateLimiter::new(Quota::per_second(10)?);
    /// let long = RateLimiter::new(Quota::per_minute(100)?);
    /// let both = short.and(long);
    /// both.try_acquire_n(5).unwrap();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    fn and<M: Meter>(self, other: M) -> Both<Self, M>
    where
        Self: Sized,
    {
        Both { first: self, second: other }
    }

    /// Takes one token from each part, or none from any.
    ///
    /// # Errors
    /// The refusal of the part with the longest `retry_after`; `ExceedsBurst` comes before all others.
    ///
    /// ```
    /// # use buttress::{Quota, rate_limit::{Meter, RateLimiter}};
    /// # use std::time::Duration;
    /// let short = RateLimiter::new(Quota::per_second(1)?);
    /// let long = RateLimiter::new(Quota::per_minute(1)?);
    /// let both = short.and(long);
    /// both.try_acquire().unwrap();
    /// assert!(both.try_acquire().unwrap_err().retry_after() > Some(Duration::from_secs(50)));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    fn try_acquire(&self) -> Result<(), Rejection> {
        self.try_acquire_n(1)
    }

    /// Takes `n` tokens from each part, or none from any. 0 is always granted.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire).
    ///
    /// ```
    /// # use buttress::{Quota, rate_limit::{Meter, RateLimiter}};
    /// let both = RateLimiter::new(Quota::per_second(10)?).and(RateLimiter::new(Quota::per_second(5)?));
    /// assert!(both.try_acquire_n(6).unwrap_err().retry_after().is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    fn try_acquire_n(&self, n: u64) -> Result<(), Rejection> {
        self.admit(n, now()).map(drop).map_err(|refusal| refusal.finish())
    }
}

impl<T: sealed::Meter> Meter for T {}

pub(crate) mod sealed {
    use super::{Level, Refusal};

    /// What a [`super::Meter`] does. `now` in units.
    pub trait Meter {
        /// What is needed to give a charge back.
        type Charge;

        /// Asks; changes nothing.
        #[doc(hidden)]
        fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>>;

        /// Charges, without counting it yet.
        #[doc(hidden)]
        fn charge(&self, n: u64, now: u64) -> Result<(Level, Self::Charge), Refusal<'_>>;

        /// Gives a charge back.
        #[doc(hidden)]
        fn refund(&self, charge: Self::Charge);

        /// Counts a charge that stays.
        #[doc(hidden)]
        fn count(&self, charge: Self::Charge);

        /// Charges for good and counts it. A refusal is not counted yet.
        #[doc(hidden)]
        fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
            let (level, charge) = self.charge(n, now)?;
            self.count(charge);
            Ok(level)
        }
    }
}

/// How often a combination is tried again because another thread was faster. Each time somebody else
/// got a token, so the limits are at their edge and refusing is right as well.
const TRIES: usize = 16;

/// Two limits that apply together; see [`Meter::and`] and
/// [`RateLimitLayer::and`](super::RateLimitLayer::and).
#[derive(Clone, Copy, Debug)]
pub struct Both<A, B> {
    first: A,
    second: B,
}

impl<A, B> Both<A, B> {
    pub(crate) fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<A: sealed::Meter, B: sealed::Meter> sealed::Meter for Both<A, B> {
    type Charge = (A::Charge, B::Charge);

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        match (self.first.probe(n, now), self.second.probe(n, now)) {
            (Ok(()), other) | (other, Ok(())) => other,
            (Err(a), Err(b)) => Err(if b.weight() > a.weight() { b } else { a }),
        }
    }

    fn charge(&self, n: u64, now: u64) -> Result<(Level, Self::Charge), Refusal<'_>> {
        let (level, first) = self.first.charge(n, now)?;
        match self.second.charge(n, now) {
            Ok((other, second)) => Ok((level.tighter(other), (first, second))),
            Err(refusal) => {
                self.first.refund(first);
                Err(refusal)
            }
        }
    }

    fn refund(&self, (first, second): Self::Charge) {
        self.second.refund(second);
        self.first.refund(first);
    }

    fn count(&self, (first, second): Self::Charge) {
        self.first.count(first);
        self.second.count(second);
    }

    fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        let mut tries = 0;
        loop {
            self.probe(n, now)?;
            match self.charge(n, now) {
                Ok((level, charge)) => {
                    self.count(charge);
                    return Ok(level);
                }
                Err(refusal) if tries == TRIES => return Err(refusal),
                Err(_) => tries += 1,
            }
        }
    }
}

/// What a [`RateLimiter`] remembers of a charge: nothing if shadow mode let it pass.
#[derive(Clone, Copy, Debug)]
pub struct Paid(Option<Receipt>);

impl sealed::Meter for RateLimiter {
    type Charge = Paid;

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        match self.shared.probe(n, now) {
            Err(denied) if !self.shared.ledger.is_shadow() => {
                Err(Refusal::quota(&self.shared.ledger, denied))
            }
            _ => Ok(()),
        }
    }

    fn charge(&self, n: u64, now: u64) -> Result<(Level, Paid), Refusal<'_>> {
        match self.shared.charge_refundably(n, now) {
            Ok((level, receipt)) => Ok((level, Paid(Some(receipt)))),
            Err(denied) => {
                let refusal = Refusal::quota(&self.shared.ledger, denied);
                shadowed(refusal).map(|level| (level, Paid(None)))
            }
        }
    }

    fn refund(&self, paid: Paid) {
        if let Some(receipt) = paid.0 {
            self.shared.refund(receipt);
        }
    }

    fn count(&self, paid: Paid) {
        if paid.0.is_some() {
            self.shared.ledger.acquired();
        }
    }

    #[inline(always)]
    fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        match self.shared.charge(n, now) {
            Ok(level) => {
                self.shared.ledger.acquired();
                Ok(level)
            }
            Err(denied) => shadowed(Refusal::quota(&self.shared.ledger, denied)),
        }
    }
}

/// In shadow mode reports a refusal and lets the call pass. Inlined, like all that handles a refusal:
/// half a dozen words written to the stack and copied from there cost more than making them.
#[inline(always)]
fn shadowed(refusal: Refusal<'_>) -> Result<Level, Refusal<'_>> {
    if refusal.ledger.is_shadow() {
        refusal.pass();
        Ok(refusal.level())
    } else {
        Err(refusal)
    }
}

impl<M: sealed::Meter + ?Sized> sealed::Meter for &M {
    type Charge = M::Charge;

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        (**self).probe(n, now)
    }

    fn charge(&self, n: u64, now: u64) -> Result<(Level, Self::Charge), Refusal<'_>> {
        (**self).charge(n, now)
    }

    fn refund(&self, charge: Self::Charge) {
        (**self).refund(charge);
    }

    fn count(&self, charge: Self::Charge) {
        (**self).count(charge);
    }

    #[inline(always)]
    fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        (**self).admit(n, now)
    }
}

/// What a [`KeyBucket`] remembers of a charge.
#[derive(Clone, Copy, Debug)]
pub struct PaidByKey(Option<Charged>);

impl sealed::Meter for KeyBucket<'_> {
    type Charge = PaidByKey;

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        let Some(print) = self.print else { return Ok(()) };
        match self.shared.probe(print, n, now) {
            Err(refusal) if !refusal.ledger.is_shadow() => Err(refusal),
            _ => Ok(()),
        }
    }

    fn charge(&self, n: u64, now: u64) -> Result<(Level, PaidByKey), Refusal<'_>> {
        let Some(print) = self.print else { return Ok((self.shared.full(now), PaidByKey(None))) };
        match self.shared.charge_refundably(print, n, now) {
            Ok((level, charged)) => Ok((level, PaidByKey(Some(charged)))),
            Err(refusal) => shadowed(refusal).map(|level| (level, PaidByKey(None))),
        }
    }

    fn refund(&self, charge: PaidByKey) {
        if let (Some(print), Some(charged)) = (self.print, charge.0) {
            self.shared.refund(print, charged);
        }
    }

    fn count(&self, charge: PaidByKey) {
        if charge.0.is_some() {
            self.shared.ledger().acquired();
        }
    }

    #[inline(always)]
    fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        let Some(print) = self.print else { return Ok(self.shared.full(now)) };
        match self.shared.charge(print, n, now) {
            Ok(level) => {
                self.shared.ledger().acquired();
                Ok(level)
            }
            Err(refusal) => shadowed(refusal),
        }
    }
}

/// Which buckets a request of type `Req` is charged to: what a
/// [`RateLimitLayer`](super::RateLimitLayer) holds.
///
/// Implemented by [`RateLimiter`], [`ByKey`], [`Both`] and [`Costed`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a limit for requests of type `{Req}`",
    note = "a `KeyedRateLimiter` needs a key: `RateLimitLayer::new(keyed).key(extractor)`"
)]
pub trait Limit<Req>: sealed_limit::Limit<Req> {}

impl<Req, L: sealed_limit::Limit<Req>> Limit<Req> for L {}

pub(crate) mod sealed_limit {
    use super::sealed::Meter;

    pub trait Limit<Req> {
        type Meter<'a>: Meter
        where
            Self: 'a;

        /// The buckets of this request. Runs user code: the key extractor.
        fn meter(&self, req: &Req) -> Self::Meter<'_>;

        fn cost(&self, _: &Req) -> u64 {
            1
        }
    }
}

impl<Req> sealed_limit::Limit<Req> for RateLimiter {
    type Meter<'a> = &'a Self;

    #[inline]
    fn meter(&self, _: &Req) -> &Self {
        self
    }
}

impl<Req, A, B> sealed_limit::Limit<Req> for Both<A, B>
where
    A: sealed_limit::Limit<Req>,
    B: sealed_limit::Limit<Req>,
{
    type Meter<'a>
        = Both<A::Meter<'a>, B::Meter<'a>>
    where
        Self: 'a;

    fn meter(&self, req: &Req) -> Self::Meter<'_> {
        Both { first: self.first.meter(req), second: self.second.meter(req) }
    }
}

/// What happens to a request without a key.
///
/// ```
/// assert_eq!(buttress::rate_limit::WhenMissing::default(), buttress::rate_limit::WhenMissing::ShareOne);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenMissing {
    /// All requests without a key share one bucket. The default: leaving the key out must not be a way
    /// round the limit, nor must it lock anybody out.
    #[default]
    ShareOne,
    /// It is let through unlimited.
    Allow,
}

/// A [`KeyedRateLimiter`] and how to find the key of a request; see
/// [`RateLimitLayer::key`](super::RateLimitLayer::key) and [`KeyedRateLimiter::by`].
pub struct ByKey<K: ?Sized, X> {
    limiter: KeyedRateLimiter<K>,
    extractor: X,
    missing: WhenMissing,
}

impl<K: ?Sized, X> ByKey<K, X> {
    pub(crate) fn new(limiter: KeyedRateLimiter<K>, extractor: X) -> Self {
        Self { limiter, extractor, missing: WhenMissing::default() }
    }

    /// What happens to a request without a key.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimiter, WhenMissing};
    /// # use buttress::Quota;
    /// let limiter = RateLimiter::keyed::<u64>(Quota::per_second(10)?, 100)?;
    /// let limit = limiter.by(|req: &Option<u64>| *req).when_missing(WhenMissing::Allow);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn when_missing(mut self, policy: WhenMissing) -> Self {
        self.missing = policy;
        self
    }
}

impl<K: ?Sized, X: Clone> Clone for ByKey<K, X> {
    fn clone(&self) -> Self {
        Self {
            limiter: self.limiter.clone(),
            extractor: self.extractor.clone(),
            missing: self.missing,
        }
    }
}

impl<K: ?Sized, X> fmt::Debug for ByKey<K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByKey")
            .field("limiter", &self.limiter)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

impl<Req, K, X> sealed_limit::Limit<Req> for ByKey<K, X>
where
    K: Hash + Eq,
    X: Key<Req, Key = K>,
{
    type Meter<'a>
        = KeyBucket<'a>
    where
        Self: 'a;

    #[inline]
    fn meter(&self, req: &Req) -> KeyBucket<'_> {
        let shared = &*self.limiter.shared;
        let print = match (self.extractor.key(req), self.missing) {
            (Some(key), _) => Some(shared.print(&key)),
            (None, WhenMissing::ShareOne) => Some(shared.nobody()),
            (None, WhenMissing::Allow) => None,
        };
        KeyBucket { shared, print }
    }
}

/// A limit with a price per request; see [`RateLimitLayer::cost`](super::RateLimitLayer::cost).
#[derive(Clone)]
pub struct Costed<L, F> {
    pub(crate) limit: L,
    cost: F,
}

impl<L, F> Costed<L, F> {
    pub(crate) fn new(limit: L, cost: F) -> Self {
        Self { limit, cost }
    }
}

impl<L: fmt::Debug, F> fmt::Debug for Costed<L, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Costed").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<Req, L, F> sealed_limit::Limit<Req> for Costed<L, F>
where
    L: sealed_limit::Limit<Req>,
    F: Fn(&Req) -> u64,
{
    type Meter<'a>
        = L::Meter<'a>
    where
        Self: 'a;

    fn meter(&self, req: &Req) -> Self::Meter<'_> {
        self.limit.meter(req)
    }

    fn cost(&self, req: &Req) -> u64 {
        (self.cost)(req)
    }
}

/// A limit that callers can wait for: one bucket. In a table there is no queue per key.
pub(crate) mod sealed_wait {
    use super::RateLimiter;

    pub trait Waitable {
        fn limiter(&self) -> &RateLimiter;
    }
}

impl sealed_wait::Waitable for RateLimiter {
    fn limiter(&self) -> &RateLimiter {
        self
    }
}

impl<L: sealed_wait::Waitable, F> sealed_wait::Waitable for Costed<L, F> {
    fn limiter(&self) -> &RateLimiter {
        self.limit.limiter()
    }
}
