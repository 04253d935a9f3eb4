//! One admitted call, from its ticket to its result, whatever becomes of it in between.

use std::fmt;
use std::future::Future;
use std::mem;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::clock::{self, Tick};
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

    /// The call has been made and has not answered at once: from here on, dropping it is cancelling it.
    /// Starts its clock if it does not run yet. A call that answers at its first poll cannot be cancelled
    /// in flight, so it is not worth reading a clock for.
    #[inline]
    pub(super) fn stamp(&mut self) {
        self.start = match self.start {
            Tick(0) => clock::now(),
            running => began(running),
        };
    }

    /// Runs user code; if it panics, the call has failed.
    #[inline(always)]
    pub(super) fn run<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let bomb = Bomb(self);
        let value = f();
        mem::forget(bomb);
        value
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

impl<D: Deref<Target = Shared>> Drop for Guard<D> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket != Ticket::UNCOUNTED {
            abandon(&self.shared, self.ticket, self.start);
        }
    }
}

/// Goes off when user code panics.
struct Bomb<'a, D: Deref<Target = Shared>>(&'a mut Guard<D>);

impl<D: Deref<Target = Shared>> Drop for Bomb<'_, D> {
    #[inline]
    fn drop(&mut self) {
        let ticket = self.0.take();
        record(&self.0.shared, ticket, self.0.start, &Outcome::FAILURE);
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

pin_project! {
    /// A call in flight and its guard, which stays here and wants to know the outcome when it is ready.
    pub(super) struct Call<F, D: Deref<Target = Shared>> {
        #[pin]
        pub(super) inner: F,
        pub(super) guard: Guard<D>,
    }
}

impl<F, D: Deref<Target = Shared>> Call<F, D> {
    #[inline(always)]
    pub(super) fn new(inner: F, guard: Guard<D>) -> Self {
        Self { inner, guard }
    }

    #[inline]
    pub(super) fn guard(self: Pin<&mut Self>) -> &mut Guard<D> {
        self.project().guard
    }
}

impl<F: Future, D: Deref<Target = Shared>> Future for Call<F, D> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let poll = this.guard.run(|| this.inner.poll(cx));
        if poll.is_pending() {
            this.guard.stamp();
        }
        poll
    }
}
