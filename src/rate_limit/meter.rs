//! Several limits at once: all are checked, then all are charged.

use super::core::Receipt;
use super::handle::RateLimiter;
use super::keyed::KeyBucket;
use super::keyed_shared::Charged;
use super::ledger::{Level, Refusal};
use super::shared::now;
use crate::rejection::Rejection;

/// Something a call can be charged to: a [`RateLimiter`], one key's [`KeyBucket`], or several of them
/// combined with [`and`](Self::and).
///
/// A combination admits a call only if all its parts do, and charges either all of them or none. A
/// refusal charges nothing and names the part that makes the call wait longest.
///
/// How: first every part is asked, which changes nothing. If all agree they are charged one after the
/// other. If another thread took the last token of a part in between, the parts charged so far get
/// their tokens back and everything is asked again. Only as much is given back as the bucket would hold
/// more of if it had never been charged (the argument is at `Receipt::worth` in the source), so no
/// interval ever sees more than `burst + rate * t`. What concurrency can cost: in the instant between
/// charge and return a third caller may be refused for a token that comes back at once, at most one
/// call's worth for each thread that has just lost such a race.
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
/// got a token, so the limits are at their edge and refusing is right as well. Few, since a part may
/// also refuse what it did not when asked: a key that finds no room in a table is only known to when it
/// is charged.
const TRIES: usize = 3;

/// Two limits that apply together; see [`Meter::and`] and
/// [`RateLimitLayer::and`](super::RateLimitLayer::and).
///
/// ```
/// use buttress::Quota;
/// use buttress::rate_limit::{Both, Meter, RateLimiter};
/// struct Client {
///     limits: Both<RateLimiter, RateLimiter>,
/// }
/// let (short, long) = (RateLimiter::new(Quota::per_second(10)?), RateLimiter::new(Quota::per_minute(15)?));
/// let client = Client { limits: short.and(long) };
/// assert!(client.limits.try_acquire_n(10).is_ok());
/// assert!(client.limits.try_acquire_n(10).is_err());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Both<A, B> {
    pub(crate) first: A,
    pub(crate) second: B,
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
                Err(refusal) if refusal.no_room || tries == TRIES => return Err(refusal),
                Err(_) => tries += 1,
            }
        }
    }
}

/// A part of a limit with a price of its own: of one call, and of each that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Priced<M> {
    pub(crate) price: u64,
    pub(crate) meter: M,
}

impl<M> Priced<M> {
    /// More than there are is refused at once, like any call above the burst.
    #[inline]
    const fn of(&self, n: u64) -> u64 {
        self.price.saturating_mul(n)
    }
}

impl<M: sealed::Meter> sealed::Meter for Priced<M> {
    type Charge = M::Charge;

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        self.meter.probe(self.of(n), now)
    }

    fn charge(&self, n: u64, now: u64) -> Result<(Level, Self::Charge), Refusal<'_>> {
        self.meter.charge(self.of(n), now)
    }

    fn refund(&self, charge: Self::Charge) {
        self.meter.refund(charge);
    }

    fn count(&self, charge: Self::Charge) {
        self.meter.count(charge);
    }

    #[inline(always)]
    fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        self.meter.admit(self.of(n), now)
    }
}

/// What a [`RateLimiter`] remembers of a charge: nothing if shadow mode let it pass.
#[derive(Clone, Copy, Debug)]
pub struct Paid(Option<Receipt>);

impl sealed::Meter for RateLimiter {
    type Charge = Paid;

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        match self.shared.probe(n, now) {
            Err(denied) if !denied.rule.shadow => Err(Refusal::quota(&self.shared.ledger, denied)),
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
    if refusal.denied.rule.shadow {
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

/// Nothing is charged where there is nothing.
impl sealed::Meter for Option<&RateLimiter> {
    type Charge = Paid;

    fn probe(&self, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        self.map_or(Ok(()), |limiter| limiter.probe(n, now))
    }

    fn charge(&self, n: u64, now: u64) -> Result<(Level, Paid), Refusal<'_>> {
        match self {
            Some(limiter) => limiter.charge(n, now),
            None => Ok((Level::unlimited(), Paid(None))),
        }
    }

    fn refund(&self, paid: Paid) {
        if let Some(limiter) = self {
            limiter.refund(paid);
        }
    }

    fn count(&self, paid: Paid) {
        if let Some(limiter) = self {
            limiter.count(paid);
        }
    }

    #[inline(always)]
    fn admit(&self, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        match self {
            Some(limiter) => limiter.admit(n, now),
            None => Ok(Level::unlimited()),
        }
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
            Err(refusal) if !refusal.denied.rule.shadow => Err(refusal),
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
