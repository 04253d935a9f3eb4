use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::core::Stop;
use super::keep::Keep;
use super::plan::Plan;
use super::progress::{Progress, Terms, respect_refusal};
use super::service::Shared;
use super::{Attempt, Replay};
use crate::classify::Classify;
use crate::clock::{Tick, until};
use crate::name::LayerKind;
use crate::observe::{CallSpan, LET_THROUGH, Observers, WaitSpan};
use crate::outcome::{Outcome, Verdict};
use crate::reject::Reject;
use crate::rejection::RejectionKind;
use crate::sync::Ref;
use crate::wide::Wide;

static NOBODY: Observers = Observers::NONE;

/// Retries without a pause in one poll before other tasks get a turn.
pub(super) const TURN: u32 = 32;

pin_project! {
    /// Future of a [`RetryService`](super::RetryService).
    ///
    /// Dropping it at any point stops everything; a retry that was granted and not yet sent goes back to the
    /// budget.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::retry::{ResponseFuture, RetryLayer, RetryPolicy};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = RetryLayer::new(RetryPolicy::default()).layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, R, J, K = Shared>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
        K: Keep<S>,
    {
        #[pin]
        pub(super) state: State<S::Future, S, Req, C::Ticket, K::Kept>,
        pub(super) plan: Plan,
        pub(super) deadline: Option<Tick>,
        pub(super) classifier: C,
        pub(super) replay: R,
        pub(super) reject: J,
        pub(super) shared: Option<Ref<K>>,
        // Made at the first failure, or when the first attempt has to wait against a limit.
        pub(super) slow: Option<Box<Slow<S::Error>>>,
    }
}

// What a call holds on to lies in its state, so that it is let go of with it. (It also keeps single bytes
// out of the future: moving one with bytes in it stalls the processor for longer than the whole call.)
pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwn]
    pub(super) enum State<F, S, Req, T, K> {
        Calling {
            #[pin]
            call: F,
            // `None` while the call is judged.
            ticket: Wide<T>,
            kept: K,
            copy: Option<Req>,
        },
        // In a box: only failures come this far, and the future is copied before it is polled.
        Sleeping { again: Box<Again<S, Req>> },
        Readying { again: Box<Again<S, Req>> },
        // There is no retry.
        Through {
            #[pin]
            call: F,
        },
        // The deadline had passed on arrival.
        TooLate,
        Done,
    }
}

/// A retry that is to be made.
pub(super) struct Again<S, Req> {
    inner: S,
    copy: Req,
}

/// The copy became too long to be kept while the retry waited, and the response is gone.
#[derive(Debug)]
struct NotReplayable;

impl fmt::Display for NotReplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request can no longer be sent again")
    }
}

impl std::error::Error for NotReplayable {}

/// An attempt that is over.
struct Ended<Res, Err, K, Req> {
    /// `None` if it was cut off.
    result: Option<Result<Res, Err>>,
    verdict: Verdict,
    kept: K,
    copy: Option<Req>,
}

type EndedOf<S, Req, K> =
    Ended<<S as Service<Req>>::Response, <S as Service<Req>>::Error, <K as Keep<S>>::Kept, Req>;

pub(super) struct Slow<E> {
    progress: Progress,
    timer: Option<Pin<Box<Sleep>>>,
    // Whether the timer runs for the state at hand.
    armed: bool,
    // The error of the attempt before, in case the next cannot be made. A response is not kept: it may
    // hold a connection.
    last: Option<E>,
    // Of the pause before the retry.
    pause: WaitSpan,
    // Of the retry in hand; none during a first attempt.
    span: CallSpan,
}

