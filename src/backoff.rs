//! How long to wait before trying again.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::clock::nanos;
use crate::error::ConfigError;

/// How the delay of a [`Backoff`] is spread, so that callers that failed together do not come back
/// together. `v` is the delay before jitter, already capped. No jitter ever exceeds the cap.
///
/// ```
/// assert_eq!(buttress::Jitter::default(), buttress::Jitter::Full);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "wire::Jitter", into = "wire::Jitter"))]
#[non_exhaustive]
pub enum Jitter {
    /// Exactly `v`.
    None,
    /// Uniform in `0..=v`: the fewest collisions for a given mean, hence the default.
    #[default]
    Full,
    /// `v/2` plus uniform in `0..=v/2`: never less than half the wait.
    Equal,
    /// Uniform between the base and three times the previous delay, which makes the series a random
    /// walk upwards. The factor is not used.
    Decorrelated,
    /// `v` plus uniform in `0..=share*v`, for example 0.25 for up to a quarter more. Once `v` has
    /// reached the cap there is no room left and every delay is the cap.
    Proportional(f64),
    /// `v` plus uniform in `0..=up_to`, whatever `v` is. Cut at the cap as `Proportional` is.
    Additive(Duration),
}

/// The delays between attempts: constant or exponential, capped, jittered.
///
/// The delay before retry `n` (from 1) is `min(cap, base * factor^(n-1))`, then jittered (see
/// [`Jitter`]; full by default). It never overflows, whatever `n` is. Formulas after M. Brooker,
/// "Exponential Backoff And Jitter".
///
/// Plain data of 40 bytes. Values out of range are found by [`validate`](Self::validate), which every
/// builder that takes a backoff calls.
///
/// ```
/// use buttress::{Backoff, Jitter};
/// use std::time::Duration;
/// let ms = Duration::from_millis;
///
/// let backoff = Backoff::exponential(ms(100), ms(1000)).jitter(Jitter::None);
/// let delays: Vec<_> = backoff.delays().take(5).collect();
/// assert_eq!(delays, [ms(100), ms(200), ms(400), ms(800), ms(1000)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "wire::Backoff", into = "wire::Backoff"))]
pub struct Backoff {
    base: u64,
    cap: u64,
    factor: f64,
    jitter: Jitter,
}

impl Backoff {
    /// No delay at all.
    ///
    /// ```
    /// assert!(buttress::Backoff::none().delay(7).is_zero());
    /// ```
    #[must_use]
    pub const fn none() -> Self {
        Self { base: 0, cap: 0, factor: 1.0, jitter: Jitter::None }
    }

    /// The same delay every time, without jitter.
    ///
    /// ```
    /// use std::time::Duration;
    /// let second = Duration::from_secs(1);
    /// assert_eq!(buttress::Backoff::constant(second).delay(3), second);
    /// ```
    #[must_use]
    pub const fn constant(delay: Duration) -> Self {
        let delay = whole_nanos(delay);
        Self { base: delay, cap: delay, factor: 1.0, jitter: Jitter::None }
    }

