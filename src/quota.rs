use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ConfigError;

/// Time inside a limiter is counted in sixteenths of a nanosecond, so that an interval that is no whole
/// number of nanoseconds (three million per second) is not far off.
pub(crate) const UNITS_PER_NANO: u64 = 16;

/// The longest time a bucket may take to fill: 2^62 units. A quarter of what the word can hold, so that
/// "now plus a full bucket plus a full queue" stays far from saturation.
const MAX_FILL: u64 = 1 << 62;

/// The largest whole number `f64` holds together with all smaller ones.
const MAX_EXACT: u64 = 1 << 53;

/// How much is let through: an amount per period, and the burst that may come at once.
///
/// A full bucket holds `burst` tokens; a call takes one (or its cost) and they come back evenly at
/// `amount / period`. So in *any* interval of length `t` at most `burst + rate * t` tokens are granted.
///
/// Plain data, always valid: a value that cannot be enforced is a [`ConfigError`] when the quota is
/// made.
///
/// | field | range | default |
/// |---|---|---|
/// | rate | above 0, at most 1,000,000,000 per second; below one per period is fine | |
/// | period | at least 1 ns | |
/// | burst | at least 1; must fill within nine years | the amount, rounded up, at least 1 |
///
/// The time between two tokens is rounded *up* to a sixteenth of a nanosecond, so the limit is never
/// exceeded; it is lower than asked by at most `rate / 16e9` (0.01 % at 1.6 million per second, 6 %
/// just below a thousand million).
///
/// ```
/// use buttress::Quota;
/// use std::time::Duration;
///
/// let api = Quota::per_second(100)?.burst(20)?;
/// assert_eq!(api.to_string(), "100/s burst 20");
/// assert_eq!("100/s burst 20".parse::<Quota>()?, api);
///
/// let login = Quota::new(1, Duration::from_secs(10))?;
/// assert_eq!(login.capacity(), 1);
/// assert_eq!(login.interval(), Duration::from_secs(10));
///
/// let error = Quota::per_second(0).unwrap_err();
/// assert_eq!(error.field(), "rate");
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, PartialEq)]
pub struct Quota {
    amount: f64,
    period: Duration,
    /// Units between two tokens, rounded up. At least 16.
    interval: u64,
    burst: u64,
}

