use std::time::Duration;

use super::config::{NO_LIMIT, class_index};
use super::{ExecutionGuarantee, RetryPolicy};
use crate::backoff::Backoff;
use crate::clock::nanos;
use crate::error::ConfigError;
use crate::outcome::FailureClass;

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
    pub(super) policy: RetryPolicy,
    pub(super) deadline: Option<Duration>,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) expected_attempt: Option<Duration>,
    pub(super) max_retry_after: Option<Duration>,
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
    /// A retry waits as long, once more, for the inner service to become ready; what happens then is
    /// described at [`give_up_if_not_ready`](Self::give_up_if_not_ready).
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

    /// The longest wish of the callee (`Retry-After`, gRPC pushback) to wait for: above 0, default 10 s. It
    /// is waited for with jitter on top, or the backoff if that is longer. When the callee wants more, or
    /// more than the deadline
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

    /// Does not listen to the callee's wishes; only the backoff counts. What a layer of our own says when it
    /// refuses still holds, up to 10 s: it would only refuse again.
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

    /// What a retry does when the inner service is not ready for it: gives up (true) or waits (false, the
    /// default), as long as the attempt timeout and the deadline allow, then gives up too. With neither of
    /// them it waits without bound, and holds its token of the budget. Giving up returns the error of the attempt before; if
    /// that was a response, it is gone by then and the answer is an `Overloaded` refusal
    /// (`DeadlineExceeded` if the deadline has passed).
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
