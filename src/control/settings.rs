//! The settings of objects that commands install, as a configuration writes them.

use std::time::Duration;

use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::quota::Quota;
use crate::rate_limit::{RateLimiter, RateLimiterBuilder};

/// The settings of a breaker: the keys of an entry of `breakers` in a configuration. What is not set has the default of
/// the [builder](CircuitBreakerBuilder), whose methods they are. Values are checked when the command is carried out; in brackets the
/// default and the range.
///
/// ```
/// use buttress::control::{CircuitBreakerSettings, InstallCircuitBreaker};
/// let mut install = InstallCircuitBreaker::default();
/// assert_eq!(install.breaker, CircuitBreakerSettings::default(), "five failures in a row, for a minute");
/// install.breaker.failure_rate = Some(0.5);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CircuitBreakerSettings {
    /// Failures in a row that open it (5 unless a rate is set; 1 to 1 048 575).
    pub consecutive_failures: Option<u32>,
    /// The share of failures in the window that opens it (off; above 0, at most 1).
    pub failure_rate: Option<f64>,
    /// After how long a call is slow, and the share of slow calls that opens it (off; each above 0, the share at most 1).
    pub slow_calls: Option<(Duration, f64)>,
    /// The window, as time (10 s once a rate is set; 10 ms to 1 year).
    pub window: Option<Duration>,
    /// The window, as calls (off; 1 to 1 000 000).
    pub window_calls: Option<u32>,
    /// Calls the window needs before a rate counts (20, or the window's calls if those are fewer; from 1).
    pub min_calls: Option<u32>,
    /// How long it stays open (60 s; 1 ms to 1 year).
    pub open_for: Option<Duration>,
    /// Openings in a row are longer, up to this (off; `open_for` to 1 year).
    pub open_for_max: Option<Duration>,
    /// Probes, and successes that close it (1; 1 to 1 024).
    pub half_open_calls: Option<u32>,
    /// Half-open for at most this time (60 s; 1 ms to 1 year).
    pub half_open_for: Option<Duration>,
    /// A probe without result gives its place back after this (30 s; 1 ms to `half_open_for`).
    pub probe_lease: Option<Duration>,
    /// Lets traffic back in bit by bit over this time (off; 1 ms to 1 year).
    pub ramp: Option<Duration>,
    /// A call given up after this time counts as a failure (1 s, in a stack with a timeout below 2 s half of that; 0 to 1 year).
    pub cancelled_after: Option<Duration>,
    /// Calls that are given up do not count, however late: `cancelled_after: never` (false).
    pub ignore_cancelled: bool,
    /// Decides and reports, but refuses nothing (false).
    pub shadow: bool,
    /// Seed of its random numbers (drawn at random).
    pub seed: Option<u64>,
}

/// `set!(builder, settings.open_for => open_for)`
macro_rules! set {
    ($builder:ident, $($value:expr => $method:ident),+ $(,)?) => {
        $(if let Some(value) = $value { $builder = $builder.$method(value); })+
    };
}
#[cfg(feature = "config")]
pub(crate) use set;

#[cfg(feature = "serde")]
pub(crate) fn missing(field: &'static str, expected: &'static str) -> crate::error::ConfigError {
    crate::error::ConfigError::new(field, "missing", expected)
}

/// The keys that are read of a breaker's block and of a limiter's.
#[cfg(all(test, feature = "config"))]
pub(crate) const KEYS: [&[&str]; 2] = [wire::BREAKER, wire::RATE_LIMIT];

impl CircuitBreakerSettings {
    pub(crate) fn builder(&self, name: &str) -> CircuitBreakerBuilder {
        let mut builder = CircuitBreaker::builder(name.to_owned()).shadow(self.shadow);
        set!(builder,
            self.consecutive_failures => consecutive_failures,
            self.failure_rate => failure_rate,
            self.window => window,
            self.window_calls => window_calls,
            self.min_calls => min_calls,
            self.open_for => open_for,
            self.open_for_max => open_for_max,
            self.half_open_calls => half_open_calls,
            self.half_open_for => half_open_for,
            self.probe_lease => probe_lease,
            self.ramp => ramp,
            self.cancelled_after => cancelled_after,
            self.seed => seed,
        );
        if let Some((after, rate)) = self.slow_calls {
            builder = builder.slow_calls(after, rate);
        }
        if self.ignore_cancelled {
            builder = builder.ignore_cancelled();
        }
        builder
    }
}

/// The settings of a limiter: the keys of an entry of `rate_limits` in a configuration, or its rate alone.
///
/// ```
/// use buttress::control::RateLimitSettings;
/// let mut settings = RateLimitSettings::new("100/s burst 20".parse()?);
/// settings.shadow = true;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RateLimitSettings {
    /// The rate, with its burst.
    pub rate: Quota,
    /// Tokens at the start; `None` is a full bucket (0 to the burst).
    pub initial_tokens: Option<f64>,
    /// Most calls that wait (1 024; 0 refuses them; stacks from a configuration never wait).
    pub max_waiting: Option<u32>,
    /// Decides and reports, but refuses nothing (false).
    pub shadow: bool,
}

impl RateLimitSettings {
    /// A full bucket with this rate.
    ///
    /// ```
    /// use buttress::control::RateLimitSettings;
    /// assert!(RateLimitSettings::new("5/s".parse()?).initial_tokens.is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn new(rate: Quota) -> Self {
        Self { rate, initial_tokens: None, max_waiting: None, shadow: false }
    }

    pub(crate) fn builder(&self, name: &str) -> RateLimiterBuilder {
        let mut builder =
            RateLimiter::builder(name.to_owned()).quota(self.rate).shadow(self.shadow);
        let waiting = self.max_waiting.and_then(|n| usize::try_from(n).ok());
        set!(builder, self.initial_tokens => initial_tokens, waiting => max_waiting);
        builder
    }
}

