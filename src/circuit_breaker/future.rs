use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::classify::Classify;
use crate::guarded::Call;
use crate::reject::Reject;
use crate::sync::Ref;

use super::guard::Guard;
use super::shared::Shared;

pin_project! {
    /// The answer of a [`CircuitBreakerService`](super::CircuitBreakerService): the inner service's, or
    /// what its `Reject` made of a refusal.
    ///
    /// Dropping it cancels the call: see the [module](super).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::circuit_breaker::{CircuitBreaker, ResponseFuture};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = CircuitBreaker::new("double").layer().layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
        R: Reject<Req, S::Response, S::Error>,
    {
        #[pin]
        pub(super) state: State<S::Future, C, C::Ticket, Result<S::Response, R::Error>>,
        pub(super) marker: PhantomData<fn(Req) -> R>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<F, C, T, O> {
        Called {
            #[pin]
            call: Call<F, Guard<Ref<Shared>>>,
            classify: C,
            judge: Option<T>,
        },
        // Without a breaker.
        Through {
            #[pin]
            inner: F,
        },
        Refused {
            answer: Option<O>,
        },
    }
}

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    #[inline]
    pub(super) fn through(inner: S::Future) -> Self {
        Self { state: State::Through { inner }, marker: PhantomData }
    }

    #[inline]
    pub(super) fn refused(answer: Result<S::Response, R::Error>) -> Self {
        Self { state: State::Refused { answer: Some(answer) }, marker: PhantomData }
    }
}

impl<S, Req, C, R> Future for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, R::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Called { mut call, classify, judge } => {
                // A classifier that panics leaves a call that has ended, which must not be polled again.
                assert!(judge.is_some(), "polled after completion");
                let result = ready!(call.as_mut().poll(cx));
                let judge = judge.take().expect("seen above");
                // Reported here, not in `drop`: a caller may keep the finished future around. Apart, so
                // that a response need not be in memory because a classifier wants to see errors there.
                match result {
                    Ok(response) => {
                        let verdict = classify.finish(judge, Ok(&response));
                        call.guard().report(&verdict.outcome);
                        Poll::Ready(Ok(response))
                    }
                    Err(error) => {
                        let verdict = classify.finish(judge, Err(&error));
                        call.guard().report(&verdict.outcome);
                        Poll::Ready(Err(R::map_err(error)))
                    }
                }
            }
            StateProj::Through { inner } => inner.poll(cx).map_err(R::map_err),
            StateProj::Refused { answer } => {
                Poll::Ready(answer.take().expect("polled after completion"))
            }
        }
    }
}

impl<S, Req, C, R> fmt::Debug for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Called { .. } => "called",
            State::Through { .. } => "through",
            State::Refused { .. } => "refused",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish()
    }
}
