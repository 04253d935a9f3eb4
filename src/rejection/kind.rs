//! Why a call was refused, and by which numbers.

use std::fmt;
use std::time::Duration;

use crate::backend::BackendState;

/// Why a call was refused. One table maps each kind to HTTP, gRPC and to whether our retry tries
/// again:
///
/// | kind | HTTP | gRPC | retried |
/// |---|---|---|---|
/// | `RateLimited` | 429 + `Retry-After` | `RESOURCE_EXHAUSTED` | if `retry_after` fits the deadline |
/// | `ExceedsBurst` | 429 | `RESOURCE_EXHAUSTED` | no: it can never be granted |
/// | `CircuitOpen` | 503 + `Retry-After` | `UNAVAILABLE` | no |
/// | `Overloaded`, `BudgetExhausted` | 503, and `Retry-After` if it is known | `RESOURCE_EXHAUSTED` | no |
/// | `DeadlineExceeded` | 504 | `DEADLINE_EXCEEDED` | no |
/// | `IdempotencyInFlight` | 409 | `ABORTED` | yes |
/// | `IdempotencyMismatch` | 422 | `INVALID_ARGUMENT` | no |
/// | `IdempotencyKeyMissing`, `IdempotencyKeyInvalid` | 400 | `INVALID_ARGUMENT` | no |
/// | `RequestTooLarge` | 413 | `INVALID_ARGUMENT` | no |
/// | `RequestIncomplete` | 400 | `INVALID_ARGUMENT` | no |
/// | `IdempotencyOutcomeUnknown` | 500 | `UNKNOWN` | no |
/// | `CallPanicked` | 500 | `UNKNOWN` | no |
/// | `StoreUnavailable` | 503 | `UNAVAILABLE` | no |
/// | `Draining` | 503 + `Connection: close` | `UNAVAILABLE` | yes |
/// | `Injected` | (a connection error) | `UNAVAILABLE` | yes |
///
/// ```
/// assert_eq!(buttress::RejectionKind::CircuitOpen.as_str(), "circuit_open");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The rate limit has no room now.
    RateLimited,
    /// One call costs more than the whole burst: it can never be admitted.
    ExceedsBurst,
    /// The circuit breaker is open, or half-open with all probes taken.
    CircuitOpen,
    /// A queue or table is full.
    Overloaded,
    /// A retry or failure budget is spent.
    BudgetExhausted,
    /// The caller's deadline has passed or cannot be met.
    DeadlineExceeded,
    /// The same idempotency key is being executed.
    IdempotencyInFlight,
    /// The same idempotency key came with another payload.
    IdempotencyMismatch,
    /// The idempotency key is required and missing.
    IdempotencyKeyMissing,
    /// What came as an idempotency key is none, or there are several.
    IdempotencyKeyInvalid,
    /// The request's body is longer than the layer takes.
    RequestTooLarge,
    /// The request's body ended early or could not be read.
    RequestIncomplete,
    /// An earlier call with the same idempotency key was interrupted, and nobody knows whether it took
    /// effect.
    IdempotencyOutcomeUnknown,
    /// The store behind the layer does not answer.
    StoreUnavailable,
    /// The process is shutting down.
    Draining,
    /// A fault conditioner dropped the call on purpose.
    Injected,
    /// The call of another one, whose answer was to be this one's too, panicked.
    CallPanicked,
}

impl RejectionKind {
    /// In the order of their definition.
    pub(crate) const ALL: [Self; 17] = [
        Self::RateLimited,
        Self::ExceedsBurst,
        Self::CircuitOpen,
        Self::Overloaded,
        Self::BudgetExhausted,
        Self::DeadlineExceeded,
        Self::IdempotencyInFlight,
        Self::IdempotencyMismatch,
        Self::IdempotencyKeyMissing,
        Self::IdempotencyKeyInvalid,
        Self::RequestTooLarge,
        Self::RequestIncomplete,
        Self::IdempotencyOutcomeUnknown,
        Self::StoreUnavailable,
        Self::Draining,
        Self::Injected,
        Self::CallPanicked,
    ];

    /// Lower-case name with underscores, for labels and problem documents.
    ///
    /// ```
    /// assert_eq!(buttress::RejectionKind::RateLimited.as_str(), "rate_limited");
    /// assert_eq!(buttress::RejectionKind::RateLimited.to_string(), "rate_limited");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::ExceedsBurst => "exceeds_burst",
            Self::CircuitOpen => "circuit_open",
            Self::Overloaded => "overloaded",
            Self::BudgetExhausted => "budget_exhausted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::IdempotencyInFlight => "idempotency_in_flight",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::IdempotencyKeyMissing => "idempotency_key_missing",
            Self::IdempotencyKeyInvalid => "idempotency_key_invalid",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestIncomplete => "request_incomplete",
            Self::IdempotencyOutcomeUnknown => "idempotency_outcome_unknown",
            Self::StoreUnavailable => "store_unavailable",
            Self::Draining => "draining",
            Self::Injected => "injected",
            Self::CallPanicked => "call_panicked",
        }
    }

    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::RateLimited => "rate limit exceeded",
            Self::ExceedsBurst => "cost exceeds the burst and can never be granted",
            Self::CircuitOpen => "circuit breaker is open",
            Self::Overloaded => "overloaded",
            Self::BudgetExhausted => "budget exhausted",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::IdempotencyInFlight => "a call with this idempotency key is in flight",
            Self::IdempotencyMismatch => "idempotency key reused with another payload",
            Self::IdempotencyKeyMissing => "idempotency key missing",
            Self::IdempotencyKeyInvalid => "idempotency key not valid",
            Self::RequestTooLarge => "the request's body is too long",
            Self::RequestIncomplete => "the request's body could not be read",
            Self::IdempotencyOutcomeUnknown => {
                "an earlier call with this idempotency key was interrupted, its outcome is unknown"
            }
            Self::StoreUnavailable => "store unavailable",
            Self::Draining => "shutting down",
            Self::Injected => "injected fault",
            Self::CallPanicked => "the call that it waited for panicked",
        }
    }
}

impl fmt::Display for RejectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The numbers behind a refusal: what was measured, against what.
///
/// ```
/// use buttress::{LayerKind, Rejection, RejectionDetail, RejectionKind};
/// let r = Rejection::new(RejectionKind::RateLimited, LayerKind::RateLimit, "api");
/// assert!(matches!(r.detail(), RejectionDetail::None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RejectionDetail {
    /// Nothing more to say.
    None,
    /// A measured value crossed a threshold (a failure rate, a number of consecutive failures).
    Threshold {
        /// What the number is, for example `failure_rate`.
        what: &'static str,
        /// The measured value.
        measured: f64,
        /// The configured threshold.
        threshold: f64,
    },
    /// A quota, as the `RateLimit` header fields describe it.
    Quota {
        /// Capacity in tokens.
        limit: u64,
        /// Whole tokens left.
        remaining: u64,
        /// Time until the bucket is full again.
        reset: Duration,
        /// Time in which a whole `limit` is refilled.
        window: Duration,
    },
    /// How the [`Backend`](crate::Backend) was that the call waited for or was sent to: in the refusals of an
    /// [admission](crate::admission), and of a [timeout](crate::timeout) that gives up a call inside of which there is one, or a retry of which is paid by
    /// [its headroom](crate::Backend::retry_budget).
    /// A deadline that has passed while everything fails is told so from one that was too short.
    Backend {
        /// Its state, as this process saw it.
        state: BackendState,
        /// Failures since the last success.
        failures: u32,
    },
}
