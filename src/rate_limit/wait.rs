//! One caller that waits: as a future, and on a parked thread.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::core::{Denied, Receipt, duration, units};
use super::handle::RateLimiter;
use super::ledger::Refusal;
use super::queue::Turn;
use super::shared::{Joined, Shared};
use crate::clock::{self, Parked, Tick};
use crate::name::LayerKind;
use crate::observe::{EventKind, LET_THROUGH, REFUSED, WaitSpan};
use crate::rejection::Rejection;
use crate::slot::Slot;

/// What a granted wait holds: `None` if nothing was charged (shadow mode, cost 0).
pub(crate) type Grant = Option<Receipt>;

/// The limiter that somebody waits at.
pub(crate) trait Holder {
    fn shared(&self) -> &Shared;

    /// The slot that it came by, or 0.
    fn via(&self) -> usize {
        0
    }

    /// Whether it is still the one to wait at.
    fn look(&mut self) -> Here {
        Here::Same
    }

    /// The same, and nothing changes.
    fn is_there(&self) -> bool {
        true
    }
}

/// What is in a slot, by one that was there.
pub(crate) enum Here {
    Same,
    /// Another one, which is the holder's now.
    Other,
    Nothing,
}

impl Holder for &Shared {
    fn shared(&self) -> &Shared {
        self
    }
}

/// The limiter of a layer, and the slot that it came from.
pub(crate) struct Through {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: Option<Slot<RateLimiter>>,
}

impl Holder for Through {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn via(&self) -> usize {
        self.slot.as_ref().map_or(0, Slot::id)
    }

    fn look(&mut self) -> Here {
        let Some(slot) = &self.slot else { return Here::Same };
        match slot.get() {
            Some(there) if Arc::ptr_eq(&there.shared, &self.shared) => Here::Same,
            Some(there) => {
                self.shared = there.shared;
                Here::Other
            }
            None => Here::Nothing,
        }
    }

    fn is_there(&self) -> bool {
        let Some(slot) = &self.slot else { return true };
        slot.holds(|there| Arc::ptr_eq(&there.shared, &self.shared))
    }
}

/// A place in the queue, given back on drop. Takes nothing before [`start`](Self::start).
#[derive(Debug)]
pub(crate) struct Place<H: Holder> {
    holder: H,
    /// No token is any good after this.
    by: Option<Tick>,
    since: Tick,
    queued: Option<u64>,
    span: WaitSpan,
    /// It goes on as if there had been no limit.
    released: bool,
}

impl<H: Holder> Place<H> {
    pub(crate) fn new(holder: H) -> Self {
        let (since, span) = (Tick::default(), WaitSpan::NONE);
        Self { holder, by: None, since, queued: None, span, released: false }
    }

    /// Charges at once if there is room, else queues; `Err` when the wait could not succeed.
    pub(crate) fn start(
        &mut self,
        n: u64,
        timeout: Option<Duration>,
        waker: impl Fn() -> Waker,
    ) -> Poll<Result<Grant, Rejection>> {
        let now = clock::at_hand();
        loop {
            if let Some(started) = self.try_start(n, now, timeout, &waker) {
                return started;
            }
        }
    }

    /// `None` if the limiter is another one now.
    fn try_start(
        &mut self,
        n: u64,
        now: Tick,
        timeout: Option<Duration>,
        waker: impl Fn() -> Waker,
    ) -> Option<Poll<Result<Grant, Rejection>>> {
        let shared = self.holder.shared();
        let denied = match shared.take_refundably(n, now) {
            Ok(grant) => return Some(Poll::Ready(Ok(grant))),
            Err(denied) => denied,
        };
        // It was looked up when the call was made, which may be long ago.
        match self.holder.look() {
            Here::Same => {}
            Here::Other => return None,
            Here::Nothing => return Some(self.pass()),
        }
        let shared = self.holder.shared();
        if denied.rule.shadow {
            Refusal::quota(&shared.ledger, denied).pass();
            return Some(Poll::Ready(Ok(None)));
        }
        if self.by.is_some_and(|by| by <= now) {
            return Some(Poll::Ready(Err(shared.ledger.refuse_expired())));
        }
        self.since = now;
        let latest = timeout.map(|timeout| now.after(timeout));
        let deadline = [latest, self.by].into_iter().flatten().min().map_or(u64::MAX, units);
        Some(match shared.join(n, deadline, self.holder.via(), waker()) {
            Joined::Granted(receipt) => {
                shared.ledger.acquired();
                Poll::Ready(Ok(Some(receipt)))
            }
            Joined::Queued { id } => {
                // Whoever takes it out lets go those who wait then: either this place is seen, or that is seen here.
                if !self.holder.is_there() {
                    if shared.leave(id) {
                        // Who took it out has seen this place, and counted it.
                        self.released = true;
                        return Some(Poll::Ready(Ok(None)));
                    }
                    return None;
                }
                self.queued = Some(id);
                self.span = WaitSpan::begin(LayerKind::RateLimit, shared.ledger.name);
                Poll::Pending
            }
            Joined::Shadow(denied) => {
                Refusal::quota(&shared.ledger, denied).pass();
                Poll::Ready(Ok(None))
            }
            Joined::TooLate(denied) => Poll::Ready(Err(refuse(shared, denied, false))),
            Joined::Full(denied) => Poll::Ready(Err(refuse(shared, denied, true))),
        })
    }

    /// There is no limit any more.
    fn pass(&mut self) -> Poll<Result<Grant, Rejection>> {
        self.released = true;
        self.holder.shared().pass();
        Poll::Ready(Ok(None))
    }

