//! The generic cell rate algorithm in one word, without clock, lock or I/O.
//!
//! The word is the *theoretical arrival time* (TAT): the instant at which the bucket will be full again,
//! in sixteenths of a nanosecond. With `debt = max(TAT - now, 0)` a bucket of `burst` tokens holds
//! `(burst * interval - debt) / interval` of them, so a call of cost `n` is admitted iff
//!
//! ```text
//! max(TAT, now) + n * interval - now <= burst * interval
//! ```
//!
//! and then moves TAT to the left-hand term plus `now`. (I.371, ATM Forum; the leaky bucket as a meter.)
//! Everything saturates; the interval is rounded up when the quota is made, so every rounding is strict.

use std::time::Duration;

use crate::clock::Tick;
use crate::quota::{Quota, UNITS_PER_NANO};
use crate::sync::atomic::{AtomicU64, Ordering};

/// An instant in units.
#[inline]
pub(crate) fn units(tick: Tick) -> u64 {
    tick.0.saturating_mul(UNITS_PER_NANO)
}

/// Whole nanoseconds, rounded up: who waits this long finds the instant passed.
#[inline]
pub(crate) fn nanos(units: u64) -> u64 {
    units.div_ceil(UNITS_PER_NANO)
}

#[inline]
pub(crate) fn duration(units: u64) -> Duration {
    Duration::from_nanos(nanos(units))
}

/// What a quota comes to in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) interval: u64,
    /// `burst * interval`, at most 2^62.
    pub(crate) tolerance: u64,
    pub(crate) burst: u64,
    /// Whether what it refuses is let through all the same.
    pub(crate) shadow: bool,
}

impl From<Quota> for Rule {
    fn from(quota: Quota) -> Self {
        let (interval, burst) = (quota.interval_units(), quota.capacity());
        Self { interval, tolerance: interval.saturating_mul(burst), burst, shadow: false }
    }
}

/// A refusal, with what is needed to explain it. Turned into numbers only when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) rule: Rule,
    pub(crate) tat: u64,
    pub(crate) now: u64,
    pub(crate) cost: u64,
}

impl Denied {
    /// More than a full bucket: no waiting helps.
    #[inline]
    pub(crate) fn never(&self) -> bool {
        self.cost > self.rule.tolerance
    }

    /// Units until the same call would be admitted if nobody else came.
    #[inline]
    pub(crate) fn wait(&self) -> u64 {
        let after = self.tat.max(self.now).saturating_add(self.cost);
        after.saturating_sub(self.now).saturating_sub(self.rule.tolerance)
    }
}

impl Rule {
    pub(crate) fn in_shadow(self, shadow: bool) -> Self {
        Self { shadow, ..self }
    }

    #[inline]
    pub(crate) fn cost(self, n: u64) -> u64 {
        self.interval.saturating_mul(n)
    }

    /// The TAT after admitting `cost` at `now`.
    #[inline]
    pub(crate) fn admit(self, tat: u64, now: u64, cost: u64) -> Result<u64, Denied> {
        let after = tat.max(now).saturating_add(cost);
        // The middle term cannot underflow: `after >= now`.
        if after - now <= self.tolerance {
            Ok(after)
        } else {
            Err(Denied { rule: self, tat, now, cost })
        }
    }

    /// Units of room left: `interval` of them are a token.
    #[inline]
    pub(crate) fn room(self, tat: u64, now: u64) -> u64 {
        self.tolerance.saturating_sub(tat.saturating_sub(now))
    }

    #[expect(clippy::cast_precision_loss, reason = "a level to look at")]
    pub(crate) fn tokens(self, tat: u64, now: u64) -> f64 {
        self.room(tat, now) as f64 / self.interval as f64
    }

    /// The TAT under `new` of a bucket that has `tat` under this rule: the same number of tokens, or a
    /// full bucket if the new one is smaller. Rounded to the strict side.
    pub(crate) fn rescale(self, new: Self, tat: u64, now: u64) -> u64 {
        let room = u128::from(self.room(tat, now));
        let room = room * u128::from(new.interval) / u128::from(self.interval);
        let room = u64::try_from(room).unwrap_or(u64::MAX).min(new.tolerance);
        now.saturating_add(new.tolerance - room)
    }

