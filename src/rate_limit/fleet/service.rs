use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::handle::SharedRateLimiter;
use super::inner::Known;
use super::layer::sealed::Which;
use super::layer::{ForAll, Parts};
use crate::rate_limit::ledger::Level;
use crate::rate_limit::service::refuse;
use crate::rate_limit::stamp::NoHeaders;
use crate::rate_limit::stamp::sealed::Stamp;
use crate::reject::{AsError, Reject};
use crate::rejection::Rejection;
use crate::store::RecordId;
use crate::sync::{Lease, Ref};

/// The service of [`SharedRateLimitLayer`](super::SharedRateLimitLayer). Always ready: nothing is asked before
/// the request is known, and the wrapped service is made ready when it is admitted.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// use buttress::rate_limit::{RateLimiter, SharedRateLimitLayer, SharedRateLimitService, WhenDown};
/// use buttress::store::MemoryStore;
/// use tower::{Layer, ServiceExt, service_fn};
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: SharedRateLimitService<S>,
/// }
/// let limiter = RateLimiter::shared(MemoryStore::default(), "backend", WhenDown::Allow)
///     .quota("1/min".parse()?)
///     .build()?;
/// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
/// let client = Client { service: SharedRateLimitLayer::new(limiter).layer(double) };
/// assert_eq!(client.service.clone().oneshot(4).await?, 8);
/// assert!(client.service.oneshot(4).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct SharedRateLimitService<S, W = ForAll, R = AsError, H = NoHeaders> {
    inner: S,
    parts: Lease<Parts<W, R>>,
    headers: PhantomData<fn() -> H>,
}

impl<S, W, R, H> SharedRateLimitService<S, W, R, H> {
    pub(super) fn new(inner: S, parts: Lease<Parts<W, R>>) -> Self {
        Self { inner, parts, headers: PhantomData }
    }
}

impl<S: Clone, W, R, H> Clone for SharedRateLimitService<S, W, R, H> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.parts.clone())
    }
}

impl<S: fmt::Debug, W, R, H> fmt::Debug for SharedRateLimitService<S, W, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimitService")
            .field("inner", &self.inner)
            .field("limiter", &self.parts.limiter)
            .finish_non_exhaustive()
    }
}

impl<S, Req, W, R, H> Service<Req> for SharedRateLimitService<S, W, R, H>
where
    S: Service<Req> + Clone,
    W: Which<Req>,
    R: Reject<Req, S::Response, S::Error>,
    H: Stamp<S::Response>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = SharedResponseFuture<S, S::Future, Req, W, R, H, H::Ink>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let parts = self.parts.for_call();
        let cost = parts.which.cost(&req);
        let limiter = &parts.limiter;
        let known = match parts.which.bucket(limiter, &req) {
            None => Ok(limiter.inner.unlimited()),
            Some(id) => match limiter.inner.known(&id, cost) {
                Known::Decided(decided) => decided,
                Known::Ask(seat) => {
                    let asked = ask(limiter.clone(), id, seat, cost);
                    let call = Some(self.take_inner(req, parts));
                    return SharedResponseFuture::new(State::Asking {
                        asked: Box::pin(asked),
                        call,
                    });
                }
            },
        };
        let call = Some(self.take_inner(req, parts));
        SharedResponseFuture::new(State::Readying { admitted: Some(known), call })
    }
}

impl<S: Clone, W, R, H> SharedRateLimitService<S, W, R, H> {
    /// The clone stays here; the future owns the instance it will make ready and call.
    fn take_inner<Req>(&mut self, req: Req, parts: Ref<Parts<W, R>>) -> Call<S, Req, W, R> {
        let clone = self.inner.clone();
        Call { inner: mem::replace(&mut self.inner, clone), req, parts }
    }
}

async fn ask(
    limiter: SharedRateLimiter,
    id: RecordId,
    seat: Option<std::sync::Arc<super::table::Seat>>,
    cost: u64,
) -> Result<Level, Rejection> {
    limiter.inner.ask(&id, seat, cost).await
}

type Asked = Pin<Box<dyn Future<Output = Result<Level, Rejection>> + Send>>;

struct Call<S, Req, W, R> {
    inner: S,
    req: Req,
    parts: Ref<Parts<W, R>>,
}

pin_project! {
    /// The future of a [`SharedRateLimitService`]: asks the store if it must, makes the wrapped service
    /// ready, calls it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::rate_limit::{RateLimiter, SharedRateLimitLayer, SharedResponseFuture, WhenDown};
    /// use buttress::store::MemoryStore;
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let limiter = RateLimiter::shared(MemoryStore::default(), "backend", WhenDown::Allow)
    ///     .quota("100/s".parse()?)
    ///     .build()?;
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = SharedRateLimitLayer::new(limiter).layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: SharedResponseFuture<_, _, _, _, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct SharedResponseFuture<S, F, Req, W, R, H, I> {
        #[pin]
        state: State<S, F, Req, W, R, I>,
        marker: PhantomData<fn() -> H>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req, W, R, I> {
        Asking { asked: Asked, call: Option<Call<S, Req, W, R>> },
        Readying { admitted: Option<Result<Level, Rejection>>, call: Option<Call<S, Req, W, R>> },
        Called { #[pin] future: F, ink: Option<I> },
        Done,
    }
}

impl<S, F, Req, W, R, H, I> SharedResponseFuture<S, F, Req, W, R, H, I> {
    fn new(state: State<S, F, Req, W, R, I>) -> Self {
        Self { state, marker: PhantomData }
    }
}

impl<S, Req, W, R, H> Future for SharedResponseFuture<S, S::Future, Req, W, R, H, H::Ink>
where
    S: Service<Req>,
    R: Reject<Req, S::Response, S::Error>,
    H: Stamp<S::Response>,
{
    type Output = Result<S::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Asking { asked, call } => {
                    let admitted = Some(ready!(asked.as_mut().poll(cx)));
                    let call = call.take();
                    this.state.set(State::Readying { admitted, call });
                }
                StateProj::Readying { admitted, call } => {
                    if let (Some(Ok(_)), Some(call)) = (&admitted, call.as_mut())
                        && let Err(error) = ready!(call.inner.poll_ready(cx))
                    {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(R::map_err(error)));
                    }
                    let (Some(admitted), Some(call)) = (admitted.take(), call.take()) else {
                        this.state.set(State::Done);
                        continue;
                    };
                    let Call { mut inner, req, parts } = call;
                    match admitted {
                        Ok(level) => {
                            let (future, ink) = (inner.call(req), Some(H::ink(level)));
                            this.state.set(State::Called { future, ink });
                        }
                        Err(why) => {
                            let answer = refuse::<_, _, _, _, H>(&parts.reject, req, why);
                            this.state.set(State::Done);
                            return Poll::Ready(answer);
                        }
                    }
                }
                StateProj::Called { future, ink } => {
                    let mut result = ready!(future.poll(cx)).map_err(R::map_err);
                    if let (Ok(response), Some(ink)) = (&mut result, ink.take()) {
                        H::admitted(ink, response);
                    }
                    return Poll::Ready(result);
                }
                // Polled again after it was ready, which a future need not support.
                StateProj::Done => return Poll::Pending,
            }
        }
    }
}

impl<S, F, Req, W, R, H, I> fmt::Debug for SharedResponseFuture<S, F, Req, W, R, H, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Asking { .. } => "Asking",
            State::Readying { .. } => "Readying",
            State::Called { .. } => "Called",
            State::Done => "Done",
        };
        f.debug_struct("SharedResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
