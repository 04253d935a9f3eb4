//! A place at the backend, and the wait for one: what the layer and direct use share.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::backend::{Arrival, Backend, End, Key, Settled, Turn};
use crate::clock::{Parked, Tick, UNREAD, beginning, end_handed_down, now};
use crate::context::Context;
use crate::observe::{LET_THROUGH, REFUSED, WaitSpan};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::rejection::{Rejection, RejectionKind, say};

/// Whoever has a place has the backend at hand.
pub(super) trait Holder {
    fn backend(&self) -> &Backend;
}

impl Holder for Backend {
    fn backend(&self) -> &Backend {
        self
    }
}

/// How far a call is. A word: see [`Wide`](crate::wide::Wide).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Sent {
    No,
    Yes,
    /// Nothing works on it any more: what it was judged to be is not known, if judging it panics.
    Answered,
}

/// A place in flight, given back once: at the latest when it is dropped.
pub(super) struct Held<H: Holder> {
    /// `None` once it was given back.
    pub(super) holder: Option<H>,
    /// `UNREAD` in the poll in which it began, until somebody asks.
    started: Tick,
    /// Nobody waits for the answer any longer then.
    pub(super) deadline: Tick,
    /// The backend may be working on it.
    pub(super) sent: Sent,
}

impl<H: Holder> Held<H> {
    #[inline]
    pub(super) fn new(holder: H, started: Tick, deadline: Tick) -> Self {
        Self { holder: Some(holder), started, deadline, sent: Sent::No }
    }

    /// Of a call without a deadline, of which nobody needs to know when it began if it is answered at once.
    #[inline]
    pub(super) fn unread(holder: H) -> Self {
        Self::new(holder, UNREAD, Tick(u64::MAX))
    }

    #[inline]
    pub(super) fn is_unread(&self) -> bool {
        self.started == UNREAD
    }

    #[inline]
    fn started(&self) -> Tick {
        if self.is_unread() { beginning() } else { self.started }
    }

    /// It was not to be measured if it was answered at once, and is not. It waits for `longest`.
    pub(super) fn not_at_once(&mut self, longest: impl FnOnce(&H) -> Duration) {
        let Some(holder) = &self.holder else { return };
        holder.backend().not_at_once();
        if self.is_unread() {
            self.started = beginning();
            let until = self.started.after(longest(holder));
            self.deadline = end_handed_down().map_or(until, |end| end.min(until));
        }
    }

    #[inline]
    pub(super) fn end(&mut self, end: End, unmeasured: bool) {
        if let Some(holder) = self.holder.take() {
            let backend = holder.backend();
            if unmeasured && end == End::Success {
                backend.finish_at_once(|| self.started());
            } else {
                backend.finish(self.started(), end);
            }
        }
    }

    /// The service fails before it takes the call.
    pub(super) fn end_unready(mut self) {
        if let Some(holder) = self.holder.take() {
            holder.backend().finish_unready(self.started());
        }
    }

    /// What becomes of the call is decided by what it had the place from.
    pub(super) fn end_unsent(mut self) -> Option<H> {
        let holder = self.holder.take()?;
        holder.backend().finish_unsent(self.started());
        Some(holder)
    }
}

impl<H: Holder> Drop for Held<H> {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take() {
            let backend = holder.backend();
            match self.sent {
                Sent::No => backend.finish_unsent(self.started()),
                Sent::Yes => {
                    backend.finish(self.started(), End::Abandoned { deadline: self.deadline });
                }
                Sent::Answered => backend.finish(self.started(), End::Ignored),
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
        let granted = matches!(how, Settled::Granted(_));
        self.span.end(if granted { LET_THROUGH } else { REFUSED });
        match how {
            Settled::Granted(since) => {
                self.backend.waited(self.arrived, since);
                Ok((since, deadline))
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
