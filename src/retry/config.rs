use std::time::Duration;

use crate::backoff::{Backoff, Jitter, Random};
use crate::clock::nanos;
use crate::outcome::FailureClass;
use crate::rejection::ConfigError;

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
    AtLeastOnce,
    /// The call must not take effect twice. Retrying alone cannot promise that, so a policy with this
    /// guarantee makes one attempt, whatever its limits say.
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
    deadline: u64,
    attempt_timeout: u64,
    expected_attempt: u64,
    max_retry_after: u64,
    jitter_seed: u64,
    max_attempts: u32,
    classes: [u32; 3],
    seeded: bool,
    retry_unsafe: bool,
    give_up_if_not_ready: bool,
    fail_immediately: bool,
    guarantee: ExecutionGuarantee,
}

const NO_LIMIT: u32 = u32::MAX;

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

/// Builds a [`RetryPolicy`].
///
/// ```
/// use buttress::retry::RetryPolicy;
/// let error = RetryPolicy::builder().max_attempts(0).build().unwrap_err();
/// assert_eq!(error.to_string(), "invalid max_attempts: 0, expected at least 1");
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RetryPolicyBuilder {
    policy: RetryPolicy,
    deadline: Option<Duration>,
    attempt_timeout: Option<Duration>,
    expected_attempt: Option<Duration>,
    max_retry_after: Option<Duration>,
}