impl Quota {
    /// `amount` per `period`, and a burst of as many.
    ///
    /// # Errors
    /// `amount` 0 or above 2^53, `period` zero, more than 10^9 per second, or a bucket that takes longer
    /// than nine years to fill.
    ///
    /// ```
    /// use buttress::Quota;
    /// use std::time::Duration;
    /// let quota = Quota::new(5, Duration::from_secs(10))?;
    /// assert_eq!(quota.interval(), Duration::from_secs(2));
    /// assert_eq!(quota.capacity(), 5);
    /// assert_eq!(Quota::new(5, Duration::ZERO).unwrap_err().field(), "per");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn new(amount: u64, period: Duration) -> Result<Self, ConfigError> {
        if amount == 0 || amount > MAX_EXACT {
            return Err(ConfigError::new("rate", amount, "at least 1 and at most 2^53 per period"));
        }
        let units = checked_period(period)?;
        let interval = units.div_ceil(u128::from(amount));
        #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
        Self::build(amount as f64, period, interval, amount)
    }

    /// `amount` per second.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_second(100)?.rate_per_second(), 100.0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn per_second(amount: u64) -> Result<Self, ConfigError> {
        Self::new(amount, Duration::from_secs(1))
    }

    /// `amount` per minute.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_minute(90)?.rate_per_second(), 1.5);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn per_minute(amount: u64) -> Result<Self, ConfigError> {
        Self::new(amount, Duration::from_secs(60))
    }

    /// A fractional amount per period: half a token per second, 2.5 per minute.
    ///
    /// # Errors
    /// As [`new`](Self::new); also when `rate` is negative, NaN or infinite.
    ///
    /// ```
    /// use buttress::Quota;
    /// use std::time::Duration;
    /// let slow = Quota::from_rate(0.5, Duration::from_secs(1))?;
    /// assert_eq!(slow.interval(), Duration::from_secs(2));
    /// assert_eq!(slow.capacity(), 1);
    /// assert_eq!(Quota::from_rate(f64::NAN, Duration::from_secs(1)).unwrap_err().value(), "NaN");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be positive and below 2^53, or rounded up afterwards"
    )]
    pub fn from_rate(rate: f64, period: Duration) -> Result<Self, ConfigError> {
        const EXPECTED: &str = "a finite number above 0 and at most 2^53 per period";
        if !rate.is_finite() || rate <= 0.0 || rate > MAX_EXACT as f64 {
            return Err(ConfigError::new("rate", rate, EXPECTED));
        }
        let units = checked_period(period)?;
        if rate.fract() == 0.0 {
            let amount = rate as u64;
            return Self::build(rate, period, units.div_ceil(u128::from(amount)), amount);
        }
        let quotient = (units as f64 / rate).ceil();
        // The division rounds to nearest, perhaps to the lax side; one fused operation tells exactly.
        let short = quotient.mul_add(rate, -(units as f64)) < 0.0;
        let interval = (quotient as u128).saturating_add(u128::from(short));
        Self::build(rate, period, interval, rate.ceil() as u64)
    }

    fn build(
        amount: f64,
        period: Duration,
        interval: u128,
        burst: u64,
    ) -> Result<Self, ConfigError> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 104 days, beyond which no rate is near"
        )]
        if amount > period.as_nanos() as f64 {
            let text = Per(amount, period).to_string();
            return Err(ConfigError::new("rate", text, "at most 1000000000 per second"));
        }
        let fill = interval.saturating_mul(u128::from(burst));
        if fill > u128::from(MAX_FILL) {
            let text = Per(amount, period).to_string();
            return Err(ConfigError::new("per", text, "a burst that fills within nine years"));
        }
        let interval = u64::try_from(interval).unwrap_or(MAX_FILL);
        Ok(Self { amount, period, interval, burst })
    }

    /// Sets how many tokens a full bucket holds, in either direction from the default.
    ///
    /// A small burst smooths, a large one forgives pauses. It also bounds the cost of one call: a call
    /// that costs more than the burst is refused for good.
    ///
    /// # Errors
    /// 0, or so many that they would take more than nine years to come back.
    ///
    /// ```
    /// use buttress::Quota;
    /// let quota = Quota::per_second(100)?.burst(1)?;
    /// assert_eq!(quota.capacity(), 1);
    /// assert_eq!(quota.burst(0).unwrap_err().to_string(), "invalid burst: 0, expected at least 1");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn burst(self, burst: u64) -> Result<Self, ConfigError> {
        if burst == 0 {
            return Err(ConfigError::new("burst", burst, "at least 1"));
        }
        match self.interval.checked_mul(burst) {
            Some(fill) if fill <= MAX_FILL => Ok(Self { burst, ..self }),
            _ => Err(ConfigError::new("burst", burst, "a burst that fills within nine years")),
        }
    }

    /// The amount per [`period`](Self::period).
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_minute(90)?.amount(), 90.0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn amount(&self) -> f64 {
        self.amount
    }

    /// The period of the [`amount`](Self::amount).
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_minute(90)?.period().as_secs(), 60);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Tokens in a full bucket.
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_second(100)?.burst(20)?.capacity(), 20);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.burst
    }

    /// The rate, whatever the period it was given in.
    ///
    /// ```
    /// assert_eq!("5/10s".parse::<buttress::Quota>()?.rate_per_second(), 0.5);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn rate_per_second(&self) -> f64 {
        self.amount / self.period.as_secs_f64()
    }

    /// Time from one token to the next, rounded up to whole nanoseconds.
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_second(100)?.interval().as_millis(), 10);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval.div_ceil(UNITS_PER_NANO))
    }

    /// Time in which an empty bucket becomes full.
    ///
    /// ```
    /// assert_eq!(buttress::Quota::per_second(100)?.burst(20)?.fill_time().as_millis(), 200);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn fill_time(&self) -> Duration {
        // At most 2^62 by construction.
        Duration::from_nanos((self.interval * self.burst).div_ceil(UNITS_PER_NANO))
    }

    pub(crate) const fn interval_units(&self) -> u64 {
        self.interval
    }
}

