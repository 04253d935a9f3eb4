use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::layer::Parts;
use crate::backend::{Arrival, Backend, End, Key, Settled, Turn};
use crate::classify::Classify;
use crate::clock::{Tick, end_handed_down, hand_down, handed_down, now};
use crate::context::ReadContext;
use crate::observe::{LET_THROUGH, REFUSED, WaitSpan};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::reject::Reject;
use crate::rejection::RejectionKind;
use crate::sync::Ref;
use crate::wide::{Flag, Wide};

/// A place in flight, given back once: at the latest when it is dropped.
struct Held<C, X, R> {
    /// `None` once it was given back.
    parts: Option<Ref<Parts<C, X, R>>>,
    started: Tick,
    /// Nobody waits for the answer any longer then.
    deadline: Tick,
    /// The backend may be working on it.
    sent: Flag,
}

impl<C, X, R> Held<C, X, R> {
    fn new(parts: Ref<Parts<C, X, R>>, started: Tick, deadline: Tick) -> Self {
        Self { parts: Some(parts), started, deadline, sent: Flag::No }
    }

    fn end(&mut self, end: End, unmeasured: bool) {
        if let Some(parts) = self.parts.take() {
            let backend = parts.admission.backend();
            if unmeasured && end == End::Success {
                backend.finish_at_once(self.started);
            } else {
                backend.finish(self.started, end);
            }
        }
    }

    /// What becomes of the call is decided by what it had the place from.
    fn end_unsent(mut self) -> Option<Ref<Parts<C, X, R>>> {
        let parts = self.parts.take()?;
        parts.admission.backend().finish_unsent(self.started);
        Some(parts)
    }
}

impl<C, X, R> Drop for Held<C, X, R> {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            let backend = parts.admission.backend();
            if self.sent.is() {
                backend.finish(self.started, End::Abandoned { deadline: self.deadline });
            } else {
                backend.finish_unsent(self.started);
            }
        }
    }
}

/// A place in the waiting room, given back when it is dropped.
struct Waiting {
    backend: Backend,
    key: Option<Key>,
    arrived: Tick,
    /// Made when it is polled: outside of a runtime that panics, and the place must not be lost.
    timer: Option<Pin<Box<Sleep>>>,
    at: Tick,
    span: WaitSpan,
}

impl Waiting {
    fn new(backend: Backend, key: Key, arrived: Tick) -> Self {
        let span = WaitSpan::NONE;
        let mut waiting = Self { backend, key: Some(key), arrived, timer: None, at: Tick(0), span };
        // Should that panic, the place is given back.
        waiting.span = waiting.backend.wait_span();
        waiting
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Settled, Tick)> {
        let Some(key) = self.key else { return Poll::Pending };
        loop {
            let at = match self.backend.poll(key, cx.waker()) {
                Turn::Settled(how) => {
                    self.key = None;
                    let granted = how == Settled::Granted;
                    self.span.end(if granted { LET_THROUGH } else { REFUSED });
                    return Poll::Ready((how, key.deadline()));
                }
                Turn::At(at) => at,
            };
            // The clock may stand at the very moment: then a little later rather than for ever now.
            let wait = at.since(now()).clamp(TIMER, LONGEST);
            let until = Instant::now() + wait;
            let timer = match &mut self.timer {
                Some(timer) => {
                    if at != self.at {
                        timer.as_mut().reset(until);
                    }
                    timer
                }
                None => self.timer.insert(Box::pin(tokio::time::sleep_until(until))),
            };
            self.at = at;
            ready!(timer.as_mut().poll(cx));
            // It is over: another one next time.
            self.at = Tick(0);
        }
    }
}

