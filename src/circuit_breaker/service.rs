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
    /// The circuit was open when readiness was asked, and the inner service was not: the next call must
    /// be refused, even if the circuit has closed meanwhile.
    refusal: Option<Refusal>,
    /// Under a load balancer.
    balanced: Option<Balanced>,
}

/// Not ready while open.
#[derive(Debug, Default)]
struct Balanced {
    /// The inner service is ready; the circuit must not take that back.
    ready: bool,
    waiting: Option<Reopening>,
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    pub(super) fn new(
        inner: S,
        lease: Lease<Shared>,
        classify: C,
        reject: R,
        unready_while_open: bool,
    ) -> Self {
        let balanced = unready_while_open.then(Balanced::default);
        Self { inner, lease, classify, reject, refusal: None, balanced }
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
            self.balanced.is_some(),
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
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.refusal.is_some() {
            return Poll::Ready(Ok(()));
        }
        if self.balanced.is_some() {
            ready!(self.poll_open(cx));
        } else if self.lease.core.is_shut() && self.will_refuse() {
            return Poll::Ready(Ok(()));
        }
        let ready = ready!(self.inner.poll_ready(cx));
        if let Some(balanced) = &mut self.balanced {
            balanced.ready = ready.is_ok();
        }
        Poll::Ready(ready.map_err(R::map_err))
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let shared = self.lease.for_call();
        if self.refusal.is_none()
            && self.balanced.is_none()
            && let Some(ticket) = shared.core.pass()
        {
            return make(&mut self.inner, req, shared, ticket, &self.classify);
        }
        self.call_with_care(req, shared)
    }
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    #[inline(never)]
    fn call_with_care<Req>(&mut self, req: Req, shared: Ref<Shared>) -> ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error> + Clone,
        R: Reject<Req, S::Response, S::Error>,
    {
        if let Some(balanced) = &mut self.balanced {
            balanced.ready = false;
        }
        let admitted = match self.refusal.take() {
            None => shared.admit(),
            Some(refusal) => {
                shared.core.count_refusal();
                Err(refusal)
            }
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
        Ok(ticket) => make(inner, req, shared, ticket, classify),
        Err(refusal) => ResponseFuture::refused(reject.reject(req, shared.refused(refusal))),
    }
}

#[inline]
fn make<S, C, R, Req>(
    inner: &mut S,
    req: Req,
    shared: Ref<Shared>,
    ticket: Ticket,
    classify: &C,
) -> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    let mut guard = Guard::new(shared, ticket);
    let judge = classify.start(&req);
    let response = guard.run(|| inner.call(req));
    ResponseFuture::called(response, guard, classify.clone(), judge)
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    /// The circuit is shut. Promises a refusal, unless the open time has passed or nothing is refused.
    #[inline(never)]
    fn will_refuse(&mut self) -> bool {
        if !self.lease.is_shadow() {
            self.refusal = self.lease.core.shut(clock::now());
        }
        self.refusal.is_some()
    }

    /// Waits until the circuit lets calls through.
    #[inline(never)]
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(balanced) = &mut self.balanced else { return Poll::Ready(()) };
        while !balanced.ready {
            if let Some(waiting) = &mut balanced.waiting {
                ready!(waiting.poll(cx));
            }
            balanced.waiting = Reopening::of(self.lease.shared());
            if balanced.waiting.is_none() {
                break;
            }
        }
        Poll::Ready(())
    }
}
