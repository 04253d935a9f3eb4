//! A policy as configuration files write it: times in seconds, absent means default.

use serde::{Deserialize, Serialize};

use super::{ExecutionGuarantee, RetryPolicy};
use crate::backoff::{Backoff, wire::seconds};
use crate::error::ConfigError;
use crate::outcome::FailureClass;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    /// `null` is no limit, absent is the default.
    max_attempts: Option<u32>,
    transient: Option<u32>,
    flaky: Option<u32>,
    permanent: Option<u32>,
    backoff: Backoff,
    deadline: Option<f64>,
    attempt_timeout: Option<f64>,
    expected_attempt_time: Option<f64>,
    /// `null` is "do not honour".
    max_retry_after: Option<f64>,
    retry_unsafe: bool,
    give_up_if_not_ready: bool,
    fail_immediately: bool,
    guarantee: ExecutionGuarantee,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter_seed: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        RetryPolicy::DEFAULT.into()
    }
}

impl From<RetryPolicy> for Policy {
    fn from(policy: RetryPolicy) -> Self {
        let secs = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
        Self {
            max_attempts: policy.max_attempts(),
            transient: policy.class_budget(FailureClass::Transient),
            flaky: policy.class_budget(FailureClass::Flaky),
            permanent: policy.class_budget(FailureClass::Permanent),
            backoff: policy.backoff(),
            deadline: secs(policy.deadline()),
            attempt_timeout: secs(policy.attempt_timeout()),
            expected_attempt_time: secs(policy.expected_attempt_time()),
            max_retry_after: secs(policy.max_retry_after()),
            retry_unsafe: policy.retries_unsafe(),
            give_up_if_not_ready: policy.gives_up_if_not_ready(),
            fail_immediately: policy.fails_immediately(),
            guarantee: policy.guarantee(),
            jitter_seed: policy.seed(),
        }
    }
}

impl TryFrom<Policy> for RetryPolicy {
    type Error = ConfigError;

    fn try_from(wire: Policy) -> Result<Self, ConfigError> {
        let mut builder = Self::builder()
            .backoff(wire.backoff)
            .retry_unsafe(wire.retry_unsafe)
            .give_up_if_not_ready(wire.give_up_if_not_ready)
            .fail_immediately(wire.fail_immediately)
            .guarantee(wire.guarantee);
        builder = match wire.max_attempts {
            Some(attempts) => builder.max_attempts(attempts),
            None => builder.unlimited_attempts(),
        };
        for (class, retries) in [
            (FailureClass::Transient, wire.transient),
            (FailureClass::Flaky, wire.flaky),
            (FailureClass::Permanent, wire.permanent),
        ] {
            builder = builder.class_budget(class, retries.unwrap_or(u32::MAX));
        }
        if let Some(time) = wire.deadline {
            builder = builder.deadline(seconds("deadline", time)?);
        }
        if let Some(time) = wire.attempt_timeout {
            builder = builder.attempt_timeout(seconds("attempt_timeout", time)?);
        }
        if let Some(time) = wire.expected_attempt_time {
            builder = builder.expected_attempt_time(seconds("expected_attempt_time", time)?);
        }
        builder = match wire.max_retry_after {
            Some(time) => builder.max_retry_after(seconds("max_retry_after", time)?),
            None => builder.ignore_retry_after(),
        };
        if let Some(seed) = wire.jitter_seed {
            builder = builder.jitter_seed(seed);
        }
        builder.build()
    }
}
