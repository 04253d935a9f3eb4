//! What a layer answers when it refuses a call.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::BackendState;
use crate::clock::nanos;
use crate::name::{LayerKind, Name};

mod heard;
mod kind;

pub(crate) use heard::{last_words, say};
pub use kind::{RejectionDetail, RejectionKind};

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
    Backend { state: &'static BackendState, failures: u64 },
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
            RejectionDetail::Backend { state, failures } => {
                Detail::Backend { state: state.word(), failures: failures.into() }
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
            Detail::Backend { state, failures } => RejectionDetail::Backend {
                state: *state,
                failures: u32::try_from(failures).unwrap_or(u32::MAX),
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
        if let (RejectionKind::ExceedsBurst, Detail::Quota { limit, .. }) =
            (self.kind(), self.detail)
        {
            write!(f, ", burst {limit}")?;
        }
        if let Detail::Backend { state, failures } = self.detail {
            if *state != BackendState::Up {
                write!(f, ", backend {state}")?;
            }
            match failures {
                0 => {}
                1 => write!(f, ", the last call failed")?,
                _ => write!(f, ", {failures} failures in a row")?,
            }
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
