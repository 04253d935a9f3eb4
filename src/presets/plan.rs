//! What a stack is made of, as plain data.

use std::time::Duration;

use super::objects::{
    BackendPlan, BreakerPlan, EndpointsPlan, FailureBudgetPlan, HedgePlan, RateLimitPlan,
    RetryBudgetPlan,
};
use crate::backoff::Backoff;
use crate::retry::RetryPolicy;

/// What a client of one backend needs. The default is a client that nothing was told to: it learns what the
/// backend can take, and everything else is a share of `total_timeout`.
///
/// | field | default |
/// |---|---|
/// | `total_timeout` | 10 s |
/// | `retry` | [`RetryPlan::Paced`], paid from the backend's headroom |
/// | `retry_budget` | none of its own |
/// | `rate_limit` | none |
/// | `backend` | learned limit, waiting room, probes while it is down |
/// | `hedge` | slower than 98 of 100 answers, at most 10 % more |
/// | `endpoints` | the defaults of [`Endpoints`](crate::endpoints::Endpoints); of a pool only |
/// | `attempt_timeout` | none |
/// | `breaker` | none: the backend knows when it is down, and waits with a probe instead of failing at once |
///
/// ```
/// use buttress::presets::{BreakerPlan, ClientPlan, RateLimitPlan};
/// use std::time::Duration;
/// let mut plan = ClientPlan::new("payments");
/// plan.total_timeout = Some(Duration::from_secs(2));
/// plan.rate_limit = Some(RateLimitPlan::new("100/s burst 20".parse()?));
/// assert!(buttress::presets::lint(&plan).is_empty());
/// // Layer by layer instead.
/// let mut plan = ClientPlan::bare("payments");
/// plan.attempt_timeout = Some(Duration::from_secs(1));
/// plan.breaker = Some(BreakerPlan::default());
/// # Ok::<(), buttress::ConfigError>(())
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
    pub retry: RetryPlan,
    /// What all retries together may cost. Without it the backend's headroom pays for them; without a
    /// `backend` either, only `retry` bounds them.
    pub retry_budget: Option<RetryBudgetPlan>,
    /// The most that is sent.
    pub rate_limit: Option<RateLimitPlan>,
    /// What is learned of the backend, and who waits for it.
    pub backend: Option<BackendPlan>,
    /// Second attempts beside slow ones, of a [pool](super::ClientLayer::pool) to another endpoint.
    pub hedge: Option<HedgePlan>,
    /// The settings of a [pool](super::ClientLayer::endpoints).
    pub endpoints: EndpointsPlan,
    /// One attempt, once it is sent.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub attempt_timeout: Option<Duration>,
    /// When to refuse calls at once.
    pub breaker: Option<BreakerPlan>,
}