fn checked_period(period: Duration) -> Result<u128, ConfigError> {
    if period.is_zero() {
        return Err(ConfigError::new("per", "0s", "a duration above zero"));
    }
    Ok(period.as_nanos() * u128::from(UNITS_PER_NANO))
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quota({self})")
    }
}

/// `100/s`, `5/10s`: the period in the largest unit that divides it.
struct Per(f64, Duration);

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.1.as_nanos();
        let (unit, scale) =
            UNITS.iter().rev().find(|(_, scale)| nanos.is_multiple_of(*scale)).unwrap_or(&UNITS[0]);
        write!(f, "{}/", self.0)?;
        match nanos / scale {
            1 => f.write_str(unit),
            count => write!(f, "{count}{unit}"),
        }
    }
}

/// The form [`FromStr`] reads: `100/s burst 20`. The burst is left out when it is the default.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Per(self.amount, self.period).fmt(f)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1..=2^53")]
        if self.burst != self.amount.ceil() as u64 {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

fn unit(text: &str) -> Option<u128> {
    let name = match text {
        "sec" | "second" => "s",
        "m" | "minute" => "min",
        "hour" => "h",
        "day" => "d",
        name => name,
    };
    UNITS.iter().find(|(known, _)| *known == name).map(|(_, scale)| *scale)
}

fn period(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, name) = text.split_at(digits);
    let count: u128 = if count.is_empty() { 1 } else { count.parse().ok()? };
    let nanos = count.checked_mul(unit(name.trim_start())?)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

/// `amount/period`, optionally followed by `burst n`. The period is a unit (`ns`, `us`, `ms`, `s`,
/// `min`, `h`, `d`) with an optional whole number before it; the amount may have a fraction.
///
/// ```
/// use buttress::Quota;
/// for text in ["100/s burst 20", "5/10s", "0.5/s", "2.5 / min", "1000/h, burst 50"] {
///     assert!(text.parse::<Quota>().is_ok(), "{text}");
/// }
/// for text in ["", "100", "100/", "x/s", "1/fortnight", "0/s", "5/s burst 0", "-1/s", "NaN/s"] {
///     assert!(text.parse::<Quota>().is_err(), "{text}");
/// }
/// ```
impl FromStr for Quota {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || {
            let shown: String = text.chars().take(64).collect();
            ConfigError::new(
                "quota",
                format_args!("{shown:?}"),
                "a text like \"100/s burst 20\" or \"5/10s\"",
            )
        };
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate.trim_end().trim_end_matches(','), Some(burst.trim())),
            None => (text, None),
        };
        let (amount, per) = rate.split_once('/').ok_or_else(bad)?;
        let amount = amount.trim();
        let per = period(per.trim()).ok_or_else(bad)?;
        let quota = match amount.parse::<u64>() {
            Ok(amount) => Self::new(amount, per)?,
            Err(_) => Self::from_rate(amount.parse().map_err(|_| bad())?, per)?,
        };
        match burst {
            Some(burst) => quota.burst(burst.parse().map_err(|_| bad())?),
            None => Ok(quota),
        }
    }
}

#[cfg(feature = "serde")]
mod with_serde {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, Error, Visitor};
    use serde::ser::{Serialize, Serializer};

    use super::Quota;

    /// As its text.
    impl Serialize for Quota {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    /// From its text; the error of a bad one names field, value and expectation.
    impl<'de> Deserialize<'de> for Quota {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Text;
            impl Visitor<'_> for Text {
                type Value = Quota;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a quota such as \"100/s burst 20\"")
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<Quota, E> {
                    text.parse().map_err(E::custom)
                }
            }
            deserializer.deserialize_str(Text)
        }
    }
}

#[cfg(test)]
mod tests;
