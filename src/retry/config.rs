use std::time::Duration;

use super::RetryPolicyBuilder;
use crate::backoff::{Backoff, Jitter, Random};
use crate::outcome::FailureClass;

/// What the callee is promised about how often a call takes effect.
///
/// ```
/// use buttress::retry::{ExecutionGuarantee, RetryPolicy};
/// assert_eq!(RetryPolicy::default().guarantee(), ExecutionGuarantee::AtLeastOnce);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "SCREAMING_SNAKE_CASE")
)]
#[non_exhaustive]
pub enum ExecutionGuarantee {
    /// The call may be made several times.
    #[default]
    #[cfg_attr(feature = "serde", serde(alias = "at_least_once"))]
    AtLeastOnce,
    /// The call must not take effect twice. Retrying alone cannot promise that, so a policy with this
    /// guarantee makes one attempt, whatever its limits say. Through
    /// [`Idempotency::run_retry`](crate::idempotency::Idempotency::run_retry) its key is claimed once around
    /// all attempts, and then it makes as many as its limits say.
    #[cfg_attr(feature = "serde", serde(alias = "exactly_once"))]
    ExactlyOnce,
}

/// When to try again, how often and how long.
///
/// | | [`default`](Self::default) | [`adaptive`](Self::adaptive) |
/// |---|---|---|
/// | attempts | 3 | no limit |
/// | retries per class: transient, flaky, permanent | no limit, no limit, 0 | 5, 2, 0 |
/// | backoff | 50 ms, doubling up to 5 s, full jitter | 100 ms, doubling up to 5 s, up to a quarter more |
/// | total deadline, attempt timeout | none | none |
/// | `Retry-After` | honoured up to 10 s | honoured up to 10 s |
///
/// All limits hold together. Plain data, `Copy`, and always valid: it is made from a named policy or by
/// a [`builder`](Self::builder) that checks. Counters of a run live in the run, so one policy can be
/// used by any number of calls at once.
///
/// ```
/// use buttress::{Backoff, retry::RetryPolicy};
/// use std::time::Duration;
///
/// let policy = RetryPolicy::builder()
///     .max_attempts(4)
///     .backoff(Backoff::exponential(Duration::from_millis(20), Duration::from_secs(1)))
///     .deadline(Duration::from_secs(3))
///     .attempt_timeout(Duration::from_secs(1))
///     .build()?;
/// assert_eq!(policy.max_attempts(), Some(4));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
// Goes into every response future by value, hence bare words: in durations 0 stands for "none", in
// counts the maximum for "no limit".
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(try_from = "super::wire::Policy", into = "super::wire::Policy")
)]
pub struct RetryPolicy {
    pub(super) backoff: Backoff,
    pub(super) deadline: u64,
    pub(super) attempt_timeout: u64,
    pub(super) expected_attempt: u64,
    pub(super) max_retry_after: u64,
    pub(super) jitter_seed: u64,
    pub(super) max_attempts: u32,
    pub(super) classes: [u32; 3],
    pub(super) seeded: bool,
    pub(super) retry_unsafe: bool,
    pub(super) give_up_if_not_ready: bool,
    pub(super) fail_immediately: bool,
    pub(super) guarantee: ExecutionGuarantee,
}

pub(super) const NO_LIMIT: u32 = u32::MAX;

pub(super) const fn class_index(class: FailureClass) -> usize {
    match class {
        FailureClass::Transient => 0,
        FailureClass::Flaky => 1,
        FailureClass::Permanent => 2,
    }
}

const fn time(nanos: u64) -> Option<Duration> {
    if nanos == 0 { None } else { Some(Duration::from_nanos(nanos)) }
}

const fn limit(count: u32) -> Option<u32> {
    if count == NO_LIMIT { None } else { Some(count) }
}

