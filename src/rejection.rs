//! What a layer answers when it refuses a call.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::nanos;
use crate::name::{LayerKind, Name};

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
}

/// A call refused by one of our layers: which layer, which instance of it, why, and when to come back.
///
/// Cheap to clone. Building one does not allocate, except for a custom layer or a source. It is an error of its own kind: not a failure of
/// the callee, ignored by breakers and budgets further out, and final for a retry unless
/// [`is_retryable`](Self::is_retryable).
///
/// ```
/// use buttress::{LayerKind, Rejection, RejectionKind};
/// use std::time::Duration;
///
/// let open = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "payments")
///     .with_retry_after(Duration::from_millis(1500));
/// assert_eq!(open.kind(), RejectionKind::CircuitOpen);
/// assert_eq!(open.to_string(), "circuit breaker is open (circuit_breaker `payments`), retry after 1.5s");
///
/// let boxed: buttress::BoxError = open.into();
/// assert_eq!(Rejection::find(&*boxed).unwrap().name(), "payments");
/// ```
#[derive(Clone)]
pub struct Rejection {
    what: What,
    name: Name,
    /// Nanoseconds; `UNKNOWN` if not known.
    retry_after: u64,
    detail: Detail,
    more: Option<Arc<More>>,
}

// A refusal is moved through several results on its way out, and a success through results of the same
// size, so the rare parts are elsewhere and durations are plain words: 72 bytes instead of 128. And every
// field is a whole word: a byte that was just written, read as part of the word it is moved with, makes
// the processor wait longer than all the rest takes.

/// Kind and layer, and whether it was an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
struct What(u64);

impl What {
    #[inline]
    const fn new(kind: RejectionKind, layer: Speaker) -> Self {
        Self(kind as u64 | (layer as u64) << 8)
    }

    #[inline]
    const fn kind(self) -> RejectionKind {
        RejectionKind::ALL[(self.0 & 0xff) as usize]
    }

    #[inline]
    const fn layer(self) -> Speaker {
        Speaker::ALL[(self.0 >> 8 & 0xff) as usize]
    }

    const ATTEMPT: u64 = 1 << 16;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Retry,
    RetryBudget,
    CircuitBreaker,
    RateLimit,
    FailureBudget,
    Conditioner,
    Idempotency,
    Supervise,
    Backend,
    Admission,
    Hedge,
    Throttle,
    Endpoints,
    Timeout,
    Fallback,
    Coalesce,
    Config,
    /// Its name is in `More`.
    Custom,
}

impl Speaker {
    /// In the order of their definition.
    const ALL: [Self; 18] = [
        Self::Retry,
        Self::RetryBudget,
        Self::CircuitBreaker,
        Self::RateLimit,
        Self::FailureBudget,
        Self::Conditioner,
        Self::Idempotency,
        Self::Supervise,
        Self::Backend,
        Self::Admission,
        Self::Hedge,
        Self::Throttle,
        Self::Endpoints,
        Self::Timeout,
        Self::Fallback,
        Self::Coalesce,
        Self::Config,
        Self::Custom,
    ];
}

#[derive(Clone, Copy)]
enum Detail {
    None,
    Threshold { what: &'static str, measured: f64, threshold: f64 },
    Quota { limit: u64, remaining: u64, reset: u64, window: u64 },
}

#[derive(Clone, Default)]
struct More {
    layer: &'static str,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    advice: Option<Arc<str>>,
}

const UNKNOWN: u64 = u64::MAX;

impl Rejection {
    /// A refusal of `kind` by the instance `name` of `layer`.
    ///
    /// ```
    /// use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::Overloaded, LayerKind::Custom("bulkhead"), "db");
    /// assert_eq!(r.layer().as_str(), "bulkhead");
    /// ```
    #[must_use]
    pub fn new(kind: RejectionKind, layer: LayerKind, name: impl Into<Name>) -> Self {
        let (layer, more) = match layer {
            LayerKind::Retry => (Speaker::Retry, None),
            LayerKind::RetryBudget => (Speaker::RetryBudget, None),
            LayerKind::CircuitBreaker => (Speaker::CircuitBreaker, None),
            LayerKind::RateLimit => (Speaker::RateLimit, None),
            LayerKind::FailureBudget => (Speaker::FailureBudget, None),
            LayerKind::Conditioner => (Speaker::Conditioner, None),
            LayerKind::Idempotency => (Speaker::Idempotency, None),
            LayerKind::Supervise => (Speaker::Supervise, None),
            LayerKind::Backend => (Speaker::Backend, None),
            LayerKind::Admission => (Speaker::Admission, None),
            LayerKind::Hedge => (Speaker::Hedge, None),
            LayerKind::Throttle => (Speaker::Throttle, None),
            LayerKind::Endpoints => (Speaker::Endpoints, None),
            LayerKind::Timeout => (Speaker::Timeout, None),
            LayerKind::Fallback => (Speaker::Fallback, None),
            LayerKind::Coalesce => (Speaker::Coalesce, None),
            LayerKind::Config => (Speaker::Config, None),
            LayerKind::Custom(layer) => {
                (Speaker::Custom, Some(Arc::new(More { layer, ..More::default() })))
            }
        };
        let name = name.into();
        let what = What::new(kind, layer);
        Self { what, name, retry_after: UNKNOWN, detail: Detail::None, more }
    }

