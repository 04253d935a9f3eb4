use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::handle::{Grant, Watch, Withheld};
use crate::budget::SentRetry;
use crate::classify::Classify;
use crate::clock::{self, Tick, UNREAD};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::replay::{Attempt, Replay};
use crate::superseded::superseded;

pin_project! {
    /// Future of a [`HedgeService`](super::HedgeService). Dropping it drops all attempts.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::hedge::{Hedge, HedgeLayer, ResponseFuture};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = HedgeLayer::new(Hedge::new("double")).layer(double);
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
    {
        // `None` once it has ended.
        #[pin]
        pub(super) first: Option<S::Future>,
        pub(super) ticket: Option<C::Ticket>,
        // Those that are out.
        pub(super) hedges: Vec<Sent<S::Future, C::Ticket>>,
        // Made when the first has to wait.
        #[pin]
        pub(super) sleep: Option<Sleep>,
        // What the next attempt is made of.
        pub(super) spare: Option<Spare<S, Req>>,
        pub(super) stage: Stage,
        pub(super) classifier: C,
        pub(super) replay: R,
        // The last: what it measures includes the drop of the attempts.
        pub(super) watch: Watch,
    }
}

/// A hedge that is out.
pub(super) struct Sent<F, T> {
    future: Pin<Box<F>>,
    ticket: Option<T>,
    paid: Option<SentRetry>,
}

pub(super) struct Spare<S, Req> {
    pub(super) inner: S,
    pub(super) copy: Req,
    /// Hedges so far.
    pub(super) sent: u32,
}

pub(super) enum Stage {
    // The last attempt was sent at `since`; the next is due. It has been refused so many times.
    Waiting { since: Tick, due: Tick, refused: u32 },
    // Granted; its service is not ready yet.
    Readying { grant: Grant },
    // No other attempt.
    Last,
    Done,
}

/// How often it is asked again whether there may be a hedge now.
const REFUSALS: u32 = 4;

/// Another attempt may do better, or most likely has not been made at all.
fn is_lost<T, E>(verdict: &Verdict, result: &Result<T, E>) -> bool {
    match verdict.outcome {
        Outcome::Failure(FailureClass::Transient | FailureClass::Flaky) | Outcome::Throttled => {
            true
        }
        Outcome::Ignored => result.is_err(),
        _ => false,
    }
}

