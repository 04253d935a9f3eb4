//! What happened to a call, in the one vocabulary every layer shares.

use std::fmt;
use std::time::Duration;

/// How likely a failure is to go away by itself.
///
/// Retry policies keep one attempt budget per class.
///
/// ```
/// use buttress::{FailureClass, Outcome};
/// assert_eq!(Outcome::FAILURE, Outcome::Failure(FailureClass::Transient));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum FailureClass {
    /// The network or an overloaded peer: the same call is likely to work soon.
    Transient,
    /// It sometimes works: a failed assertion, a half-written answer.
    Flaky,
    /// The same call will fail again: bad input, missing permission.
    Permanent,
}

impl FailureClass {
    /// The three classes, most recoverable first.
    ///
    /// ```
    /// assert_eq!(buttress::FailureClass::ALL.len(), 3);
    /// ```
    pub const ALL: [Self; 3] = [Self::Transient, Self::Flaky, Self::Permanent];

    /// Lower-case name, as it appears in configuration and labels.
    ///
    /// ```
    /// assert_eq!(buttress::FailureClass::Flaky.as_str(), "flaky");
    /// assert_eq!(format!("{:>6}", buttress::FailureClass::Flaky), " flaky");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Flaky => "flaky",
            Self::Permanent => "permanent",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The outcome of one call, as a breaker, a budget or a retry sees it.
///
/// ```
/// use buttress::Outcome;
/// assert!(Outcome::FAILURE.is_failure());
/// assert!(!Outcome::Ignored.is_failure());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The call did what it was asked to do.
    Success,
    /// The callee failed.
    Failure(FailureClass),
    /// The callee is alive and asked for less: HTTP 429, gRPC `RESOURCE_EXHAUSTED`.
    Throttled,
    /// The caller gave up before an answer came, `elapsed` after the call was made.
    Cancelled {
        /// Time from the start of the call to its cancellation.
        elapsed: Duration,
    },
    /// Says nothing about the callee's health, for example an excluded error or a refusal of our own.
    Ignored,
}

impl Outcome {
    /// A transient failure, the commonest kind.
    ///
    /// ```
    /// assert!(buttress::Outcome::FAILURE.is_failure());
    /// ```
    pub const FAILURE: Self = Self::Failure(FailureClass::Transient);

    /// Whether the callee failed.
    ///
    /// ```
    /// assert!(!buttress::Outcome::Throttled.is_failure());
    /// ```
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failure(_))
    }

    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::Outcome::Success.as_str(), "success");
    /// assert_eq!(buttress::Outcome::Success.to_string(), "success");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure(_) => "failure",
            Self::Throttled => "throttled",
            Self::Cancelled { .. } => "cancelled",
            Self::Ignored => "ignored",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether the same call may be made again, judged by its effect on the callee.
///
/// `after` is the callee's own wish (`Retry-After`, gRPC pushback): not sooner than that.
///
/// ```
/// use buttress::RetryHint;
/// assert_eq!(RetryHint::SAFE, RetryHint::Safe { after: None });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryHint {
    /// A retry cannot help or must not happen.
    Never,
    /// Nobody can tell whether the first attempt took effect (a POST that timed out). Retried only
    /// by a policy that was told to.
    Unknown {
        /// Not sooner than this.
        after: Option<Duration>,
    },
    /// Another attempt does no harm: the method is idempotent, or the callee did not act.
    Safe {
        /// Not sooner than this.
        after: Option<Duration>,
    },
}

impl RetryHint {
    /// Safe, with no wish about the delay.
    ///
    /// ```
    /// assert_eq!(buttress::RetryHint::SAFE.after(), None);
    /// ```
    pub const SAFE: Self = Self::Safe { after: None };

    /// The callee's wish about the delay.
    ///
    /// ```
    /// use buttress::RetryHint;
    /// use std::time::Duration;
    /// let hint = RetryHint::Safe { after: Some(Duration::from_secs(1)) };
    /// assert_eq!(hint.after(), Some(Duration::from_secs(1)));
    /// ```
    #[must_use]
    pub const fn after(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Unknown { after } | Self::Safe { after } => after,
        }
    }
}

/// What a [`Classify`](crate::Classify) says about one finished call.
///
/// ```
/// use buttress::{FailureClass, Outcome, RetryHint, Verdict};
/// let verdict = Verdict::failure(FailureClass::Transient);
/// assert_eq!(verdict.outcome, Outcome::FAILURE);
/// assert_eq!(verdict.retry, RetryHint::SAFE);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// What happened.
    pub outcome: Outcome,
    /// Whether it may be done again.
    pub retry: RetryHint,
}

impl Verdict {
    /// Any outcome with any hint.
    ///
    /// ```
    /// use buttress::{Outcome, RetryHint, Verdict};
    /// assert_eq!(Verdict::new(Outcome::Ignored, RetryHint::Never), Verdict::ignored());
    /// ```
    #[must_use]
    pub const fn new(outcome: Outcome, retry: RetryHint) -> Self {
        Self { outcome, retry }
    }

    /// It worked; nothing to retry.
    ///
    /// ```
    /// assert_eq!(buttress::Verdict::success().outcome, buttress::Outcome::Success);
    /// ```
    #[must_use]
    pub const fn success() -> Self {
        Self::new(Outcome::Success, RetryHint::Never)
    }

    /// It failed. Transient and flaky failures are safe to retry, permanent ones are not.
    ///
    /// ```
    /// use buttress::{FailureClass, RetryHint, Verdict};
    /// assert_eq!(Verdict::failure(FailureClass::Permanent).retry, RetryHint::Never);
    /// ```
    #[must_use]
    pub const fn failure(class: FailureClass) -> Self {
        let retry = match class {
            FailureClass::Permanent => RetryHint::Never,
            FailureClass::Transient | FailureClass::Flaky => RetryHint::SAFE,
        };
        Self::new(Outcome::Failure(class), retry)
    }

    /// The callee asked for less, and perhaps said for how long.
    ///
    /// ```
    /// assert_eq!(buttress::Verdict::throttled(None).retry, buttress::RetryHint::SAFE);
    /// ```
    #[must_use]
    pub const fn throttled(after: Option<Duration>) -> Self {
        Self::new(Outcome::Throttled, RetryHint::Safe { after })
    }

    /// Says nothing about the callee and is not retried.
    ///
    /// ```
    /// assert_eq!(buttress::Verdict::ignored().outcome, buttress::Outcome::Ignored);
    /// ```
    #[must_use]
    pub const fn ignored() -> Self {
        Self::new(Outcome::Ignored, RetryHint::Never)
    }

    /// The same outcome with another hint.
    ///
    /// ```
    /// use buttress::{FailureClass, RetryHint, Verdict};
    /// let once = Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Never);
    /// assert_eq!(once.retry, RetryHint::Never);
    /// ```
    #[must_use]
    pub const fn with_retry(self, retry: RetryHint) -> Self {
        Self { outcome: self.outcome, retry }
    }
}