    /// The refusal of a rate limiter, made of plain words because refusing is a hot path: `quota` is limit
    /// and whole tokens left, `times` are nanoseconds to refill all that is missing and to refill the
    /// limit, `retry_after` nanoseconds.
    #[inline]
    pub(crate) fn over_quota(
        kind: RejectionKind,
        name: Name,
        retry_after: Option<u64>,
        (limit, remaining): (u64, u64),
        (reset, window): (u64, u64),
    ) -> Self {
        Self {
            what: What::new(kind, Speaker::RateLimit),
            name,
            retry_after: retry_after.unwrap_or(UNKNOWN),
            detail: Detail::Quota { limit, remaining, reset, window },
            more: None,
        }
    }

    /// What ran out was the time of one attempt, not that of the call: there may be another.
    pub(crate) fn of_attempt(mut self) -> Self {
        self.what.0 |= What::ATTEMPT;
        self
    }

    /// Whether it is an attempt of the stack of this name that took too long.
    pub(crate) fn is_attempt_of(&self, stack: Name) -> bool {
        self.what.0 & What::ATTEMPT != 0 && self.name == stack
    }

    /// Says when the same call may be granted. Exact to the nanosecond, up to 584 years, beyond which it
    /// stays at 584 years; responders round it up to what their protocol can carry.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// # use std::time::Duration;
    /// let r = Rejection::new(RejectionKind::RateLimited, LayerKind::RateLimit, "api")
    ///     .with_retry_after(Duration::from_millis(20));
    /// assert_eq!(r.retry_after(), Some(Duration::from_millis(20)));
    /// ```
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = nanos(retry_after).min(UNKNOWN - 1);
        self
    }

    /// Adds the numbers behind the refusal.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionDetail, RejectionKind};
    /// let r = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db")
    ///     .with_detail(RejectionDetail::Threshold { what: "failure_rate", measured: 0.7, threshold: 0.5 });
    /// assert!(matches!(r.detail(), RejectionDetail::Threshold { .. }));
    /// ```
    #[must_use]
    pub fn with_detail(mut self, detail: RejectionDetail) -> Self {
        self.detail = match detail {
            RejectionDetail::None => Detail::None,
            RejectionDetail::Threshold { what, measured, threshold } => {
                Detail::Threshold { what, measured, threshold }
            }
            RejectionDetail::Quota { limit, remaining, reset, window } => {
                Detail::Quota { limit, remaining, reset: nanos(reset), window: nanos(window) }
            }
        };
        self
    }

