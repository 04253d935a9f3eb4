//! What happened to a call, in the one vocabulary every layer shares.

use std::any::Any;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::error::{BoxError, Error};
use crate::rejection::{Rejection, RejectionKind};

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

/// What a [`Classify`] says about one finished call.
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

/// Judges one call, in two phases because the request is gone when its answer comes.
///
/// Every layer that has to know whether a call worked takes one. `start` sees the request and
/// returns a ticket with what must be remembered of it; `finish` sees the result and the ticket.
/// Neither is called under a lock. A panic inside either unwinds through the caller and leaves
/// every layer usable.
///
/// For closures see [`classify_fn`]; for errors [`AnyError`] (the default everywhere) and
/// [`error_chain`]; for HTTP and gRPC `buttress::http::standard`.
///
/// ```
/// use buttress::{Classify, FailureClass, Verdict};
///
/// /// An empty answer is a flaky failure.
/// struct NotEmpty;
/// impl<Req, E> Classify<Req, String, E> for NotEmpty {
///     type Ticket = ();
///     fn start(&self, _: &Req) {}
///     fn finish(&self, (): (), result: Result<&String, &E>) -> Verdict {
///         match result {
///             Ok(text) if text.is_empty() => Verdict::failure(FailureClass::Flaky),
///             Ok(_) => Verdict::success(),
///             Err(_) => Verdict::failure(FailureClass::Transient),
///         }
///     }
/// }
/// let verdict = Classify::<(), _, ()>::finish(&NotEmpty, (), Ok(&String::new()));
/// assert!(verdict.outcome.is_failure());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot classify `Result<{Res}, {Err}>` for requests of type `{Req}`",
    note = "use `buttress::AnyError`, `buttress::error_chain()`, `buttress::http::standard()` or `buttress::classify_fn(|result| ...)`"
)]
pub trait Classify<Req, Res, Err> {
    /// What `start` remembers of the request.
    type Ticket;

    /// Looks at the request before it is sent.
    fn start(&self, req: &Req) -> Self::Ticket;

    /// Judges the result.
    fn finish(&self, ticket: Self::Ticket, result: Result<&Res, &Err>) -> Verdict;

    /// Judges a call that was cut off because it took too long, so there is no result. Unless
    /// overridden a transient failure of which nobody can tell whether it took effect; the ready-made
    /// classifiers that do not look at requests call it safe to retry, as they do any other timeout.
    fn expired(&self, ticket: Self::Ticket) -> Verdict {
        drop(ticket);
        Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Unknown { after: None })
    }
}

/// The same classifier, except that errors for which `excluded` is true are [`Outcome::Ignored`]
/// and not retried.
///
/// ```
/// use buttress::{exclude, AnyError, Classify, Outcome};
/// use std::io;
/// let c = exclude(AnyError, |e: &io::Error| e.kind() == io::ErrorKind::NotFound);
/// let missing = io::Error::from(io::ErrorKind::NotFound);
/// let verdict = Classify::<(), (), io::Error>::finish(&c, (), Err(&missing));
/// assert_eq!(verdict.outcome, Outcome::Ignored);
/// ```
pub fn exclude<Err, C, F>(classifier: C, excluded: F) -> Exclude<C, F>
where
    F: Fn(&Err) -> bool,
{
    Exclude { inner: classifier, excluded }
}

/// See [`exclude`].
#[derive(Clone, Copy)]
pub struct Exclude<C, F> {
    inner: C,
    excluded: F,
}

impl<C: fmt::Debug, F> fmt::Debug for Exclude<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclude").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<Req, Res, Err, C, F> Classify<Req, Res, Err> for Exclude<C, F>
where
    C: Classify<Req, Res, Err>,
    F: Fn(&Err) -> bool,
{
    type Ticket = C::Ticket;

    fn start(&self, req: &Req) -> Self::Ticket {
        self.inner.start(req)
    }

    fn finish(&self, ticket: Self::Ticket, result: Result<&Res, &Err>) -> Verdict {
        match result {
            Err(error) if (self.excluded)(error) => Verdict::ignored(),
            result => self.inner.finish(ticket, result),
        }
    }

    fn expired(&self, ticket: Self::Ticket) -> Verdict {
        self.inner.expired(ticket)
    }
}

