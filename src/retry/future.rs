use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::core::Stop;
use super::progress::{Progress, Terms, respect_refusal};
use super::service::Shared;
use super::{Attempt, Replay, RetryPolicy};
use crate::clock::{Tick, now};
use crate::name::Name;
use crate::observe::Observers;
use crate::outcome::{Classify, Outcome, Verdict};
use crate::rejection::{Reject, RejectionKind};
use crate::sync::Ref;

static NOBODY: Observers = Observers::NONE;

/// Zero-delay retries in one poll before other tasks get a turn.
const TURN: u32 = 32;

pin_project! {
    /// Future of a [`RetryService`](super::RetryService).
    ///
    /// Dropping it at any point stops everything; a retry that was granted and not yet sent goes back to the
    /// budget.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, R, J>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
    {
        #[pin]
        state: State<S::Future>,
        inner: Option<S>,
        copy: Option<Req>,
        ticket: Option<C::Ticket>,
        policy: RetryPolicy,
        deadline: Option<Tick>,
        name: Name,
        classifier: C,
        replay: R,
        reject: J,
        shared: Option<Ref<Shared>>,
        // Made at the first failure, or when the first attempt has to wait against a limit.
        slow: Option<Box<Slow<S::Error>>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        // The deadline had passed on arrival.
        TooLate,
        Calling {
            #[pin]
            call: F,
        },
        Sleeping,
        Readying,
        Done,
    }
}

/// A first attempt on its way.
pub(super) struct Started<S, Req, T, F> {
    pub(super) inner: S,
    pub(super) copy: Option<Req>,
    pub(super) ticket: T,
    pub(super) call: F,
}

struct Slow<E> {
    progress: Progress,
    timer: Option<Pin<Box<Sleep>>>,
    // Whether the timer runs for the state at hand.
    armed: bool,
    // The error of the attempt before, in case the next cannot be made. A response is not kept: it may
    // hold a connection.
    last: Option<E>,
}

impl<E> Slow<E> {
    fn boxed(progress: Progress) -> Box<Self> {
        Box::new(Self { progress, timer: None, armed: false, last: None })
    }

    fn arm(&mut self, after: Duration) {
        let at = tokio::time::Instant::now().checked_add(after);
        match (&mut self.timer, at) {
            (Some(timer), Some(at)) => timer.as_mut().reset(at),
            // Also copes with times beyond what the clock can say.
            (timer, _) => *timer = Some(Box::pin(tokio::time::sleep(after))),
        }
        self.armed = true;
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl<S, Req, C, R, J> ResponseFuture<S, Req, C, R, J>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    #[inline]
    pub(super) fn new(
        policy: RetryPolicy,
        deadline: Option<Tick>,
        name: Name,
        (classifier, replay, reject): (C, R, J),
        shared: Option<Ref<Shared>>,
        started: Option<Started<S, Req, C::Ticket, S::Future>>,
    ) -> Self {
        let (state, inner, copy, ticket) = match started {
            Some(Started { inner, copy, ticket, call }) => {
                (State::Calling { call }, Some(inner), copy, Some(ticket))
            }
            None => (State::TooLate, None, None, None),
        };
        Self {
            state,
            inner,
            copy,
            ticket,
            policy,
            deadline,
            name,
            classifier,
            replay,
            reject,
            shared,
            slow: None,
        }
    }
}

fn terms<'a>(
    policy: &'a RetryPolicy,
    deadline: Option<Tick>,
    name: Name,
    shared: Option<&'a Ref<Shared>>,
) -> Terms<'a> {
    let budget = shared.and_then(|shared| shared.budget.as_ref());
    let observers = shared.map_or(&NOBODY, |shared| &shared.observers);
    Terms { policy, deadline, name, budget, observers }
}

type Answer<S, Req, J> = Result<
    <S as Service<Req>>::Response,
    <J as Reject<(), <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
>;

