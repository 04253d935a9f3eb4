use std::f64::consts::TAU;
use std::time::Duration;

use crate::clock::nanos;
use crate::error::ConfigError;

use super::draw::{Draws, FAULT};

/// The law that latencies are drawn from.
///
/// | law | for |
/// |---|---|
/// | [`fixed`](Self::fixed) | the effect of distance |
/// | [`uniform`](Self::uniform) | an interval around a middle |
/// | [`normal`](Self::normal) | many small causes that add up |
/// | [`lognormal`](Self::lognormal) | what services usually look like: a long tail to the right |
/// | [`pareto`](Self::pareto) | a tail so long that its few worst calls dominate |
///
/// With the feature `serde` it is read from `{"fixed": 0.05}`, `{"pareto": {"least": 0.005, "shape": 1.5}}`
/// and so on, in seconds. Logarithms and powers are the platform's, so on another one the last nanosecond
/// may be different.
///
/// No latency is below zero, none above [`at_most`](Self::at_most) (24 hours unless told otherwise).
///
/// ```
/// use buttress::conditioner::Latency;
/// use std::time::Duration;
/// let ms = Duration::from_millis;
/// let law = Latency::lognormal(ms(20), 0.8)?.at_most(ms(2000))?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(try_from = "super::wire::Latency"))]
pub struct Latency {
    pub(super) law: Law,
    pub(super) most: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Law {
    Fixed(Duration),
    Uniform { middle: Duration, jitter: Duration },
    Normal { mean: Duration, deviation: Duration },
    LogNormal { median: Duration, sigma: f64 },
    Pareto { least: Duration, shape: f64 },
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Latency {
    const fn new(law: Law) -> Self {
        Self { law, most: DAY }
    }

    /// Always the same.
    ///
    /// ```
    /// # use buttress::conditioner::Latency;
    /// # use std::time::Duration;
    /// let law = Latency::fixed(Duration::from_millis(50))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If it is longer than a day.
    pub fn fixed(latency: Duration) -> Result<Self, ConfigError> {
        Ok(Self::new(Law::Fixed(within_a_day("latency", latency)?)))
    }

    /// Anything from `middle - jitter` to `middle + jitter`, each as likely; what would be below zero is
    /// zero.
    ///
    /// ```
    /// # use buttress::conditioner::Latency;
    /// # use std::time::Duration;
    /// let law = Latency::uniform(Duration::from_millis(50), Duration::from_millis(20))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If one of them is longer than a day.
    pub fn uniform(middle: Duration, jitter: Duration) -> Result<Self, ConfigError> {
        let middle = within_a_day("latency", middle)?;
        let jitter = within_a_day("jitter", jitter)?;
        Ok(Self::new(Law::Uniform { middle, jitter }))
    }

    /// Normally distributed; what would be below zero is zero.
    ///
    /// ```
    /// # use buttress::conditioner::Latency;
    /// # use std::time::Duration;
    /// let law = Latency::normal(Duration::from_millis(50), Duration::from_millis(10))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If one of them is longer than a day.
    pub fn normal(mean: Duration, deviation: Duration) -> Result<Self, ConfigError> {
        let mean = within_a_day("mean", mean)?;
        let deviation = within_a_day("deviation", deviation)?;
        Ok(Self::new(Law::Normal { mean, deviation }))
    }

    /// Its logarithm is normally distributed: half are below `median`; `sigma` is the standard deviation
    /// of the natural logarithm. With 0.5 one in a hundred is above 3.2 medians, with 1 above 10.
    ///
    /// ```
    /// # use buttress::conditioner::Latency;
    /// # use std::time::Duration;
    /// assert!(Latency::lognormal(Duration::from_millis(20), -1.0).is_err());
    /// ```
    ///
    /// # Errors
    /// If the median is zero or longer than a day, or sigma not from 0 to 10.
    pub fn lognormal(median: Duration, sigma: f64) -> Result<Self, ConfigError> {
        let median = not_zero("median", within_a_day("median", median)?)?;
        if !(0.0..=10.0).contains(&sigma) {
            return Err(ConfigError::new("sigma", sigma, "a number from 0 to 10"));
        }
        Ok(Self::new(Law::LogNormal { median, sigma }))
    }

    /// None is below `least`; the share above `x` is `(least / x)` to the power of `shape`. With 3 one in
    /// a thousand is ten times `least`, with 1 one in ten is.
    ///
    /// ```
    /// # use buttress::conditioner::Latency;
    /// # use std::time::Duration;
    /// let law = Latency::pareto(Duration::from_millis(5), 1.5)?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If `least` is zero or longer than a day, or `shape` not from 0.1 to 100.
    pub fn pareto(least: Duration, shape: f64) -> Result<Self, ConfigError> {
        let least = not_zero("least", within_a_day("least", least)?)?;
        if !(0.1..=100.0).contains(&shape) {
            return Err(ConfigError::new("shape", shape, "a number from 0.1 to 100"));
        }
        Ok(Self::new(Law::Pareto { least, shape }))
    }

    /// Cuts the law off: what would be longer is this long.
    ///
    /// ```
    /// # use buttress::conditioner::Latency;
    /// # use std::time::Duration;
    /// let law = Latency::pareto(Duration::from_millis(5), 1.0)?.at_most(Duration::from_secs(1))?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// If it is zero or longer than a day.
    pub fn at_most(mut self, most: Duration) -> Result<Self, ConfigError> {
        self.most = not_zero("at_most", within_a_day("at_most", most)?)?;
        Ok(self)
    }

    /// The latency for one call.
    pub(super) fn sample(self, draws: Draws) -> Duration {
        let (u, v) = (draws.unit(FAULT), draws.unit(FAULT + 1));
        let sample = match self.law {
            Law::Fixed(latency) => latency,
            Law::Uniform { middle, jitter } => in_nanos(uniform(ns(middle), ns(jitter), u)),
            Law::Normal { mean, deviation } => {
                in_nanos(ns(deviation).mul_add(gauss(u, v), ns(mean)))
            }
            Law::LogNormal { median, sigma } => in_nanos(ns(median) * (sigma * gauss(u, v)).exp()),
            // `u` is below 1, so the root is above zero.
            Law::Pareto { least, shape } => in_nanos(ns(least) / (1.0 - u).powf(shape.recip())),
        };
        sample.min(self.most)
    }
}

/// `middle ± jitter`, in any unit; below zero is for [`in_nanos`] to mend.
pub(super) fn uniform(middle: f64, jitter: f64, draw: f64) -> f64 {
    jitter.mul_add(2.0 * draw - 1.0, middle)
}

/// Box and Muller: two uniform draws make a normal one. `1 - u` is never zero.
fn gauss(u: f64, v: f64) -> f64 {
    (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()
}

#[expect(clippy::cast_precision_loss, reason = "a day has 47 bits of nanoseconds")]
fn ns(duration: Duration) -> f64 {
    nanos(duration) as f64
}

/// Never below zero, to the nearest nanosecond.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
pub(super) fn in_nanos(ns: f64) -> Duration {
    Duration::from_nanos(ns.round() as u64)
}

pub(super) fn within_a_day(
    field: &'static str,
    duration: Duration,
) -> Result<Duration, ConfigError> {
    if duration > DAY {
        return Err(ConfigError::new(field, format_args!("{duration:?}"), "at most 24 hours"));
    }
    Ok(duration)
}

pub(super) fn not_zero(field: &'static str, duration: Duration) -> Result<Duration, ConfigError> {
    if duration.is_zero() {
        return Err(ConfigError::new(field, "0s", "more than zero and at most 24 hours"));
    }
    Ok(duration)
}
