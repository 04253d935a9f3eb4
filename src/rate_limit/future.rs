use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::layer::{Parts, Wait};
use super::ledger::Level;
use super::service::refuse;
use super::shared::{Shared, now};
use super::stamp::sealed::Stamp;
use super::wait::{Grant, Through, Waiting};
use crate::clock::{at_hand, until};
use crate::context::{NoContext, ReadContext};
use crate::deadline::Deadline;
use crate::reject::Reject;
use crate::rejection::Rejection;
use crate::sync::Ref;
use crate::wide::Wide;

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
    pub struct WaitingFuture<S, F, Req, L, R, H, I, X = NoContext> {
        #[pin]
        state: WaitState<S, F, Req, L, R, I, X>,
        marker: PhantomData<fn() -> H>,
    }
}

pin_project! {
    #[project = WaitProj]
    #[project_replace = WaitOwn]
    enum WaitState<S, F, Req, L, R, I, X> {
        // Not polled yet. `None`: without a limit. The request is taken as it is sent.
        Arriving {
            through: Option<Through>,
            n: u64,
            parts: Ref<Parts<L, R, Wait<X>>>,
            req: Option<Req>,
            inner: S,
        },
        // What few calls do is in a box: the future is copied before it is polled.
        Waiting { waiting: Box<Waiting<Through>>, call: Box<Call<S, Req, L, R, X>> },
        Readying { unspent: Option<Unspent>, call: Box<Call<S, Req, L, R, X>> },
        Called { #[pin] future: F, ink: Wide<I> },
        Done,
    }
}

struct Call<S, Req, L, R, X> {
    inner: S,
    req: Req,
    parts: Ref<Parts<L, R, Wait<X>>>,
}

impl<S, F, Req, L, R, H, I, X> WaitingFuture<S, F, Req, L, R, H, I, X> {
    /// Asks `inner` whether it is ready once it has a token.
    #[inline(always)]
    pub(crate) fn new(
        through: Option<Through>,
        n: u64,
        parts: Ref<Parts<L, R, Wait<X>>>,
        req: Req,
        inner: S,
    ) -> Self {
        let state = WaitState::Arriving { through, n, parts, req: Some(req), inner };
        Self { state, marker: PhantomData }
    }

    /// Without a limit.
    #[inline(always)]
    pub(crate) fn through(future: F) -> Self {
        Self { state: WaitState::Called { future, ink: Wide::None }, marker: PhantomData }
    }
}

type Answer<S, Req, R> = Result<
    <S as Service<Req>>::Response,
    <R as Reject<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
>;

type Place<'a, S, Req, L, R, H, X> = Pin<
    &'a mut WaitState<
        S,
        <S as Service<Req>>::Future,
        Req,
        L,
        R,
        <H as Stamp<<S as Service<Req>>::Response>>::Ink,
        X,
    >,
>;

impl<S, Req, L, R, H, X> WaitingFuture<S, S::Future, Req, L, R, H, H::Ink, X>
where
    S: Service<Req>,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
    H: Stamp<S::Response>,
{
    /// A call that need not wait is made where its future is; all others go on from another state.
    #[inline]
    fn arrive(
        mut state: Place<'_, S, Req, L, R, H, X>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let WaitProj::Arriving { through, n, inner, req, .. } = state.as_mut().project() else {
            return Poll::Pending;
        };
        let grant = match &*through {
            None => None,
            Some(it) => match it.shared.take_refundably(*n, at_hand()) {
                Ok(grant) => grant,
                Err(_) => return Self::queue(state, cx),
            },
        };
        let unspent = through.take().map(|it| Unspent { shared: it.shared, grant });
        let ready = inner.poll_ready(cx);
        if !matches!(ready, Poll::Ready(Ok(()))) {
            return Self::not_ready(state, unspent, ready);
        }
        let Some(req) = req.take() else { return Poll::Pending };
        let future = inner.call(req);
        let ink = Wide::from(unspent.map(|unspent| H::ink(unspent.spend(H::WRITES))));
        state.set(WaitState::Called { future, ink });
        Poll::Ready(None)
    }

    #[cold]
    #[inline(never)]
    fn queue(
        mut state: Place<'_, S, Req, L, R, H, X>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let WaitOwn::Arriving { through: Some(through), n, parts, req: Some(req), inner } =
            state.as_mut().project_replace(WaitState::Done)
        else {
            return Poll::Pending;
        };
        // Only who has to wait is asked for its deadline.
        let own = parts.mode.context.context(&req).deadline().map(Deadline::tick);
        let by = until(own);
        let mut waiting = Waiting::new(through, n, Some(parts.mode.max)).until(by);
        let call = Call { inner, req, parts };
        match waiting.poll(cx) {
            Poll::Ready(granted) => Self::settle(state, cx, &waiting, call, granted),
            Poll::Pending => {
                let (waiting, call) = (Box::new(waiting), Box::new(call));
                state.set(WaitState::Waiting { waiting, call });
                Poll::Pending
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn wait(
        mut state: Place<'_, S, Req, L, R, H, X>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let WaitProj::Waiting { waiting, .. } = state.as_mut().project() else {
            return Poll::Pending;
        };
        let granted = ready!(waiting.poll(cx));
        let WaitOwn::Waiting { waiting, call } = state.as_mut().project_replace(WaitState::Done)
        else {
            return Poll::Pending;
        };
        Self::settle(state, cx, &waiting, *call, granted)
    }

    fn settle(
        state: Place<'_, S, Req, L, R, H, X>,
        cx: &mut Context<'_>,
        waiting: &Waiting<Through>,
        mut call: Call<S, Req, L, R, X>,
        granted: Result<Grant, Rejection>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        match granted {
            Ok(grant) => {
                let unspent = waiting.owner().map(|shared| Unspent { shared, grant });
                let ready = call.inner.poll_ready(cx);
                Self::ready(state, unspent, call, ready)
            }
            Err(why) => {
                let answer = refuse::<_, _, _, _, H>(&call.parts.reject, call.req, why);
                Poll::Ready(Some(answer))
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn not_ready(
        mut state: Place<'_, S, Req, L, R, H, X>,
        unspent: Option<Unspent>,
        ready: Poll<Result<(), S::Error>>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let WaitOwn::Arriving { parts, req: Some(req), inner, .. } =
            state.as_mut().project_replace(WaitState::Done)
        else {
            return Poll::Pending;
        };
        Self::ready(state, unspent, Call { inner, req, parts }, ready)
    }

    #[cold]
    #[inline(never)]
    fn ask(
        mut state: Place<'_, S, Req, L, R, H, X>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let WaitProj::Readying { call, .. } = state.as_mut().project() else {
            return Poll::Pending;
        };
        let ready = call.inner.poll_ready(cx);
        if ready.is_pending() {
            return Poll::Pending;
        }
        let WaitOwn::Readying { unspent, call } = state.as_mut().project_replace(WaitState::Done)
        else {
            return Poll::Pending;
        };
        Self::ready(state, unspent, *call, ready)
    }

    fn ready(
        mut state: Place<'_, S, Req, L, R, H, X>,
        unspent: Option<Unspent>,
        mut call: Call<S, Req, L, R, X>,
        ready: Poll<Result<(), S::Error>>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        match ready {
            Poll::Ready(Ok(())) => {
                let future = call.inner.call(call.req);
                let ink = Wide::from(unspent.map(|unspent| H::ink(unspent.spend(H::WRITES))));
                state.set(WaitState::Called { future, ink });
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(R::map_err(error)))),
            Poll::Pending => {
                state.set(WaitState::Readying { unspent, call: Box::new(call) });
                Poll::Pending
            }
        }
    }
}

impl<S, Req, L, R, H, X> Future for WaitingFuture<S, S::Future, Req, L, R, H, H::Ink, X>
where
    S: Service<Req>,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
    H: Stamp<S::Response>,
{
    type Output = Result<S::Response, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let step = match state.as_mut().project() {
                WaitProj::Called { future, ink } => {
                    let mut result = ready!(future.poll(cx)).map_err(R::map_err);
                    if let (Ok(response), Some(ink)) = (&mut result, ink.take()) {
                        H::admitted(ink, response);
                    }
                    return Poll::Ready(result);
                }
                WaitProj::Arriving { .. } => Self::arrive(state.as_mut(), cx),
                WaitProj::Waiting { .. } => Self::wait(state.as_mut(), cx),
                WaitProj::Readying { .. } => Self::ask(state.as_mut(), cx),
                // Polled again after it was ready, which a future need not support.
                WaitProj::Done => return Poll::Pending,
            };
            if let Some(answer) = ready!(step) {
                return Poll::Ready(answer);
            }
        }
    }
}

impl<S, F, Req, L, R, H, I, X> fmt::Debug for WaitingFuture<S, F, Req, L, R, H, I, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            WaitState::Arriving { .. } => "Arriving",
            WaitState::Waiting { .. } => "Waiting",
            WaitState::Readying { .. } => "Readying",
            WaitState::Called { .. } => "Called",
            WaitState::Done => "Done",
        };
        f.debug_struct("WaitingFuture").field("state", &state).finish_non_exhaustive()
    }
}