const LONGEST: std::time::Duration = std::time::Duration::from_secs(86_400);
const TIMER: std::time::Duration = std::time::Duration::from_millis(1);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.backend.leave(key);
        }
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
    held: Held<C, X, R>,
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
        Called { #[pin] future: F, ticket: Wide<T>, held: Held<C, X, R> },
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

fn end(verdict: &Verdict) -> End {
    match verdict.outcome {
        Outcome::Success => End::Success,
        Outcome::Failure(FailureClass::Permanent) => End::Answered,
        Outcome::Failure(_) => End::Failure,
        Outcome::Throttled => match verdict.retry {
            RetryHint::Unknown { after: Some(after) } | RetryHint::Safe { after: Some(after) } => {
                End::Throttled(after)
            }
            _ => End::TooMany,
        },
        Outcome::Cancelled { .. } | Outcome::Ignored => End::Ignored,
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

/// It waits so long at most, or until a layer outside gives it up.
#[inline]
fn without_deadline(longest: Tick) -> Tick {
    end_handed_down().map_or(longest, |end| end.min(longest))
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
        let now = handed_down();
        let deadline = match context.deadline() {
            Some(by) => by.tick(),
            None => without_deadline(now.after(parts.admission.longest())),
        };
        let backend = parts.admission.backend();
        let (arrival, stands_for) = backend.arrive(deadline, context.criticality(), now);
        *unmeasured = stands_for == 0;
        if !matches!(arrival, Arrival::Admitted) {
            return Self::wait_or_refuse(state, &arrival, now);
        }
        let Some(parts) = place.take() else { return Poll::Pending };
        let mut held = Held::new(parts, now, deadline);
        let ready = inner.poll_ready(cx);
        if !matches!(ready, Poll::Ready(Ok(()))) {
            return Self::not_ready(state, cx, held, ready);
        }
        // Where they are, and not by `send`: moved, they would be copied.
        let (Some(req), Some(parts)) = (req.take(), &held.parts) else { return Poll::Pending };
        let handed_down = parts.hands_down.then(|| hand_down(now, stands_for));
        let ticket = Wide::Some(parts.classify.start(&req));
        held.sent = Flag::Yes;
        let future = inner.call(req);
        state.set(State::Called { future, ticket, held });
        drop(handed_down);
        Poll::Ready(None)
    }

    #[cold]
    #[inline(never)]
    fn not_ready(
        mut state: Place<'_, S, Req, C, X, R>,
        cx: &mut Context<'_>,
        held: Held<C, X, R>,
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
        mut held: Held<C, X, R>,
        mut call: Call<S, Req>,
    ) {
        let Some(parts) = &held.parts else { return };
        let ticket = Wide::Some(parts.classify.start(&call.req));
        held.sent = Flag::Yes;
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
            // Also if judging the answer panics.
            held.sent = Flag::No;
            if let (Some(ticket), Some(parts)) = (ticket.take(), &held.parts) {
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
        let why = match *arrival {
            Arrival::Wait(key) => {
                let waiting = Waiting::new(backend.clone(), key, now);
                state.set(State::Waiting { waiting, coming: Some(coming) });
                return Poll::Ready(None);
            }
            Arrival::Throttled(until) => backend.refuse_until(until.since(now)),
            Arrival::Expired => backend.refuse(RejectionKind::DeadlineExceeded),
            Arrival::Full | Arrival::Admitted => backend.refuse(RejectionKind::Overloaded),
        };
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
        let (settled, deadline) = ready!(waiting.poll(cx));
        let Some(Coming { parts, mut call }) = coming.take() else { return Poll::Pending };
        let backend = parts.admission.backend();
        let why = match settled {
            Settled::Granted => {
                let now = now();
                backend.waited(waiting.arrived, now);
                let held = Held::new(parts, now, deadline);
                let ready = call.inner.poll_ready(cx);
                let readying = Readying { held, call, timer: None };
                return Self::ready(state, cx, readying, ready);
            }
            Settled::Hopeless => backend.refuse(RejectionKind::DeadlineExceeded),
            Settled::Throttled(until) => backend.refuse_until(until.since(now())),
            Settled::Displaced => backend.refuse(RejectionKind::Overloaded),
        };
        state.set(State::Done);
        Poll::Ready(Some(parts.reject.reject(call.req, why)))
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
                held.end_unsent();
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
                StateProj::Called { future, .. } => {
                    let result = ready!(future.poll(cx));
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
