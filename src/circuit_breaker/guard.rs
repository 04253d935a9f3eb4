//! One admitted call, from its ticket to its result, whatever becomes of it in between.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::clock::{self, Tick};
use crate::outcome::Outcome;

use super::core::Ticket;
use super::shared::Shared;

/// Holds the ticket. Dropped before [`finish`](Self::finish), it reports the call as cancelled, or as
/// failed if it is being dropped because the call panicked.
pub(super) struct Guard<D: Deref<Target = Shared>> {
    shared: D,
    ticket: Ticket,
    /// Zero: not timed (yet).
    start: Tick,
    open: bool,
    /// User code is running.
    running: bool,
}

impl<D: Deref<Target = Shared>> Guard<D> {
    #[inline]
    pub(super) fn new(shared: D, ticket: Ticket) -> Self {
        let start = if shared.core.times_calls() { clock::now() } else { Tick(0) };
        Self { shared, ticket, start, open: true, running: false }
    }

    /// Starts the clock of a call that has not answered at once. A call that answers at its first poll
    /// cannot be cancelled in flight, so it is not worth reading a clock for.
    pub(super) fn stamp(&mut self) {
        if self.start == Tick(0) {
            self.start = clock::now();
        }
    }

    /// Runs user code; if it panics, the call has failed.
    #[inline]
    pub(super) fn run<T>(&mut self, f: impl FnOnce() -> T) -> T {
        self.running = true;
        let value = f();
        self.running = false;
        value
    }

    /// By reference: copying an outcome that has just been written in part would stall the processor
    /// for longer than everything else here takes.
    #[inline]
    pub(super) fn report(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Success => self.succeed(),
            outcome => self.finish(*outcome),
        }
    }

    /// The call succeeded: the way of every call while all is well.
    #[inline]
    fn succeed(&mut self) {
        let core = &self.shared.core;
        let now = if core.times_successes() { clock::now() } else { Tick(0) };
        if core.is_slow(self.start, now) || !core.succeed(self.ticket, now) {
            self.record(Outcome::Success);
        }
        self.open = false;
    }

    #[cold]
    fn finish(&mut self, outcome: Outcome) {
        self.open = false;
        self.record(outcome);
    }

    #[cold]
    fn abandon(&self) {
        self.record(if self.running {
            Outcome::FAILURE
        } else {
            Outcome::Cancelled { elapsed: Duration::ZERO }
        });
    }

    #[cold]
    fn record(&self, outcome: Outcome) {
        let now = clock::now();
        let elapsed = if self.start == Tick(0) { Duration::ZERO } else { now.since(self.start) };
        let outcome = match outcome {
            Outcome::Cancelled { elapsed: told } => {
                Outcome::Cancelled { elapsed: told.max(elapsed) }
            }
            outcome => outcome,
        };
        if let Some(change) = self.shared.core.record(self.ticket, outcome, elapsed, now) {
            self.shared.changed(change);
        }
    }
}

impl<D: Deref<Target = Shared>> Drop for Guard<D> {
    #[inline]
    fn drop(&mut self) {
        if self.open {
            self.abandon();
        }
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
        inner: F,
        guard: Guard<D>,
    }
}

impl<F, D: Deref<Target = Shared>> Call<F, D> {
    #[inline]
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
