use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use super::handle::Admission;
use super::place::{Held, Sent, Waiting, deadline, end, refusal};
use crate::backend::{Arrival, Backend};
use crate::clock::{Tick, now};
use crate::context::Context;
use crate::deadline::Deadline;
use crate::outcome::{Outcome, Verdict};
use crate::rejection::{Rejection, RejectionKind};

/// A place in flight for one call: see [`Admission::acquire`]. Say what came of the call, as soon as it has ended: how
/// long it took is what the limit is learned from.
///
/// Dropped without a word it counts as abandoned: the place stays taken for as long again as the call was waited
/// for, because the backend may still work on it, unless that was less than half of what an answer usually takes. A
/// bulkhead's place is free at once. A permit that is never dropped, as by [`std::mem::forget`], keeps its place for ever.
///
/// ```
/// use buttress::Context;
/// use buttress::admission::{Admission, Permit};
/// let admission = Admission::bulkhead("db", 1)?;
/// let permit: Permit = admission.try_acquire(Context::new())?;
/// assert!(admission.try_acquire(Context::new()).is_err(), "one at a time");
/// permit.success();
/// assert!(admission.try_acquire(Context::new()).is_ok());
/// # Ok::<(), buttress::BoxError>(())
/// ```
#[must_use = "dropping the permit abandons the call"]
pub struct Permit {
    held: Held<Backend>,
}

impl Permit {
    /// From now on the backend may be working on it.
    pub(super) fn sent(mut held: Held<Backend>) -> Self {
        held.sent = Sent::Yes;
        Self { held }
    }

    /// The call succeeded.
    ///
    /// ```
    /// # use buttress::{Context, admission::Admission};
    /// # let admission = Admission::new("db");
    /// admission.try_acquire(Context::new())?.success();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The backend failed. After a row of failures it is taken to be down.
    ///
    /// ```
    /// # use buttress::{Context, admission::Admission};
    /// # let admission = Admission::new("db");
    /// admission.try_acquire(Context::new())?.failure();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn failure(self) {
        self.record(Outcome::FAILURE);
    }

    /// The backend asked for less (429), and perhaps said after which time to come again.
    ///
    /// ```
    /// # use buttress::{Context, admission::Admission};
    /// # let admission = Admission::new("db");
    /// admission.try_acquire(Context::new())?.throttled(None);
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn throttled(mut self, after: Option<Duration>) {
        self.held.end(end(&Verdict::throttled(after)), false);
    }

    /// Any outcome. [`Throttled`](Outcome::Throttled) is [`throttled`](Self::throttled) without a time;
    /// [`Ignored`](Outcome::Ignored) and [`Cancelled`](Outcome::Cancelled) give the place back and say nothing.
    ///
    /// ```
    /// # use buttress::{Context, FailureClass, Outcome, admission::Admission};
    /// # let admission = Admission::new("db");
    /// // The request was wrong: the backend lives.
    /// admission.try_acquire(Context::new())?.record(Outcome::Failure(FailureClass::Permanent));
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn record(mut self, outcome: Outcome) {
        self.held.end(end(&Verdict::new(outcome, crate::RetryHint::Never)), false);
    }

    /// The call was not made after all: the place, and the turn in a quota, are somebody else's.
    ///
    /// ```
    /// # use buttress::{Context, admission::Admission};
    /// let admission = Admission::new("db");
    /// admission.try_acquire(Context::new())?.unsent();
    /// assert_eq!(admission.backend().stats().in_flight, 0);
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn unsent(self) {
        self.held.end_unsent();
    }

    /// Until when the answer is waited for: the deadline of the context, or the end of the [patience](Admission::patience).
    ///
    /// ```
    /// # use buttress::{Context, Deadline, admission::Admission};
    /// use std::time::Duration;
    /// let admission = Admission::new("db");
    /// let soon = Deadline::after(Duration::from_secs(3));
    /// let permit = admission.try_acquire(Context::new().with_deadline(soon))?;
    /// assert_eq!(permit.deadline(), soon);
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        Deadline::at(self.held.deadline)
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.held.holder.as_ref().map(Backend::name);
        f.debug_struct("Permit")
            .field("backend", &backend)
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}

/// A call that comes: it has its place, or waits for it.
enum Coming {
    Placed(Held<Backend>),
    Waits(Waiting),
}

