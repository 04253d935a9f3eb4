use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use super::future::{ResponseFuture, WaitingFuture};
use super::handle::RateLimiter;
use super::layer::{Parts, Refuse, Wait};
use super::limits::sealed_limit::Limit;
use super::limits::sealed_wait::Waitable;
use super::meter::sealed::Meter;
use super::shared::now;
use super::stamp::NoHeaders;
use super::stamp::sealed::Stamp;
use super::wait::Through;
use crate::context::ReadContext;
use crate::reject::{AsError, Reject};
use crate::slot::Seat;
use crate::sync::Lease;

/// The service of [`RateLimitLayer`](super::RateLimitLayer).
///
/// Refusing: as ready as the wrapped service. The limit is asked in `call`, when the request and its key
/// are known; a refused call does not reach the wrapped service, whose readiness then stays for the
/// next call on this instance. Waiting: always ready; see [`RateLimitLayer::wait`](super::RateLimitLayer::wait). With nothing
/// in its [slot](super::RateLimitLayer::from_slot) it is as ready as the wrapped service, and the next call passes.
///
/// ```
/// use buttress::Quota;
/// use buttress::rate_limit::{RateLimitLayer, RateLimitService, RateLimiter};
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: RateLimitService<S, RateLimiter>,
/// }
/// impl<S> Client<S> {
///     fn new(inner: S) -> Self {
///         let limiter = RateLimiter::new(Quota::per_minute(60).expect("not none"));
///         Self { service: RateLimitLayer::new(limiter).layer(inner) }
///     }
/// }
/// let client = Client::new(7);
/// ```
pub struct RateLimitService<S, L, R = AsError, M = Refuse, H = NoHeaders> {
    inner: S,
    /// `None`: as if the layer were not there.
    parts: Option<Lease<Parts<L, R, M>>>,
    /// Where one of the limiters comes from, if it may change.
    seat: Option<Seat<RateLimiter>>,
    /// Nobody had to wait when readiness was asked, and the wrapped service has been found ready.
    found_ready: bool,
    headers: PhantomData<fn() -> H>,
}

impl<S, L, R, M, H> RateLimitService<S, L, R, M, H> {
    pub(crate) fn new(
        inner: S,
        parts: Option<Lease<Parts<L, R, M>>>,
        seat: Option<Seat<RateLimiter>>,
    ) -> Self {
        Self { inner, parts, seat, found_ready: false, headers: PhantomData }
    }
}

impl<S: Clone, L, R, M, H> Clone for RateLimitService<S, L, R, M, H> {
    // The inner service last, and not by `new`: made in its place, or all of it is copied for each layer of a stack.
    #[inline(always)]
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            seat: self.seat.clone(),
            found_ready: false,
            headers: PhantomData,
            inner: self.inner.clone(),
        }
    }
}

impl<S: fmt::Debug, L: fmt::Debug, R, M: fmt::Debug, H> fmt::Debug
    for RateLimitService<S, L, R, M, H>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("inner", &self.inner)
            .field("limits", &self.parts.as_ref().map(|parts| &parts.limits))
            .field("mode", &self.parts.as_ref().map(|parts| &parts.mode))
            .finish_non_exhaustive()
    }
}

impl<S, Req, L, R, H> Service<Req> for RateLimitService<S, L, R, Refuse, H>
where
    S: Service<Req>,
    L: Limit<Req>,
    R: Reject<Req, S::Response, S::Error>,
    H: Stamp<S::Response>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S::Future, Result<S::Response, R::Error>, H::Ink, (Req, R, H)>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(R::map_err))
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let Some(parts) = self.parts.as_deref() else {
            return ResponseFuture::through(self.inner.call(req));
        };
        let there = self.seat.as_mut().and_then(Seat::current).map(|limiter| &*limiter);
        if parts.limits.is_absent(there) {
            return ResponseFuture::through(self.inner.call(req));
        }
        // User code first: a slow key extractor must not make the time of the decision stale.
        let meter = parts.limits.meter(&req, there);
        match meter.admit(1, now()) {
            Ok(level) => ResponseFuture::called(self.inner.call(req), H::ink(level)),
            Err(refusal) => {
                let why = refusal.finish();
                ResponseFuture::refused(refuse::<_, _, _, _, H>(&parts.reject, req, why))
            }
        }
    }
}

/// Answers a refused request and stamps the answer.
pub(crate) fn refuse<Req, Res, Err, R, H>(
    reject: &R,
    req: Req,
    why: crate::rejection::Rejection,
) -> Result<Res, R::Error>
where
    R: Reject<Req, Res, Err>,
    H: Stamp<Res>,
{
    if !H::WRITES {
        return reject.reject(req, why);
    }
    let mut response = reject.reject(req, why.clone())?;
    H::refused(&why, &mut response);
    Ok(response)
}

impl<S, Req, L, R, X, H> Service<Req> for RateLimitService<S, L, R, Wait<X>, H>
where
    S: Service<Req> + Clone,
    L: Limit<Req> + Waitable,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
    H: Stamp<S::Response>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = WaitingFuture<S, S::Future, Req, L, R, H, H::Ink, X>;

    /// Always ready: a request parked here would be invisible to the queue, and making the wrapped
    /// service ready for it would hold one of its slots for nothing.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let Some(parts) = self.parts.as_deref() else {
            return self.inner.poll_ready(cx).map_err(R::map_err);
        };
        if let Some(seat) = &mut self.seat
            && (self.found_ready || parts.limits.limiter(seat.current().map(|it| &*it)).is_none())
        {
            let ready = ready!(self.inner.poll_ready(cx));
            self.found_ready = ready.is_ok();
            return Poll::Ready(ready.map_err(R::map_err));
        }
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let Some(parts) = self.parts.as_mut().filter(|_| !mem::take(&mut self.found_ready)) else {
            return WaitingFuture::through(self.inner.call(req));
        };
        let slot = self.seat.as_ref().map(|seat| seat.slot().clone());
        let there = self.seat.as_mut().and_then(Seat::current).map(|limiter| &*limiter);
        let n = parts.limits.cost(&req);
        // `None`: it was there when readiness was asked, and the wrapped service was not asked.
        let limiter = parts.limits.limiter(there);
        let through = limiter.map(|limiter| Through { shared: Arc::clone(&limiter.shared), slot });
        let parts = parts.for_call();
        // It will be asked whether it is ready. Where a limit comes and goes, the instance here may have been asked without
        // one and wait for a place: it goes with the call, or nobody would have that place.
        let mut inner = self.inner.clone();
        if self.seat.is_some() {
            mem::swap(&mut inner, &mut self.inner);
        }
        WaitingFuture::new(through, n, parts, req, inner)
    }
}
