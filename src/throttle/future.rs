use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::handle::end;
use super::layer::Parts;
use super::permit::{Asked, Permit, Waiting};
use crate::classify::Classify;
use crate::clock::poll_end;
use crate::context::ReadContext;
use crate::deadline::Deadline;
use crate::reject::Reject;
use crate::sync::Ref;

struct Call<S, Req> {
    inner: S,
    req: Req,
}

pin_project! {
    /// Waits for its turn if it must, then calls. Dropping it gives the turn back.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// use tower::{Layer, Service, service_fn};
    /// let echo = service_fn(|n: u32| async move { Ok::<_, buttress::BoxError>(n) });
    /// let mut service = Throttle::new("echo").layer().layer(echo);
    /// drop(service.call(7)); // never polled: nothing was sent
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, X, R>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
    {
        #[pin]
        state: State<S, Req, S::Future, C::Ticket>,
        parts: Ref<Parts<C, X, R>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, T> {
        Arriving { call: Option<Call<S, Req>> },
        Waiting { turn: Option<Waiting>, call: Option<Call<S, Req>>, sleep: Pin<Box<Option<Sleep>>> },
        Called { #[pin] future: F, ticket: Option<T>, permit: Permit },
        Done,
    }
}

impl<S, Req, C, X, R> ResponseFuture<S, Req, C, X, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    pub(super) fn new(inner: S, req: Req, parts: Ref<Parts<C, X, R>>) -> Self {
        Self { state: State::Arriving { call: Some(Call { inner, req }) }, parts }
    }
}

impl<S, Req, C, X, R> Future for ResponseFuture<S, Req, C, X, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let parts = &**this.parts;
        loop {
            let (asked, mut call) = match this.state.as_mut().project() {
                StateProj::Arriving { call } => {
                    let Some(call) = call.take() else { return Poll::Pending };
                    let deadline = parts.context.context(&call.req).deadline();
                    let shared = Arc::clone(parts.throttle.shared.shared());
                    (Permit::ask(shared, deadline.map(Deadline::tick)), call)
                }
                StateProj::Waiting { turn, call, sleep } => {
                    let at = turn.as_ref().map(Waiting::at);
                    ready!(poll_end(sleep.as_mut(), at, cx));
                    let (Some(turn), Some(call)) = (turn.take(), call.take()) else {
                        return Poll::Pending;
                    };
                    (turn.again(), call)
                }
                StateProj::Called { future, ticket, permit } => {
                    let result = ready!(future.poll(cx));
                    if let Some(ticket) = ticket.take() {
                        permit.finish(end(&parts.classify.finish(ticket, result.as_ref())));
                    }
                    this.state.set(State::Done);
                    return Poll::Ready(result.map_err(R::map_err));
                }
                // Polled again after it was ready, which a future need not support.
                StateProj::Done => return Poll::Pending,
            };
            match asked {
                Asked::Granted(mut permit) => {
                    let ticket = Some(parts.classify.start(&call.req));
                    permit.sent();
                    let future = call.inner.call(call.req);
                    this.state.set(State::Called { future, ticket, permit });
                }
                Asked::Wait(next) => match this.state.as_mut().project() {
                    // It looks again, with the same timer's place.
                    StateProj::Waiting { turn, call: kept, sleep } => {
                        (*turn, *kept) = (Some(next), Some(call));
                        sleep.as_mut().set(None);
                    }
                    _ => {
                        let (turn, call, sleep) = (Some(next), Some(call), Box::pin(None));
                        this.state.set(State::Waiting { turn, call, sleep });
                    }
                },
                Asked::Refused(why) => {
                    this.state.set(State::Done);
                    return Poll::Ready(parts.reject.reject(call.req, why));
                }
            }
        }
    }
}

impl<S, Req, C, X, R> fmt::Debug for ResponseFuture<S, Req, C, X, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
