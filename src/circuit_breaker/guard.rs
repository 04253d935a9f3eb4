//! One admitted call, from its ticket to its result, whatever becomes of it in between.

use std::fmt;
use std::mem;
use std::ops::Deref;
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::guarded::Guarding;
use crate::outcome::Outcome;

use super::core::Ticket;
use super::shared::Shared;

/// In a start: the call has not been polled, so that dropping it says nothing about the callee.
const UNPOLLED: u64 = 1 << 63;

fn began(start: Tick) -> Tick {
    Tick(start.0 & !UNPOLLED)
}

/// Holds the ticket. Dropped before [`report`](Self::report), it reports the call as cancelled.
///
/// Three words, and no method out of line takes it by reference: so it can live in registers until it is
/// stored where it stays. Copying it while its parts are still on their way to memory would stall the
/// processor for longer than everything else here takes.
pub(super) struct Guard<D: Deref<Target = Shared>> {
    shared: D,
    /// [`Ticket::UNCOUNTED`] once the call is reported.
    ticket: Ticket,
    /// Zero: not timed (yet).
    start: Tick,
}

impl<D: Deref<Target = Shared>> Guard<D> {
    #[inline]
    pub(super) fn new(shared: D, ticket: Ticket) -> Self {
        let start = if shared.core.rule().times_calls() {
            Tick(clock::now().0 | UNPOLLED)
        } else {
            Tick(0)
        };
        Self { shared, ticket, start }
    }

    /// By reference: see the type.
    #[inline]
    pub(super) fn report(&mut self, outcome: &Outcome) {
        let ticket = self.take();
        match outcome {
            Outcome::Success => succeed(&self.shared, ticket, self.start),
            outcome => record(&self.shared, ticket, self.start, outcome),
        }
    }

    /// From here on there is nothing left to report.
    #[inline]
    fn take(&mut self) -> Ticket {
        mem::replace(&mut self.ticket, Ticket::UNCOUNTED)
    }
}

impl<D: Deref<Target = Shared>> Guarding for Guard<D> {
    #[inline]
    fn failed(&mut self) {
        let ticket = self.take();
        record(&self.shared, ticket, self.start, &Outcome::FAILURE);
    }

    /// Starts its clock if it does not run yet. A call that answers at its first poll cannot be cancelled
    /// in flight, so it is not worth reading a clock for.
    #[inline]
    fn stamp(&mut self) {
        self.start = match self.start {
            Tick(0) => clock::now(),
            running => began(running),
        };
    }
}

impl<D: Deref<Target = Shared>> Drop for Guard<D> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket != Ticket::UNCOUNTED {
            abandon(&self.shared, self.ticket, self.start);
        }
    }
}

/// The call succeeded: the way of every call while all is well.
#[inline(never)]
fn succeed(shared: &Shared, ticket: Ticket, start: Tick) {
    let core = &shared.core;
    let rule = core.rule();
    let now = if rule.times_successes() { clock::now() } else { Tick(0) };
    if rule.is_slow(began(start), now) || !core.succeed(rule, ticket, now) {
        record(shared, ticket, start, &Outcome::Success);
    }
}

#[cold]
#[inline(never)]
fn abandon(shared: &Shared, ticket: Ticket, start: Tick) {
    let start = if start.0 & UNPOLLED == 0 { start } else { Tick(0) };
    record(shared, ticket, start, &Outcome::Cancelled { elapsed: Duration::ZERO });
}

#[cold]
#[inline(never)]
fn record(shared: &Shared, ticket: Ticket, start: Tick, outcome: &Outcome) {
    let now = clock::now();
    let elapsed = if start == Tick(0) { Duration::ZERO } else { now.since(began(start)) };
    let outcome = match *outcome {
        Outcome::Cancelled { elapsed: told } => Outcome::Cancelled { elapsed: told.max(elapsed) },
        outcome => outcome,
    };
    if let Some(change) = shared.core.record(ticket, outcome, elapsed, now) {
        shared.changed(change);
    }
}

impl<D: Deref<Target = Shared>> fmt::Debug for Guard<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