    /// Adds the error that led to the refusal; it becomes [`source`](StdError::source).
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// use std::error::Error;
    /// let r = Rejection::new(RejectionKind::StoreUnavailable, LayerKind::Idempotency, "orders")
    ///     .with_source(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    /// assert!(r.source().is_some());
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        let mut more = self.more.as_deref().cloned().unwrap_or_default();
        more.source = Some(Arc::new(source));
        self.more = Some(Arc::new(more));
        self
    }

    /// Says what the caller can do about it. It is shown to callers, so it should say nothing of the inside.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::IdempotencyKeyInvalid, LayerKind::Idempotency, "orders")
    ///     .with_advice("expected 16 to 255 characters");
    /// assert_eq!(
    ///     r.to_string(),
    ///     "idempotency key not valid (idempotency `orders`): expected 16 to 255 characters"
    /// );
    /// ```
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<Arc<str>>) -> Self {
        let mut more = self.more.as_deref().cloned().unwrap_or_default();
        more.advice = Some(advice.into());
        self.more = Some(Arc::new(more));
        self
    }

    /// What the caller can do about it, if that was said.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::Overloaded, LayerKind::RateLimit, "api");
    /// assert_eq!(r.advice(), None);
    /// ```
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.more.as_ref()?.advice.as_deref()
    }

    /// Why the call was refused.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::Draining, LayerKind::Custom("server"), "api");
    /// assert_eq!(r.kind(), RejectionKind::Draining);
    /// ```
    #[must_use]
    pub fn kind(&self) -> RejectionKind {
        self.what.kind()
    }

    /// The layer that refused it.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::RateLimited, LayerKind::RateLimit, "api");
    /// assert_eq!(r.layer(), LayerKind::RateLimit);
    /// ```
    #[must_use]
    pub fn layer(&self) -> LayerKind {
        match self.what.layer() {
            Speaker::Retry => LayerKind::Retry,
            Speaker::RetryBudget => LayerKind::RetryBudget,
            Speaker::CircuitBreaker => LayerKind::CircuitBreaker,
            Speaker::RateLimit => LayerKind::RateLimit,
            Speaker::FailureBudget => LayerKind::FailureBudget,
            Speaker::Conditioner => LayerKind::Conditioner,
            Speaker::Idempotency => LayerKind::Idempotency,
            Speaker::Supervise => LayerKind::Supervise,
            Speaker::Backend => LayerKind::Backend,
            Speaker::Admission => LayerKind::Admission,
            Speaker::Hedge => LayerKind::Hedge,
            Speaker::Throttle => LayerKind::Throttle,
            Speaker::Endpoints => LayerKind::Endpoints,
            Speaker::Timeout => LayerKind::Timeout,
            Speaker::Fallback => LayerKind::Fallback,
            Speaker::Coalesce => LayerKind::Coalesce,
            Speaker::Config => LayerKind::Config,
            Speaker::Custom => LayerKind::Custom(self.more.as_ref().map_or("", |more| more.layer)),
        }
    }

    /// The name of the object that refused it.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::RateLimited, LayerKind::RateLimit, "api");
    /// assert_eq!(r.name(), "api");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.as_str()
    }

    /// When the same call may be granted, if that is known.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::Overloaded, LayerKind::RateLimit, "api");
    /// assert_eq!(r.retry_after(), None);
    /// ```
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.retry_after != UNKNOWN).then(|| Duration::from_nanos(self.retry_after))
    }

    /// The numbers behind it.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionDetail, RejectionKind};
    /// let r = Rejection::new(RejectionKind::Overloaded, LayerKind::RateLimit, "api");
    /// assert_eq!(r.detail(), RejectionDetail::None);
    /// ```
    #[must_use]
    pub fn detail(&self) -> RejectionDetail {
        match self.detail {
            Detail::None => RejectionDetail::None,
            Detail::Threshold { what, measured, threshold } => {
                RejectionDetail::Threshold { what, measured, threshold }
            }
            Detail::Quota { limit, remaining, reset, window } => RejectionDetail::Quota {
                limit,
                remaining,
                reset: Duration::from_nanos(reset),
                window: Duration::from_nanos(window),
            },
        }
    }

    /// Whether our own retry may try again (never sooner than [`retry_after`](Self::retry_after), and
    /// only if that fits its deadline): see the table at [`RejectionKind`]. A `RateLimited` without a
    /// `retry_after` is final.
    ///
    /// ```
    /// # use buttress::{LayerKind, Rejection, RejectionKind};
    /// let open = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db");
    /// assert!(!open.is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            RejectionKind::RateLimited => self.retry_after != UNKNOWN,
            RejectionKind::IdempotencyInFlight
            | RejectionKind::Draining
            | RejectionKind::Injected => true,
            RejectionKind::ExceedsBurst
            | RejectionKind::CircuitOpen
            | RejectionKind::Overloaded
            | RejectionKind::BudgetExhausted
            | RejectionKind::DeadlineExceeded
            | RejectionKind::IdempotencyMismatch
            | RejectionKind::IdempotencyKeyMissing
            | RejectionKind::IdempotencyKeyInvalid
            | RejectionKind::RequestTooLarge
            | RejectionKind::RequestIncomplete
            | RejectionKind::IdempotencyOutcomeUnknown
            | RejectionKind::StoreUnavailable
            | RejectionKind::CallPanicked => false,
        }
    }

    /// The first rejection in the `source()` chain of `error`, itself included.
    ///
    /// ```
    /// # use buttress::{BoxError, LayerKind, Rejection, RejectionKind};
    /// let r = Rejection::new(RejectionKind::Overloaded, LayerKind::RateLimit, "api");
    /// let wrapped = std::io::Error::other(r);
    /// assert!(Rejection::find(&wrapped).is_some());
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        for _ in 0..32 {
            let error = next?;
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("kind", &self.kind())
            .field("layer", &self.layer())
            .field("name", &self.name)
            .field("retry_after", &self.retry_after())
            .field("detail", &self.detail())
            .field("source", &self.source())
            .finish()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} `{}`)", self.kind().sentence(), self.layer().as_str(), self.name())?;
        if let Detail::Threshold { what, measured, threshold } = self.detail {
            // Counts as they are, shares to a thousandth.
            let digits = |value: f64| if value.fract() == 0.0 { 0 } else { 3 };
            let (of_measured, of_threshold) = (digits(measured), digits(threshold));
            write!(f, ", {what} {measured:.of_measured$} against {threshold:.of_threshold$}")?;
        }
        if let Some(after) = self.retry_after() {
            write!(f, ", retry after {after:?}")?;
        }
        match self.advice() {
            Some(advice) => write!(f, ": {advice}"),
            None => Ok(()),
        }
    }
}

impl StdError for Rejection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.more.as_ref()?.source.as_deref()?;
        Some(source)
    }
}