fn come(admission: &Admission, context: &Context) -> Result<Coming, Rejection> {
    let backend = admission.backend();
    let now = now();
    let deadline = deadline(context, admission.longest(), now);
    let (arrival, stands_for) = backend.arrive(deadline, context.criticality(), now);
    match arrival {
        Arrival::Admitted => {
            if stands_for == 0 {
                // When there is an answer is for its holder to say.
                backend.not_at_once();
            }
            Ok(Coming::Placed(Held::new(backend.clone(), now, deadline)))
        }
        Arrival::Wait(key) => Ok(Coming::Waits(Waiting::new(backend.clone(), key, now))),
        refused => Err(refusal(backend, &refused, now)),
    }
}

/// The same for one that does not wait.
pub(super) fn come_at_once(
    admission: &Admission,
    context: &Context,
) -> Result<Held<Backend>, Rejection> {
    let backend = admission.backend();
    let now = now();
    let deadline = deadline(context, admission.longest(), now);
    match backend.arrive_at_once(deadline, context.criticality(), now) {
        Arrival::Admitted => Ok(Held::new(backend.clone(), now, deadline)),
        refused => Err(refusal(backend, &refused, now)),
    }
}

/// The same on a thread that waits for it.
pub(super) fn come_blocking(
    admission: &Admission,
    context: &Context,
) -> Result<Held<Backend>, Rejection> {
    match come(admission, context)? {
        Coming::Placed(held) => Ok(held),
        Coming::Waits(waiting) => in_time(admission.backend(), waiting.block()?),
    }
}

/// Has waited for its place, perhaps for longer than it is waited for.
fn in_time(
    backend: &Backend,
    (started, deadline): (Tick, Tick),
) -> Result<Held<Backend>, Rejection> {
    let held = Held::new(backend.clone(), started, deadline);
    if deadline <= now() {
        held.end_unsent();
        return Err(backend.refuse(RejectionKind::DeadlineExceeded));
    }
    Ok(held)
}

/// Waits for a place that nothing is sent with yet.
pub(super) struct Come<'a> {
    admission: &'a Admission,
    context: Context,
    stage: Stage,
}

enum Stage {
    Arriving,
    Waiting(Waiting),
    Done,
}

impl<'a> Come<'a> {
    pub(super) const fn new(admission: &'a Admission, context: Context) -> Self {
        Self { admission, context, stage: Stage::Arriving }
    }
}

impl Future for Come<'_> {
    type Output = Result<Held<Backend>, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let come_in = match &self.stage {
            Stage::Arriving => Some(come(self.admission, &self.context)),
            Stage::Waiting(_) => None,
            // Polled again after it was ready, which a future need not support.
            Stage::Done => return Poll::Pending,
        };
        match come_in {
            Some(Ok(Coming::Waits(waiting))) => self.stage = Stage::Waiting(waiting),
            Some(Ok(Coming::Placed(held))) => {
                self.stage = Stage::Done;
                return Poll::Ready(Ok(held));
            }
            Some(Err(why)) => {
                self.stage = Stage::Done;
                return Poll::Ready(Err(why));
            }
            None => {}
        }
        let Stage::Waiting(waiting) = &mut self.stage else { return Poll::Pending };
        let settled = ready!(waiting.poll(cx));
        self.stage = Stage::Done;
        Poll::Ready(settled.and_then(|settled| in_time(self.admission.backend(), settled)))
    }
}

/// The future of [`Admission::acquire`].
///
/// Nothing happens before it is first polled. Dropped while it waits, it leaves no trace; dropped after its turn has
/// come and before it was polled again, it gives the place to the next.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// use buttress::Context;
/// use buttress::admission::{Acquire, Admission};
/// let admission = Admission::new("db");
/// // It has a name, so that a future around it can keep it without a box.
/// let place: Acquire<'_> = admission.acquire(Context::new());
/// assert_eq!(admission.backend().stats().in_flight, 0, "nothing is taken yet");
/// place.await?.success();
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a> {
    come: Come<'a>,
}

impl<'a> Acquire<'a> {
    pub(super) const fn new(admission: &'a Admission, context: Context) -> Self {
        Self { come: Come::new(admission, context) }
    }
}

impl Future for Acquire<'_> {
    type Output = Result<Permit, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.come).poll(cx).map_ok(Permit::sent)
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.come.stage {
            Stage::Arriving => "Arriving",
            Stage::Waiting(_) => "Waiting",
            Stage::Done => "Done",
        };
        f.debug_struct("Acquire")
            .field("admission", &self.come.admission.backend().name())
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
