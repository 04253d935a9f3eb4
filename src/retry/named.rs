use std::time::Duration;

use super::RetryPolicy;
use crate::backoff::{Backoff, Jitter};

const CAP: Duration = Duration::from_secs(10);
const UP_TO_50_MS: Jitter = Jitter::Additive(Duration::from_millis(50));

/// `base_ms`, doubling up to 10 s, plus up to 50 ms.
const fn doubling(base_ms: u64) -> Backoff {
    Backoff::exponential(Duration::from_millis(base_ms), CAP).jitter(UP_TO_50_MS)
}

impl RetryPolicy {
    /// A node of a flow: 3 attempts, 500 ms doubling.
    pub const FLOW_NODE_DEFAULT: Self = Self::of(3, doubling(500));
    /// An agent's step of low or medium risk: 3 attempts, 200 ms doubling.
    pub const AGENT_LOW_MEDIUM: Self = Self::of(3, doubling(200));
    /// An agent's step of high risk: the first failure is final, and it must not take effect twice.
    pub const AGENT_HIGH_RISK: Self =
        Self::of(1, Backoff::none()).failing_immediately().exactly_once();
    /// A job in the background: 5 attempts, 1 s doubling.
    pub const ASYNC_JOB_DEFAULT: Self = Self::of(5, doubling(1000));
    /// A scheduled script: 3 attempts, 300 ms doubling.
    pub const NODUS_SCHEDULED_DEFAULT: Self = Self::of(3, doubling(300));
    /// One attempt.
    pub const NO_RETRY: Self = Self::of(1, Backoff::none());

    /// The policy of that name, whatever its case.
    ///
    /// ```
    /// use buttress::retry::RetryPolicy;
    /// let policy = RetryPolicy::named("ASYNC_JOB_DEFAULT").unwrap();
    /// assert_eq!(policy.max_attempts(), Some(5));
    /// assert_eq!(RetryPolicy::named("ASYNC_JOB"), None);
    /// ```
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim();
        [
            ("FLOW_NODE_DEFAULT", Self::FLOW_NODE_DEFAULT),
            ("AGENT_LOW_MEDIUM", Self::AGENT_LOW_MEDIUM),
            ("AGENT_HIGH_RISK", Self::AGENT_HIGH_RISK),
            ("ASYNC_JOB_DEFAULT", Self::ASYNC_JOB_DEFAULT),
            ("NODUS_SCHEDULED_DEFAULT", Self::NODUS_SCHEDULED_DEFAULT),
            ("NO_RETRY", Self::NO_RETRY),
        ]
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, policy)| policy)
    }
}

/// The policy for a kind of execution, or the one of that name: [`ResolvePolicy`] without overrides.
///
/// ```
/// use buttress::retry::{RetryPolicy, resolve_retry_policy};
/// assert_eq!(resolve_retry_policy("agent", Some("low")), RetryPolicy::AGENT_LOW_MEDIUM);
/// assert_eq!(resolve_retry_policy("agent", Some("high")), RetryPolicy::AGENT_HIGH_RISK);
/// assert_eq!(resolve_retry_policy("FLOW_NODE_DEFAULT", None), RetryPolicy::FLOW_NODE_DEFAULT);
/// ```
#[must_use]
pub fn resolve_retry_policy(execution_type: &str, risk_level: Option<&str>) -> RetryPolicy {
    ResolvePolicy { risk_level, ..ResolvePolicy::new(execution_type) }.resolve()
}

/// Finds the policy for a kind of execution.
///
/// | execution type | policy | attempts overridden by |
/// |---|---|---|
/// | `flow` | [`FLOW_NODE_DEFAULT`](RetryPolicy::FLOW_NODE_DEFAULT) | `node_max_retries` |
/// | `agent`, risk `low` or `medium` | [`AGENT_LOW_MEDIUM`](RetryPolicy::AGENT_LOW_MEDIUM) | |
/// | `agent`, any other risk or none | [`AGENT_HIGH_RISK`](RetryPolicy::AGENT_HIGH_RISK) | |
/// | `job` | [`ASYNC_JOB_DEFAULT`](RetryPolicy::ASYNC_JOB_DEFAULT) | `job_max_retries` |
/// | `nodus` | [`NODUS_SCHEDULED_DEFAULT`](RetryPolicy::NODUS_SCHEDULED_DEFAULT) | `job_max_retries` |
/// | the name of a policy | that policy | |
/// | anything else | [`NO_RETRY`](RetryPolicy::NO_RETRY) | |
///
/// Case and surrounding white space do not matter. An override is a number of *attempts*, in spite of
/// its name; below 1 it counts as 1.
///
/// ```
/// use buttress::retry::ResolvePolicy;
/// let policy = ResolvePolicy { job_max_retries: Some(7), ..ResolvePolicy::new("job") }.resolve();
/// assert_eq!(policy.max_attempts(), Some(7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "its fields are the arguments of a function")]
pub struct ResolvePolicy<'a> {
    /// What is executed.
    pub execution_type: &'a str,
    /// How much harm a repetition can do; looked at for agents only.
    pub risk_level: Option<&'a str>,
    /// Attempts of a node of a flow.
    pub node_max_retries: Option<i64>,
    /// Attempts of a job or a scheduled script.
    pub job_max_retries: Option<i64>,
}

impl<'a> ResolvePolicy<'a> {
    /// For this kind of execution, with nothing else known.
    ///
    /// ```
    /// use buttress::retry::{ResolvePolicy, RetryPolicy};
    /// assert_eq!(ResolvePolicy::new("flow").resolve(), RetryPolicy::FLOW_NODE_DEFAULT);
    /// ```
    #[must_use]
    pub const fn new(execution_type: &'a str) -> Self {
        Self { execution_type, risk_level: None, node_max_retries: None, job_max_retries: None }
    }

    /// The policy; see the table above.
    ///
    /// ```
    /// use buttress::retry::{ResolvePolicy, RetryPolicy};
    /// assert_eq!(ResolvePolicy::new("unheard of").resolve(), RetryPolicy::NO_RETRY);
    /// ```
    #[must_use]
    pub fn resolve(self) -> RetryPolicy {
        let is = |text: &str, word: &str| text.trim().eq_ignore_ascii_case(word);
        let with = |policy: RetryPolicy, attempts: Option<i64>| match attempts {
            // The largest count stands for "no limit", which an override must not mean.
            Some(n) => {
                policy.attempts(u32::try_from(n.max(1)).unwrap_or(u32::MAX).min(u32::MAX - 1))
            }
            None => policy,
        };
        let kind = self.execution_type;
        if is(kind, "flow") {
            with(RetryPolicy::FLOW_NODE_DEFAULT, self.node_max_retries)
        } else if is(kind, "agent") {
            match self.risk_level {
                Some(risk) if is(risk, "low") || is(risk, "medium") => {
                    RetryPolicy::AGENT_LOW_MEDIUM
                }
                _ => RetryPolicy::AGENT_HIGH_RISK,
            }
        } else if is(kind, "job") {
            with(RetryPolicy::ASYNC_JOB_DEFAULT, self.job_max_retries)
        } else if is(kind, "nodus") {
            with(RetryPolicy::NODUS_SCHEDULED_DEFAULT, self.job_max_retries)
        } else {
            RetryPolicy::named(kind).unwrap_or(RetryPolicy::NO_RETRY)
        }
    }
}
