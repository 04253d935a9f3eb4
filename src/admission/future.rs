use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::layer::Parts;
use super::place::{Held, Holder, LONGEST, Sent, Waiting, deadline, end, refusal};
use crate::backend::{Arrival, Backend};
use crate::classify::Classify;
use crate::clock::{
    Tick, UNREAD, hand_down, hand_end_down, hand_nothing_down, handed_down, is_unread, now,
};
use crate::context::{ReadContext, tell_end};
use crate::reject::Reject;
use crate::rejection::RejectionKind;
use crate::sync::{LastCall, Ref};
use crate::wide::Wide;

impl<C, X, R> Holder for Ref<Parts<C, X, R>> {
    #[inline]
    fn backend(&self) -> &Backend {
        self.admission.backend()
    }
}

struct Call<S, Req> {
    inner: S,
    req: Req,
}

/// A call that has not come to the backend yet, or waits there.
struct Coming<S, Req, P> {
    parts: Ref<P>,
    call: Call<S, Req>,
}

/// A call that has its place, to a service that is not ready.
struct Readying<S, Req, C, X, R> {
    held: Held<Ref<Parts<C, X, R>>>,
    call: Call<S, Req>,
    timer: Option<Pin<Box<Sleep>>>,
}

pin_project! {
    /// Waits for a place if it must, then calls.
    ///
    /// ```
    /// use buttress::admission::{Admission, AdmissionLayer};
    /// use tower::{Layer, Service, service_fn};
    /// let echo = service_fn(|n: u32| async move { Ok::<_, buttress::BoxError>(n) });
    /// let mut service = AdmissionLayer::new(Admission::new("echo")).layer(echo);
    /// drop(service.call(7)); // never polled: nothing was sent
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, X, R>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
    {
        #[pin]
        state: State<S, Req, S::Future, C, X, R, C::Ticket>,
    }
}

// What a call holds on to lies in its state, so that it is counted once for each call.
pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwn]
    enum State<S, Req, F, C, X, R, T> {
        // `None` once it has come.
        Arriving { parts: Option<Ref<Parts<C, X, R>>>, inner: S, req: Option<Req> },
        Waiting { waiting: Waiting, coming: Option<Coming<S, Req, Parts<C, X, R>>> },
        Readying { readying: Option<Readying<S, Req, C, X, R>> },
        Called { #[pin] future: F, ticket: Wide<T>, held: Held<Ref<Parts<C, X, R>>> },
        Through { #[pin] future: F },
        Done,
    }
}

impl<S, Req, C, X, R> ResponseFuture<S, Req, C, X, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    #[inline(always)]
    pub(super) fn new(parts: Ref<Parts<C, X, R>>, req: Req, inner: S) -> Self {
        Self { state: State::Arriving { parts: Some(parts), req: Some(req), inner } }
    }

    /// Without an admission.
    #[inline(always)]
    pub(super) fn through(future: S::Future) -> Self {
        Self { state: State::Through { future } }
    }
}

type Answer<S, Req, R> = Result<
    <S as Service<Req>>::Response,
    <R as Reject<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
>;

type Place<'a, S, Req, C, X, R> = Pin<
    &'a mut State<
        S,
        Req,
        <S as Service<Req>>::Future,
        C,
        X,
        R,
        <C as Classify<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Ticket,
    >,
>;

/// It is not answered in the poll in which it came.
#[cold]
#[inline(never)]
fn not_at_once<C, X, R>(held: &mut Held<Ref<Parts<C, X, R>>>) {
    held.not_at_once(|parts| parts.admission.longest());
}

#[inline]
fn tells_end<C, X, R>(held: &Held<Ref<Parts<C, X, R>>>) -> bool {
    held.holder.as_ref().is_some_and(|parts| parts.tells_end)
}

