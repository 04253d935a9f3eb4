//! A place at the backend, and the wait for one: what the layer and direct use share.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::backend::{Arrival, Backend, End, Key, Settled, Turn};
use crate::clock::{Parked, Tick, end_handed_down, now};
use crate::context::Context;
use crate::observe::{LET_THROUGH, REFUSED, WaitSpan};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::rejection::{Rejection, RejectionKind, say};
use crate::wide::Flag;

/// Whoever has a place has the backend at hand.
pub(super) trait Holder {
    fn backend(&self) -> &Backend;
}

impl Holder for Backend {
    fn backend(&self) -> &Backend {
        self
    }
}

/// A place in flight, given back once: at the latest when it is dropped.
pub(super) struct Held<H: Holder> {
    /// `None` once it was given back.
    pub(super) holder: Option<H>,
    pub(super) started: Tick,
    /// Nobody waits for the answer any longer then.
    pub(super) deadline: Tick,
    /// The backend may be working on it.
    pub(super) sent: Flag,
}

impl<H: Holder> Held<H> {
    #[inline]
    pub(super) fn new(holder: H, started: Tick, deadline: Tick) -> Self {
        Self { holder: Some(holder), started, deadline, sent: Flag::No }
    }

    #[inline]
    pub(super) fn end(&mut self, end: End, unmeasured: bool) {
        if let Some(holder) = self.holder.take() {
            let backend = holder.backend();
            if unmeasured && end == End::Success {
                backend.finish_at_once(self.started);
            } else {
                backend.finish(self.started, end);
            }
        }
    }

    /// What becomes of the call is decided by what it had the place from.
    pub(super) fn end_unsent(mut self) -> Option<H> {
        let holder = self.holder.take()?;
        holder.backend().finish_unsent(self.started);
        Some(holder)
    }
}

impl<H: Holder> Drop for Held<H> {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take() {
            let backend = holder.backend();
            if self.sent.is() {
                backend.finish(self.started, End::Abandoned { deadline: self.deadline });
            } else {
                backend.finish_unsent(self.started);
            }
            // Perhaps for a timeout outside, which is about to refuse the call.
            say(|| backend.seen());
        }
    }
}

pub(super) fn end(verdict: &Verdict) -> End {
    match verdict.outcome {
        Outcome::Success => End::Success,
        Outcome::Failure(FailureClass::Permanent) => End::Answered,
        Outcome::Failure(_) => match verdict.retry.after() {
            Some(after) if !after.is_zero() => End::Unavailable(after),
            _ => End::Failure,
        },
        Outcome::Throttled => match verdict.retry {
            RetryHint::Unknown { after: Some(after) } | RetryHint::Safe { after: Some(after) } => {
                End::Throttled(after)
            }
            _ => End::TooMany,
        },
        Outcome::Cancelled { .. } | Outcome::Ignored => End::Ignored,
    }
}

/// Until when a call waits that comes now: without a deadline for `longest`; or until a layer outside gives it up.
#[inline]
pub(super) fn deadline(context: &Context, longest: Duration, now: Tick) -> Tick {
    let until = context.deadline().map_or_else(|| now.after(longest), |by| by.tick());
    end_handed_down().map_or(until, |end| end.min(until))
}

/// The refusal of a call that has come and may neither go nor wait.
pub(super) fn refusal(backend: &Backend, arrival: &Arrival, now: Tick) -> Rejection {
    match *arrival {
        Arrival::Throttled(until) => backend.refuse_until(until.since(now)),
        Arrival::Expired => backend.refuse(RejectionKind::DeadlineExceeded),
        Arrival::Full | Arrival::Admitted | Arrival::Wait(_) => {
            backend.refuse(RejectionKind::Overloaded)
        }
    }
}

/// A place in the waiting room, given back when it is dropped.
pub(super) struct Waiting {
    backend: Backend,
    key: Option<Key>,
    arrived: Tick,
    /// Made when it is polled: outside of a runtime that panics, and the place must not be lost.
    timer: Option<Pin<Box<Sleep>>>,
    at: Tick,
    span: WaitSpan,
}

/// Its place came in time, or not at all. When it came, and until when it is waited for.
pub(super) type Settlement = Result<(Tick, Tick), Rejection>;

impl Waiting {
    pub(super) fn new(backend: Backend, key: Key, arrived: Tick) -> Self {
        let span = WaitSpan::NONE;
        let mut waiting = Self { backend, key: Some(key), arrived, timer: None, at: Tick(0), span };
        // Should that panic, the place is given back.
        waiting.span = waiting.backend.wait_span();
        waiting
    }

    /// `Err`: it is to be asked again then at the latest.
    fn ask(&mut self, waker: &Waker) -> Result<Settlement, Tick> {
        // It was settled, and does not wait any more.
        let Some(key) = self.key else { return Err(Tick(u64::MAX)) };
        match self.backend.poll(key, waker) {
            Turn::Settled(how) => {
                self.key = None;
                Ok(self.settled(how, key.deadline()))
            }
            Turn::At(at) => Err(at),
        }
    }

    fn settled(&mut self, how: Settled, deadline: Tick) -> Settlement {
        let granted = how == Settled::Granted;
        self.span.end(if granted { LET_THROUGH } else { REFUSED });
        match how {
            Settled::Granted => {
                let now = now();
                self.backend.waited(self.arrived, now);
                Ok((now, deadline))
            }
            Settled::Hopeless => Err(self.backend.refuse(RejectionKind::DeadlineExceeded)),
            Settled::Throttled(until) => Err(self.backend.refuse_until(until.since(now()))),
            Settled::Displaced => Err(self.backend.refuse(RejectionKind::Overloaded)),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Settlement> {
        loop {
            let at = match self.ask(cx.waker()) {
                Ok(settled) => return Poll::Ready(settled),
                Err(_) if self.key.is_none() => return Poll::Pending,
                Err(at) => at,
            };
            let until = Instant::now() + pause(at);
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

    /// The same on a thread that waits for it.
    pub(super) fn block(mut self) -> Settlement {
        let parked = Arc::new(Parked::default());
        let waker = Waker::from(Arc::clone(&parked));
        loop {
            match self.ask(&waker) {
                Ok(settled) => return settled,
                Err(at) => parked.wait(pause(at)),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.backend.leave(key);
            say(|| self.backend.seen());
        }
    }
}

pub(super) const LONGEST: Duration = Duration::from_secs(86_400);
const TIMER: Duration = Duration::from_millis(1);

/// The clock may stand at the very moment: then a little later rather than for ever now.
fn pause(at: Tick) -> Duration {
    at.since(now()).clamp(TIMER, LONGEST)
}
