//! The parts of a plan that become objects.

use std::time::Duration;

use crate::admission::Admission;
use crate::backend::Backend;
use crate::budget::RetryBudget;
use crate::circuit_breaker::CircuitBreaker;
use crate::endpoints::{self, Endpoints, EndpointsBuilder};
use crate::error::ConfigError;
use crate::failure_budget::{BreachAction, FailureBudget};
use crate::hedge::{Hedge, HedgeBuilder};
use crate::name::Name;
use crate::quota::Quota;
use crate::rate_limit::RateLimiter;

/// A [`Backend`] with an [`Admission`] in front of it.
///
/// ```
/// use buttress::presets::{BackendPlan, ClientPlan, client};
/// let mut plan = ClientPlan::new("db");
/// let mut backend = BackendPlan::default();
/// backend.in_flight = Some(8);
/// plan.backend = Some(backend);
/// assert_eq!(client(&plan)?.backend().unwrap().stats().limit, 8);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BackendPlan {
    /// So many calls at a time, whatever is observed; `None` learns how many, [from 4 on](crate::admission#how-it-decides). A [hedge](super::ClientPlan::hedge) goes with the
    /// place of its call: where there must never be more, leave the plan's `hedge` out.
    pub in_flight: Option<u32>,
    /// How long a call without a deadline waits; `None` is as long as the total timeout (of a server: the timeout), or 1 s.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub patience: Option<Duration>,
}

impl BackendPlan {
    /// So many calls at a time.
    ///
    /// ```
    /// assert_eq!(buttress::presets::BackendPlan::fixed(8).in_flight, Some(8));
    /// ```
    #[must_use]
    pub const fn fixed(in_flight: u32) -> Self {
        Self { in_flight: Some(in_flight), patience: None }
    }

    pub(super) fn build(self, name: Name, patience: Duration) -> Result<Admission, ConfigError> {
        let backend = match self.in_flight {
            Some(in_flight) => Backend::fixed(name, in_flight)?,
            None => Backend::new(name),
        };
        Ok(Admission::of(&backend).patience(patience))
    }
}

/// A [`Hedge`].
///
/// ```
/// assert_eq!(buttress::presets::HedgePlan::default().percentile, 0.98);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct HedgePlan {
    /// The share of answers that come before a second attempt is made (0.98).
    pub percentile: f64,
    /// No second attempt sooner than this (1 ms).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub min_delay: Duration,
    /// Second attempts for each call, in the long run (0.1).
    pub extra_load: f64,
}

impl Default for HedgePlan {
    fn default() -> Self {
        Self {
            percentile: HedgeBuilder::PERCENTILE,
            min_delay: HedgeBuilder::MIN_DELAY,
            extra_load: HedgeBuilder::EXTRA_LOAD,
        }
    }
}

impl HedgePlan {
    pub(super) fn builder(self, name: Name) -> HedgeBuilder {
        Hedge::builder(name)
            .percentile(self.percentile)
            .min_delay(self.min_delay)
            .extra_load(self.extra_load)
    }
}

/// The settings of [`Endpoints`]. Their defaults are those of the [builder](EndpointsBuilder).
///
/// ```
/// assert_eq!(buttress::presets::EndpointsPlan::default().max_ejected, 0.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct EndpointsPlan {
    /// The share that may be ejected at a time (0.5).
    pub max_ejected: f64,
    /// Failures in a row after which an endpoint is ejected (3).
    pub failures_in_row: u32,
    /// Time from an ejection to the first probe (1 s).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub probe_after: Duration,
    /// The longest time between two probes (30 s).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub probe_after_max: Duration,
    /// How long an endpoint that has returned, or come to others, takes to get its full share (2 s).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub slow_start: Duration,
    /// After this time without a call, two thirds of what is known of an endpoint are forgotten (10 s).
    #[cfg_attr(feature = "serde", serde(with = "super::wire::time"))]
    pub memory: Duration,
}

impl Default for EndpointsPlan {
    fn default() -> Self {
        let config = endpoints::Config::default();
        Self {
            max_ejected: config.max_ejected,
            failures_in_row: config.failures_in_row,
            probe_after: config.probe_after,
            probe_after_max: config.probe_after_max,
            slow_start: config.slow_start,
            memory: config.memory,
        }
    }
}

impl EndpointsPlan {
    #[cfg(feature = "config")]
    pub(crate) fn check(self, name: &str) -> Result<(), ConfigError> {
        self.builder(name.to_owned().into()).check()
    }

    pub(super) fn builder(self, name: Name) -> EndpointsBuilder {
        Endpoints::<()>::builder(name)
            .max_ejected(self.max_ejected)
            .failures_in_row(self.failures_in_row)
            .probe_after(self.probe_after)
            .probe_after_max(self.probe_after_max)
            .slow_start(self.slow_start)
            .memory(self.memory)
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
pub(crate) fn cancelled_after(given_up: Option<Duration>) -> Option<Duration> {
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
