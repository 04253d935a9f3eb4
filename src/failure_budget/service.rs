use std::fmt;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::classify::{AnyError, Classify};
use crate::clock::{self, Tick};
use crate::guarded::Guarding;
use crate::reject::{AsError, Reject};
use crate::rejection::Rejection;
use crate::slot::{Seat, Slot};

use super::core::Refusal;
use super::future::ResponseFuture;
use super::guard::Guard;
use super::handle::FailureBudget;

/// A service whose calls a failure budget counts and may refuse: see the [module](super).
///
/// ```
/// use buttress::failure_budget::{FailureBudget, FailureBudgetService};
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: FailureBudgetService<S>,
/// }
/// impl<S> Client<S> {
///     fn new(inner: S) -> Self {
///         Self { service: FailureBudget::new("api").layer().layer(inner) }
///     }
/// }
/// let client = Client::new(7);
/// ```
pub struct FailureBudgetService<S, C = AnyError, R = AsError> {
    inner: S,
    seat: Seat<FailureBudget>,
    classify: C,
    reject: R,
    promised: Promised,
}

/// What was decided about the next call when readiness was asked, while the budget acted.
enum Promised {
    Nothing,
    /// The inner service has been asked.
    Pass,
    /// The inner service has not been asked: the call must be refused, as was decided then.
    Refuse(FailureBudget, Refusal, Tick),
}

impl<S, C, R> FailureBudgetService<S, C, R> {
    pub(super) fn new(inner: S, slot: Slot<FailureBudget>, classify: C, reject: R) -> Self {
        let seat = Seat::new(slot);
        Self { inner, seat, classify, reject, promised: Promised::Nothing }
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use tower::Layer;
    /// assert_eq!(*FailureBudget::new("api").layer().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use tower::Layer;
    /// assert_eq!(FailureBudget::new("api").layer().layer(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Decides about the next call, once.
    #[cold]
    #[inline(never)]
    fn promise(&mut self) {
        if let Promised::Nothing = self.promised
            && let Some(budget) = self.seat.current()
        {
            self.promised = match budget.lease.admit() {
                Ok(()) => Promised::Pass,
                Err(refusal) => Promised::Refuse(budget.clone(), refusal, clock::now()),
            };
        }
    }
}

impl<S, C, R> FailureBudgetService<S, C, R> {
    /// Why the call must be refused, if that was decided.
    #[cold]
    #[inline(never)]
    fn keep_promise(&mut self) -> Option<Rejection> {
        match std::mem::replace(&mut self.promised, Promised::Nothing) {
            Promised::Refuse(budget, refusal, at) => {
                let refusal = refusal.later_by(clock::now().since(at));
                Some(budget.lease.refused(refusal))
            }
            Promised::Nothing | Promised::Pass => None,
        }
    }
}

// Not derived: a clone has been promised nothing, neither readiness nor a refusal.
impl<S: Clone, C: Clone, R: Clone> Clone for FailureBudgetService<S, C, R> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            seat: self.seat.clone(),
            classify: self.classify.clone(),
            reject: self.reject.clone(),
            promised: Promised::Nothing,
        }
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for FailureBudgetService<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureBudgetService")
            .field("inner", &self.inner)
            .field("budget", &self.seat)
            .finish_non_exhaustive()
    }
}

impl<S, C, R, Req> Service<Req> for FailureBudgetService<S, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    /// Asks the budget before the inner service: one that is never ready must not hide that its budget is
    /// spent.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.seat.current().is_some_and(|budget| !budget.lease.core.passes()) {
            self.promise();
        }
        if let Promised::Refuse(..) = self.promised {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(R::map_err))
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let admitted = !matches!(self.promised, Promised::Nothing);
        if admitted && let Some(why) = self.keep_promise() {
            return ResponseFuture::refused(self.reject.reject(req, why));
        }
        let Some(budget) = self.seat.current() else {
            return ResponseFuture::through(self.inner.call(req));
        };
        if !admitted && let Err(refusal) = budget.lease.admit() {
            let why = budget.lease.refused(refusal);
            return ResponseFuture::refused(self.reject.reject(req, why));
        }
        let mut guard = Guard::new(budget.lease.for_call());
        let ticket = self.classify.start(&req);
        let inner = &mut self.inner;
        let response = guard.run(|| inner.call(req));
        ResponseFuture::called(response, guard, self.classify.clone(), ticket)
    }
}