impl From<Quota> for RateLimitSettings {
    fn from(rate: Quota) -> Self {
        Self::new(rate)
    }
}

#[cfg(feature = "serde")]
mod wire {
    use std::time::Duration;

    use serde::ser::{Serialize, SerializeMap, Serializer};
    use serde_json::{Map, Value};

    use super::super::install::within;
    use super::super::parse::{Arguments, Fields};
    use super::{CircuitBreakerSettings, RateLimitSettings, missing};
    use crate::error::ConfigError;

    pub(super) const BREAKER: &[&str] = &[
        "consecutive_failures",
        "failure_rate",
        "slow_calls",
        "window",
        "window_calls",
        "min_calls",
        "open_for",
        "open_for_max",
        "half_open_calls",
        "half_open_for",
        "probe_lease",
        "ramp",
        "cancelled_after",
        "shadow",
        "seed",
    ];

    pub(super) const RATE_LIMIT: &[&str] = &["rate", "initial_tokens", "max_waiting", "shadow"];

    fn block<'a>(
        map: &'a Map<String, Value>,
        keys: &'static [&'static str],
    ) -> Result<Fields<'a>, ConfigError> {
        Arguments::Block(map).fields(&[], keys)
    }

    impl CircuitBreakerSettings {
        /// From a block as a configuration has it.
        pub(crate) fn from_json(map: &Map<String, Value>) -> Result<Self, ConfigError> {
            let read = block(map, BREAKER)?;
            let slow = match read.get("slow_calls") {
                None => None,
                Some(Value::Object(slow)) => {
                    Some(slow_calls(slow).map_err(|error| within("slow_calls", &error))?)
                }
                Some(other) => {
                    let expected = "a table with `after` and `rate`";
                    return Err(ConfigError::new("slow_calls", other, expected));
                }
            };
            let given = read.get("cancelled_after");
            let never = given.is_some_and(|value| value == "never");
            let cancelled_after = match given {
                Some(_) if !never => read.time_or("cancelled_after", "\"never\"")?,
                _ => None,
            };
            Ok(Self {
                consecutive_failures: read.whole("consecutive_failures")?,
                failure_rate: read.share("failure_rate")?,
                slow_calls: slow,
                window: read.time("window")?,
                window_calls: read.whole("window_calls")?,
                min_calls: read.whole("min_calls")?,
                open_for: read.time("open_for")?,
                open_for_max: read.time("open_for_max")?,
                half_open_calls: read.whole("half_open_calls")?,
                half_open_for: read.time("half_open_for")?,
                probe_lease: read.time("probe_lease")?,
                ramp: read.time("ramp")?,
                cancelled_after,
                ignore_cancelled: never,
                shadow: read.flag("shadow")?.unwrap_or(false),
                seed: read.seed("seed")?,
            })
        }
    }

    fn slow_calls(map: &Map<String, Value>) -> Result<(Duration, f64), ConfigError> {
        let read = block(map, &["after", "rate"])?;
        let after = read.time("after")?.ok_or_else(|| missing("after", "a time"))?;
        let rate = read.share("rate")?.ok_or_else(|| missing("rate", "a share"))?;
        Ok((after, rate))
    }

    impl RateLimitSettings {
        /// From a block as a configuration has it.
        pub(crate) fn from_json(map: &Map<String, Value>) -> Result<Self, ConfigError> {
            let read = block(map, RATE_LIMIT)?;
            let rate = read.quota("rate")?;
            let rate = rate.ok_or_else(|| missing("rate", "a rate such as \"100/s burst 20\""))?;
            Ok(Self {
                rate,
                initial_tokens: read.number("initial_tokens")?,
                max_waiting: read.whole("max_waiting")?,
                shadow: read.flag("shadow")?.unwrap_or(false),
            })
        }
    }

    impl Serialize for CircuitBreakerSettings {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            macro_rules! put {
                ($($key:ident),+) => {
                    $(if let Some(value) = &self.$key {
                        map.serialize_entry(stringify!($key), value)?;
                    })+
                };
            }
            macro_rules! put_times {
                ($($key:ident),+) => {
                    $(if let Some(time) = self.$key {
                        map.serialize_entry(stringify!($key), &seconds(time))?;
                    })+
                };
            }
            put!(
                consecutive_failures,
                failure_rate,
                window_calls,
                min_calls,
                half_open_calls,
                seed
            );
            put_times!(window, open_for, open_for_max, half_open_for, probe_lease, ramp);
            if let Some((after, rate)) = self.slow_calls {
                let slow = serde_json::json!({"after": seconds(after), "rate": rate});
                map.serialize_entry("slow_calls", &slow)?;
            }
            match self.cancelled_after {
                _ if self.ignore_cancelled => map.serialize_entry("cancelled_after", "never")?,
                Some(after) => map.serialize_entry("cancelled_after", &seconds(after))?,
                None => {}
            }
            if self.shadow {
                map.serialize_entry("shadow", &true)?;
            }
            map.end()
        }
    }

    impl Serialize for RateLimitSettings {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("rate", &self.rate)?;
            if let Some(tokens) = self.initial_tokens {
                map.serialize_entry("initial_tokens", &tokens)?;
            }
            if let Some(waiting) = self.max_waiting {
                map.serialize_entry("max_waiting", &waiting)?;
            }
            if self.shadow {
                map.serialize_entry("shadow", &true)?;
            }
            map.end()
        }
    }

    fn seconds(time: Duration) -> f64 {
        time.as_secs_f64()
    }
}
