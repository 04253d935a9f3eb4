use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::layer::Parts;
use super::ledger::Level;
use super::service::refuse;
use super::shared::{Shared, now};
use super::stamp::sealed::Stamp;
use super::wait::{Grant, Through, Waiting};
use crate::reject::Reject;
use crate::sync::Ref;

pin_project! {
    /// The future of a refusing [`RateLimitService`](super::RateLimitService): the wrapped service's, or an
    /// answer that is there already. Holds nothing of the limiter; dropping it gives nothing back, since
    /// the call was made.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::Quota;
    /// use buttress::rate_limit::{RateLimitLayer, RateLimiter, ResponseFuture};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = RateLimitLayer::new(RateLimiter::new(Quota::per_second(9)?)).layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, T, I, P> {
        #[pin]
        state: State<F, T, I>,
        marker: PhantomData<fn() -> P>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, T, I> {
        Called { #[pin] future: F, ink: Option<I> },
        Refused { answer: Option<T> },
    }
}

impl<F, T, I, P> ResponseFuture<F, T, I, P> {
    #[inline(always)]
    pub(crate) fn called(future: F, ink: I) -> Self {
        Self { state: State::Called { future, ink: Some(ink) }, marker: PhantomData }
    }

    /// Without a limit.
    #[inline]
    pub(crate) fn through(future: F) -> Self {
        Self { state: State::Called { future, ink: None }, marker: PhantomData }
    }

    #[inline]
    pub(crate) fn refused(answer: T) -> Self {
        Self { state: State::Refused { answer: Some(answer) }, marker: PhantomData }
    }
}

impl<F, Req, Res, Err, R, H> Future
    for ResponseFuture<F, Result<Res, R::Error>, H::Ink, (Req, R, H)>
where
    F: Future<Output = Result<Res, Err>>,
    R: Reject<Req, Res, Err>,
    H: Stamp<Res>,
{
    type Output = Result<Res, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { future, ink } => {
                let mut result = ready!(future.poll(cx)).map_err(R::map_err);
                if let (Ok(response), Some(ink)) = (&mut result, ink.take()) {
                    H::admitted(ink, response);
                }
                Poll::Ready(result)
            }
            StateProj::Refused { answer } => match answer.take() {
                Some(answer) => Poll::Ready(answer),
                // Polled again after it was ready, which a future need not support.
                None => Poll::Pending,
            },
        }
    }
}

impl<F, T, I, P> fmt::Debug for ResponseFuture<F, T, I, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Called { .. } => "Called",
            State::Refused { .. } => "Refused",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}

/// A token for a call that has not been made yet: given back on drop.
struct Unspent {
    shared: Arc<Shared>,
    grant: Grant,
}

impl Unspent {
    /// `wanted`: somebody looks at the level.
    fn spend(mut self, wanted: bool) -> Level {
        self.grant = None;
        self.shared.level(if wanted { now() } else { 0 })
    }
}

impl Drop for Unspent {
    fn drop(&mut self) {
        if let Some(receipt) = self.grant.take() {
            self.shared.refund(receipt);
        }
    }
}

pin_project! {
    /// The future of a waiting [`RateLimitService`](super::RateLimitService): waits for the token, makes the
    /// wrapped service ready, calls it. Dropped before that call, it gives its place or token back.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::Quota;
    /// use buttress::rate_limit::{RateLimitLayer, RateLimiter, WaitingFuture};
    /// use std::time::Duration;
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let limiter = RateLimiter::new(Quota::per_second(9)?);
    /// let mut service = RateLimitLayer::new(limiter).wait(Duration::from_secs(1)).layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: WaitingFuture<_, _, _, _, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct WaitingFuture<S, F, Req, L, R, H, I> {
        #[pin]
        state: WaitState<S, F, Req, L, R, I>,
        marker: PhantomData<fn() -> H>,
    }
}

pin_project! {
    #[project = WaitProj]
    enum WaitState<S, F, Req, L, R, I> {
        Waiting { waiting: Waiting<Through>, call: Option<Call<S, Req, L, R>> },
        Readying { unspent: Option<Unspent>, call: Option<Call<S, Req, L, R>> },
        Called { #[pin] future: F, ink: Option<I> },
        Done,
    }
}

struct Call<S, Req, L, R> {
    inner: S,
    req: Req,
    parts: Ref<Parts<L, R>>,
}

impl<S, F, Req, L, R, H, I> WaitingFuture<S, F, Req, L, R, H, I> {
    pub(crate) fn new(
        waiting: Waiting<Through>,
        inner: S,
        req: Req,
        parts: Ref<Parts<L, R>>,
    ) -> Self {
        let call = Some(Call { inner, req, parts });
        Self { state: WaitState::Waiting { waiting, call }, marker: PhantomData }
    }

    /// Without a limit, to a service that is not ready yet.
    pub(crate) fn unlimited(inner: S, req: Req, parts: Ref<Parts<L, R>>) -> Self {
        let call = Some(Call { inner, req, parts });
        Self { state: WaitState::Readying { unspent: None, call }, marker: PhantomData }
    }

    /// Without a limit.
    #[inline(always)]
    pub(crate) fn through(future: F) -> Self {
        Self { state: WaitState::Called { future, ink: None }, marker: PhantomData }
    }
}

impl<S, Req, L, R, H> Future for WaitingFuture<S, S::Future, Req, L, R, H, H::Ink>
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
                WaitProj::Waiting { waiting, call } => {
                    let granted = ready!(waiting.poll(cx));
                    let owner = waiting.owner();
                    let call = call.take();
                    match (granted, call) {
                        (Ok(grant), call) => {
                            let unspent = owner.map(|shared| Unspent { shared, grant });
                            this.state.set(WaitState::Readying { unspent, call });
                        }
                        (Err(why), Some(Call { req, parts, inner: _ })) => {
                            let answer = refuse::<_, _, _, _, H>(&parts.reject, req, why);
                            this.state.set(WaitState::Done);
                            return Poll::Ready(answer);
                        }
                        (Err(_), None) => this.state.set(WaitState::Done),
                    }
                }
                WaitProj::Readying { unspent, call } => {
                    if let Some(call) = call
                        && let Err(error) = ready!(call.inner.poll_ready(cx))
                    {
                        this.state.set(WaitState::Done);
                        return Poll::Ready(Err(R::map_err(error)));
                    }
                    let Some(mut call) = call.take() else {
                        this.state.set(WaitState::Done);
                        continue;
                    };
                    let unspent = unspent.take();
                    let future = call.inner.call(call.req);
                    let ink = unspent.map(|unspent| H::ink(unspent.spend(H::WRITES)));
                    this.state.set(WaitState::Called { future, ink });
                }
                WaitProj::Called { future, ink } => {
                    let mut result = ready!(future.poll(cx)).map_err(R::map_err);
                    if let (Ok(response), Some(ink)) = (&mut result, ink.take()) {
                        H::admitted(ink, response);
                    }
                    return Poll::Ready(result);
                }
                // Polled again after it was ready, which a future need not support.
                WaitProj::Done => return Poll::Pending,
            }
        }
    }
}

impl<S, F, Req, L, R, H, I> fmt::Debug for WaitingFuture<S, F, Req, L, R, H, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            WaitState::Waiting { .. } => "Waiting",
            WaitState::Readying { .. } => "Readying",
            WaitState::Called { .. } => "Called",
            WaitState::Done => "Done",
        };
        f.debug_struct("WaitingFuture").field("state", &state).finish_non_exhaustive()
    }
}
