//! What a stack is made of, as plain data.

use std::time::Duration;

use crate::budget::RetryBudget;
use crate::circuit_breaker::CircuitBreaker;
use crate::error::ConfigError;
use crate::failure_budget::{BreachAction, FailureBudget};
use crate::name::Name;
use crate::quota::Quota;
use crate::rate_limit::RateLimiter;
use crate::retry::RetryPolicy;

/// What a client of one backend needs. The default is a client that nothing was told to.
///
/// | field | default |
/// |---|---|
/// | `total_timeout` | 10 s |
/// | `retry`, `retry_budget` | [`RetryPolicy::DEFAULT`], one retry for ten calls |
/// | `rate_limit` | none |
/// | `breaker` | half of 20 or more calls in 10 s failed: open for 5 s |
/// | `attempt_timeout` | 3 s |
///
/// ```
/// use buttress::presets::ClientPlan;
/// use std::time::Duration;
/// let mut plan = ClientPlan::new("payments");
/// plan.total_timeout = Some(Duration::from_secs(5));
/// plan.attempt_timeout = Some(Duration::from_secs(1));
/// assert!(buttress::presets::lint(&plan).is_empty());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ClientPlan {
    /// The name of every object in it.
    pub name: String,
    /// The whole call, retries and pauses included.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub total_timeout: Option<Duration>,
    /// When to try again.
    pub retry: Option<RetryPolicy>,
    /// What all retries together may cost; without it only `retry` bounds them.
    pub retry_budget: Option<RetryBudgetPlan>,
    /// The most that is sent.
    pub rate_limit: Option<RateLimitPlan>,
    /// When to stop calling.
    pub breaker: Option<BreakerPlan>,
    /// One attempt.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub attempt_timeout: Option<Duration>,
    /// After how long a second attempt is sent beside a slow first one. Linted; the preset does not hedge.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub hedge_after: Option<Duration>,
}

impl Default for ClientPlan {
    fn default() -> Self {
        Self {
            name: "client".to_owned(),
            total_timeout: Some(Duration::from_secs(10)),
            retry: Some(RetryPolicy::DEFAULT),
            retry_budget: Some(RetryBudgetPlan::default()),
            rate_limit: None,
            breaker: Some(BreakerPlan::default()),
            attempt_timeout: Some(Duration::from_secs(3)),
            hedge_after: None,
        }
    }
}

impl ClientPlan {
    /// The default under a name.
    ///
    /// ```
    /// assert_eq!(buttress::presets::ClientPlan::new("db").name, "db");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// What a server needs. The default is a server that nothing was told to.
///
/// | field | default |
/// |---|---|
/// | `rate_limit` | none |
/// | `failure_budget` | 5 % of 50 or more calls in 30 s, only told of |
/// | `timeout` | 30 s |
///
/// ```
/// use buttress::presets::{RateLimitPlan, ServerPlan};
/// let mut plan = ServerPlan::new("api");
/// plan.rate_limit = Some(RateLimitPlan::new("100/s burst 20".parse()?));
/// assert!(buttress::presets::lint(&plan).is_empty());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ServerPlan {
    /// The name of every object in it.
    pub name: String,
    /// The most that is let in.
    pub rate_limit: Option<RateLimitPlan>,
    /// What may fail.
    pub failure_budget: Option<FailureBudgetPlan>,
    /// One request, in the handler.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub timeout: Option<Duration>,
}

impl Default for ServerPlan {
    fn default() -> Self {
        Self {
            name: "server".to_owned(),
            rate_limit: None,
            failure_budget: Some(FailureBudgetPlan::default()),
            timeout: Some(Duration::from_secs(30)),
        }
    }
}

impl ServerPlan {
    /// The default under a name.
    ///
    /// ```
    /// assert_eq!(buttress::presets::ServerPlan::new("api").name, "api");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// A [`RetryBudget`].
///
/// ```
/// assert_eq!(buttress::presets::RetryBudgetPlan::default().ratio, 0.1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RetryBudgetPlan {
    /// Retries for each call, in the long run.
    pub ratio: f64,
}

impl Default for RetryBudgetPlan {
    fn default() -> Self {
        Self { ratio: 0.1 }
    }
}