impl<E> Slow<E> {
    fn boxed(progress: Progress) -> Box<Self> {
        Box::new(Self {
            progress,
            timer: None,
            armed: false,
            last: None,
            pause: WaitSpan::NONE,
            span: CallSpan::NONE,
        })
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

fn terms<'a>(plan: &'a Plan, deadline: Option<Tick>, shared: Option<&'a Shared>) -> Terms<'a> {
    let budget = shared.and_then(|shared| shared.budget.as_ref());
    let observers = shared.map_or(&NOBODY, |shared| &shared.observers);
    let tally = shared.map(|shared| &*shared.tally);
    Terms { policy: &plan.policy, deadline, name: plan.name, budget, observers, tally }
}

fn shared<S, K: Keep<S>>(shared: &Option<Ref<K>>) -> Option<&Shared> {
    shared.as_deref().map(AsRef::as_ref)
}

type Answer<S, Req, J> = Result<
    <S as Service<Req>>::Response,
    <J as Reject<(), <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
>;

impl<S, Req, C, R, J, K> ResponseFuture<S, Req, C, R, J, K>
where
    S: Service<Req>,
    S::Error: 'static,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
    J: Reject<(), S::Response, S::Error>,
    K: Keep<S>,
{
    /// Everything but a first attempt that works: retries, and what lies between.
    #[cold]
    #[inline(never)]
    fn go_on(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut ended: Option<EndedOf<S, Req, K>>,
    ) -> Option<Answer<S, Req, J>> {
        let mut turns = 0;
        loop {
            if let Some(ended) = ended.take()
                && let Some(answer) = self.as_mut().settle(ended)
            {
                return Some(answer);
            }
            let mut this = self.as_mut().project();
            match this.state.as_mut().project() {
                StateProj::Calling { call, .. } => {
                    let polled = match this.slow {
                        Some(slow) => slow.span.in_scope(|| call.poll(cx)),
                        None => call.poll(cx),
                    };
                    let result = match polled {
                        Poll::Ready(result) => Some(result),
                        Poll::Pending => {
                            if self.as_mut().poll_limit(cx).is_pending() {
                                return None;
                            }
                            None
                        }
                    };
                    ended = self.as_mut().end(result);
                }
                StateProj::Sleeping { .. } => {
                    if self.as_mut().poll_pause(cx).is_pending() {
                        return None;
                    }
                }
                StateProj::Readying { .. } => {
                    turns += 1;
                    if turns > TURN {
                        cx.waker().wake_by_ref();
                        return None;
                    }
                    match self.as_mut().poll_retry(cx) {
                        Poll::Pending => return None,
                        Poll::Ready(Some(answer)) => return Some(answer),
                        Poll::Ready(None) => {}
                    }
                }
                StateProj::Through { call } => {
                    let Poll::Ready(result) = call.poll(cx) else { return None };
                    this.state.set(State::Done);
                    return Some(result.map_err(J::map_err));
                }
                StateProj::TooLate => {
                    this.state.set(State::Done);
                    let terms = terms(this.plan, *this.deadline, shared::<S, K>(this.shared));
                    let why = terms.rejection(RejectionKind::DeadlineExceeded);
                    let answer = this.reject.reject((), why);
                    *this.shared = None;
                    return Some(answer);
                }
                StateProj::Done => panic!("polled after it had answered"),
            }
        }
    }

    /// The attempt has to wait, and not for ever.
    #[cold]
    #[inline(never)]
    fn poll_limited(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<Answer<S, Req, J>> {
        if self.as_mut().poll_limit(cx).is_pending() {
            return None;
        }
        let ended = self.as_mut().end(None);
        self.go_on(cx, ended)
    }

    /// The attempt failed, or another went before it.
    #[cold]
    #[inline(never)]
    fn poll_ended(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        result: Result<S::Response, S::Error>,
    ) -> Option<Answer<S, Req, J>> {
        let ended = self.as_mut().end(Some(result));
        self.go_on(cx, ended)
    }

    /// The attempt was answered by what is called a failure.
    #[cold]
    #[inline(never)]
    fn poll_failed(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        response: S::Response,
        verdict: Verdict,
    ) -> Option<Answer<S, Req, J>> {
        let StateOwn::Calling { kept, copy, .. } =
            self.as_mut().project().state.project_replace(State::Done)
        else {
            unreachable!("it was calling a moment ago")
        };
        let result = Some(Ok(response));
        self.go_on(cx, Some(Ended { result, verdict, kept, copy }))
    }

    /// Takes the attempt in hand apart and judges it; `None` as its result if it was cut off.
    fn end(
        self: Pin<&mut Self>,
        result: Option<Result<S::Response, S::Error>>,
    ) -> Option<EndedOf<S, Req, K>> {
        let mut this = self.project();
        let StateOwn::Calling { ticket: Wide::Some(ticket), kept, copy, .. } =
            this.state.as_mut().project_replace(State::Done)
        else {
            return None;
        };
        let verdict = match &result {
            Some(result) => this.classifier.finish(ticket, result.as_ref()),
            None => this.classifier.expired(ticket),
        };
        Some(Ended { result, verdict, kept, copy })
    }

    /// Settles an attempt. Returns the answer if it was the last.
    fn settle(self: Pin<&mut Self>, ended: EndedOf<S, Req, K>) -> Option<Answer<S, Req, J>> {
        let Ended { result, verdict, kept, copy } = ended;
        let error = result.as_ref().and_then(|result| result.as_ref().err());
        let judged = respect_refusal(verdict, error, self.plan.name);
        let mut this = self.project();
        let terms = terms(this.plan, until(*this.deadline), shared::<S, K>(this.shared));
        let mut fresh = Progress::first();
        let progress = this.slow.as_mut().map_or(&mut fresh, |slow| &mut slow.progress);
        // Where a response is at stake the copy must be good now; else it may still become so during the
        // pause, when the connection lets go of the body, if it was kept.
        let is_response = matches!(result, Some(Ok(_)));
        let good = || {
            copy.as_ref().is_some_and(|copy| match is_response {
                true => this.replay.can_send(copy),
                false => !this.replay.is_lost(copy),
            })
        };
        if let Some(delay) = progress.settle(&terms, judged, good)
            && let Some(copy) = copy
        {
            if let Some(inner) = K::next(kept, this.shared.as_deref()) {
                // A response may hold a connection: it does not outlive this line.
                let last = result.and_then(Result::err);
                let slow = this.slow.get_or_insert_with(|| Slow::boxed(fresh));
                slow.last = last;
                slow.armed = false;
                let again = Box::new(Again { inner, copy });
                if delay.is_zero() {
                    this.state.set(State::Readying { again });
                } else {
                    slow.pause = WaitSpan::begin(LayerKind::Retry, terms.name);
                    slow.arm(delay);
                    this.state.set(State::Sleeping { again });
                }
                return None;
            }
            progress.give_up(&terms, Stop::NotReady);
        }
        let answer = match result {
            Some(result) => result.map_err(J::map_err),
            None => this.reject.reject((), terms.rejection(RejectionKind::DeadlineExceeded)),
        };
        *this.slow = None;
        *this.shared = None;
        Some(answer)
    }

    /// The attempt has to wait. Ready if it has waited for too long.
    fn poll_limit(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let slow = this.slow.get_or_insert_with(|| Slow::boxed(Progress::first()));
        if !slow.armed {
            let terms = terms(this.plan, *this.deadline, shared::<S, K>(this.shared));
            let Some(limit) = terms.attempt_limit() else { return Poll::Pending };
            slow.arm(limit);
        }
        slow.poll_timer(cx)
    }

    /// The pause: ready when it is over.
    fn poll_pause(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let Some(slow) = this.slow {
            if slow.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
            slow.armed = false;
            slow.pause.end(LET_THROUGH);
        }
        if let StateOwn::Sleeping { again } = this.state.as_mut().project_replace(State::Done) {
            this.state.set(State::Readying { again });
        }
        Poll::Ready(())
    }

    /// Asks the inner service whether it is ready, and sends the retry.
    fn poll_retry(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer<S, Req, J>>> {
        let mut this = self.project();
        let StateProj::Readying { again } = this.state.as_mut().project() else {
            return Poll::Ready(None);
        };
        let terms = terms(this.plan, until(*this.deadline), shared::<S, K>(this.shared));
        let slow = this.slow.get_or_insert_with(|| Slow::boxed(Progress::first()));
        let stop = match again.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) if terms.has_passed() => Stop::Deadline,
            Poll::Ready(Ok(())) if !this.replay.can_send(&again.copy) => Stop::NotReplayable,
            Poll::Ready(Ok(())) => {
                let StateOwn::Readying { again } = this.state.as_mut().project_replace(State::Done)
                else {
                    return Poll::Ready(None);
                };
                let Again { mut inner, copy: mut req } = *again;
                this.replay.mark(&mut req, Attempt(slow.progress.attempts()));
                let last = slow.progress.is_last(terms.policy);
                let copy = if last { None } else { this.replay.try_replay(&req) };
                let ticket = Wide::Some(this.classifier.start(&req));
                slow.span = CallSpan::retry(terms.name.as_str(), slow.progress.attempts());
                let call = slow.span.in_scope(|| inner.call(req));
                // Only now: a panic on the way here gives the retry back.
                slow.progress.send();
                slow.armed = false;
                slow.last = None;
                let kept = K::done(inner);
                this.state.set(State::Calling { call, ticket, kept, copy });
                return Poll::Ready(None);
            }
            Poll::Ready(Err(error)) => {
                slow.progress.give_up(&terms, Stop::NotReady);
                this.state.set(State::Done);
                *this.slow = None;
                *this.shared = None;
                return Poll::Ready(Some(Err(J::map_err(error))));
            }
            Poll::Pending if terms.policy.gives_up_if_not_ready() => Stop::NotReady,
            Poll::Pending => {
                if !slow.armed {
                    let Some(limit) = terms.attempt_limit() else { return Poll::Pending };
                    slow.arm(limit);
                }
                if slow.poll_timer(cx).is_pending() {
                    return Poll::Pending;
                }
                if terms.has_passed() { Stop::Deadline } else { Stop::NotReady }
            }
        };
        slow.progress.give_up(&terms, stop);
        let answer = match slow.last.take() {
            Some(error) => Err(J::map_err(error)),
            None => {
                let why = match stop {
                    Stop::NotReady => terms.rejection(RejectionKind::Overloaded),
                    Stop::NotReplayable => {
                        terms.rejection(RejectionKind::Overloaded).with_source(NotReplayable)
                    }
                    _ => terms.rejection(RejectionKind::DeadlineExceeded),
                };
                this.reject.reject((), why)
            }
        };
        this.state.set(State::Done);
        *this.slow = None;
        *this.shared = None;
        Poll::Ready(Some(answer))
    }
}

impl<S, Req, C, R, J, K> Future for ResponseFuture<S, Req, C, R, J, K>
where
    S: Service<Req>,
    S::Error: 'static,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
    J: Reject<(), S::Response, S::Error>,
    K: Keep<S>,
{
    type Output = Answer<S, Req, J>;

    // Only the way of nearly every call; everything else is behind calls to cold functions, so that this
    // much can be inlined. Were it not, the answer would be written in words and read in pairs of them at
    // once, which stalls the processor for longer than the whole call takes.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let StateProj::Calling { call, ticket, .. } = this.state.as_mut().project() else {
            return polled(self.go_on(cx, None));
        };
        if this.slow.is_some() {
            return polled(self.go_on(cx, None));
        }
        let response = match call.poll(cx) {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(result) => return polled(self.poll_ended(cx, result)),
            Poll::Pending if this.deadline.is_none() && !this.plan.has_timeout => {
                return Poll::Pending;
            }
            Poll::Pending => return polled(self.poll_limited(cx)),
        };
        let ticket = ticket.take().expect("who takes it changes the state");
        let over = Over(this.state.as_mut());
        let verdict = this.classifier.finish(ticket, Ok(&response));
        mem::forget(over);
        if !matches!(verdict.outcome, Outcome::Success) {
            return polled(self.poll_failed(cx, response, verdict));
        }
        // Dropped where it is: taken out, the service and the copy would be moved first.
        this.state.set(State::Done);
        // Nothing may wait for the caller to drop the future.
        if let Some(shared) = this.shared.take()
            && let Some(budget) = &(*shared).as_ref().budget
        {
            budget.succeeded();
        }
        Poll::Ready(Ok(response))
    }
}

/// Goes off when a classifier panics: the call has ended and must not be polled again.
struct Over<'a, F, S, Req, T, K>(Pin<&'a mut State<F, S, Req, T, K>>);

impl<F, S, Req, T, K> Drop for Over<'_, F, S, Req, T, K> {
    fn drop(&mut self) {
        self.0.set(State::Done);
    }
}

/// What a function that is not inlined has to say. Such functions return no `Poll`: it would be written to
/// where the answer of the fast path goes, which then had to be in memory too.
#[inline(always)]
fn polled<T>(answer: Option<T>) -> Poll<T> {
    match answer {
        Some(answer) => Poll::Ready(answer),
        None => Poll::Pending,
    }
}

impl<S, Req, C, R, J, K> fmt::Debug for ResponseFuture<S, Req, C, R, J, K>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    K: Keep<S>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::TooLate => "too_late",
            State::Calling { .. } | State::Through { .. } => "calling",
            State::Sleeping { .. } => "sleeping",
            State::Readying { .. } => "readying",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("name", &self.plan.name)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