type Answer<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
{
    /// Without a hedge.
    #[inline]
    pub(super) fn through(call: S::Future, classifier: C, replay: R) -> Self {
        Self {
            first: Some(call),
            ticket: None,
            hedges: Vec::new(),
            sleep: None,
            spare: None,
            stage: Stage::Last,
            classifier,
            replay,
            watch: Watch::NONE,
        }
    }

    /// Lets go of everything.
    fn end(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.first.is_some() || !this.hedges.is_empty() {
            // Those that are still out have lost to the answer.
            superseded(|| {
                this.first.set(None);
                this.hedges.clear();
            });
        }
        this.sleep.set(None);
        *this.spare = None;
        *this.stage = Stage::Done;
        // An answer that was not measured is no answer that was given up.
        this.watch.shared = None;
    }

    /// Not now. Where that may change it is asked for again, while there is time.
    fn refuse(mut self: Pin<&mut Self>, why: Withheld) {
        let mut this = self.as_mut().project();
        if let (Stage::Waiting { since, refused, .. }, Some(shared)) =
            (&*this.stage, &this.watch.shared)
            && why.may_change()
            && *refused < REFUSALS
            && let Some(due) = shared.core.plan_again(this.watch.deadline, clock::now())
        {
            if *refused == 0 {
                shared.withhold(why);
            }
            *this.stage = Stage::Waiting { since: *since, due, refused: refused + 1 };
            this.sleep.set(None);
            return;
        }
        self.withhold(why);
    }

    /// No other attempt.
    fn withhold(self: Pin<&mut Self>, why: Withheld) {
        let mut this = self.project();
        let known = matches!(this.stage, Stage::Waiting { refused: 1.., .. });
        if let Some(shared) = this.watch.shared.as_ref().filter(|_| !known) {
            shared.withhold(why);
        }
        this.sleep.set(None);
        *this.spare = None;
        *this.stage = Stage::Last;
    }

    /// The first is not answered at once, and nobody has looked at the clock yet.
    fn plan(self: Pin<&mut Self>) {
        let this = self.project();
        let Some(shared) = &this.watch.shared else { return };
        let since = clock::beginning();
        this.watch.started = since;
        let Stage::Waiting { .. } = this.stage else { return };
        this.watch.deadline = clock::until(this.watch.deadline);
        *this.stage = match shared.core.plan(this.watch.deadline, since) {
            Some(due) => Stage::Waiting { since, due, refused: 0 },
            None => {
                *this.spare = None;
                // What cannot have a hedge says nothing of what they are good for.
                this.watch.deadline = None;
                Stage::Last
            }
        };
    }

    /// The first has to wait: time for another, or to see what those have come to.
    #[cold]
    #[inline(never)]
    fn go_on(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<Answer<S, Req>> {
        // It is not answered in the poll in which it was sent.
        self.as_mut().project().watch.stands_for = 1;
        if self.watch.started == UNREAD {
            self.as_mut().plan();
        }
        loop {
            if let Some(answer) = self.as_mut().poll_hedges(cx) {
                return Some(answer);
            }
            let mut this = self.as_mut().project();
            match this.stage {
                Stage::Waiting { due, .. } => {
                    if this.sleep.is_none() {
                        // What the clock cannot say does not come.
                        let at = clock::instant(*due)?;
                        this.sleep.set(Some(tokio::time::sleep_until(at)));
                    }
                    if this.sleep.as_mut().as_pin_mut()?.poll(cx).is_pending() {
                        return None;
                    }
                    match self.as_ref().ask() {
                        Ok(grant) => self.as_mut().make_ready(grant),
                        Err(why) => self.as_mut().refuse(why),
                    }
                }
                Stage::Readying { .. } => {
                    let inner = &mut this.spare.as_mut()?.inner;
                    match inner.poll_ready(cx) {
                        Poll::Ready(Ok(())) => self.as_mut().send(),
                        Poll::Ready(Err(_)) => self.as_mut().withhold(Withheld::NotReady),
                        Poll::Pending => {
                            let timer = this.sleep.as_mut().as_pin_mut()?;
                            if timer.poll(cx).is_pending() {
                                return None;
                            }
                            self.as_mut().withhold(Withheld::NotReady);
                        }
                    }
                }
                Stage::Last => return None,
                Stage::Done => panic!("polled after it had answered"),
            }
        }
    }

    fn poll_hedges(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<Answer<S, Req>> {
        let mut at = 0;
        while let Some(hedge) = self.as_mut().project().hedges.get_mut(at) {
            match hedge.future.as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(result) => {
                    if let Some(answer) = self.as_mut().settle_hedge(at, result) {
                        return Some(answer);
                    }
                }
            }
        }
        None
    }

    /// Whether there may be another attempt.
    fn ask(self: Pin<&Self>) -> Result<Grant, Withheld> {
        let this = self.project_ref();
        let (Some(shared), Some(spare)) = (&this.watch.shared, this.spare) else {
            return Err(Withheld::NotReplayable);
        };
        if !this.replay.can_send(&spare.copy) {
            return Err(Withheld::NotReplayable);
        }
        // Nobody can tell what has become of the first: as if it had been cut off.
        let verdict = this.classifier.expired(this.classifier.start(&spare.copy));
        if !matches!(verdict.retry, RetryHint::Safe { .. }) {
            return Err(Withheld::Unsafe);
        }
        shared.shared().ask()
    }

    /// It has as long again to become ready.
    fn make_ready(self: Pin<&mut Self>, grant: Grant) {
        let this = self.project();
        let waited = match *this.stage {
            Stage::Waiting { since, due, .. } => due.since(since),
            _ => Duration::ZERO,
        };
        if let (Some(timer), Some(at)) =
            (this.sleep.as_pin_mut(), tokio::time::Instant::now().checked_add(waited))
        {
            timer.reset(at);
        }
        *this.stage = Stage::Readying { grant };
    }

    fn send(self: Pin<&mut Self>) {
        let mut this = self.project();
        let Some(Spare { mut inner, mut copy, sent }) = this.spare.take() else { return };
        let Some(shared) = &this.watch.shared else { return };
        let now = clock::now();
        let sent = sent + 1;
        let more = (sent < shared.core.limits.hedges())
            .then(|| shared.core.plan_next(this.watch.deadline, now));
        let next =
            more.flatten().and_then(|due| this.replay.try_replay(&copy).map(|copy| (due, copy)));
        let attempt = this.replay.attempt(&copy).0.saturating_add(sent);
        this.replay.mark(&mut copy, Attempt(attempt));
        let ticket = Some(this.classifier.start(&copy));
        let future = Box::pin(inner.call(copy));
        this.sleep.set(None);
        let stage = match next {
            Some((due, copy)) => {
                *this.spare = Some(Spare { inner, copy, sent });
                Stage::Waiting { since: now, due, refused: 0 }
            }
            None => Stage::Last,
        };
        // Only now: a panic on the way here gives the hedge back.
        let paid = match std::mem::replace(this.stage, stage) {
            Stage::Readying { grant } => grant.send(),
            _ => None,
        };
        this.hedges.push(Sent { future, ticket, paid });
        shared.sent(now.since(this.watch.started));
    }

    /// A hedge has ended. `None` if another attempt is waited for.
    fn settle_hedge(
        mut self: Pin<&mut Self>,
        at: usize,
        result: Answer<S, Req>,
    ) -> Option<Answer<S, Req>> {
        let this = self.as_mut().project();
        let Sent { future, ticket, paid } = this.hedges.swap_remove(at);
        drop(future);
        let verdict = this.classifier.finish(ticket?, result.as_ref());
        let lost = is_lost(&verdict, &result);
        if let Some(paid) = paid {
            match verdict.outcome {
                // Most likely refused on its way.
                Outcome::Ignored if lost => paid.refused(),
                _ if lost => drop(paid),
                _ => paid.succeeded(),
            }
        }
        if lost && (this.first.is_some() || !this.hedges.is_empty()) {
            return None;
        }
        if let Some(shared) = &this.watch.shared {
            if this.first.is_some() {
                let now = clock::now();
                shared.core.censored(now.0.saturating_sub(this.watch.started.0), now);
            }
            if !lost {
                this.watch.answered(shared, true);
                shared.won();
            }
        }
        self.end();
        Some(result)
    }

    /// The first has ended. `None` if a hedge is waited for.
    fn settle_first(mut self: Pin<&mut Self>, result: Answer<S, Req>) -> Option<Answer<S, Req>> {
        let mut this = self.as_mut().project();
        this.first.set(None);
        let Some(ticket) = this.ticket.take() else {
            *this.stage = Stage::Done;
            return Some(result);
        };
        let verdict = this.classifier.finish(ticket, result.as_ref());
        if let Some(shared) = &this.watch.shared
            && verdict.outcome == Outcome::Success
        {
            if this.watch.stands_for == 0 {
                shared.core.kept(false);
            } else {
                let now = this.watch.answered(shared, false);
                let nanos = now.0.saturating_sub(this.watch.started.0);
                shared.core.answered(nanos, this.watch.stands_for, now);
            }
        }
        if !this.hedges.is_empty() && is_lost(&verdict, &result) {
            this.watch.measured = true;
            return None;
        }
        self.end();
        Some(result)
    }
}

impl<S, Req, C, R> Future for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
{
    type Output = Answer<S, Req>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if let Some(first) = this.first.as_pin_mut()
            && let Poll::Ready(result) = first.poll(cx)
            && let Some(answer) = self.as_mut().settle_first(result)
        {
            return Poll::Ready(answer);
        }
        match self.go_on(cx) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl<S, Req, C, R> fmt::Debug for ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Waiting { .. } => "waiting",
            Stage::Readying { .. } => "readying",
            Stage::Last => "last",
            Stage::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("stage", &stage)
            .field("hedges", &self.hedges.len())
            .finish_non_exhaustive()
    }
}