    /// The TAT of a bucket that holds `tokens` at `now`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float-to-integer casts saturate; the level was checked to be in 0..=burst"
    )]
    pub(crate) fn tat_holding(self, tokens: f64, now: u64) -> u64 {
        let room = (tokens * self.interval as f64) as u64;
        now.saturating_add(self.tolerance.saturating_sub(room))
    }
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Full for ever, until it is charged: 0 lies in the past of every tick.
    pub(crate) fn full() -> Self {
        Self::at(0)
    }

    pub(crate) fn at(tat: u64) -> Self {
        Self(AtomicU64::new(tat))
    }

    /// `Acquire`, so that a reader of a table slot who sees a value of the slot's next owner also sees
    /// that the owner changed. Costs nothing on x86-64 and next to nothing elsewhere.
    #[inline]
    pub(crate) fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn replace(&self, tat: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(tat, new, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Charges `cost` and returns the new TAT. A refusal only loads: refusing callers do not fight over
    /// the cache line.
    ///
    /// `in_force`: whether the rule is still the one that was read; `Err(None)` if not. It is asked after
    /// TAT was loaded, and a change of the rule exchanges every TAT ([`rebuild`](Self::rebuild)). So a TAT
    /// from after the change is noticed here, and one from before it in the exchange.
    #[inline]
    pub(crate) fn charge_while(
        &self,
        in_force: impl Fn() -> bool,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Result<u64, Option<Denied>> {
        let mut tat = self.load();
        loop {
            if !in_force() {
                return Err(None);
            }
            let after = rule.admit(tat, now, cost)?;
            match self.0.compare_exchange_weak(tat, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(after),
                Err(seen) => tat = seen,
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn charge(&self, rule: Rule, now: u64, cost: u64) -> Result<u64, Denied> {
        self.charge_while(|| true, rule, now, cost).map_err(Option::unwrap)
    }

    /// Replaces a TAT that lies ahead of `now` by what `change` makes of it, and every other by another one
    /// in the past: in any case an exchange that was prepared before fails.
    pub(crate) fn rebuild(&self, now: u64, change: impl Fn(u64) -> u64) {
        let mut tat = self.load();
        loop {
            let new = if tat > now { change(tat) } else { tat };
            match self.replace(tat, different(new, tat, now)) {
                Ok(_) => return,
                Err(seen) => tat = seen,
            }
        }
    }

    /// Takes back a charge, as far as that is sound, and returns how many units it gave back: see
    /// [`Receipt::worth`]. `refunded` and the clock are read after TAT; the exchange succeeds only on the
    /// value that was judged.
    pub(crate) fn refund(
        &self,
        receipt: Receipt,
        refunded: u64,
        mut clock: impl FnMut() -> u64,
    ) -> u64 {
        let mut tat = self.load();
        loop {
            let worth = receipt.worth(refunded, clock());
            if worth == 0 {
                return 0;
            }
            match self.replace(tat, tat.saturating_sub(worth)) {
                Ok(_) => return worth,
                Err(seen) => tat = seen,
            }
        }
    }
}

/// `new`, or if that is `tat` its neighbour: no different in the past, else on the strict side.
pub(crate) fn different(new: u64, tat: u64, now: u64) -> u64 {
    match new {
        new if new != tat => new,
        new if new == now => new.saturating_sub(1),
        new => new.saturating_add(1),
    }
}

/// A charge that may still be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// TAT right after the charge.
    pub(crate) after: u64,
    pub(crate) cost: u64,
    /// Version of the rule it was charged under: after a change or a reset there is nothing to give back.
    pub(crate) version: u64,
    /// Units that had been given back in all when it was charged, read before the charge.
    pub(crate) refunded: u64,
}

impl Receipt {
    /// How much of the charge may be given back at `now`, when `refunded` units have been given back in
    /// all: what the bucket would hold more of if the charge had never been made.
    ///
    /// Part of a charge is made good by the time that passes: had it not been made, those tokens would
    /// have overflowed. Let charges of `c_1, c_2, ..` have followed at `t_1, t_2, ..`. As long as none of
    /// them found TAT in the past, TAT is now `after + sum c`. Without our charge it would be the
    /// largest of `before + sum c` and of all `t_j + c_j + c_j+1 + ..`. The difference is the smallest of
    /// `cost` (or more) and all `after + c_1 + .. + c_j-1 - t_j`, and so at least
    /// `min(cost, after - now)`. If that is positive, indeed none found TAT in the past: TAT was at
    /// least `after`. Refunds made in between can have lowered it by no more than their sum, which is
    /// subtracted. So giving back this much never lets an interval see more than the rate and the burst;
    /// and at the time of the charge, and for every charge beyond the burst, it is the whole cost.
    pub(crate) fn worth(&self, refunded: u64, now: u64) -> u64 {
        let since = refunded.wrapping_sub(self.refunded);
        self.after.saturating_sub(since).saturating_sub(now).min(self.cost)
    }
}

/// A rule that can be exchanged while it is read: a sequence lock over its words.
///
/// Readers take no lock. The version is odd while a writer is between the two words, and moves on with
/// every change, so a receipt can tell whether its rule is still in force.
#[derive(Debug)]
pub(crate) struct RuleCell {
    version: AtomicU64,
    interval: AtomicU64,
    tolerance: AtomicU64,
    /// The highest bit is `shadow`. A burst is at most the tolerance, so it does not need that bit.
    burst: AtomicU64,
}

const SHADOW: u64 = 1 << 63;

impl RuleCell {
    pub(crate) fn new(rule: Rule) -> Self {
        Self {
            version: AtomicU64::new(0),
            interval: AtomicU64::new(rule.interval),
            tolerance: AtomicU64::new(rule.tolerance),
            burst: AtomicU64::new(Self::last_word(rule)),
        }
    }

    fn last_word(rule: Rule) -> u64 {
        if rule.shadow { rule.burst | SHADOW } else { rule.burst }
    }

    /// The rule and its version; `None` while a writer is at work.
    #[inline]
    pub(crate) fn read(&self) -> Option<(Rule, u64)> {
        // Each load is `Acquire`, so none moves before an earlier one; and each store of a word is
        // `Release`, so who sees a new word also sees the odd version that was stored before it.
        let version = self.version.load(Ordering::Acquire);
        let interval = self.interval.load(Ordering::Acquire);
        let tolerance = self.tolerance.load(Ordering::Acquire);
        let burst = self.burst.load(Ordering::Acquire);
        let same = self.version.load(Ordering::Relaxed) == version;
        let (burst, shadow) = (burst & !SHADOW, burst & SHADOW != 0);
        (same && version & 1 == 0).then_some((Rule { interval, tolerance, burst, shadow }, version))
    }

    /// Whether the rule read with this version is still the one in force.
    #[inline]
    pub(crate) fn is(&self, version: u64) -> bool {
        self.version.load(Ordering::Acquire) == version
    }

    /// Turns readers away until [`end`](Self::end). For one writer at a time (the caller holds a lock).
    pub(crate) fn begin(&self) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    /// Switches shadow mode, under the same version: what has been charged can still be given back. For one
    /// writer at a time.
    pub(crate) fn set_shadow(&self, on: bool) {
        let burst = self.burst.load(Ordering::Relaxed) & !SHADOW;
        self.burst.store(if on { burst | SHADOW } else { burst }, Ordering::Release);
    }

    /// Publishes `rule` under a new version.
    pub(crate) fn end(&self, rule: Rule) {
        let version = self.version.load(Ordering::Relaxed);
        self.interval.store(rule.interval, Ordering::Release);
        self.tolerance.store(rule.tolerance, Ordering::Release);
        self.burst.store(Self::last_word(rule), Ordering::Release);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }
}
