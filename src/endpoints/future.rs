use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::core::End;
use super::handle::List;
use crate::classify::Classify;
use crate::clock::{self, Tick};
use crate::guarded::Guarding;
use crate::outcome::{FailureClass, Outcome};
use crate::reject::Reject;
use crate::superseded::is_superseded;

/// One call at its endpoint. Dropped before [`end`](Self::end), it was cancelled.
pub(super) struct Chosen<S> {
    list: Arc<List<S>>,
    place: usize,
    started: Tick,
    ended: bool,
}

impl<S> Chosen<S> {
    pub(super) fn new(list: Arc<List<S>>, place: usize, started: Tick) -> Self {
        Self { list, place, started, ended: false }
    }

    fn end(&mut self, end: End) {
        if mem::replace(&mut self.ended, true) {
            return;
        }
        let (shared, health) = (&self.list.shared, &self.list.members[self.place].health);
        if let Some(change) = shared.core.end(health, self.started, end, clock::now()) {
            shared.changed(health, change);
        }
    }
}

/// Timed from when it was chosen: nothing begins when it is found pending.
impl<S> Guarding for Chosen<S> {
    fn failed(&mut self) {
        self.end(End::Failure);
    }
}

impl<S> Drop for Chosen<S> {
    fn drop(&mut self) {
        self.end(if is_superseded() { End::Superseded } else { End::Cancelled });
    }
}

pin_project! {
    /// Future of an [`EndpointsService`](super::EndpointsService).
    ///
    /// Dropping it drops the call; its endpoint no longer counts it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::endpoints::{Endpoints, ResponseFuture};
    /// use tower::{Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let pool = Endpoints::new("double");
    /// pool.insert("one", double);
    /// let mut service = pool.service();
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
        state: State<S, Req, S::Future, C, C::Ticket, Result<S::Response, R::Error>>,
        marker: PhantomData<fn() -> R>,
    }
}

// The call is dropped before it is counted as over.
pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, C, T, O> {
        Readying { service: S, req: Option<Req>, classify: Option<C>, chosen: Option<Chosen<S>> },
        Called { #[pin] call: F, classify: C, ticket: Option<T>, chosen: Chosen<S> },
        Refused { answer: Option<O> },
        Done,
    }
}

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    #[inline]
    pub(super) fn readying(chosen: Chosen<S>, service: S, req: Req, classify: C) -> Self {
        let (req, classify, chosen) = (Some(req), Some(classify), Some(chosen));
        Self { state: State::Readying { service, req, classify, chosen }, marker: PhantomData }
    }

    #[inline]
    pub(super) fn refused(answer: Result<S::Response, R::Error>) -> Self {
        Self { state: State::Refused { answer: Some(answer) }, marker: PhantomData }
    }
}

fn end(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Success | Outcome::Failure(FailureClass::Permanent) => End::Success,
        Outcome::Failure(_) => End::Failure,
        Outcome::Cancelled { .. } => End::Cancelled,
        Outcome::Throttled | Outcome::Ignored => End::Ignored,
    }
}

impl<S, Req, C, R> Future for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Readying { service, req, classify, chosen } => {
                    let held = chosen.as_mut().expect("polled after a panic");
                    let ready = ready!(held.run(|| service.poll_ready(cx)));
                    if let Err(error) = ready {
                        held.end(End::Failure);
                        this.state.set(State::Done);
                        return Poll::Ready(Err(R::map_err(error)));
                    }
                    let (Some(req), Some(classify)) = (req.take(), classify.take()) else {
                        panic!("polled after a panic");
                    };
                    let (ticket, call) =
                        held.run(|| (Some(classify.start(&req)), service.call(req)));
                    if let Some(chosen) = chosen.take() {
                        this.state.set(State::Called { call, classify, ticket, chosen });
                    }
                }
                StateProj::Called { call, classify, ticket, chosen } => {
                    assert!(ticket.is_some(), "polled after a panic");
                    let result = ready!(chosen.run(|| call.poll(cx)));
                    if let Some(ticket) = ticket.take() {
                        let verdict = chosen.run(|| classify.finish(ticket, result.as_ref()));
                        chosen.end(end(&verdict.outcome));
                    }
                    this.state.set(State::Done);
                    return Poll::Ready(result.map_err(R::map_err));
                }
                StateProj::Refused { answer } => {
                    return Poll::Ready(answer.take().expect("polled after completion"));
                }
                StateProj::Done => panic!("polled after completion"),
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
            State::Readying { .. } => "readying",
            State::Called { .. } => "called",
            State::Refused { .. } => "refused",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish()
    }
}
