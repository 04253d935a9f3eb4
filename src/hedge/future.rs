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
use crate::clock::{self, Tick};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::replay::{Attempt, Replay};

pin_project! {
    /// Future of a [`HedgeService`](super::HedgeService). Dropping it drops both attempts.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
    {
        // `None` once it has ended.
        #[pin]
        pub(super) first: Option<S::Future>,
        #[pin]
        pub(super) second: Option<S::Future>,
        // Made when the first has to wait.
        #[pin]
        pub(super) sleep: Option<Sleep>,
        pub(super) ticket: Option<C::Ticket>,
        pub(super) second_ticket: Option<C::Ticket>,
        // What the second attempt is made of.
        pub(super) spare: Option<Spare<S, Req>>,
        pub(super) stage: Stage,
        pub(super) sent: Option<SentRetry>,
        pub(super) classifier: C,
        pub(super) replay: R,
        // The last: what it measures includes the drop of the attempts.
        pub(super) watch: Watch,
    }
}

pub(super) struct Spare<S, Req> {
    pub(super) inner: S,
    pub(super) copy: Req,
}

pub(super) enum Stage {
    Waiting { due: Tick },
    // Granted; its service is not ready yet.
    Readying { grant: Grant },
    Both,
    // No second attempt, or no longer.
    Alone,
    Done,
}

/// Another attempt may do better.
fn is_lost(verdict: Verdict) -> bool {
    matches!(
        verdict.outcome,
        Outcome::Failure(FailureClass::Transient | FailureClass::Flaky) | Outcome::Throttled
    )
}

type Answer<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

impl<S, Req, C, R> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    R: Replay<Req>,
{
    /// Lets go of everything.
    fn end(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.first.set(None);
        this.second.set(None);
        this.sleep.set(None);
        *this.spare = None;
        *this.sent = None;
        *this.stage = Stage::Done;
        // An answer that was not measured is no answer that was given up.
        this.watch.shared = None;
    }

    /// No second attempt.
    fn withhold(self: Pin<&mut Self>, why: Withheld) {
        let mut this = self.project();
        if let Some(shared) = &this.watch.shared {
            shared.withhold(why);
        }
        this.sleep.set(None);
        *this.spare = None;
        *this.stage = Stage::Alone;
    }

    /// The first has to wait: time for the second, or to see what that has come to.
    #[cold]
    #[inline(never)]
    fn go_on(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Option<Answer<S, Req>> {
        loop {
            let mut this = self.as_mut().project();
            match this.stage {
                Stage::Waiting { due } => {
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
                        Err(why) => self.as_mut().withhold(why),
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
                Stage::Both => {
                    let result = match this.second.as_mut().as_pin_mut()?.poll(cx) {
                        Poll::Pending => return None,
                        Poll::Ready(result) => result,
                    };
                    this.second.set(None);
                    return self.settle_second(result);
                }
                Stage::Alone => return None,
                Stage::Done => panic!("polled after it had answered"),
            }
        }
    }

    /// Whether there may be a second attempt.
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
            Stage::Waiting { due } => due.since(this.watch.started),
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
        let Some(Spare { mut inner, mut copy }) = this.spare.take() else { return };
        let attempt = this.replay.attempt(&copy).0.saturating_add(1);
        this.replay.mark(&mut copy, Attempt(attempt));
        *this.second_ticket = Some(this.classifier.start(&copy));
        this.second.set(Some(inner.call(copy)));
        this.sleep.set(None);
        // Only now: a panic on the way here gives the hedge back.
        if let Stage::Readying { grant } = std::mem::replace(this.stage, Stage::Both) {
            *this.sent = grant.send();
        }
        if let Some(shared) = &this.watch.shared {
            shared.sent(clock::now().since(this.watch.started));
        }
    }

    /// The second has ended. `None` if the first is waited for.
    fn settle_second(mut self: Pin<&mut Self>, result: Answer<S, Req>) -> Option<Answer<S, Req>> {
        let this = self.as_mut().project();
        let ticket = this.second_ticket.take()?;
        let verdict = this.classifier.finish(ticket, result.as_ref());
        let ignored = verdict.outcome == Outcome::Ignored;
        let sent = this.sent.take();
        if let Some(sent) = sent {
            if is_lost(verdict) {
                drop(sent);
            } else if ignored && result.is_err() {
                // Most likely refused on its way.
                sent.refused();
            } else {
                sent.succeeded();
            }
        }
        if this.first.is_some() && (is_lost(verdict) || ignored && result.is_err()) {
            *this.stage = Stage::Alone;
            return None;
        }
        if let Some(shared) = this.watch.shared.take() {
            if this.first.is_some() {
                let now = clock::now();
                shared.core.censored(now.0.saturating_sub(this.watch.started.0), now);
            }
            if !is_lost(verdict) {
                let won = &shared.counts.won;
                won.fetch_add(1, std::sync::atomic::Ordering::Release);
            }
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
        let mut this = self.as_mut().project();
        if let Some(first) = this.first.as_mut().as_pin_mut()
            && let Poll::Ready(result) = first.poll(cx)
        {
            this.first.set(None);
            let ticket = this.ticket.take().expect("it ends once");
            let verdict = this.classifier.finish(ticket, result.as_ref());
            if let Some(shared) = &this.watch.shared
                && verdict.outcome == Outcome::Success
            {
                let now = clock::now();
                shared.core.answered(now.0.saturating_sub(this.watch.started.0), now);
            }
            if !(is_lost(verdict) && matches!(this.stage, Stage::Both)) {
                self.end();
                return Poll::Ready(result);
            }
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
            Stage::Both => "both",
            Stage::Alone => "alone",
            Stage::Done => "done",
        };
        f.debug_struct("ResponseFuture").field("stage", &stage).finish_non_exhaustive()
    }
}
