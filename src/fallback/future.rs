use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::answer::Answer;
use super::cause::Covers;
use super::handle::Entered;
use super::keep::Keep;
use super::layer::Parts;
use crate::sync::Ref;

pin_project! {
    /// The answer of a [`FallbackService`](super::FallbackService): the inner service's, or the fallback's.
    ///
    /// ```
    /// use buttress::{Typed, fallback::Fallback};
    /// use tower::{Layer, Service, service_fn};
    /// let echo = service_fn(|n: u32| async move { Ok::<_, buttress::Error<std::io::Error>>(n) });
    /// let mut service = Fallback::new("echo").layer::<Typed>().value(7).layer(echo);
    /// drop(service.call(7)); // never polled: nobody was asked
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, A, V, K>
    where
        S: Service<Req>,
        K: Keep<Req>,
        V: Covers<Req, S::Response, S::Error>,
        A: Answer<K::Kept, S::Response, S::Error>,
    {
        #[pin]
        state: State<S::Future, S::Response, S::Error, K::Kept, V::Ticket, A::Future>,
        parts: Ref<Parts<A, V, K>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Res, Err, Kept, T, G> {
        Called { #[pin] call: F, kept: Option<Kept>, ticket: Option<T> },
        Answering {
            #[pin]
            answer: G,
            original: Option<Result<Res, Err>>,
            cause: &'static str,
            entered: Entered,
        },
        Done,
    }
}

impl<S, Req, A, V, K> ResponseFuture<S, Req, A, V, K>
where
    S: Service<Req>,
    K: Keep<Req>,
    V: Covers<Req, S::Response, S::Error>,
    A: Answer<K::Kept, S::Response, S::Error>,
{
    #[inline]
    pub(super) fn new(
        call: S::Future,
        kept: Option<K::Kept>,
        ticket: V::Ticket,
        parts: Ref<Parts<A, V, K>>,
    ) -> Self {
        Self { state: State::Called { call, kept, ticket: Some(ticket) }, parts }
    }
}

impl<S, Req, A, V, K> Future for ResponseFuture<S, Req, A, V, K>
where
    S: Service<Req>,
    K: Keep<Req>,
    V: Covers<Req, S::Response, S::Error>,
    A: Answer<K::Kept, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Called { call, kept, ticket } => {
                    let result = ready!(call.poll(cx));
                    let (kept, ticket) = (kept.take(), ticket.take());
                    // Now, so that neither a panic of user code nor another poll finds the call again.
                    this.state.set(State::Done);
                    let parts = &**this.parts;
                    let Some(ticket) = ticket else { return Poll::Ready(result) };
                    let Some(cause) = parts.covers.covers(ticket, result.as_ref()) else {
                        return Poll::Ready(result);
                    };
                    let shared = &parts.fallback.shared;
                    let Some(kept) = kept else {
                        shared.not_kept(&cause);
                        return Poll::Ready(result);
                    };
                    let Some(entered) = shared.enter() else { return Poll::Ready(result) };
                    let why = cause.as_str();
                    let answer = parts.answer.answer(kept, cause);
                    let original = Some(result);
                    this.state.set(State::Answering { answer, original, cause: why, entered });
                }
                StateProj::Answering { answer, original, cause, entered } => {
                    let answer = ready!(answer.poll(cx));
                    entered.settle(cause, answer.is_some());
                    let original = original.take();
                    this.state.set(State::Done);
                    let result = answer.map(Ok).or(original);
                    return result.map_or(Poll::Pending, Poll::Ready);
                }
                StateProj::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, Req, A, V, K> fmt::Debug for ResponseFuture<S, Req, A, V, K>
where
    S: Service<Req>,
    K: Keep<Req>,
    V: Covers<Req, S::Response, S::Error>,
    A: Answer<K::Kept, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Called { .. } => "Called",
            State::Answering { .. } => "Answering",
            State::Done => "Done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