impl<S, Req, C, R, J> ResponseFuture<S, Req, C, R, J>
where
    S: Service<Req>,
    S::Error: 'static,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
    J: Reject<(), S::Response, S::Error>,
{
    /// Lets go of everything: nothing may wait for the caller to drop the future.
    fn finish(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.state.set(State::Done);
        *this.inner = None;
        *this.copy = None;
        *this.slow = None;
        *this.shared = None;
    }

    /// An attempt ended without success: with a result, or cut off. Returns the answer if it was the last.
    #[cold]
    fn settle(
        mut self: Pin<&mut Self>,
        result: Option<Result<S::Response, S::Error>>,
        verdict: Verdict,
    ) -> Option<Answer<S, Req, J>> {
        let mut this = self.as_mut().project();
        let terms = terms(this.policy, *this.deadline, *this.name, this.shared.as_ref());
        let mut fresh = Progress::first();
        let progress = this.slow.as_mut().map_or(&mut fresh, |slow| &mut slow.progress);
        // Where a response is at stake the copy must be good now; else it may still become so during the
        // pause, when the connection lets go of the body.
        let replayable = this
            .copy
            .as_ref()
            .is_some_and(|copy| !matches!(result, Some(Ok(_))) || this.replay.can_send(copy));
        match progress.settle(&terms, verdict, replayable) {
            Some(delay) => {
                // The call and its response may hold a connection: neither outlives this line.
                this.state.set(State::Readying);
                let slow = this.slow.get_or_insert_with(|| Slow::boxed(fresh));
                slow.last = result.and_then(Result::err);
                slow.armed = false;
                if !delay.is_zero() {
                    slow.arm(delay);
                    this.state.set(State::Sleeping);
                }
                None
            }
            None => {
                let answer = match result {
                    Some(result) => result.map_err(J::map_err),
                    None => {
                        this.reject.reject((), terms.rejection(RejectionKind::DeadlineExceeded))
                    }
                };
                self.finish();
                Some(answer)
            }
        }
    }

    /// The attempt has to wait. Ready if it has waited for too long.
    #[cold]
    fn poll_limit(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let slow = this.slow.get_or_insert_with(|| Slow::boxed(Progress::first()));
        if !slow.armed {
            let terms = terms(this.policy, *this.deadline, *this.name, this.shared.as_ref());
            let Some(limit) = terms.attempt_limit() else { return Poll::Pending };
            slow.arm(limit);
        }
        slow.poll_timer(cx)
    }

    /// Asks the inner service whether it is ready, and sends the retry.
    fn poll_retry(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<S, Req, J>>> {
        let mut this = self.as_mut().project();
        let (Some(inner), Some(slow)) = (this.inner.as_mut(), this.slow.as_mut()) else {
            unreachable!("a retry has a service and its progress")
        };
        let terms = terms(this.policy, *this.deadline, *this.name, this.shared.as_ref());
        let stop = match inner.poll_ready(cx) {
            Poll::Ready(Ok(())) if terms.has_passed() => Stop::Deadline,
            Poll::Ready(Ok(())) if !this.copy.as_ref().is_some_and(|r| this.replay.can_send(r)) => {
                Stop::NotReplayable
            }
            Poll::Ready(Ok(())) => {
                let Some(mut req) = this.copy.take() else {
                    unreachable!("a retry was only granted with a copy in hand")
                };
                this.replay.mark(&mut req, Attempt(slow.progress.attempts()));
                if !slow.progress.is_last(this.policy) {
                    *this.copy = this.replay.try_replay(&req);
                }
                *this.ticket = Some(this.classifier.start(&req));
                slow.armed = false;
                slow.last = None;
                let call = inner.call(req);
                // Only now: a panic on the way here gives the retry back.
                slow.progress.send();
                this.state.set(State::Calling { call });
                return Poll::Ready(None);
            }
            Poll::Ready(Err(error)) => {
                self.finish();
                return Poll::Ready(Some(Err(J::map_err(error))));
            }
            Poll::Pending if this.policy.gives_up_if_not_ready() => Stop::NotReady,
            Poll::Pending => {
                let Some(deadline) = *this.deadline else { return Poll::Pending };
                if !slow.armed {
                    slow.arm(deadline.since(now()));
                }
                if slow.poll_timer(cx).is_pending() {
                    return Poll::Pending;
                }
                Stop::Deadline
            }
        };
        slow.progress.give_up(&terms, stop);
        let answer = match slow.last.take() {
            Some(error) => Err(J::map_err(error)),
            None => {
                let kind = match stop {
                    Stop::NotReady => RejectionKind::Overloaded,
                    _ => RejectionKind::DeadlineExceeded,
                };
                this.reject.reject((), terms.rejection(kind))
            }
        };
        self.finish();
        Poll::Ready(Some(answer))
    }
}

impl<S, Req, C, R, J> Future for ResponseFuture<S, Req, C, R, J>
where
    S: Service<Req>,
    S::Error: 'static,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
    J: Reject<(), S::Response, S::Error>,
{
    type Output = Answer<S, Req, J>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut turns = 0;
        loop {
            let this = self.as_mut().project();
            match this.state.project() {
                StateProj::Calling { call } => match call.poll(cx) {
                    Poll::Ready(result) => {
                        let Some(ticket) = this.ticket.take() else {
                            unreachable!("an attempt on its way has a ticket")
                        };
                        let mut verdict = this.classifier.finish(ticket, result.as_ref());
                        if verdict.outcome == Outcome::Success && this.slow.is_none() {
                            if let Some(shared) = this.shared
                                && let Some(budget) = &shared.budget
                            {
                                budget.succeeded();
                            }
                            self.as_mut().finish();
                            return Poll::Ready(result.map_err(J::map_err));
                        }
                        if let Err(error) = &result {
                            verdict = respect_refusal(verdict, error);
                        }
                        if let Some(answer) = self.as_mut().settle(Some(result), verdict) {
                            return Poll::Ready(answer);
                        }
                    }
                    Poll::Pending => {
                        if this.deadline.is_none() && this.policy.attempt_timeout().is_none() {
                            return Poll::Pending;
                        }
                        if self.as_mut().poll_limit(cx).is_pending() {
                            return Poll::Pending;
                        }
                        let mut this = self.as_mut().project();
                        this.state.set(State::Readying);
                        let Some(ticket) = this.ticket.take() else {
                            unreachable!("an attempt on its way has a ticket")
                        };
                        let verdict = this.classifier.expired(ticket);
                        if let Some(answer) = self.as_mut().settle(None, verdict) {
                            return Poll::Ready(answer);
                        }
                    }
                },
                StateProj::Sleeping => {
                    let Some(slow) = this.slow else { unreachable!("a sleeping call has a timer") };
                    if slow.poll_timer(cx).is_pending() {
                        return Poll::Pending;
                    }
                    slow.armed = false;
                    self.as_mut().project().state.set(State::Readying);
                }
                StateProj::Readying => {
                    turns += 1;
                    if turns > TURN {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    match self.as_mut().poll_retry(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Some(answer)) => return Poll::Ready(answer),
                        Poll::Ready(None) => {}
                    }
                }
                StateProj::TooLate => {
                    let terms =
                        terms(this.policy, *this.deadline, *this.name, this.shared.as_ref());
                    let why = terms.rejection(RejectionKind::DeadlineExceeded);
                    let answer = this.reject.reject((), why);
                    self.as_mut().finish();
                    return Poll::Ready(answer);
                }
                StateProj::Done => panic!("polled after it had answered"),
            }
        }
    }
}

impl<S, Req, C, R, J> fmt::Debug for ResponseFuture<S, Req, C, R, J>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::TooLate => "too_late",
            State::Calling { .. } => "calling",
            State::Sleeping => "sleeping",
            State::Readying => "readying",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("name", &self.name)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
