use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use super::config::InFlight;
use super::detached::Counted;
use super::exchange::sealed::{Exchange, Look, Record};
use super::future::ResponseFuture;
use super::layer::Parts;
use super::work::{self, Job};
use crate::reject::{AsError, Reject};
use crate::store::Store;

/// The service of [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// As ready as the wrapped service. A call that the layer does not concern is passed to it as it is; any
/// other takes the ready instance with it and runs on its own from the moment its request has been read, so
/// the wrapped service must be `Clone` and `Send`. A refused call does not reach the wrapped service.
///
/// ```
/// use buttress::idempotency::IdempotencyService;
/// // By name, in a server of our own.
/// struct Server<S, G, P> {
///     service: IdempotencyService<S, G, P>,
/// }
/// ```
pub struct IdempotencyService<S, G, P, R = AsError> {
    inner: S,
    parts: Arc<Parts<G, P>>,
    reject: R,
}

impl<S, G, P, R> IdempotencyService<S, G, P, R> {
    pub(super) fn new(inner: S, parts: Arc<Parts<G, P>>, reject: R) -> Self {
        Self { inner, parts, reject }
    }
}

impl<S: Clone, G, P, R: Clone> Clone for IdempotencyService<S, G, P, R> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.parts), self.reject.clone())
    }
}

impl<S: fmt::Debug, G, P, R> fmt::Debug for IdempotencyService<S, G, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyService")
            .field("inner", &self.inner)
            .field("gate", &self.parts.gate)
            .finish_non_exhaustive()
    }
}

impl<S, Req, G, P, R> Service<Req> for IdempotencyService<S, G, P, R>
where
    S: Service<P::Inner> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    Req: 'static,
    G: Store,
    P: Exchange<Req> + Record<S::Response, S::Error>,
    R: Reject<
            <P as Exchange<Req>>::Inner,
            <P as Record<S::Response, S::Error>>::Answer,
            S::Error,
            Error: Send + 'static,
        > + Clone
        + Send
        + 'static,
{
    type Response = <P as Record<S::Response, S::Error>>::Answer;
    type Error = R::Error;
    type Future = ResponseFuture<S::Future, Result<Self::Response, R::Error>, (Req, P, R)>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(R::map_err))
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let held = match self.parts.exchange.look(req) {
            Look::Pass(req) => return ResponseFuture::passing(self.inner.call(req)),
            Look::Refuse(req, refusal) => {
                let why = work::refusal(&self.parts, refusal);
                return ResponseFuture::answered(self.reject.reject(req, why));
            }
            Look::Gate(held) => held,
        };
        // The clone stays here; the ready instance goes with the call.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let asks = self.parts.gate.shared.settings.in_flight != InFlight::Reject;
        let (parts, reject) = (Counted::of(&self.parts), self.reject.clone());
        ResponseFuture::working(asks, |caller| {
            Box::pin(Job { inner, parts, reject, caller }.run(held))
        })
    }
}
