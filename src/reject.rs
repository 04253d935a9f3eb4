//! What becomes of a refused call.

use std::fmt;

use crate::error::{BoxError, Error};
use crate::rejection::Rejection;

/// Decides what becomes of a call a layer refuses: an error, a typed error, a response or a fallback.
///
/// It gets the request back, so a fallback is just a `Reject`. With a responder the service's error
/// type is untouched: `Infallible` stays `Infallible`, and axum needs no `HandleErrorLayer`.
///
/// | implementation | error type of the service | for |
/// |---|---|---|
/// | [`AsError`] (default) | [`BoxError`] | clients, stacks with tower's own layers |
/// | [`AsTyped`] | [`Error<E>`] | exhaustive matching; allocates nothing |
/// | `buttress::http::problem()`, `status_only()` | unchanged | servers |
/// | [`respond_with`] | unchanged | fallbacks, own envelopes |
///
/// ```
/// use buttress::{LayerKind, Reject, Rejection, RejectionKind};
/// /// Answers, so that the error type of the service stays.
/// struct Apologise;
/// impl<Req, E> Reject<Req, String, E> for Apologise {
///     type Error = E;
///     fn reject(&self, _: Req, why: Rejection) -> Result<String, E> {
///         Ok(format!("sorry: {why}"))
///     }
///     fn reject_sent(&self, why: Rejection) -> Option<Result<String, E>> {
///         Some(Ok(format!("sorry, perhaps it was done: {why}")))
///     }
///     fn map_err(error: E) -> E {
///         error
///     }
/// }
/// let why = Rejection::new(RejectionKind::Overloaded, LayerKind::RateLimit, "api");
/// let answer = Reject::<u32, String, std::io::Error>::reject(&Apologise, 7, why);
/// assert!(answer.unwrap().starts_with("sorry: overloaded"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot turn a refusal into `Result<{Res}, _>` for a service with error `{Err}`",
    note = "use `buttress::AsError`, `buttress::AsTyped`, `buttress::http::problem()` or `buttress::respond_with(|request, rejection| ...)`"
)]
pub trait Reject<Req, Res, Err> {
    /// The error type of the wrapped service.
    type Error;

    /// Answers a refused request.
    ///
    /// # Errors
    /// When a refusal is an error for this service.
    fn reject(&self, req: Req, why: Rejection) -> Result<Res, Self::Error>;

    /// Answers for a request that is gone: it was sent, and its answer is not to be seen. Asked only by
    /// the [conditioner](crate::conditioner). `None`, unless overridden: it takes the request to answer.
    fn reject_sent(&self, why: Rejection) -> Option<Result<Res, Self::Error>> {
        let _ = why;
        None
    }

    /// Converts an error of the inner service.
    fn map_err(error: Err) -> Self::Error;
}

/// Keeps of a request what its refusal may need, for layers that let the request go before they refuse: a
/// [timeout](crate::timeout), a [retry](crate::retry), a follower of a [coalesced](crate::coalesce) call, a
/// [conditioner](crate::conditioner) that loses the reply. They refuse by the value made here, and
/// `buttress::http::problem()` so answers a gRPC call in gRPC's way.
///
/// A [`Reject`] of your own needs an empty implementation to be used there.
///
/// ```
/// use buttress::{Reject, Rejection, Remember};
/// #[derive(Clone)]
/// struct Apologise;
/// impl<E> Reject<(), String, E> for Apologise {
///     type Error = E;
///     fn reject(&self, (): (), why: Rejection) -> Result<String, E> {
///         Ok(format!("sorry: {why}"))
///     }
///     fn map_err(error: E) -> E {
///         error
///     }
/// }
/// impl<Req> Remember<Req> for Apologise {}
/// let layer = buttress::timeout::Timeout::deadlines("api").layer().on_reject(Apologise);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it keeps of a request `{Req}` that is gone when it is refused",
    note = "if that is nothing: `impl<Req> buttress::Remember<Req> for {Self} {{}}`"
)]
pub trait Remember<Req>: Clone {
    /// What refuses this request later.
    ///
    /// ```
    /// use buttress::{AsError, Remember};
    /// // An error needs nothing of the request.
    /// assert_eq!(AsError.remember(&"a request"), AsError);
    /// ```
    #[must_use]
    #[inline]
    fn remember(&self, req: &Req) -> Self {
        let _ = req;
        self.clone()
    }
}