/// The default classifier: every `Ok` is a success; an `Err` is looked up by its type.
///
/// A boxed error ([`BoxError`]), an [`io::Error`] and a [`Rejection`] are looked into (see
/// [`judge_error`]), also inside an [`Error`]; any other type is a transient failure, even a refusal in
/// an `Error<E>` of another `E`. To look into the `source()` chain of a concrete error type use
/// [`error_chain`].
///
/// ```
/// use buttress::{AnyError, Classify, FailureClass, Outcome};
/// use std::io;
/// let denied = io::Error::from(io::ErrorKind::PermissionDenied);
/// let verdict = Classify::<(), (), io::Error>::finish(&AnyError, (), Err(&denied));
/// assert_eq!(verdict.outcome, Outcome::Failure(FailureClass::Permanent));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnyError;

impl<Req, Res, Err: 'static> Classify<Req, Res, Err> for AnyError {
    type Ticket = ();

    #[inline]
    fn start(&self, _: &Req) {}

    #[inline]
    fn finish(&self, (): (), result: Result<&Res, &Err>) -> Verdict {
        match result {
            Ok(_) => Verdict::success(),
            Err(error) => judge_any(error),
        }
    }

    fn expired(&self, (): ()) -> Verdict {
        Verdict::failure(FailureClass::Transient)
    }
}

#[cold]
fn judge_any<E: 'static>(error: &E) -> Verdict {
    as_std_error(error).map_or(Verdict::failure(FailureClass::Transient), judge_error)
}

/// The errors that can be looked into without a bound on their type, because they are known by name.
pub(crate) fn as_std_error<E: 'static>(error: &E) -> Option<&(dyn StdError + 'static)> {
    fn known<T: StdError + 'static>(any: &dyn Any) -> Option<&(dyn StdError + 'static)> {
        any.downcast_ref::<T>().map(|error| error as _)
    }
    let any: &dyn Any = error;
    if let Some(boxed) = any.downcast_ref::<BoxError>() {
        return Some(&**boxed);
    }
    if let Some(error) = any.downcast_ref::<Error<BoxError>>() {
        return Some(match error {
            Error::Rejected(rejection) => rejection,
            Error::Inner(inner) => &**inner,
        });
    }
    known::<Rejection>(any)
        .or_else(|| known::<io::Error>(any))
        .or_else(|| known::<Error<io::Error>>(any))
        .or_else(|| known::<Error<Infallible>>(any))
}

/// A classifier that walks the `source()` chain of the error type of the service it is used on:
/// see [`error_chain`].
pub struct ErrorChain<M>(std::marker::PhantomData<fn() -> M>);

impl<M> Clone for ErrorChain<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for ErrorChain<M> {}

impl<M> fmt::Debug for ErrorChain<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorChain")
    }
}

/// Marker: the error type implements [`std::error::Error`]. Inferred, never written.
#[derive(Debug)]
#[non_exhaustive]
pub struct Typed;

/// Marker: the error type is [`BoxError`]. Inferred, never written.
#[derive(Debug)]
#[non_exhaustive]
pub struct Boxed;

/// Classifies any error type by its whole `source()` chain (see [`judge_error`]); every `Ok` is a
/// success. The marker is inferred.
///
/// ```
/// use buttress::{error_chain, Classify, FailureClass, Outcome};
/// use std::io;
/// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
/// let verdict = Classify::<(), (), io::Error>::finish(&error_chain(), (), Err(&refused));
/// assert_eq!(verdict.outcome, Outcome::Failure(FailureClass::Transient));
/// ```
#[must_use]
pub fn error_chain<M>() -> ErrorChain<M> {
    ErrorChain(std::marker::PhantomData)
}

impl<Req, Res, Err: StdError + 'static> Classify<Req, Res, Err> for ErrorChain<Typed> {
    type Ticket = ();

    #[inline]
    fn start(&self, _: &Req) {}

    #[inline]
    fn finish(&self, (): (), result: Result<&Res, &Err>) -> Verdict {
        match result {
            Ok(_) => Verdict::success(),
            Err(error) => judge_error(error),
        }
    }

    fn expired(&self, (): ()) -> Verdict {
        Verdict::failure(FailureClass::Transient)
    }
}

impl<Req, Res> Classify<Req, Res, BoxError> for ErrorChain<Boxed> {
    type Ticket = ();

    #[inline]
    fn start(&self, _: &Req) {}

    #[inline]
    fn finish(&self, (): (), result: Result<&Res, &BoxError>) -> Verdict {
        match result {
            Ok(_) => Verdict::success(),
            Err(error) => judge_error(&**error),
        }
    }

