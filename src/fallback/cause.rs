use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use crate::classify::{Boxed, Classify, Typed};
use crate::error::BoxError;
use crate::outcome::{FailureClass, Outcome};
use crate::rejection::{Rejection, RejectionKind};

/// Why there is a fallback.
///
/// ```
/// use buttress::{FailureClass, Outcome, fallback::Cause};
/// let cause = Cause::failure(Outcome::Failure(FailureClass::Transient));
/// assert!(cause.rejection().is_none());
/// assert_eq!(cause.to_string(), "failure");
/// ```
#[derive(Clone, Debug)]
pub struct Cause {
    rejection: Option<Rejection>,
    outcome: Outcome,
}

impl Cause {
    /// A call that one of our layers refused.
    ///
    /// ```
    /// use buttress::{LayerKind, Rejection, RejectionKind, fallback::Cause};
    /// let open = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db");
    /// assert_eq!(Cause::refusal(open).as_str(), "circuit_open");
    /// ```
    #[must_use]
    pub const fn refusal(rejection: Rejection) -> Self {
        Self { rejection: Some(rejection), outcome: Outcome::Ignored }
    }

    /// A call that came to this.
    ///
    /// ```
    /// use buttress::{Outcome, fallback::Cause};
    /// assert_eq!(Cause::failure(Outcome::Throttled).as_str(), "throttled");
    /// ```
    #[must_use]
    pub const fn failure(outcome: Outcome) -> Self {
        Self { rejection: None, outcome }
    }

    /// The refusal, if it is one.
    ///
    /// ```
    /// use buttress::{Outcome, fallback::Cause};
    /// assert!(Cause::failure(Outcome::FAILURE).rejection().is_none());
    /// ```
    #[must_use]
    pub const fn rejection(&self) -> Option<&Rejection> {
        self.rejection.as_ref()
    }

    /// What the call came to; [`Ignored`](Outcome::Ignored) for a refusal.
    ///
    /// ```
    /// use buttress::{Outcome, fallback::Cause};
    /// assert_eq!(Cause::failure(Outcome::FAILURE).outcome(), Outcome::FAILURE);
    /// ```
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The kind of refusal or the outcome, lower-case with underscores.
    ///
    /// ```
    /// use buttress::{Outcome, fallback::Cause};
    /// assert_eq!(Cause::failure(Outcome::FAILURE).as_str(), "failure");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.rejection.as_ref().map_or(self.outcome.as_str(), |why| why.kind().as_str())
    }

    pub(super) fn into_rejection(self) -> Option<Rejection> {
        self.rejection
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decides which results a fallback answers for: [`Refusals`], [`Failures`], or one of yours.
///
/// In two phases, as [`Classify`], since the request is gone when the result comes.
///
/// ```
/// use buttress::{Outcome, fallback::{Cause, Covers}};
/// /// An empty list.
/// struct Empty;
/// impl<Req, E> Covers<Req, Vec<u8>, E> for Empty {
///     type Ticket = ();
///     fn start(&self, _: &Req) {}
///     fn covers(&self, (): (), result: Result<&Vec<u8>, &E>) -> Option<Cause> {
///         matches!(result, Ok(list) if list.is_empty()).then(|| Cause::failure(Outcome::FAILURE))
///     }
/// }
/// assert!(Covers::<(), _, ()>::covers(&Empty, (), Ok(&vec![])).is_some());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not decide about `Result<{Res}, {Err}>` for requests of type `{Req}`",
    note = "errors have to be a `BoxError` or implement `std::error::Error`, so that a refusal can be found in them"
)]
pub trait Covers<Req, Res, Err> {
    /// What `start` remembers of the request.
    type Ticket;

    /// Looks at the request before it is sent.
    fn start(&self, req: &Req) -> Self::Ticket;

    /// Why this result is to be answered by the fallback; `None` leaves it as it is.
    fn covers(&self, ticket: Self::Ticket, result: Result<&Res, &Err>) -> Option<Cause>;
}

/// Answers for refusals of our layers that say "not now". The marker is inferred.
///
/// ```
/// use buttress::fallback::{Covers, Refusals};
/// let error = std::io::Error::other("broken");
/// assert!(Covers::<(), (), _>::covers(&Refusals::default(), (), Err(&error)).is_none());
/// ```
pub struct Refusals<M> {
    only: fn(&Rejection) -> bool,
    marker: PhantomData<fn() -> M>,
}