    /// Looks whether its turn has come. `Err` is the instant before which it will not.
    pub(crate) fn look(
        &mut self,
        timer_fired: bool,
        waker: Waker,
    ) -> Result<Result<Grant, Rejection>, u64> {
        let shared = self.holder.shared();
        let Some(id) = self.queued else { return Ok(Ok(None)) };
        let turn = shared.look(id, self.since, timer_fired, waker);
        match turn {
            Turn::At(due) => Err(due),
            Turn::Released => {
                self.queued = None;
                self.released = true;
                self.span.end(LET_THROUGH);
                Ok(Ok(None))
            }
            Turn::Granted(receipt) => {
                self.queued = None;
                self.span.end(LET_THROUGH);
                shared.ledger.acquired();
                let waited = clock::now().since(self.since);
                shared.ledger.emit(EventKind::Waited { waited });
                Ok(Ok(Some(receipt)))
            }
            // By a quota that came while it waited, and that is on trial.
            Turn::Refused(denied) if denied.rule.shadow => {
                self.queued = None;
                self.span.end(LET_THROUGH);
                Refusal::quota(&shared.ledger, denied).pass();
                Ok(Ok(None))
            }
            Turn::Refused(denied) => {
                self.queued = None;
                self.span.end(REFUSED);
                Ok(Err(refuse(shared, denied, false)))
            }
        }
    }
}

impl<H: Holder> Drop for Place<H> {
    fn drop(&mut self) {
        if let Some(id) = self.queued.take() {
            self.holder.shared().leave(id);
        }
    }
}

impl Waiting<Through> {
    /// The limiter by whose leave it goes on, if there is one.
    pub(crate) fn owner(&self) -> Option<Arc<Shared>> {
        (!self.place.released).then(|| Arc::clone(&self.place.holder.shared))
    }
}

fn refuse(shared: &Shared, denied: Denied, no_room: bool) -> Rejection {
    Refusal { ledger: &shared.ledger, denied, no_room }.finish()
}

/// Drives a [`Place`] with tokio's timer, which is made only when there is something to wait for.
pub(crate) struct Waiting<H: Holder> {
    place: Place<H>,
    n: u64,
    timeout: Option<Duration>,
    started: bool,
    sleep: Option<(u64, Pin<Box<tokio::time::Sleep>>)>,
}

impl<H: Holder> Waiting<H> {
    pub(crate) fn new(holder: H, n: u64, timeout: Option<Duration>) -> Self {
        Self { place: Place::new(holder), n, timeout, started: false, sleep: None }
    }

    /// For a token that is there by then.
    pub(crate) fn until(mut self, by: Option<Tick>) -> Self {
        self.place.by = by;
        self
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.place.holder.shared()
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Grant, Rejection>> {
        if !self.started {
            self.started = true;
            let started = self.place.start(self.n, self.timeout, || cx.waker().clone());
            if started.is_ready() {
                return started;
            }
        }
        let mut fired = false;
        loop {
            let due = match self.place.look(fired, cx.waker().clone()) {
                Ok(result) => {
                    self.sleep = None;
                    return Poll::Ready(result);
                }
                Err(due) => due,
            };
            let left = duration(due.saturating_sub(units(clock::now())));
            let (armed, sleep) =
                self.sleep.get_or_insert_with(|| (due, Box::pin(tokio::time::sleep(left))));
            if *armed != due || fired {
                *armed = due;
                sleep.as_mut().reset(deadline(left));
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            fired = true;
        }
    }
}

fn deadline(left: Duration) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    // Thirty years are as good as for ever, and do not overflow.
    now.checked_add(left).unwrap_or(now + Duration::from_secs(86_400 * 365 * 30))
}

/// The future of [`RateLimiter::acquire`](super::RateLimiter::acquire).
///
/// Takes nothing before it is first polled. Dropped while it waits, it gives its place to those behind
/// it; dropped after its turn has come but before it was polled again, it gives the token back. Kept and
/// not polled, it keeps its place: those behind it are served in time, but when another one leaves they
/// may not move up.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// use buttress::Quota;
/// use buttress::rate_limit::{Acquire, RateLimiter};
/// let limiter = RateLimiter::new(Quota::per_second(100)?);
/// // It has a name, so that a future around it can keep it without a box.
/// let turn: Acquire<'_> = limiter.acquire();
/// assert!(limiter.tokens() > 99.0, "nothing is taken yet");
/// turn.await?;
/// assert!(limiter.tokens() < 100.0);
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a> {
    waiting: Waiting<&'a Shared>,
}

impl<'a> Acquire<'a> {
    pub(crate) fn new(shared: &'a Shared, n: u64, timeout: Option<Duration>) -> Self {
        Self { waiting: Waiting::new(shared, n, timeout) }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<(), Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiting.poll(cx).map_ok(drop)
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("limiter", &self.waiting.shared().ledger.name)
            .field("n", &self.waiting.n)
            .finish_non_exhaustive()
    }
}

/// Waits on the calling thread, without a runtime.
pub(crate) fn block(shared: &Shared, n: u64, timeout: Option<Duration>) -> Result<(), Rejection> {
    let mut place = Place::new(shared);
    let parked = Arc::new(Parked::default());
    let waker = Waker::from(Arc::clone(&parked));
    if let Poll::Ready(result) = place.start(n, timeout, || waker.clone()) {
        return result.map(drop);
    }
    loop {
        match place.look(true, waker.clone()) {
            Ok(result) => return result.map(drop),
            Err(due) => parked.wait(duration(due.saturating_sub(units(clock::now())))),
        }
    }
}
