use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::injected::Injected;
use crate::reject::Reject;

use super::applied::reply_lost;
use super::injection::{Injection, Instead};
use super::mode::sealed::Mode;
use super::shared::{Wait, wait};

pin_project! {
    /// The answer of a [`ConditionerService`](super::ConditionerService).
    ///
    /// A call that nothing is done to is the inner service's future and nothing else. What is needed for one
    /// that something is done to is in a box. Dropping it cancels the call, at any point.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::conditioner::{Conditioner, ConditionerLayer, ResponseFuture};
    /// use std::time::Duration;
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = ConditionerLayer::new(Conditioner::network(Duration::ZERO, Duration::ZERO, 0.0, None)?).layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, R, M>
    where
        S: Service<Req>,
        M: Mode<Req, S::Response>,
        R: Reject<Req, M::Response, S::Error>,
    {
        #[pin]
        state: State<S::Future, Pin<Box<Conditioned<S, Req, R, M>>>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, C> {
        Through { #[pin] future: F },
        Conditioned { call: C },
    }
}

pin_project! {
    /// A call that something is done to.
    pub(super) struct Conditioned<S, Req, R, M>
    where
        S: Service<Req>,
        M: Mode<Req, S::Response>,
        R: Reject<Req, M::Response, S::Error>,
    {
        injection: Option<Injection>,
        reject: R,
        wait: Option<Wait>,
        // What is to be called, or only the request, until the wait is over.
        before: Before<S, Req>,
        #[pin]
        called: Option<S::Future>,
        mode: std::marker::PhantomData<fn() -> M>,
    }
}

enum Before<S, Req> {
    Call(S, Req),
    Instead(Req),
    Over,
    /// The reply is lost and nobody can say so: silence.
    Silent,
}

impl<S, Req, R, M> ResponseFuture<S, Req, R, M>
where
    S: Service<Req>,
    M: Mode<Req, S::Response>,
    R: Reject<Req, M::Response, S::Error>,
{
    #[inline(always)]
    pub(super) fn through(future: S::Future) -> Self {
        Self { state: State::Through { future } }
    }

    #[inline]
    pub(super) fn conditioned(call: Pin<Box<Conditioned<S, Req, R, M>>>) -> Self {
        Self { state: State::Conditioned { call } }
    }
}

impl<S, Req, R, M> Conditioned<S, Req, R, M>
where
    S: Service<Req>,
    M: Mode<Req, S::Response>,
    R: Reject<Req, M::Response, S::Error>,
{
    fn new(
        injection: Injection,
        before: Before<S, Req>,
        called: Option<S::Future>,
        reject: R,
    ) -> Self {
        let wait =
            (!injection.delay.is_zero()).then(|| wait(injection.shared(), Some(injection.delay)));
        let injection = Some(injection);
        Self { injection, reject, wait, before, called, mode: std::marker::PhantomData }
    }

    /// The inner service is not called.
    pub(super) fn instead(injection: Injection, req: Req, reject: R) -> Self {
        Self::new(injection, Before::Instead(req), None, reject)
    }

    /// The inner service has been called.
    pub(super) fn called(injection: Injection, called: S::Future, reject: R) -> Self {
        Self::new(injection, Before::Over, Some(called), reject)
    }

    /// The inner service is called after a while.
    pub(super) fn later(injection: Injection, inner: S, req: Req, reject: R) -> Self {
        Self::new(injection, Before::Call(inner, req), None, reject)
    }

    #[cold]
    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Response, R::Error>> {
        loop {
            let mut this = self.as_mut().project();
            if let Some(wait) = this.wait {
                ready!(wait.as_mut().poll(cx));
                *this.wait = None;
            }
            match std::mem::replace(this.before, Before::Over) {
                Before::Call(mut inner, req) => this.called.set(Some(inner.call(req))),
                Before::Instead(req) => {
                    let injection = this.injection.as_mut().expect("polled after completion");
                    let instead = injection.instead.take().expect("checked by who made this");
                    if let Instead::Hang(mark, time) = instead {
                        // Once more round, this time with an end.
                        *this.wait = Some(wait(injection.shared(), time));
                        let cause = Instead::Hang(mark, time).into_cause();
                        injection.instead = Some(Instead::Fail(cause.0, cause.1));
                        *this.before = Before::Instead(req);
                        continue;
                    }
                    let answer = match M::answer(&req, instead) {
                        Ok(response) => Ok(response),
                        Err((mark, cause)) => {
                            let why = injection.shared().rejection(mark, cause);
                            stamped::<_, _, M, _>(this.reject.reject(req, why), mark)
                        }
                    };
                    // The place is free before anybody looks at the answer.
                    *this.injection = None;
                    return Poll::Ready(answer);
                }
                Before::Silent => {
                    *this.before = Before::Silent;
                    return Poll::Pending;
                }
                Before::Over => {}
            }
            let called = this.called.as_mut().as_pin_mut().expect("polled after completion");
            let result = ready!(called.poll(cx));
            this.called.set(None);
            let injection = this.injection.take().expect("polled after completion");
            let response = match result {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(R::map_err(error))),
            };
            let Some(mark) = injection.reply_lost else {
                return Poll::Ready(Ok(M::spoil(response, injection)));
            };
            drop(response);
            match this.reject.reject_sent(reply_lost(mark, &injection.held)) {
                Some(answer) => return Poll::Ready(stamped::<_, _, M, _>(answer, mark)),
                None => {
                    *this.injection = Some(injection);
                    *this.before = Before::Silent;
                }
            }
        }
    }
}

fn stamped<Req, Res, M: Mode<Req, Res>, E>(
    answer: Result<M::Response, E>,
    mark: Injected,
) -> Result<M::Response, E> {
    answer.map(|mut response| {
        M::stamp(&mut response, mark);
        response
    })
}

impl<S, Req, R, M> Future for ResponseFuture<S, Req, R, M>
where
    S: Service<Req>,
    M: Mode<Req, S::Response>,
    R: Reject<Req, M::Response, S::Error>,
{
    type Output = Result<M::Response, R::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Through { future } => {
                Poll::Ready(ready!(future.poll(cx)).map(M::pass).map_err(R::map_err))
            }
            StateProj::Conditioned { call } => call.as_mut().poll(cx),
        }
    }
}

impl<S, Req, R, M> fmt::Debug for ResponseFuture<S, Req, R, M>
where
    S: Service<Req>,
    M: Mode<Req, S::Response>,
    R: Reject<Req, M::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Through { .. } => "through",
            State::Conditioned { .. } => "conditioned",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish()
    }
}