impl RetryPolicy {
    /// Three attempts with exponential backoff and full jitter; see the table above.
    pub const DEFAULT: Self = Self {
        backoff: Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5)),
        deadline: 0,
        attempt_timeout: 0,
        expected_attempt: 0,
        max_retry_after: 10_000_000_000,
        jitter_seed: 0,
        max_attempts: 3,
        classes: [NO_LIMIT, NO_LIMIT, 0],
        seeded: false,
        retry_unsafe: false,
        give_up_if_not_ready: false,
        fail_immediately: false,
        guarantee: ExecutionGuarantee::AtLeastOnce,
    };

    /// Retries counted per class of failure instead of attempts: 5 transient, 2 flaky, 0 permanent in one
    /// run.
    ///
    /// ```
    /// use buttress::{FailureClass, retry::RetryPolicy};
    /// let policy = RetryPolicy::adaptive();
    /// assert_eq!(policy.class_budget(FailureClass::Flaky), Some(2));
    /// assert_eq!(policy.max_attempts(), None);
    /// ```
    #[must_use]
    pub const fn adaptive() -> Self {
        let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(5))
            .jitter(Jitter::Proportional(0.25));
        Self { backoff, max_attempts: NO_LIMIT, classes: [5, 2, 0], ..Self::DEFAULT }
    }

    /// `attempts` at `backoff`, everything else as in the default.
    pub(super) const fn of(attempts: u32, backoff: Backoff) -> Self {
        Self { backoff, max_attempts: attempts, ..Self::DEFAULT }
    }

    pub(super) const fn failing_immediately(mut self) -> Self {
        self.fail_immediately = true;
        self
    }

    pub(super) const fn exactly_once(mut self) -> Self {
        self.guarantee = ExecutionGuarantee::ExactlyOnce;
        self
    }

    pub(super) const fn at_least_once(mut self) -> Self {
        self.guarantee = ExecutionGuarantee::AtLeastOnce;
        self
    }

    pub(super) const fn attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    pub(super) fn set_retry_unsafe(&mut self, yes: bool) {
        self.retry_unsafe = yes;
    }

    pub(super) fn set_class(&mut self, class: FailureClass, retries: u32) {
        self.classes[class_index(class)] = retries;
    }

    /// Starts from the default.
    ///
    /// ```
    /// let policy = buttress::retry::RetryPolicy::builder().max_attempts(2).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder() -> RetryPolicyBuilder {
        Self::DEFAULT.to_builder()
    }

    /// Starts from this policy.
    ///
    /// ```
    /// use buttress::retry::RetryPolicy;
    /// let patient = RetryPolicy::FLOW_NODE_DEFAULT.to_builder().max_attempts(10).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn to_builder(self) -> RetryPolicyBuilder {
        RetryPolicyBuilder {
            deadline: self.deadline(),
            attempt_timeout: self.attempt_timeout(),
            expected_attempt: self.expected_attempt_time(),
            max_retry_after: self.max_retry_after(),
            policy: self,
        }
    }

    /// Attempts in all, the first included; `None` is no limit.
    ///
    /// ```
    /// assert_eq!(buttress::retry::RetryPolicy::default().max_attempts(), Some(3));
    /// ```
    #[must_use]
    pub const fn max_attempts(&self) -> Option<u32> {
        limit(self.max_attempts)
    }

    /// Retries of this class in one run; `None` is no limit of its own.
    ///
    /// ```
    /// use buttress::{FailureClass, retry::RetryPolicy};
    /// assert_eq!(RetryPolicy::default().class_budget(FailureClass::Permanent), Some(0));
    /// ```
    #[must_use]
    pub const fn class_budget(&self, class: FailureClass) -> Option<u32> {
        limit(self.classes[class_index(class)])
    }

    /// The delays.
    ///
    /// ```
    /// use std::time::Duration;
    /// let backoff = buttress::retry::RetryPolicy::default().backoff();
    /// assert_eq!(backoff.range(1).1, Duration::from_millis(50));
    /// ```
    #[must_use]
    pub const fn backoff(&self) -> Backoff {
        self.backoff
    }

    /// Longest time for all attempts and delays together.
    ///
    /// ```
    /// assert_eq!(buttress::retry::RetryPolicy::default().deadline(), None);
    /// ```
    #[must_use]
    pub const fn deadline(&self) -> Option<Duration> {
        time(self.deadline)
    }

    /// Longest time for one attempt.
    ///
    /// ```
    /// assert_eq!(buttress::retry::RetryPolicy::default().attempt_timeout(), None);
    /// ```
    #[must_use]
    pub const fn attempt_timeout(&self) -> Option<Duration> {
        time(self.attempt_timeout)
    }

    /// How long an attempt is expected to take.
    ///
    /// ```
    /// assert_eq!(buttress::retry::RetryPolicy::default().expected_attempt_time(), None);
    /// ```
    #[must_use]
    pub const fn expected_attempt_time(&self) -> Option<Duration> {
        time(self.expected_attempt)
    }

    /// The longest `Retry-After` that is waited for; `None` if they are not honoured.
    ///
    /// ```
    /// use std::time::Duration;
    /// let policy = buttress::retry::RetryPolicy::default();
    /// assert_eq!(policy.max_retry_after(), Some(Duration::from_secs(10)));
    /// ```
    #[must_use]
    pub const fn max_retry_after(&self) -> Option<Duration> {
        time(self.max_retry_after)
    }

    /// Whether calls are retried that may have taken effect.
    ///
    /// ```
    /// assert!(!buttress::retry::RetryPolicy::default().retries_unsafe());
    /// ```
    #[must_use]
    pub const fn retries_unsafe(&self) -> bool {
        self.retry_unsafe
    }

    /// Whether a retry is given up rather than made to wait for a service that is not ready.
    ///
    /// ```
    /// assert!(!buttress::retry::RetryPolicy::default().gives_up_if_not_ready());
    /// ```
    #[must_use]
    pub const fn gives_up_if_not_ready(&self) -> bool {
        self.give_up_if_not_ready
    }

    /// Whether the first failure is final.
    ///
    /// ```
    /// assert!(buttress::retry::RetryPolicy::AGENT_HIGH_RISK.fails_immediately());
    /// ```
    #[must_use]
    pub const fn fails_immediately(&self) -> bool {
        self.fail_immediately
    }

    /// How often the call may take effect.
    ///
    /// ```
    /// use buttress::retry::{ExecutionGuarantee, RetryPolicy};
    /// let policy = RetryPolicy::AGENT_HIGH_RISK;
    /// assert_eq!(policy.guarantee(), ExecutionGuarantee::ExactlyOnce);
    /// ```
    #[must_use]
    pub const fn guarantee(&self) -> ExecutionGuarantee {
        self.guarantee
    }

    /// Whether a second attempt is possible at all. If not, requests are not even copied.
    ///
    /// ```
    /// assert!(!buttress::retry::RetryPolicy::NO_RETRY.can_retry());
    /// ```
    #[must_use]
    pub const fn can_retry(&self) -> bool {
        self.max_attempts > 1
            && !self.fail_immediately
            && matches!(self.guarantee, ExecutionGuarantee::AtLeastOnce)
    }

    #[cfg(feature = "serde")]
    pub(super) const fn seed(&self) -> Option<u64> {
        if self.seeded { Some(self.jitter_seed) } else { None }
    }

    /// Uses the generator this policy draws from after attempt `attempt`.
    pub(super) fn with_random<T>(&self, attempt: u32, f: impl FnOnce(&mut Random) -> T) -> T {
        if self.seeded {
            // Neighbouring seeds are mixed apart by the generator.
            f(&mut Random::seeded(self.jitter_seed.wrapping_add(u64::from(attempt))))
        } else {
            Random::of_thread(f)
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}
