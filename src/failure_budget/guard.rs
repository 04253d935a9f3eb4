//! One admitted call, until it is known what came of it.

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

use super::shared::Shared;

/// Dropped before [`report`](Self::report), it reports the call as cancelled.
pub(super) struct Guard<D: Deref<Target = Shared>> {
    /// `None` once the call is reported.
    shared: Option<D>,
    /// Zero: has not been found pending.
    start: Tick,
}

impl<D: Deref<Target = Shared>> Guard<D> {
    #[inline]
    pub(super) fn new(shared: D) -> Self {
        Self { shared: Some(shared), start: Tick(0) }
    }

    /// The call goes on: from here on, dropping it is cancelling it.
    #[inline]
    pub(super) fn stamp(&mut self) {
        if self.start == Tick(0) && self.shared.is_some() {
            self.start = clock::now();
        }
    }

    /// Runs user code; if it panics, the call has failed.
    #[inline]
    pub(super) fn run<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let bomb = Bomb(self);
        let value = f();
        mem::forget(bomb);
        value
    }

    #[inline]
    pub(super) fn report(&mut self, outcome: Outcome) {
        let start = (self.start != Tick(0)).then_some(self.start);
        if let Some(shared) = self.shared.take() {
            shared.observe(outcome, start);
        }
    }
}

impl<D: Deref<Target = Shared>> Drop for Guard<D> {
    #[inline]
    fn drop(&mut self) {
        if self.shared.is_some() {
            self.report(Outcome::Cancelled { elapsed: Duration::ZERO });
        }
    }
}

/// Goes off when user code panics.
struct Bomb<'a, D: Deref<Target = Shared>>(&'a mut Guard<D>);

impl<D: Deref<Target = Shared>> Drop for Bomb<'_, D> {
    fn drop(&mut self) {
        self.0.report(Outcome::FAILURE);
    }
}

impl<D: Deref<Target = Shared>> fmt::Debug for Guard<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("open", &self.shared.is_some()).finish()
    }
}

pin_project! {
    /// A call in flight and its guard, which wants to know the outcome when it is ready.
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