    /// `base`, then twice as long each time, at most `cap`; full jitter.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let backoff = Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5));
    /// assert!(backoff.delay(1) <= Duration::from_millis(50));
    /// assert!(backoff.delay(u32::MAX) <= Duration::from_secs(5));
    /// ```
    #[must_use]
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self { base: whole_nanos(base), cap: whole_nanos(cap), factor: 2.0, jitter: Jitter::Full }
    }

    /// What each delay is multiplied by to get the next: finite, at least 1. Default 2, of a constant
    /// backoff 1.
    ///
    /// ```
    /// use buttress::{Backoff, Jitter};
    /// use std::time::Duration;
    /// let b = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60))
    ///     .factor(3.0)
    ///     .jitter(Jitter::None);
    /// assert_eq!(b.delay(3), Duration::from_secs(9));
    /// ```
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// How delays are spread.
    ///
    /// ```
    /// use buttress::{Backoff, Jitter};
    /// use std::time::Duration;
    /// let b = Backoff::constant(Duration::from_secs(2)).jitter(Jitter::Equal);
    /// assert!(b.delay(1) >= Duration::from_secs(1));
    /// ```
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The longest delay. Of a constant backoff it is the delay itself; raise it to give additive
    /// jitter room.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let b = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(8));
    /// assert!(b.cap(Duration::from_secs(2)).delay(9) <= Duration::from_secs(2));
    /// ```
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = whole_nanos(cap);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// If the factor is below 1 or not finite, the base above the cap, a share of jitter negative or
    /// not finite, or a duration above 584 years.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let b = Backoff::constant(Duration::from_secs(1)).factor(0.5);
    /// assert_eq!(b.validate().unwrap_err().field(), "factor");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, value) in [("base", self.base), ("cap", self.cap)] {
            if value == u64::MAX {
                return Err(ConfigError::new(field, "over 584 years", "at most 584 years"));
            }
        }
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(ConfigError::new("factor", self.factor, "a finite number, at least 1"));
        }
        if self.base > self.cap {
            let base = Duration::from_nanos(self.base);
            let cap = Duration::from_nanos(self.cap);
            return Err(ConfigError::new(
                "base",
                format_args!("{base:?}"),
                format!("at most the cap, {cap:?}"),
            ));
        }
        match self.jitter {
            Jitter::Proportional(share) if !(share.is_finite() && share >= 0.0) => {
                Err(ConfigError::new("jitter", share, "a finite share, at least 0"))
            }
            Jitter::Additive(up_to) if nanos(up_to) == u64::MAX => {
                Err(ConfigError::new("jitter", "over 584 years", "at most 584 years"))
            }
            _ => Ok(()),
        }
    }

    /// One delay before retry `n`, from 1 (0 counts as 1), drawn with the calling thread's generator.
    ///
    /// Decorrelated jitter depends on the delay before; without it, the unjittered one is taken. Use
    /// [`delays`](Self::delays) for the true series.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let b = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(1));
    /// assert!(b.delay(2) <= Duration::from_millis(200));
    /// ```
    #[must_use]
    pub fn delay(&self, n: u32) -> Duration {
        let previous = if n > 1 { self.before_jitter(n - 1) } else { 0 };
        Random::of_thread(|random| self.draw(n, previous, random))
    }

    /// The shortest and the longest delay that retry `n` (from 1) can get.
    ///
    /// ```
    /// use buttress::{Backoff, Jitter};
    /// use std::time::Duration;
    /// let ms = Duration::from_millis;
    /// let b = Backoff::exponential(ms(100), ms(1000));
    /// assert_eq!(b.range(2), (ms(0), ms(200)));
    /// assert_eq!(b.jitter(Jitter::Proportional(0.25)).range(2), (ms(200), ms(250)));
    /// ```
    #[must_use]
    pub fn range(&self, n: u32) -> (Duration, Duration) {
        let (low, high) = match self.jitter {
            Jitter::Decorrelated => {
                let longest = powered(self.base, 3.0, n.saturating_sub(1)).min(self.cap);
                (self.base.min(self.cap), longest.max(self.base.min(self.cap)))
            }
            _ => self.bounds(n, 0),
        };
        (Duration::from_nanos(low), Duration::from_nanos(high))
    }

    /// The series of delays, without end, drawn with a generator of its own.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let b = Backoff::constant(Duration::from_secs(1));
    /// assert_eq!(b.delays().nth(1000), Some(Duration::from_secs(1)));
    /// ```
    #[must_use]
    pub fn delays(&self) -> Delays {
        Delays { backoff: *self, n: 0, previous: 0, random: Random::fresh() }
    }

    /// The same series of delays each time, for tests.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let b = Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5));
    /// assert!(b.delays_seeded(7).take(9).eq(b.delays_seeded(7).take(9)));
    /// ```
    #[must_use]
    pub fn delays_seeded(&self, seed: u64) -> Delays {
        Delays { backoff: *self, n: 0, previous: 0, random: Random::seeded(seed) }
    }

    /// Delay before retry `n` without jitter, in nanoseconds.
    fn before_jitter(&self, n: u32) -> u64 {
        powered(self.base, self.factor, n.saturating_sub(1)).min(self.cap)
    }

    /// Both ends included. `previous` is 0 before the first retry.
    fn bounds(&self, n: u32, previous: u64) -> (u64, u64) {
        let v = self.before_jitter(n);
        let (low, high) = match self.jitter {
            Jitter::None => (v, v),
            Jitter::Full => (0, v),
            Jitter::Equal => (v - v / 2, v),
            Jitter::Decorrelated if previous == 0 => (self.base, self.base),
            Jitter::Decorrelated => (self.base, previous.saturating_mul(3).max(self.base)),
            Jitter::Proportional(share) => (v, v.saturating_add(scaled(v, share))),
            Jitter::Additive(up_to) => (v, v.saturating_add(nanos(up_to))),
        };
        (low.min(self.cap), high.min(self.cap))
    }

    /// The delay before retry `n`, given the one before in nanoseconds (0 if there was none).
    pub(crate) fn draw(&self, n: u32, previous: u64, random: &mut Random) -> Duration {
        let (low, high) = self.bounds(n, previous);
        Duration::from_nanos(random.between(low, high))
    }

    /// The delay before retry `n` when the callee asked for `after`: not sooner, and spread upwards, since
    /// a herd that was told one `Retry-After` must not come back as one. Not sooner than without the wish
    /// either: many a proxy says `Retry-After: 0` to everything. May exceed the cap.
    pub(crate) fn draw_after(
        &self,
        after: Duration,
        n: u32,
        previous: u64,
        random: &mut Random,
    ) -> Duration {
        let own = self.draw(n, previous, random);
        let spread = match self.jitter {
            Jitter::None => 0,
            _ => random.between(0, self.before_jitter(n)),
        };
        own.max(after.saturating_add(Duration::from_nanos(spread)))
    }

    /// Values of a foreign configuration with rules of its own: any factor that is not negative, a
    /// base above the cap.
    pub(crate) fn unchecked(base: Duration, cap: Duration, factor: f64, jitter: Jitter) -> Self {
        Self { base: nanos(base), cap: nanos(cap), factor, jitter }
    }

    pub(crate) fn parts(&self) -> (Duration, Duration, f64, Jitter) {
        (Duration::from_nanos(self.base), Duration::from_nanos(self.cap), self.factor, self.jitter)
    }
}