impl Default for ClientPlan {
    fn default() -> Self {
        Self {
            name: "client".to_owned(),
            total_timeout: Some(Duration::from_secs(10)),
            retry: RetryPlan::Paced,
            retry_budget: None,
            rate_limit: None,
            backend: Some(BackendPlan::default()),
            hedge: Some(HedgePlan::default()),
            endpoints: EndpointsPlan::default(),
            attempt_timeout: None,
            breaker: None,
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

    /// Nothing but a name: for stacks that are put together part by part.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, Plan};
    /// assert_eq!(ClientPlan::bare("db").report().worst_latency, None);
    /// ```
    #[must_use]
    pub fn bare(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            total_timeout: None,
            retry: RetryPlan::Never,
            retry_budget: None,
            rate_limit: None,
            backend: None,
            hedge: None,
            endpoints: EndpointsPlan::default(),
            attempt_timeout: None,
            breaker: None,
        }
    }

    /// What `retry` comes to with these timeouts; `None` if nothing is tried again.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, RetryPlan};
    /// let mut plan = ClientPlan::new("db");
    /// assert!(plan.policy().unwrap().can_retry());
    /// plan.retry = RetryPlan::Never;
    /// assert!(plan.policy().is_none());
    /// ```
    #[must_use]
    pub fn policy(&self) -> Option<RetryPolicy> {
        match self.retry {
            RetryPlan::Never => None,
            RetryPlan::Paced => Some(paced(self.patience())),
            RetryPlan::Policy(policy) => Some(policy),
        }
    }

    /// How long a caller waits that does not say so.
    pub(super) fn patience(&self) -> Duration {
        let own = self.backend.and_then(|backend| backend.patience);
        own.or(self.total_timeout).unwrap_or(Duration::from_secs(1))
    }
}

/// More than a deadline leaves time for.
const ATTEMPTS: u32 = 100;

/// More than anybody waits, and less than a pause can be told to be.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

fn paced(patience: Duration) -> RetryPolicy {
    let patience = patience.min(LONGEST);
    // Shares of what callers wait: the first retry at once where answers are quick.
    let backoff = Backoff::exponential(patience / 200, patience / 20);
    let policy = RetryPolicy::builder().max_attempts(ATTEMPTS).backoff(backoff).build();
    policy.unwrap_or_default()
}

/// When a call is tried again.
///
/// ```
/// use buttress::presets::{ClientPlan, RetryPlan};
/// use buttress::retry::RetryPolicy;
/// let mut plan = ClientPlan::new("db");
/// plan.retry = RetryPolicy::DEFAULT.into();
/// assert_eq!(plan.retry, RetryPlan::Policy(RetryPolicy::DEFAULT));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RetryPlan {
    /// Not at all.
    Never,
    /// As often as time is left and the budget pays, with pauses from a two-hundredth of what callers wait to a
    /// twentieth.
    #[default]
    Paced,
    /// By a policy.
    Policy(RetryPolicy),
}

impl From<RetryPolicy> for RetryPlan {
    fn from(policy: RetryPolicy) -> Self {
        Self::Policy(policy)
    }
}

/// `None` is [`Never`](RetryPlan::Never).
impl From<Option<RetryPolicy>> for RetryPlan {
    fn from(policy: Option<RetryPolicy>) -> Self {
        policy.map_or(Self::Never, Self::Policy)
    }
}

/// What a server needs. The default is a server that nothing was told to.
///
/// | field | default |
/// |---|---|
/// | `rate_limit` | none |
/// | `timeout` | 30 s |
/// | `backend` | none |
/// | `failure_budget` | 5 % of 50 or more calls in 30 s, only told of |
///
/// There is no [admission](crate::admission) by default. What is a queue is learned from how long answers take, and of a
/// server that is not told anything that is not known: handlers that mostly wait for slow others take as long without
/// any queue here, and long polls or streams as long as they like; a limit would let requests wait that could be served. Who knows
/// that handlers share something scarce (processors, a pool of connections) turns it on in one line.
///
/// ```
/// use buttress::presets::{BackendPlan, RateLimitPlan, ServerPlan};
/// let mut plan = ServerPlan::new("api");
/// plan.rate_limit = Some(RateLimitPlan::new("100/s burst 20".parse()?));
/// plan.backend = Some(BackendPlan::fixed(256)); // or `default()`, which learns how many
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
    /// One request, in the handler; with a `backend`, from its arrival there.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::maybe"))]
    pub timeout: Option<Duration>,
    /// How many requests are in the handlers at a time, and who waits for that.
    pub backend: Option<BackendPlan>,
    /// What may fail.
    pub failure_budget: Option<FailureBudgetPlan>,
}

impl Default for ServerPlan {
    fn default() -> Self {
        Self {
            name: "server".to_owned(),
            rate_limit: None,
            timeout: Some(Duration::from_secs(30)),
            backend: None,
            failure_budget: Some(FailureBudgetPlan::default()),
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

    /// How long a caller waits that does not say so.
    pub(super) fn patience(&self) -> Duration {
        let own = self.backend.and_then(|backend| backend.patience);
        own.or(self.timeout).unwrap_or(Duration::from_secs(1))
    }
}