impl<Req> Remember<Req> for AsError {}

impl<Req> Remember<Req> for AsTyped {}

impl<Req, F: Clone> Remember<Req> for RespondWith<F> {}

/// A refusal becomes a [`BoxError`], as in tower's own layers. One allocation per refusal.
///
/// ```
/// use buttress::{AsError, LayerKind, Reject, Rejection, RejectionKind};
/// let why = Rejection::new(RejectionKind::Overloaded, LayerKind::RateLimit, "api");
/// let error = Reject::<(), (), std::io::Error>::reject(&AsError, (), why).unwrap_err();
/// assert!(Rejection::find(&*error).is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsError;

impl<Req, Res, Err: Into<BoxError>> Reject<Req, Res, Err> for AsError {
    type Error = BoxError;

    fn reject(&self, _: Req, why: Rejection) -> Result<Res, BoxError> {
        Err(why.into())
    }

    fn reject_sent(&self, why: Rejection) -> Option<Result<Res, BoxError>> {
        Some(Err(why.into()))
    }

    fn map_err(error: Err) -> BoxError {
        error.into()
    }
}

/// A refusal becomes [`Error::Rejected`], an error of the inner service [`Error::Inner`].
///
/// ```
/// use buttress::{AsTyped, Error, Reject};
/// let inner = <AsTyped as Reject<(), (), u8>>::map_err(3);
/// assert!(matches!(inner, Error::Inner(3)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsTyped;

impl<Req, Res, Err> Reject<Req, Res, Err> for AsTyped {
    type Error = Error<Err>;

    #[inline]
    fn reject(&self, _: Req, why: Rejection) -> Result<Res, Error<Err>> {
        Err(Error::Rejected(why))
    }

    fn reject_sent(&self, why: Rejection) -> Option<Result<Res, Error<Err>>> {
        Some(Err(Error::Rejected(why)))
    }

    #[inline]
    fn map_err(error: Err) -> Error<Err> {
        Error::Inner(error)
    }
}

/// A refusal becomes the response that `f` makes of the request and the reason.
///
/// ```
/// use buttress::{respond_with, LayerKind, Reject, Rejection, RejectionKind};
/// use std::convert::Infallible;
/// let stale = respond_with(|user: u32, _why| format!("cached answer for {user}"));
/// let why = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db");
/// let answer = Reject::<u32, String, Infallible>::reject(&stale, 7, why);
/// assert_eq!(answer.unwrap(), "cached answer for 7");
/// ```
pub fn respond_with<Req, Res, F>(f: F) -> RespondWith<F>
where
    F: Fn(Req, Rejection) -> Res,
{
    RespondWith { f }
}

/// See [`respond_with`].
///
/// ```
/// use buttress::{LayerKind, Reject, Rejection, RejectionKind, RespondWith, respond_with};
/// use std::convert::Infallible;
/// // With a function instead of a closure the type can be written.
/// struct Server {
///     refuse: RespondWith<fn(u32, Rejection) -> String>,
/// }
/// let server = Server { refuse: respond_with(|user, why| format!("not now, {user}: {}", why.name())) };
/// let why = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db");
/// let answer: Result<_, Infallible> = server.refuse.reject(7, why);
/// assert_eq!(answer.unwrap(), "not now, 7: db");
/// ```
#[derive(Clone, Copy)]
pub struct RespondWith<F> {
    f: F,
}

impl<F> fmt::Debug for RespondWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RespondWith")
    }
}

impl<Req, Res, Err, F> Reject<Req, Res, Err> for RespondWith<F>
where
    F: Fn(Req, Rejection) -> Res,
{
    type Error = Err;

    fn reject(&self, req: Req, why: Rejection) -> Result<Res, Err> {
        Ok((self.f)(req, why))
    }

    fn map_err(error: Err) -> Err {
        error
    }
}