impl RetryPolicyBuilder {
    /// Attempts in all, the first included: at least 1, default 3.
    ///
    /// ```
    /// let once = buttress::retry::RetryPolicy::builder().max_attempts(1).build()?;
    /// assert!(!once.can_retry());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy.max_attempts = attempts;
        self
    }

    /// No limit on attempts. Something else must bound them: budgets for the classes transient and
    /// flaky, or a deadline.
    ///
    /// ```
    /// use buttress::retry::RetryPolicy;
    /// use std::time::Duration;
    /// let b = RetryPolicy::builder().unlimited_attempts();
    /// assert!(b.build().is_err());
    /// assert!(b.deadline(Duration::from_secs(30)).build().is_ok());
    /// ```
    pub fn unlimited_attempts(mut self) -> Self {
        self.policy.max_attempts = NO_LIMIT;
        self
    }

    /// Retries of one class of failure in one run. By default transient and flaky have no limit of
    /// their own and permanent failures are not retried. Throttled calls and refusals of our own layers
    /// count as transient.
    ///
    /// A budget for permanent failures retries what classifiers call permanent, even though they advise
    /// against it.
    ///
    /// ```
    /// use buttress::{FailureClass, retry::RetryPolicy};
    /// let policy = RetryPolicy::builder().class_budget(FailureClass::Flaky, 1).build()?;
    /// assert_eq!(policy.class_budget(FailureClass::Flaky), Some(1));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn class_budget(mut self, class: FailureClass, retries: u32) -> Self {
        self.policy.classes[class_index(class)] = retries;
        self
    }

    /// The delays: default 50 ms, doubling up to 5 s, with full jitter.
    ///
    /// ```
    /// use buttress::{Backoff, retry::RetryPolicy};
    /// let eager = RetryPolicy::builder().backoff(Backoff::none()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// Longest time for all attempts and delays together: above 0, default none. If the request carries
    /// a [`Deadline`](crate::Deadline) of its own, the earlier of the two holds.
    ///
    /// No retry is started that could not finish in time: the last result is returned at once instead. An
    /// attempt that is on its way when the deadline passes is cut off.
    ///
    /// ```
    /// use std::time::Duration;
    /// let b = buttress::retry::RetryPolicy::builder();
    /// assert!(b.deadline(Duration::ZERO).build().is_err());
    /// ```
    pub fn deadline(mut self, total: Duration) -> Self {
        self.deadline = Some(total);
        self
    }

    /// Longest time for one attempt: above 0, at most the deadline, default none. It counts from the
    /// moment the attempt first has to wait, and no timer is made for one that does not. An attempt cut
    /// off is a transient failure. Blocking calls cannot be cut off.
    ///
    /// ```
    /// use std::time::Duration;
    /// let b = buttress::retry::RetryPolicy::builder().deadline(Duration::from_secs(1));
    /// let error = b.attempt_timeout(Duration::from_secs(2)).build().unwrap_err();
    /// assert_eq!(error.field(), "attempt_timeout");
    /// ```
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// How long an attempt usually takes: above 0, at most the deadline, default unknown. No retry is
    /// started with less time left than this.
    ///
    /// ```
    /// use std::time::Duration;
    /// let policy = buttress::retry::RetryPolicy::builder()
    ///     .deadline(Duration::from_secs(1))
    ///     .expected_attempt_time(Duration::from_millis(80))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn expected_attempt_time(mut self, time: Duration) -> Self {
        self.expected_attempt = Some(time);
        self
    }

    /// The longest wish of the callee (`Retry-After`, gRPC pushback) to wait for: above 0, default 10 s. It is
    /// waited for with jitter on top, and the backoff if that is longer. When the callee wants more, or more than the deadline
    /// leaves, the last result is returned at once: nobody can park a caller.
    ///
    /// ```
    /// use std::time::Duration;
    /// let b = buttress::retry::RetryPolicy::builder();
    /// assert!(b.max_retry_after(Duration::ZERO).build().is_err());
    /// ```
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.max_retry_after = Some(longest);
        self
    }

    /// Does not listen to the callee's wishes; only the backoff counts.
    ///
    /// ```
    /// let deaf = buttress::retry::RetryPolicy::builder().ignore_retry_after().build()?;
    /// assert_eq!(deaf.max_retry_after(), None);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn ignore_retry_after(mut self) -> Self {
        self.max_retry_after = None;
        self
    }

    /// Also retries calls that may already have taken effect
    /// ([`RetryHint::Unknown`](crate::RetryHint::Unknown): a POST that timed out). Default no.
    ///
    /// ```
    /// let policy = buttress::retry::RetryPolicy::builder().retry_unsafe(true).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn retry_unsafe(mut self, yes: bool) -> Self {
        self.policy.retry_unsafe = yes;
        self
    }

    /// What a retry does when the inner service is not ready for it: gives up (true) or waits, as long as
    /// the deadline allows (false, the default). Giving up returns the error of the attempt before; if
    /// that was a response, it is gone by then and the answer is an `Overloaded` refusal.
    ///
    /// ```
    /// let policy = buttress::retry::RetryPolicy::builder().give_up_if_not_ready(true).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn give_up_if_not_ready(mut self, yes: bool) -> Self {
        self.policy.give_up_if_not_ready = yes;
        self
    }

    /// The first failure is final, whatever the limits say. For calls too risky to repeat. Default no.
    ///
    /// ```
    /// let policy = buttress::retry::RetryPolicy::builder().fail_immediately(true).build()?;
    /// assert!(!policy.can_retry());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn fail_immediately(mut self, yes: bool) -> Self {
        self.policy.fail_immediately = yes;
        self
    }

    /// How often the call may take effect. With
    /// [`ExactlyOnce`](ExecutionGuarantee::ExactlyOnce) there is one attempt.
    ///
    /// ```
    /// use buttress::retry::{ExecutionGuarantee, RetryPolicy};
    /// let policy = RetryPolicy::builder().guarantee(ExecutionGuarantee::ExactlyOnce).build()?;
    /// assert!(!policy.can_retry());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn guarantee(mut self, guarantee: ExecutionGuarantee) -> Self {
        self.policy.guarantee = guarantee;
        self
    }

    /// The same jitter in every run, for tests. Never in production: callers that fail together would
    /// come back together.
    ///
    /// ```
    /// let policy = buttress::retry::RetryPolicy::builder().jitter_seed(7).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.policy.jitter_seed = seed;
        self.policy.seeded = true;
        self
    }

    /// The policy.
    ///
    /// # Errors
    /// If a value is out of the range its setter names, or two contradict each other.
    ///
    /// ```
    /// use buttress::{Backoff, retry::RetryPolicy};
    /// use std::time::Duration;
    /// let backoff = Backoff::constant(Duration::from_secs(1)).factor(0.5);
    /// let error = RetryPolicy::builder().backoff(backoff).build().unwrap_err();
    /// assert_eq!(error.field(), "backoff.factor");
    /// ```
    pub fn build(self) -> Result<RetryPolicy, ConfigError> {
        let mut policy = self.policy;
        if policy.max_attempts == 0 {
            return Err(ConfigError::new("max_attempts", 0, "at least 1"));
        }
        policy.backoff.validate().map_err(|error| {
            let field = format!("backoff.{}", error.field());
            ConfigError::new(field, error.value(), error.expected().to_owned())
        })?;
        policy.deadline = whole("deadline", self.deadline)?;
        policy.attempt_timeout = whole("attempt_timeout", self.attempt_timeout)?;
        policy.expected_attempt = whole("expected_attempt_time", self.expected_attempt)?;
        policy.max_retry_after = whole("max_retry_after", self.max_retry_after)?;
        if let Some(deadline) = policy.deadline() {
            let within = format!("at most the deadline, {deadline:?}");
            for (field, value) in [
                ("attempt_timeout", policy.attempt_timeout()),
                ("expected_attempt_time", policy.expected_attempt_time()),
            ] {
                if let Some(value) = value.filter(|value| *value > deadline) {
                    return Err(ConfigError::new(field, format_args!("{value:?}"), within));
                }
            }
            let shortest = policy.backoff.range(1).0;
            if policy.can_retry() && shortest >= deadline {
                let expected = format!("a first delay below the deadline, {deadline:?}");
                return Err(ConfigError::new("backoff", format_args!("{shortest:?}"), expected));
            }
        }
        let unbounded = |class| policy.class_budget(class).is_none();
        if policy.can_retry()
            && policy.max_attempts().is_none()
            && policy.deadline().is_none()
            && (unbounded(FailureClass::Transient) || unbounded(FailureClass::Flaky))
        {
            let expected = "a limit, class budgets for transient and flaky, or a deadline";
            return Err(ConfigError::new("max_attempts", "unlimited", expected));
        }
        Ok(policy)
    }
}

fn whole(field: &'static str, time: Option<Duration>) -> Result<u64, ConfigError> {
    match time.map(nanos) {
        None => Ok(0),
        Some(0) => Err(ConfigError::new(field, "0s", "a time above 0")),
        Some(u64::MAX) => Err(ConfigError::new(field, "over 584 years", "at most 584 years")),
        Some(nanos) => Ok(nanos),
    }
}