/// `nanos` as a `const fn`.
#[expect(clippy::cast_possible_truncation, reason = "compared with the maximum first")]
const fn whole_nanos(duration: Duration) -> u64 {
    let wide = duration.as_nanos();
    if wide > u64::MAX as u128 { u64::MAX } else { wide as u64 }
}

/// `base * factor^exponent`, saturating. A zero base stays zero even where the power is infinite.
fn powered(base: u64, factor: f64, exponent: u32) -> u64 {
    if base == 0 || exponent == 0 {
        return base;
    }
    scaled(base, factor.powf(f64::from(exponent)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the cast saturates, which is what is wanted; 2^-53 of a delay does not matter"
)]
fn scaled(value: u64, by: f64) -> u64 {
    (value as f64 * by).round() as u64
}

/// The delays of a [`Backoff`], one after the other, without end.
///
/// ```
/// use std::time::Duration;
/// let backoff = buttress::Backoff::constant(Duration::from_secs(1));
/// assert_eq!(backoff.delays().next(), Some(Duration::from_secs(1)));
/// ```
#[derive(Clone, Debug)]
pub struct Delays {
    backoff: Backoff,
    n: u32,
    previous: u64,
    random: Random,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.n = self.n.saturating_add(1);
        let delay = self.backoff.draw(self.n, self.previous, &mut self.random);
        self.previous = nanos(delay);
        Some(delay)
    }
}

