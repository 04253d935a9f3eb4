//! Who judges a call, and what is known about errors.

use std::any::Any;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::error::{BoxError, Error};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::rejection::{Rejection, RejectionKind};

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
    ///
    /// ```
    /// use buttress::{AnyError, Classify, RetryHint};
    /// let verdict = Classify::<(), (), std::io::Error>::expired(&AnyError, ());
    /// assert!(matches!(verdict.retry, RetryHint::Safe { .. }));
    /// ```
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
///
/// ```
/// use buttress::{AnyError, Exclude, exclude};
/// use std::io;
/// // With a function instead of a closure the type can be written.
/// struct Client {
///     judge: Exclude<AnyError, fn(&io::Error) -> bool>,
/// }
/// fn missing(error: &io::Error) -> bool {
///     error.kind() == io::ErrorKind::NotFound
/// }
/// let client = Client { judge: exclude(AnyError, missing) };
/// # let _ = client.judge;
/// ```
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

/// Judges errors of type `E` with this classifier wherever they are: in a [`BoxError`] or its `source()` chain, in
/// an [`Error<E>`], or bare. In a stack each layer sees the errors of the layers inside of it; what is not an `E`,
/// such as their refusals, is judged as [`AnyError`] does.
///
/// ```
/// use buttress::{BoxError, Classify, FailureClass, Verdict, classify_fn, downcast};
/// use std::num::ParseIntError;
/// let c = downcast::<ParseIntError, _>(classify_fn(|result: Result<&u8, &ParseIntError>| match result {
///     Ok(_) => Verdict::success(),
///     Err(_) => Verdict::failure(FailureClass::Permanent),
/// }));
/// let boxed: BoxError = "x".parse::<u8>().unwrap_err().into();
/// let verdict = Classify::<(), u8, BoxError>::finish(&c, (), Err(&boxed));
/// assert_eq!(verdict, Verdict::failure(FailureClass::Permanent));
/// ```
pub fn downcast<E, C>(classifier: C) -> Downcast<C, E>
where
    E: StdError + 'static,
{
    Downcast { inner: classifier, marker: std::marker::PhantomData }
}

/// See [`downcast`].
///
/// ```
/// use buttress::{Classify, Downcast, ErrorChain, FailureClass, Outcome, Typed, downcast, error_chain};
/// use std::io;
/// struct Client {
///     judge: Downcast<ErrorChain<Typed>, io::Error>,
/// }
/// let client = Client { judge: downcast(error_chain()) };
/// let error: buttress::BoxError = io::Error::from(io::ErrorKind::InvalidInput).into();
/// let verdict = Classify::<(), (), _>::finish(&client.judge, (), Err(&error));
/// assert_eq!(verdict.outcome, Outcome::Failure(FailureClass::Permanent));
/// ```
pub struct Downcast<C, E> {
    inner: C,
    marker: std::marker::PhantomData<fn() -> E>,
}

impl<C: Clone, E> Clone for Downcast<C, E> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), marker: std::marker::PhantomData }
    }
}

impl<C: Copy, E> Copy for Downcast<C, E> {}

impl<C: fmt::Debug, E> fmt::Debug for Downcast<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downcast").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<Req, Res, Err, C, E> Classify<Req, Res, Err> for Downcast<C, E>
where
    C: Classify<Req, Res, E>,
    E: StdError + 'static,
    Err: 'static,
{
    type Ticket = C::Ticket;

    #[inline]
    fn start(&self, req: &Req) -> Self::Ticket {
        self.inner.start(req)
    }

    #[inline]
    fn finish(&self, ticket: Self::Ticket, result: Result<&Res, &Err>) -> Verdict {
        match result {
            Ok(response) => self.inner.finish(ticket, Ok(response)),
            Err(error) => match find::<E, Err>(error) {
                Some(error) => self.inner.finish(ticket, Err(error)),
                None => judge_any(error),
            },
        }
    }

    fn expired(&self, ticket: Self::Ticket) -> Verdict {
        self.inner.expired(ticket)
    }
}

#[cold]
fn find<E: StdError + 'static, Err: 'static>(error: &Err) -> Option<&E> {
    let any: &dyn Any = error;
    if let Some(Error::Inner(inner)) = any.downcast_ref::<Error<E>>() {
        return Some(inner);
    }
    let bare = any.downcast_ref::<E>();
    let mut next = as_std_error(error);
    bare.or_else(|| {
        for _ in 0..DEEPEST {
            let error = next?;
            if let Some(found) = error.downcast_ref::<E>() {
                return Some(found);
            }
            next = below(error);
        }
        None
    })
}

/// A chain that loops would be a bug of the error type; this is more than any real one has.
const DEEPEST: usize = 32;

fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // An `io::Error` that carries another error shows it through `get_ref`, not `source()`.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
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
///
/// ```
/// use buttress::{ErrorChain, Typed, error_chain};
/// use buttress::circuit_breaker::CircuitBreaker;
/// const JUDGE: fn() -> ErrorChain<Typed> = error_chain;
/// let layer = CircuitBreaker::new("db").layer().classify(JUDGE());
/// ```
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
///
/// ```
/// use buttress::{Classify, ErrorChain, Typed, error_chain};
/// // Written only where a type has to be, as in a field.
/// struct Client {
///     judge: ErrorChain<Typed>,
/// }
/// let client = Client { judge: error_chain() };
/// let verdict = Classify::<(), u8, std::io::Error>::finish(&client.judge, (), Ok(&7));
/// assert!(!verdict.outcome.is_failure());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Typed;

/// Marker: the error type is [`BoxError`]. Inferred, never written.
///
/// ```
/// use buttress::{Boxed, BoxError, Classify, ErrorChain, error_chain};
/// // Written only where a type has to be, as in a field.
/// struct Client {
///     judge: ErrorChain<Boxed>,
/// }
/// let client = Client { judge: error_chain() };
/// let error: BoxError = "gone".into();
/// let verdict = Classify::<(), u8, BoxError>::finish(&client.judge, (), Err(&error));
/// assert!(verdict.outcome.is_failure());
/// ```
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
///
/// ```
/// use buttress::{Classify, ClassifyFn, FailureClass, Verdict, classify_fn};
/// // With a function instead of a closure the type can be written.
/// struct Client {
///     judge: ClassifyFn<fn(Result<&u16, &()>) -> Verdict>,
/// }
/// fn by_status(result: Result<&u16, &()>) -> Verdict {
///     match result {
///         Ok(status) if *status < 500 => Verdict::success(),
///         _ => Verdict::failure(FailureClass::Transient),
///     }
/// }
/// let client = Client { judge: classify_fn(by_status) };
/// assert!(!Classify::<(), u16, ()>::finish(&client.judge, (), Ok(&404)).outcome.is_failure());
/// ```
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
///   where [`Rejection::is_retryable`] says so; one of kind [`Injected`](RejectionKind::Injected) is
///   judged by the error behind it;
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
    for _ in 0..DEEPEST {
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
        next = below(error);
    }
    Verdict::failure(FailureClass::Transient)
}

fn judge_rejection(rejection: &Rejection) -> Verdict {
    // It plays the callee's failure, so it is judged as the error that it shows would be.
    if rejection.kind() == RejectionKind::Injected {
        let shown = StdError::source(rejection);
        return shown.map_or(Verdict::failure(FailureClass::Transient), judge_error);
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