    fn expired(&self, (): ()) -> Verdict {
        Verdict::failure(FailureClass::Transient)
    }
}

/// Classifies with a closure over the result; the request is not looked at.
///
/// ```
/// use buttress::{classify_fn, Classify, FailureClass, Verdict};
/// let c = classify_fn(|result: Result<&u16, &()>| match result {
///     Ok(status) if *status < 500 => Verdict::success(),
///     _ => Verdict::failure(FailureClass::Transient),
/// });
/// let ticket = Classify::<(), _, _>::start(&c, &());
/// assert!(Classify::<(), _, _>::finish(&c, ticket, Ok(&503)).outcome.is_failure());
/// ```
pub fn classify_fn<Res, Err, F>(f: F) -> ClassifyFn<F>
where
    F: Fn(Result<&Res, &Err>) -> Verdict,
{
    ClassifyFn { f }
}

/// See [`classify_fn`].
#[derive(Clone, Copy)]
pub struct ClassifyFn<F> {
    f: F,
}

impl<F> fmt::Debug for ClassifyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClassifyFn")
    }
}

impl<Req, Res, Err, F> Classify<Req, Res, Err> for ClassifyFn<F>
where
    F: Fn(Result<&Res, &Err>) -> Verdict,
{
    type Ticket = ();

    fn start(&self, _: &Req) {}

    fn finish(&self, (): (), result: Result<&Res, &Err>) -> Verdict {
        (self.f)(result)
    }

    fn expired(&self, (): ()) -> Verdict {
        Verdict::failure(FailureClass::Transient)
    }
}

/// Judges an error by itself and everything in its `source()` chain, the first that is known wins:
///
/// - a [`Rejection`] is [`Outcome::Ignored`] (it says nothing about the callee), and is retried only
///   where [`Rejection::is_retryable`] says so;
/// - an [`io::Error`]: refused, reset, aborted, unreachable, broken pipe, timed out, unexpected end
///   and the like are transient; not found, permission denied, invalid input and data, unsupported
///   and already exists are permanent;
/// - `tokio::time::error::Elapsed` is transient.
///
/// Anything else is a transient failure: an error nobody knows is more often a broken connection
/// than bad input, and a retry is bounded by attempts and budget anyway.
///
/// ```
/// use buttress::{judge_error, FailureClass, Outcome};
/// use std::io;
/// let error = io::Error::other(io::Error::from(io::ErrorKind::InvalidInput));
/// assert_eq!(judge_error(&error).outcome, Outcome::Failure(FailureClass::Permanent));
/// ```
#[must_use]
#[cold]
pub fn judge_error(error: &(dyn StdError + 'static)) -> Verdict {
    let mut next = Some(error);
    // A chain that loops would be a bug of the error type; 32 levels is more than any real one has.
    for _ in 0..32 {
        let Some(error) = next else { break };
        if let Some(rejection) = error.downcast_ref::<Rejection>() {
            return judge_rejection(rejection);
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(verdict) = judge_io(io)
        {
            return verdict;
        }
        if error.is::<tokio::time::error::Elapsed>() {
            return Verdict::failure(FailureClass::Transient);
        }
        // An `io::Error` that carries another error shows it through `get_ref`, not `source()`.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    Verdict::failure(FailureClass::Transient)
}

fn judge_rejection(rejection: &Rejection) -> Verdict {
    if rejection.kind() == RejectionKind::Injected {
        return Verdict::failure(FailureClass::Transient);
    }
    let retry = if rejection.is_retryable() {
        RetryHint::Safe { after: rejection.retry_after() }
    } else {
        RetryHint::Never
    };
    Verdict::new(Outcome::Ignored, retry)
}

fn judge_io(error: &io::Error) -> Option<Verdict> {
    use io::ErrorKind as K;
    let class = match error.kind() {
        K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::NotConnected
        | K::BrokenPipe
        | K::TimedOut
        | K::UnexpectedEof
        | K::Interrupted
        | K::WouldBlock
        | K::WriteZero
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::AddrInUse
        | K::AddrNotAvailable => FailureClass::Transient,
        K::NotFound
        | K::PermissionDenied
        | K::InvalidInput
        | K::InvalidData
        | K::Unsupported
        | K::AlreadyExists => FailureClass::Permanent,
        // `Other` and kinds yet to come say nothing; the error inside may.
        _ => return None,
    };
    Some(Verdict::failure(class))
}
