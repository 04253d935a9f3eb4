use std::fmt;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::clock;
use crate::outcome::Classify;
use crate::rejection::Reject;
use crate::sync::{Lease, Ref};

use super::core::{Refusal, Ticket};
use super::future::ResponseFuture;
use super::guard::Guard;
use super::reopening::Reopening;
use super::shared::Shared;

/// A service behind a circuit breaker: see the [module](super).
pub struct CircuitBreakerService<S, C, R> {
    inner: S,
    lease: Lease<Shared>,
    classify: C,
    reject: R,
    readiness: Readiness,
    unready_while_open: bool,
}

#[derive(Debug)]
enum Readiness {
    /// Nothing has been promised.
    Unknown,
    /// The inner service is ready.
    Inner,
    /// The circuit was open and the inner service was not asked: the next call must be refused, even if
    /// the circuit has closed meanwhile.
    Refuse(Refusal),
    /// Waiting for the circuit to let calls through.
    Waiting(Reopening),
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    pub(super) fn new(
        inner: S,
        lease: Lease<Shared>,
        classify: C,
        reject: R,
        unready_while_open: bool,
    ) -> Self {
        Self { inner, lease, classify, reject, readiness: Readiness::Unknown, unready_while_open }
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use tower::Layer;
    /// assert_eq!(*CircuitBreaker::new("db").layer().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use tower::Layer;
    /// assert_eq!(CircuitBreaker::new("db").layer().layer(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> S {
        self.inner
    }
}

// Not derived: a clone has been promised nothing, neither readiness nor a refusal.
impl<S: Clone, C: Clone, R: Clone> Clone for CircuitBreakerService<S, C, R> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.lease.clone(),
            self.classify.clone(),
            self.reject.clone(),
            self.unready_while_open,
        )
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for CircuitBreakerService<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerService")
            .field("inner", &self.inner)
            .field("breaker", &self.lease)
            .finish_non_exhaustive()
    }
}

impl<S, C, R, Req> Service<Req> for CircuitBreakerService<S, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    /// Asks the breaker before the inner service: an inner service that is never ready must not hide that
    /// the circuit is open.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match &mut self.readiness {
            Readiness::Unknown if !self.lease.core.is_shut() && !self.unready_while_open => {}
            Readiness::Refuse(_) => return Poll::Ready(Ok(())),
            Readiness::Inner => {}
            Readiness::Unknown | Readiness::Waiting(_) => ready!(self.poll_shut(cx)),
        }
        if matches!(self.readiness, Readiness::Refuse(_)) {
            return Poll::Ready(Ok(()));
        }
        let ready = ready!(self.inner.poll_ready(cx)).map_err(R::map_err);
        if ready.is_ok() {
            self.readiness = Readiness::Inner;
        }
        Poll::Ready(ready)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let shared = self.lease.for_call();
        let admitted = match std::mem::replace(&mut self.readiness, Readiness::Unknown) {
            Readiness::Refuse(refusal) => {
                shared.core.count_refusal();
                Err(refusal)
            }
            _ => shared.admit(),
        };
        call(&mut self.inner, req, shared, admitted, &self.classify, &self.reject)
    }
}

/// Makes an admitted call, or answers a refused one.
#[inline]
pub(super) fn call<S, C, R, Req>(
    inner: &mut S,
    req: Req,
    shared: Ref<Shared>,
    admitted: Result<Ticket, Refusal>,
    classify: &C,
    reject: &R,
) -> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    match admitted {
        Ok(ticket) => {
            let mut guard = Guard::new(shared, ticket);
            let judge = classify.start(&req);
            let response = guard.run(|| inner.call(req));
            ResponseFuture::called(response, guard, classify.clone(), judge)
        }
        Err(refusal) => ResponseFuture::refused(reject.reject(req, shared.refused(refusal))),
    }
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    /// The circuit is, or may be, shut: promises a refusal, or waits, or finds that it lets calls through.
    #[cold]
    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unready_while_open {
            // In shadow mode nothing is refused, so the inner service must be asked.
            if let Some(refusal) = self.lease.core.shut(clock::now())
                && !self.lease.is_shadow()
            {
                self.readiness = Readiness::Refuse(refusal);
            }
            return Poll::Ready(());
        }
        loop {
            if let Readiness::Waiting(wait) = &mut self.readiness {
                ready!(wait.poll(cx));
                self.readiness = Readiness::Unknown;
            }
            match Reopening::of(self.lease.shared()) {
                None => return Poll::Ready(()),
                Some(wait) => self.readiness = Readiness::Waiting(wait),
            }
        }
    }
}
