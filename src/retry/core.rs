//! What happens after an attempt, without clock, timer or budget.

use std::time::Duration;

use super::RetryPolicy;
use super::config::class_index;
use crate::backoff::Random;
use crate::budget::RetryCost;
use crate::clock::nanos;
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};

/// Timers count in these.
const TIMER: Duration = Duration::from_millis(1);

/// Why no further attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    NotRetryable,
    Unsafe,
    Attempts,
    ClassBudget,
    RetryAfter,
    Deadline,
    Budget,
    NotReplayable,
    NotReady,
}

impl Stop {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotRetryable => "not_retryable",
            Self::Unsafe => "unsafe",
            Self::Attempts => "attempts",
            Self::ClassBudget => "class_budget",
            Self::RetryAfter => "retry_after",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::NotReplayable => "not_replayable",
            Self::NotReady => "not_ready",
        }
    }
}

/// Another attempt, if everything else agrees too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Again {
    pub(super) delay: Duration,
    pub(super) cost: RetryCost,
    class: FailureClass,
}

/// The counters of one run. They live here and not in the policy, so runs do not disturb each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    attempts: u32,
    used: [u32; 3],
    previous: u64,
}

impl Run {
    /// With the first attempt made.
    pub(super) const fn first() -> Self {
        Self { attempts: 1, used: [0; 3], previous: 0 }
    }

    /// Attempts made, the one in hand included.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the attempt in hand is the last that limits on attempts allow.
    pub(super) fn is_last(&self, policy: &RetryPolicy) -> bool {
        !policy.can_retry() || policy.max_attempts().is_some_and(|most| self.attempts >= most)
    }

    /// What to do after an attempt that ended as `verdict`, with `remaining` time (`None`: no deadline).
    pub(super) fn decide(
        &self,
        policy: &RetryPolicy,
        verdict: Verdict,
        remaining: Option<Duration>,
        random: &mut Random,
    ) -> Result<Again, Stop> {
        let (class, cost) = match verdict.outcome {
            Outcome::Failure(class) => (class, RetryCost::Failed),
            // A refusal of our own says nothing about the callee and costs it nothing.
            Outcome::Throttled | Outcome::Ignored => {
                (FailureClass::Transient, RetryCost::Throttled)
            }
            Outcome::Success | Outcome::Cancelled { .. } => return Err(Stop::NotRetryable),
        };
        match verdict.retry {
            // A budget for permanent failures is an order to try what cannot help.
            RetryHint::Never if class == FailureClass::Permanent => {
                if policy.class_budget(class) == Some(0) {
                    return Err(Stop::NotRetryable);
                }
            }
            RetryHint::Never => return Err(Stop::NotRetryable),
            RetryHint::Unknown { .. } if !policy.retries_unsafe() => return Err(Stop::Unsafe),
            RetryHint::Unknown { .. } | RetryHint::Safe { .. } => {}
        }
        if self.is_last(policy) {
            return Err(Stop::Attempts);
        }
        if policy.class_budget(class).is_some_and(|most| self.used[class_index(class)] >= most) {
            return Err(Stop::ClassBudget);
        }
        let delay = self.delay(policy, verdict, random)?;
        if let Some(remaining) = remaining {
            let mut attempt = policy.expected_attempt_time().unwrap_or_default();
            if !delay.is_zero() {
                // A timer may be late by as much, and the response is gone by then.
                attempt = attempt.max(TIMER);
            }
            // An attempt with no time at all cannot finish either.
            if remaining <= delay || remaining - delay < attempt {
                return Err(Stop::Deadline);
            }
        }
        Ok(Again { delay, cost, class })
    }

    fn delay(
        &self,
        policy: &RetryPolicy,
        verdict: Verdict,
        random: &mut Random,
    ) -> Result<Duration, Stop> {
        // Deafness is towards the callee: a limiter of our own would only refuse again.
        let ours = verdict.outcome == Outcome::Ignored;
        let longest = match policy.max_retry_after() {
            None if ours => RetryPolicy::DEFAULT.max_retry_after(),
            longest => longest,
        };
        match (verdict.retry.after(), longest) {
            (Some(after), Some(longest)) if after > longest => Err(Stop::RetryAfter),
            (Some(after), Some(_)) => {
                Ok(policy.backoff.draw_after(after, self.attempts, self.previous, random))
            }
            _ => Ok(policy.backoff.draw(self.attempts, self.previous, random)),
        }
    }

    /// The attempt decided on will be made.
    pub(super) fn go_on(&mut self, again: Again) {
        let used = &mut self.used[class_index(again.class)];
        *used = used.saturating_add(1);
        self.previous = nanos(again.delay);
        self.attempts = self.attempts.saturating_add(1);
    }
}