/// The crate's generator: small, fast, not for secrets. No lock and nothing shared between threads.
#[derive(Clone, Debug)]
pub(crate) struct Random(SmallRng);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Seeded from the operating system's randomness, the way the standard library's hash maps are.
    pub(crate) fn fresh() -> Self {
        let random = std::collections::hash_map::RandomState::new();
        Self::seeded(random.hash_one(0_u8))
    }

    /// Uses the calling thread's generator. `f` must not call back into it.
    pub(crate) fn of_thread<T>(f: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static GENERATOR: RefCell<Random> = RefCell::new(Random::fresh());
        }
        let mut f = Some(f);
        let drawn = GENERATOR.try_with(|generator| {
            let mut generator = generator.try_borrow_mut().ok()?;
            f.take().map(|f| f(&mut generator))
        });
        match (drawn, f) {
            (Ok(Some(value)), _) => value,
            // The thread is going down and its generator is gone.
            (_, Some(f)) => f(&mut Self::fresh()),
            (_, None) => unreachable!("`f` is taken only where its value is returned"),
        }
    }

    /// Uniform, both ends included; `low` if the range is empty.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        if low < high { self.0.random_range(low..=high) } else { low }
    }
}

#[cfg(feature = "serde")]
pub(crate) mod wire {
    //! Durations as seconds, which is how configuration files write them.

    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use crate::error::ConfigError;

    pub(crate) fn seconds(field: &'static str, value: f64) -> Result<Duration, ConfigError> {
        Duration::try_from_secs_f64(value)
            .map_err(|_| ConfigError::new(field, value, "seconds, at least 0"))
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Backoff {
        base: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cap: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        factor: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jitter: Option<super::Jitter>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub(crate) enum Jitter {
        None,
        Full,
        Equal,
        Decorrelated,
        Proportional(f64),
        Additive(f64),
    }

    impl TryFrom<Backoff> for super::Backoff {
        type Error = ConfigError;

        /// Without a cap the backoff is constant and without jitter, else exponential with full jitter.
        fn try_from(wire: Backoff) -> Result<Self, ConfigError> {
            let base = seconds("base", wire.base)?;
            let mut backoff = match wire.cap {
                Some(cap) => Self::exponential(base, seconds("cap", cap)?),
                None => Self::constant(base),
            };
            if let Some(factor) = wire.factor {
                backoff = backoff.factor(factor);
            }
            if let Some(jitter) = wire.jitter {
                backoff = backoff.jitter(jitter);
            }
            backoff.validate()?;
            Ok(backoff)
        }
    }

    impl From<super::Backoff> for Backoff {
        fn from(backoff: super::Backoff) -> Self {
            let (base, cap, factor, jitter) = backoff.parts();
            Self {
                base: base.as_secs_f64(),
                cap: Some(cap.as_secs_f64()),
                factor: Some(factor),
                jitter: Some(jitter),
            }
        }
    }

    impl TryFrom<Jitter> for super::Jitter {
        type Error = ConfigError;

        fn try_from(wire: Jitter) -> Result<Self, ConfigError> {
            Ok(match wire {
                Jitter::None => Self::None,
                Jitter::Full => Self::Full,
                Jitter::Equal => Self::Equal,
                Jitter::Decorrelated => Self::Decorrelated,
                Jitter::Proportional(share) => Self::Proportional(share),
                Jitter::Additive(up_to) => Self::Additive(seconds("jitter", up_to)?),
            })
        }
    }

    impl From<super::Jitter> for Jitter {
        fn from(jitter: super::Jitter) -> Self {
            match jitter {
                super::Jitter::None => Self::None,
                super::Jitter::Full => Self::Full,
                super::Jitter::Equal => Self::Equal,
                super::Jitter::Decorrelated => Self::Decorrelated,
                super::Jitter::Proportional(share) => Self::Proportional(share),
                super::Jitter::Additive(up_to) => Self::Additive(up_to.as_secs_f64()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
