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
use crate::clock::{Tick, now};
use crate::context::ReadContext;
use crate::name::LayerKind;
use crate::outcome::{Outcome, Verdict};
use crate::reject::Reject;
use crate::rejection::{Rejection, RejectionKind};
use crate::sync::Ref;

/// A place in flight, given back when it is dropped.
struct Permit {
    backend: Backend,
    started: Tick,
    sent: bool,
}

impl Permit {
    fn end(mut self, end: End) {
        self.finish(end);
    }

    fn finish(&mut self, end: End) {
        self.backend.finish(self.started, end);
        self.sent = true;
    }
}

// `sent` is `None` in what follows: a permit that has ended does not end again.
struct Held(Option<Permit>);

impl Held {
    fn end(&mut self, end: End) {
        if let Some(permit) = self.0.take() {
            permit.end(end);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            let end = if permit.sent { End::Abandoned } else { End::Ignored };
            permit.end(end);
        }
    }
}

/// A place in the waiting room, given back when it is dropped.
struct Waiting {
    backend: Backend,
    key: Option<Key>,
    timer: Pin<Box<Sleep>>,
    at: Tick,
}

impl Waiting {
    fn new(backend: Backend, key: Key) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(Instant::now()));
        Self { backend, key: Some(key), timer, at: Tick(0) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Settled> {
        let Some(key) = self.key else { return Poll::Pending };
        loop {
            match self.backend.poll(key, cx.waker()) {
                Turn::Settled(how) => {
                    self.key = None;
                    return Poll::Ready(how);
                }
                Turn::At(at) => {
                    if at != self.at {
                        self.at = at;
                        let wait = at.since(now()).min(LONGEST);
                        self.timer.as_mut().reset(Instant::now() + wait);
                    }
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    // The clock may stand at the very moment: look again later rather than for ever now.
                    self.at = Tick(0);
                    if now() < at {
                        continue;
                    }
                    self.timer.as_mut().reset(Instant::now() + TIMER);
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return match self.backend.poll(key, cx.waker()) {
                            Turn::Settled(how) => {
                                self.key = None;
                                Poll::Ready(how)
                            }
                            Turn::At(_) => Poll::Pending,
                        };
                    }
                }
            }
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
        state: State<S, Req, S::Future, C::Ticket>,
        parts: Ref<Parts<C, X, R>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, T> {
        Arriving { call: Option<Call<S, Req>> },
        Waiting { waiting: Waiting, call: Option<Call<S, Req>> },
        Readying { held: Held, call: Option<Call<S, Req>> },
        Called { #[pin] future: F, ticket: Option<T>, held: Held },
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

fn end(verdict: &Verdict) -> End {
    match verdict.outcome {
        Outcome::Success => End::Success,
        Outcome::Failure(crate::outcome::FailureClass::Permanent) => End::Success,
        Outcome::Failure(_) => End::Failure,
        Outcome::Throttled => End::Throttled,
        Outcome::Cancelled { .. } | Outcome::Ignored => End::Ignored,
    }
}

fn refusal(kind: RejectionKind, backend: &Backend) -> Rejection {
    Rejection::new(kind, LayerKind::Admission, backend.label())
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
        let backend = parts.admission.backend();
        loop {
            match this.state.as_mut().project() {
                StateProj::Arriving { call } => {
                    let Some(call) = call.take() else { return Poll::Pending };
                    let context = parts.context.context(&call.req);
                    let now = now();
                    let deadline = context
                        .deadline()
                        .map_or_else(|| now.after(parts.admission.longest()), |by| by.tick());
                    let kind = match backend.arrive(deadline, context.criticality(), now) {
                        Arrival::Admitted => {
                            let backend = backend.clone();
                            let held = Held(Some(Permit { backend, started: now, sent: false }));
                            this.state.set(State::Readying { held, call: Some(call) });
                            continue;
                        }
                        Arrival::Wait(key) => {
                            let waiting = Waiting::new(backend.clone(), key);
                            this.state.set(State::Waiting { waiting, call: Some(call) });
                            continue;
                        }
                        Arrival::Expired => RejectionKind::DeadlineExceeded,
                        Arrival::Full => RejectionKind::Overloaded,
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(parts.reject.reject(call.req, refusal(kind, backend)));
                }
                StateProj::Waiting { waiting, call } => {
                    let settled = ready!(waiting.poll(cx));
                    let Some(call) = call.take() else { return Poll::Pending };
                    if settled == Settled::Granted {
                        let backend = backend.clone();
                        let held = Held(Some(Permit { backend, started: now(), sent: false }));
                        this.state.set(State::Readying { held, call: Some(call) });
                    } else {
                        this.state.set(State::Done);
                        let kind = match settled {
                            Settled::Hopeless => RejectionKind::DeadlineExceeded,
                            _ => RejectionKind::Overloaded,
                        };
                        return Poll::Ready(parts.reject.reject(call.req, refusal(kind, backend)));
                    }
                }
                StateProj::Readying { held, call } => {
                    let Some(waiting) = call else { return Poll::Pending };
                    if let Err(error) = ready!(waiting.inner.poll_ready(cx)) {
                        held.end(End::Ignored);
                        this.state.set(State::Done);
                        return Poll::Ready(Err(R::map_err(error)));
                    }
                    let (Some(mut call), Some(mut permit)) = (call.take(), held.0.take()) else {
                        return Poll::Pending;
                    };
                    permit.sent = true;
                    let held = Held(Some(permit));
                    let ticket = Some(parts.classify.start(&call.req));
                    let future = call.inner.call(call.req);
                    this.state.set(State::Called { future, ticket, held });
                }
                StateProj::Called { future, ticket, held } => {
                    let result = ready!(future.poll(cx));
                    if let Some(ticket) = ticket.take() {
                        let verdict = parts.classify.finish(ticket, result.as_ref());
                        held.end(end(&verdict));
                    }
                    this.state.set(State::Done);
                    return Poll::Ready(result.map_err(R::map_err));
                }
                // Polled again after it was ready, which a future need not support.
                StateProj::Done => return Poll::Pending,
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
            State::Called { .. } => "Called",
            State::Done => "Done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
