//! User code that somebody wants to know the outcome of.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// Is to be told what came of a call. Dropped before, it takes the call for cancelled.
pub(crate) trait Guarding: Sized {
    /// User code has panicked: the call has failed.
    fn failed(&mut self);

    /// The call has been made and has not answered at once: from here on, dropping it is cancelling it.
    fn stamp(&mut self) {}

    /// Runs user code; if it panics, the call has failed.
    #[inline(always)]
    fn run<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let bomb = Bomb(self);
        let value = f();
        mem::forget(bomb);
        value
    }
}

/// Goes off when user code panics.
struct Bomb<'a, G: Guarding>(&'a mut G);

impl<G: Guarding> Drop for Bomb<'_, G> {
    #[inline]
    fn drop(&mut self) {
        self.0.failed();
    }
}

pin_project! {
    /// A call in flight and its guard, which stays here and wants to know the outcome when it is ready.
    pub(crate) struct Call<F, G> {
        #[pin]
        pub(crate) inner: F,
        pub(crate) guard: G,
    }
}

impl<F, G> Call<F, G> {
    #[inline(always)]
    pub(crate) fn new(inner: F, guard: G) -> Self {
        Self { inner, guard }
    }

    #[inline]
    pub(crate) fn guard(self: Pin<&mut Self>) -> &mut G {
        self.project().guard
    }
}

impl<F: Future, G: Guarding> Future for Call<F, G> {
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
