use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::sync::Arc;

use crate::error::BoxError;

/// How one answer is given to several: what is kept of it, and what each makes of that.
///
/// [`CloneResponse`] (the default) for answers that are `Clone`, `BufferResponse` for HTTP.
///
/// ```
/// use buttress::coalesce::{CloneResponse, Share};
/// use std::io::Error;
/// type Copies = CloneResponse;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// // A result that several wait for: kept once, and a copy made for each.
/// let kept = Share::<u32, Error>::share(&Copies::default(), Ok(7)).await.unwrap();
/// assert_eq!(<Copies as Share<u32, Error>>::unshare(kept).unwrap(), 7);
/// // One that nobody can wait for.
/// assert_eq!(<Copies as Share<u32, Error>>::pass(Ok(8)).unwrap(), 8);
/// # });
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot give `Result<{Res}, {Err}>` to several callers",
    note = "`CloneResponse` needs an answer that is `Clone`; for HTTP use `Coalesce::http` or `.share(BufferResponse::up_to(...))`",
    note = "where the error is `Clone` and is to stay as it is, use `CloneResponse::with_errors_cloned()`"
)]
pub trait Share<Res, Err> {
    /// What is kept.
    type Shared: Clone;
    /// What the callers get.
    type Response;
    /// The error that the callers get.
    type Error;
    /// `Err`: the result is for one caller alone, and the others call for themselves.
    type Future: Future<Output = Result<Self::Shared, Result<Self::Response, Self::Error>>>;

    /// Makes it ready for several.
    fn share(&self, result: Result<Res, Err>) -> Self::Future;

    /// One caller's copy.
    fn unshare(shared: Self::Shared) -> Result<Self::Response, Self::Error>;

    /// A result that is for one from the start, because its request has no key or there was no room.
    fn pass(result: Result<Res, Err>) -> Result<Self::Response, Self::Error>;
}

/// How one error is given to several.
///
/// ```
/// use buttress::coalesce::{ErrorsShared, ShareError};
/// use std::io::Error;
/// let kept = <ErrorsShared as ShareError<Error>>::share(Error::other("broken"));
/// for _ in 0..2 {
///     let mine = <ErrorsShared as ShareError<Error>>::unshare(kept.clone());
///     assert_eq!(mine.to_string(), "broken");
/// }
/// let alone = <ErrorsShared as ShareError<Error>>::pass(Error::other("broken for one"));
/// assert_eq!(alone.to_string(), "broken for one");
/// ```
pub trait ShareError<Err> {
    /// What is kept.
    type Shared: Clone;
    /// What the callers get.
    type Error;

    /// Makes it ready for several.
    fn share(error: Err) -> Self::Shared;

    /// One caller's copy.
    fn unshare(shared: Self::Shared) -> Self::Error;

    /// An error for one.
    fn pass(error: Err) -> Self::Error;
}

/// Errors become a [`BoxError`] with a [`SharedError`] in it: works for every error.
///
/// ```
/// use buttress::coalesce::{ErrorsShared, ShareError};
/// let shared = <ErrorsShared as ShareError<std::io::Error>>::share(std::io::Error::other("broken"));
/// assert_eq!(shared.to_string(), "broken");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorsShared;

impl<Err: Into<BoxError>> ShareError<Err> for ErrorsShared {
    type Shared = SharedError;
    type Error = BoxError;

    fn share(error: Err) -> SharedError {
        SharedError(error.into().into())
    }

    fn unshare(shared: SharedError) -> BoxError {
        shared.into()
    }

    fn pass(error: Err) -> BoxError {
        error.into()
    }
}

/// Errors are cloned and stay what they are: for `Infallible`, `tonic::Status` and errors of yours.
///
/// ```
/// use buttress::coalesce::{ErrorsCloned, ShareError};
/// assert_eq!(<ErrorsCloned as ShareError<u8>>::share(7), 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorsCloned;

impl<Err: Clone> ShareError<Err> for ErrorsCloned {
    type Shared = Err;
    type Error = Err;

    fn share(error: Err) -> Err {
        error
    }

    fn unshare(shared: Err) -> Err {
        shared
    }

    fn pass(error: Err) -> Err {
        error
    }
}

/// An error that several callers got. It prints as the original, which is its `source()`; so refusals and the
/// like are found in it.
///
/// ```
/// use buttress::coalesce::{ErrorsShared, ShareError};
/// use buttress::{LayerKind, Rejection, RejectionKind};
/// let open = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db");
/// let shared = <ErrorsShared as ShareError<Rejection>>::share(open);
/// assert!(Rejection::find(&shared.clone()).is_some());
/// ```
#[derive(Clone, Debug)]
pub struct SharedError(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for SharedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// Answers that are `Clone`: one clone for each caller but the last.
///
/// ```
/// use buttress::coalesce::{CloneResponse, Share};
/// let shared = Ok(7);
/// let answer = <CloneResponse as Share<u8, std::io::Error>>::unshare(shared);
/// assert_eq!(answer.unwrap(), 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloneResponse<E = ErrorsShared> {
    errors: E,
}

impl CloneResponse {
    /// With errors as a [`BoxError`].
    ///
    /// ```
    /// let share = buttress::coalesce::CloneResponse::new();
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { errors: ErrorsShared }
    }

    /// With errors that are `Clone`, too.
    ///
    /// ```
    /// let share = buttress::coalesce::CloneResponse::with_errors_cloned();
    /// ```
    #[must_use]
    pub const fn with_errors_cloned() -> CloneResponse<ErrorsCloned> {
        CloneResponse { errors: ErrorsCloned }
    }
}

impl<Res: Clone, Err, E: ShareError<Err>> Share<Res, Err> for CloneResponse<E> {
    type Shared = Result<Res, E::Shared>;
    type Response = Res;
    type Error = E::Error;
    type Future = Ready<Result<Self::Shared, Result<Res, E::Error>>>;

    fn share(&self, result: Result<Res, Err>) -> Self::Future {
        ready(Ok(result.map_err(E::share)))
    }

    fn unshare(shared: Self::Shared) -> Result<Res, E::Error> {
        shared.map_err(E::unshare)
    }

    fn pass(result: Result<Res, Err>) -> Result<Res, E::Error> {
        result.map_err(E::pass)
    }
}