/// Only the way of nearly every call is inlined.
impl<S, Req, C, X, R> ResponseFuture<S, Req, C, X, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
{
    /// Comes to the backend, and calls at once if it may. Ready without an answer: it has called.
    #[inline]
    fn arrive(
        mut state: Place<'_, S, Req, C, X, R>,
        cx: &mut Context<'_>,
        unmeasured: &mut bool,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let StateProj::Arriving { parts: place, inner, req } = state.as_mut().project() else {
            return Poll::Pending;
        };
        let (Some(parts), Some(request)) = (&*place, &*req) else { return Poll::Pending };
        let context = parts.context.context(request);
        let backend = parts.admission.backend();
        let class = context.criticality();
        let (mut held, now, stands_for);
        if is_unread() && context.deadline().is_none() && backend.enter(class) {
            let Some(parts) = place.take() else { return Poll::Pending };
            hand_nothing_down();
            (held, now, stands_for) = (Held::unread(parts), UNREAD, 0);
        } else {
            let arrival;
            now = handed_down();
            let deadline = deadline(&context, parts.admission.longest(), now);
            (arrival, stands_for) = backend.arrive(deadline, class, now);
            if !matches!(arrival, Arrival::Admitted) {
                return Self::wait_or_refuse(state, &arrival, now);
            }
            let Some(parts) = place.take() else { return Poll::Pending };
            held = Held::new(parts, now, deadline);
        }
        *unmeasured = stands_for == 0;
        let ready = inner.poll_ready(cx);
        if !matches!(ready, Poll::Ready(Ok(()))) {
            if *unmeasured {
                not_at_once(&mut held);
            }
            return Self::not_ready(state, cx, held, ready);
        }
        // Where they are, and not by `send`: moved, they would be copied.
        let (Some(mut req), Some(parts)) = (req.take(), &held.holder) else { return Poll::Pending };
        if parts.tells_end {
            tell_end(&parts.context, &mut req);
        }
        let handed_down = match parts.hands_down {
            true => hand_down(now, stands_for),
            false => hand_down(Tick(0), 1),
        };
        let ticket = Wide::Some(parts.classify.start(&req));
        held.sent = Sent::Yes;
        let last = LastCall::new(parts.hands_down);
        let future = inner.call(req);
        drop(last);
        state.set(State::Called { future, ticket, held });
        drop(handed_down);
        Poll::Ready(None)
    }

    #[cold]
    #[inline(never)]
    fn not_ready(
        mut state: Place<'_, S, Req, C, X, R>,
        cx: &mut Context<'_>,
        held: Held<Ref<Parts<C, X, R>>>,
        ready: Poll<Result<(), S::Error>>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let StateOwn::Arriving { inner, req: Some(req), .. } =
            state.as_mut().project_replace(State::Done)
        else {
            return Poll::Pending;
        };
        let readying = Readying { held, call: Call { inner, req }, timer: None };
        Self::ready(state, cx, readying, ready)
    }

    fn send(
        mut state: Place<'_, S, Req, C, X, R>,
        mut held: Held<Ref<Parts<C, X, R>>>,
        mut call: Call<S, Req>,
    ) {
        let Some(parts) = &held.holder else { return };
        if parts.tells_end {
            tell_end(&parts.context, &mut call.req);
        }
        let ticket = Wide::Some(parts.classify.start(&call.req));
        held.sent = Sent::Yes;
        let future = call.inner.call(call.req);
        state.set(State::Called { future, ticket, held });
    }

    /// It has answered.
    #[inline]
    fn finish(
        mut state: Place<'_, S, Req, C, X, R>,
        result: Result<S::Response, S::Error>,
        unmeasured: bool,
    ) -> Answer<S, Req, R> {
        if let StateProj::Called { ticket, held, .. } = state.as_mut().project() {
            held.sent = Sent::Answered;
            if let (Some(ticket), Some(parts)) = (ticket.take(), &held.holder) {
                let verdict = parts.classify.finish(ticket, result.as_ref());
                held.end(end(&verdict), unmeasured);
            }
        }
        state.set(State::Done);
        result.map_err(R::map_err)
    }

    #[cold]
    #[inline(never)]
    fn wait_or_refuse(
        mut state: Place<'_, S, Req, C, X, R>,
        arrival: &Arrival,
        now: Tick,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let StateOwn::Arriving { parts: Some(parts), inner, req: Some(req) } =
            state.as_mut().project_replace(State::Done)
        else {
            return Poll::Pending;
        };
        let coming = Coming { parts, call: Call { inner, req } };
        let backend = coming.parts.admission.backend();
        if let Arrival::Wait(key) = *arrival {
            let waiting = Waiting::new(backend.clone(), key, now);
            state.set(State::Waiting { waiting, coming: Some(coming) });
            return Poll::Ready(None);
        }
        let why = refusal(backend, arrival, now);
        Poll::Ready(Some(coming.parts.reject.reject(coming.call.req, why)))
    }

