use std::fmt;
use std::future::Future;
use std::mem;
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
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::reject::Reject;
use crate::rejection::RejectionKind;
use crate::sync::Ref;

/// A place in flight, given back once: at the latest when it is dropped.
struct Held {
    /// `None` once it was given back.
    backend: Option<Backend>,
    started: Tick,
    /// Nobody waits for the answer any longer then.
    deadline: Tick,
    /// The backend may be working on it.
    sent: bool,
}

impl Held {
    fn new(backend: &Backend, started: Tick, deadline: Tick) -> Self {
        Self { backend: Some(backend.clone()), started, deadline, sent: false }
    }

    fn none() -> Self {
        Self { backend: None, started: Tick(0), deadline: Tick(0), sent: false }
    }

    fn end(&mut self, end: End) {
        if let Some(backend) = self.backend.take() {
            backend.finish(self.started, end);
        }
    }

    fn end_unsent(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.finish_unsent(self.started);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.sent {
            self.end(End::Abandoned { deadline: self.deadline });
        } else {
            self.end_unsent();
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
}

impl Waiting {
    fn new(backend: Backend, key: Key, arrived: Tick) -> Self {
        Self { backend, key: Some(key), arrived, timer: None, at: Tick(0) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Settled, Tick)> {
        let Some(key) = self.key else { return Poll::Pending };
        loop {
            let at = match self.backend.poll(key, cx.waker()) {
                Turn::Settled(how) => {
                    self.key = None;
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
        // `None` if it only passes through.
        parts: Option<Ref<Parts<C, X, R>>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, T> {
        Arriving { call: Option<Call<S, Req>> },
        Waiting { waiting: Waiting, call: Option<Call<S, Req>> },
        Readying { held: Held, call: Option<Call<S, Req>>, timer: Option<Pin<Box<Sleep>>> },
        Called { #[pin] future: F, ticket: Option<T>, held: Held },
        Through { #[pin] future: F },
        Done,
    }
}

impl<S, Req, C, X, R> ResponseFuture<S, Req, C, X, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    pub(super) fn new(inner: S, req: Req, parts: Ref<Parts<C, X, R>>) -> Self {
        let call = Some(Call { inner, req });
        Self { state: State::Arriving { call }, parts: Some(parts) }
    }

    /// Without an admission.
    pub(super) fn through(future: S::Future) -> Self {
        Self { state: State::Through { future }, parts: None }
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
        let Some(parts) = this.parts.as_deref() else {
            let StateProj::Through { future } = this.state.project() else { return Poll::Pending };
            return future.poll(cx).map_err(R::map_err);
        };
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
                            let held = Held::new(backend, now, deadline);
                            let call = Some(call);
                            this.state.set(State::Readying { held, call, timer: None });
                            continue;
                        }
                        Arrival::Wait(key) => {
                            let waiting = Waiting::new(backend.clone(), key, now);
                            this.state.set(State::Waiting { waiting, call: Some(call) });
                            continue;
                        }
                        Arrival::Expired => RejectionKind::DeadlineExceeded,
                        Arrival::Full => RejectionKind::Overloaded,
                        Arrival::Throttled(until) => {
                            let why = backend.refuse_until(until.since(now));
                            this.state.set(State::Done);
                            return Poll::Ready(parts.reject.reject(call.req, why));
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(parts.reject.reject(call.req, backend.refuse(kind)));
                }
                StateProj::Waiting { waiting, call } => {
                    let (settled, deadline) = ready!(waiting.poll(cx));
                    if settled == Settled::Granted {
                        let now = now();
                        backend.waited(waiting.arrived, now);
                        let held = Held::new(backend, now, deadline);
                        let call = call.take();
                        this.state.set(State::Readying { held, call, timer: None });
                    } else {
                        let Some(call) = call.take() else { return Poll::Pending };
                        this.state.set(State::Done);
                        let why = match settled {
                            Settled::Hopeless => backend.refuse(RejectionKind::DeadlineExceeded),
                            Settled::Throttled(until) => backend.refuse_until(until.since(now())),
                            _ => backend.refuse(RejectionKind::Overloaded),
                        };
                        return Poll::Ready(parts.reject.reject(call.req, why));
                    }
                }
                StateProj::Readying { held, call, timer } => {
                    let Some(waiting) = call else { return Poll::Pending };
                    let ready = waiting.inner.poll_ready(cx);
                    if ready.is_pending() {
                        let wait = held.deadline.since(now()).min(LONGEST);
                        let timer = timer.get_or_insert_with(|| {
                            Box::pin(tokio::time::sleep_until(Instant::now() + wait))
                        });
                        ready!(timer.as_mut().poll(cx));
                    }
                    let late = timer.is_some() && held.deadline <= now();
                    let Some(mut call) = call.take() else { return Poll::Pending };
                    let mut held = mem::replace(held, Held::none());
                    match ready {
                        Poll::Ready(Err(error)) => {
                            held.end_unsent();
                            this.state.set(State::Done);
                            return Poll::Ready(Err(R::map_err(error)));
                        }
                        Poll::Ready(Ok(())) if !late => {}
                        _ => {
                            held.end_unsent();
                            this.state.set(State::Done);
                            let kind = RejectionKind::DeadlineExceeded;
                            let refusal = backend.refuse(kind);
                            return Poll::Ready(parts.reject.reject(call.req, refusal));
                        }
                    }
                    let ticket = Some(parts.classify.start(&call.req));
                    held.sent = true;
                    let future = call.inner.call(call.req);
                    this.state.set(State::Called { future, ticket, held });
                }
                StateProj::Called { future, ticket, held } => {
                    let result = ready!(future.poll(cx));
                    // It has answered, also if judging the answer panics.
                    held.sent = false;
                    if let Some(ticket) = ticket.take() {
                        let verdict = parts.classify.finish(ticket, result.as_ref());
                        held.end(end(&verdict));
                    }
                    this.state.set(State::Done);
                    return Poll::Ready(result.map_err(R::map_err));
                }
                // Polled again after it was ready, which a future need not support.
                StateProj::Done | StateProj::Through { .. } => return Poll::Pending,
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
