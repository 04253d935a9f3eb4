use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::handle::{Throttle, ThrottlePermit};
use crate::classify::{AnyError, Classify};
use crate::clock;
use crate::context::{NoContext, ReadContext};
use crate::reject::{AsError, Reject};
use crate::rejection::Rejection;

/// Made by a [`ThrottleLayer`](super::ThrottleLayer). Ready when the inner service is.
///
/// ```
/// use tower::Layer;
/// let service = buttress::throttle::Throttle::new("api").layer().layer(7);
/// assert_eq!(*service.get_ref(), 7);
/// ```
#[derive(Clone, Debug)]
pub struct ThrottleService<S, C = AnyError, X = NoContext, J = AsError> {
    pub(super) inner: S,
    pub(super) throttle: Throttle,
    pub(super) classifier: C,
    pub(super) context: X,
    pub(super) reject: J,
}

impl<S, C, X, J> ThrottleService<S, C, X, J> {
    /// The inner service.
    ///
    /// ```
    /// use tower::Layer;
    /// assert_eq!(*buttress::throttle::Throttle::new("api").layer().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, Req, C, X, J> Service<Req> for ThrottleService<S, C, X, J>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error> + Clone,
    X: ReadContext<Req>,
    J: Reject<Req, S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = J::Error;
    type Future = ResponseFuture<S, Req, C, J>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), J::Error>> {
        self.inner.poll_ready(cx).map_err(J::map_err)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let deadline = self.context.context(&req).deadline();
        // The ready instance goes with the call: a clone of it need not be ready.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let state = match self.throttle.shared.admit(deadline, clock::now()) {
            Err(why) => State::Refused { refused: Some((req, why)) },
            Ok((mut permit, 0)) => {
                let ticket = Some(self.classifier.start(&req));
                let call = inner.call(req);
                permit.send();
                State::Calling { call, ticket, permit: Some(permit) }
            }
            Ok((permit, wait)) => {
                let sleep = tokio::time::sleep(Duration::from_nanos(wait));
                State::Waiting { sleep, held: Some((inner, req, permit)) }
            }
        };
        ResponseFuture { state, classifier: self.classifier.clone(), reject: self.reject.clone() }
    }
}

pin_project! {
    /// Future of a [`ThrottleService`]. Dropping it gives the place in the line back.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, J>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
    {
        #[pin]
        state: State<S, S::Future, Req, C::Ticket>,
        classifier: C,
        reject: J,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, Req, T> {
        Waiting {
            #[pin]
            sleep: Sleep,
            held: Option<(S, Req, ThrottlePermit)>,
        },
        Calling {
            #[pin]
            call: F,
            ticket: Option<T>,
            permit: Option<ThrottlePermit>,
        },
        Refused { refused: Option<(Req, Rejection)> },
        Done,
    }
}

impl<S, Req, C, J> Future for ResponseFuture<S, Req, C, J>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    J: Reject<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, J::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { sleep, held } => {
                    if sleep.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let Some((mut inner, req, mut permit)) = held.take() else {
                        panic!("polled after a panic")
                    };
                    permit.waited();
                    let ticket = Some(this.classifier.start(&req));
                    let call = inner.call(req);
                    permit.send();
                    this.state.set(State::Calling { call, ticket, permit: Some(permit) });
                }
                StateProj::Calling { call, ticket, permit } => {
                    let Poll::Ready(result) = call.poll(cx) else { return Poll::Pending };
                    let (ticket, permit) = (ticket.take(), permit.take());
                    this.state.set(State::Done);
                    if let (Some(ticket), Some(permit)) = (ticket, permit) {
                        permit.judged(this.classifier.finish(ticket, result.as_ref()));
                    }
                    return Poll::Ready(result.map_err(J::map_err));
                }
                StateProj::Refused { refused } => {
                    let refused = refused.take();
                    this.state.set(State::Done);
                    let Some((req, why)) = refused else { panic!("polled after a panic") };
                    return Poll::Ready(this.reject.reject(req, why));
                }
                StateProj::Done => panic!("polled after it had answered"),
            }
        }
    }
}

impl<S, Req, C, J> fmt::Debug for ResponseFuture<S, Req, C, J>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