impl<M> Refusals<M> {
    pub(super) const NOT_NOW: Self = Self { only: not_now, marker: PhantomData };

    /// Those for which `only` is true, of all.
    ///
    /// ```
    /// use buttress::{RejectionKind, Typed, fallback::Refusals};
    /// let draining_too = Refusals::<Typed>::only(|why| why.kind() != RejectionKind::RequestTooLarge);
    /// ```
    #[must_use]
    pub const fn only(only: fn(&Rejection) -> bool) -> Self {
        Self { only, marker: PhantomData }
    }

    fn of(&self, error: &(dyn StdError + 'static)) -> Option<Cause> {
        let found = Rejection::find(error).filter(|why| (self.only)(why))?;
        Some(Cause::refusal(found.clone()))
    }
}

fn not_now(why: &Rejection) -> bool {
    matches!(
        why.kind(),
        RejectionKind::RateLimited
            | RejectionKind::CircuitOpen
            | RejectionKind::Overloaded
            | RejectionKind::BudgetExhausted
            | RejectionKind::DeadlineExceeded
            | RejectionKind::StoreUnavailable
    )
}

impl<M> Default for Refusals<M> {
    fn default() -> Self {
        Self::NOT_NOW
    }
}

impl<M> Clone for Refusals<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Refusals<M> {}

impl<M> fmt::Debug for Refusals<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
}

impl<Req, Res, Err: StdError + 'static> Covers<Req, Res, Err> for Refusals<Typed> {
    type Ticket = ();

    #[inline]
    fn start(&self, _: &Req) {}

    #[inline]
    fn covers(&self, (): (), result: Result<&Res, &Err>) -> Option<Cause> {
        self.of(result.err()?)
    }
}

impl<Req, Res> Covers<Req, Res, BoxError> for Refusals<Boxed> {
    type Ticket = ();

    #[inline]
    fn start(&self, _: &Req) {}

    #[inline]
    fn covers(&self, (): (), result: Result<&Res, &BoxError>) -> Option<Cause> {
        self.of(&**result.err()?)
    }
}

/// Answers for [`Refusals`], and for what a [`Classify`] calls a transient or flaky failure, or a throttle.
///
/// ```
/// use buttress::{AnyError, fallback::{Covers, Failures, Refusals}};
/// use std::io;
/// let failures = Failures::new(AnyError, Refusals::default());
/// let covers = |kind: io::ErrorKind| {
///     let ticket = Covers::<(), (), io::Error>::start(&failures, &());
///     Covers::<(), (), io::Error>::covers(&failures, ticket, Err(&kind.into())).is_some()
/// };
/// assert!(covers(io::ErrorKind::ConnectionReset));
/// assert!(!covers(io::ErrorKind::PermissionDenied));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Failures<C, V> {
    classify: C,
    refusals: V,
}

impl<C, V> Failures<C, V> {
    /// What `refusals` covers, and the failures of `classify`.
    ///
    /// ```
    /// use buttress::{AnyError, Typed, fallback::{Failures, Refusals}};
    /// let failures = Failures::new(AnyError, Refusals::<Typed>::default());
    /// ```
    #[must_use]
    pub const fn new(classify: C, refusals: V) -> Self {
        Self { classify, refusals }
    }
}

impl<Req, Res, Err, C, V> Covers<Req, Res, Err> for Failures<C, V>
where
    C: Classify<Req, Res, Err>,
    V: Covers<Req, Res, Err>,
{
    type Ticket = (C::Ticket, V::Ticket);

    #[inline]
    fn start(&self, req: &Req) -> Self::Ticket {
        (self.classify.start(req), self.refusals.start(req))
    }

    #[inline]
    fn covers(&self, (ticket, refused): Self::Ticket, result: Result<&Res, &Err>) -> Option<Cause> {
        if let Some(cause) = self.refusals.covers(refused, result) {
            return Some(cause);
        }
        let outcome = self.classify.finish(ticket, result).outcome;
        matches!(
            outcome,
            Outcome::Failure(FailureClass::Transient | FailureClass::Flaky) | Outcome::Throttled
        )
        .then(|| Cause::failure(outcome))
    }
}