    #[cold]
    #[inline(never)]
    fn wait(
        mut state: Place<'_, S, Req, C, X, R>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let StateProj::Waiting { waiting, coming } = state.as_mut().project() else {
            return Poll::Pending;
        };
        let settled = ready!(waiting.poll(cx));
        let Some(Coming { parts, mut call }) = coming.take() else { return Poll::Pending };
        match settled {
            Ok((now, deadline)) => {
                let held = Held::new(parts, now, deadline);
                let ready = call.inner.poll_ready(cx);
                let readying = Readying { held, call, timer: None };
                Self::ready(state, cx, readying, ready)
            }
            Err(why) => {
                state.set(State::Done);
                Poll::Ready(Some(parts.reject.reject(call.req, why)))
            }
        }
    }

    /// Asks again.
    #[cold]
    #[inline(never)]
    fn ask(
        mut state: Place<'_, S, Req, C, X, R>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        let StateProj::Readying { readying } = state.as_mut().project() else {
            return Poll::Pending;
        };
        let Some(mut readying) = readying.take() else { return Poll::Pending };
        let ready = readying.call.inner.poll_ready(cx);
        Self::ready(state, cx, readying, ready)
    }

    /// The service has said whether it is ready.
    #[cold]
    #[inline(never)]
    fn ready(
        mut state: Place<'_, S, Req, C, X, R>,
        cx: &mut Context<'_>,
        mut readying: Readying<S, Req, C, X, R>,
        ready: Poll<Result<(), S::Error>>,
    ) -> Poll<Option<Answer<S, Req, R>>> {
        if ready.is_pending() {
            let wait = readying.held.deadline.since(now()).min(LONGEST);
            let timer = readying
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + wait)));
            if timer.as_mut().poll(cx).is_pending() {
                state.set(State::Readying { readying: Some(readying) });
                return Poll::Pending;
            }
        }
        let Readying { held, call, .. } = readying;
        // It has waited: for its place, or for the service.
        let late = held.deadline <= now();
        match ready {
            Poll::Ready(Err(error)) => {
                held.end_unready();
                state.set(State::Done);
                Poll::Ready(Some(Err(R::map_err(error))))
            }
            Poll::Ready(Ok(())) if !late => {
                Self::send(state, held, call);
                Poll::Ready(None)
            }
            _ => {
                let parts = held.end_unsent();
                state.set(State::Done);
                let Some(parts) = parts else { return Poll::Pending };
                let refusal = parts.admission.backend().refuse(RejectionKind::DeadlineExceeded);
                Poll::Ready(Some(parts.reject.reject(call.req, refusal)))
            }
        }
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        // Of a call that is sent in this very poll.
        let mut unmeasured = false;
        loop {
            let step = match state.as_mut().project() {
                StateProj::Called { future, held, .. } => {
                    // Told by its context, and perhaps of more callers than this one.
                    let ends = tells_end(held).then(|| hand_end_down(None));
                    let polled = future.poll(cx);
                    drop(ends);
                    let Poll::Ready(result) = polled else {
                        // Or it has panicked in the poll in which it was sent.
                        if unmeasured || held.is_unread() {
                            not_at_once(held);
                        }
                        return Poll::Pending;
                    };
                    return Poll::Ready(Self::finish(state, result, unmeasured));
                }
                StateProj::Arriving { .. } => Self::arrive(state.as_mut(), cx, &mut unmeasured),
                StateProj::Through { future } => return future.poll(cx).map_err(R::map_err),
                StateProj::Waiting { .. } => Self::wait(state.as_mut(), cx),
                StateProj::Readying { .. } => Self::ask(state.as_mut(), cx),
                // Polled again after it was ready, which a future need not support.
                StateProj::Done => return Poll::Pending,
            };
            if let Some(answer) = ready!(step) {
                return Poll::Ready(answer);
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
        let state = match self.state {
            State::Arriving { .. } => "Arriving",
            State::Waiting { .. } => "Waiting",
            State::Readying { .. } => "Readying",
            State::Called { .. } | State::Through { .. } => "Called",
            State::Done => "Done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