impl RetryBudgetPlan {
    pub(super) fn build(self, name: Name) -> Result<RetryBudget, ConfigError> {
        RetryBudget::builder(name).ratio(self.ratio).build()
    }
}

/// A rate limit.
///
/// ```
/// use buttress::presets::RateLimitPlan;
/// assert!(RateLimitPlan::new("10/s".parse()?).max_wait.is_zero());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct RateLimitPlan {
    /// What is let through.
    pub quota: Quota,
    /// How long a call may wait for its turn; zero is refused at once.
    #[cfg_attr(feature = "serde", serde(default, with = "super::wire::time"))]
    pub max_wait: Duration,
}

impl RateLimitPlan {
    /// Refuses at once what is above `quota`.
    ///
    /// ```
    /// let plan = buttress::presets::RateLimitPlan::new(buttress::Quota::per_second(5)?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn new(quota: Quota) -> Self {
        Self { quota, max_wait: Duration::ZERO }
    }

    pub(super) fn build(self, name: Name) -> Result<RateLimiter, ConfigError> {
        RateLimiter::builder(name).quota(self.quota).build()
    }
}

/// A [`CircuitBreaker`].
///
/// ```
/// assert_eq!(buttress::presets::BreakerPlan::default().min_calls, 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BreakerPlan {
    /// Trips after so many failures in a row; `None` (the default) does not count them.
    pub consecutive_failures: Option<u32>,
    /// Trips at this share of failures (0.5); `None` does not measure it.
    pub failure_rate: Option<f64>,
    /// Over how long the share is measured (10 s), unless `window_calls` is set.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub window: Duration,
    /// Over how many calls the share is measured, instead of `window`.
    pub window_calls: Option<u32>,
    /// The share means nothing below this (20).
    pub min_calls: u32,
    /// How long it stays open (5 s).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub open_for: Duration,
}

impl Default for BreakerPlan {
    fn default() -> Self {
        Self {
            consecutive_failures: None,
            failure_rate: Some(0.5),
            window: Duration::from_secs(10),
            window_calls: None,
            min_calls: 20,
            open_for: Duration::from_secs(5),
        }
    }
}

impl BreakerPlan {
    pub(super) fn build(
        self,
        name: Name,
        attempt: Option<Duration>,
    ) -> Result<CircuitBreaker, ConfigError> {
        let mut builder = CircuitBreaker::builder(name).open_for(self.open_for);
        // An attempt that was cut off is a failure, however short its time was.
        if let Some(after) = cancelled_after(attempt) {
            builder = builder.cancelled_after(after);
        }
        if let Some(n) = self.consecutive_failures {
            builder = builder.consecutive_failures(n);
        }
        if let Some(share) = self.failure_rate {
            builder = builder.failure_rate(share).min_calls(self.min_calls);
            builder = match self.window_calls {
                Some(calls) => builder.window_calls(calls),
                None => builder.window(self.window),
            };
        }
        builder.build()
    }
}

/// Half of a time after which a call is given up, if that is below what the layers have without it.
fn cancelled_after(given_up: Option<Duration>) -> Option<Duration> {
    given_up.filter(|time| *time < Duration::from_secs(2)).map(|time| time / 2)
}

/// A [`FailureBudget`].
///
/// ```
/// assert_eq!(buttress::presets::FailureBudgetPlan::default().threshold, 0.05);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct FailureBudgetPlan {
    /// The share that may fail (0.05).
    pub threshold: f64,
    /// Over how long it is measured (30 s).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub window: Duration,
    /// The share means nothing below this (50).
    pub min_samples: u32,
    /// What becomes of calls once it is spent (notify).
    pub action: BreachAction,
}

impl Default for FailureBudgetPlan {
    fn default() -> Self {
        Self {
            threshold: 0.05,
            window: Duration::from_secs(30),
            min_samples: 50,
            action: BreachAction::Notify,
        }
    }
}

impl FailureBudgetPlan {
    pub(super) fn build(
        self,
        name: Name,
        timeout: Option<Duration>,
    ) -> Result<FailureBudget, ConfigError> {
        let mut builder = FailureBudget::builder(name);
        if let Some(after) = cancelled_after(timeout) {
            builder = builder.cancelled_after(after);
        }
        builder
            .threshold(self.threshold)
            .window(self.window)
            .min_samples(self.min_samples)
            .action(self.action)
            .build()
    }
}
