use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::handle::{Timeout, refusal};
use crate::clock::{
    EndHandedDown, HandedDown, Tick, hand_down, hand_end_down, nanos, now, poll_end,
};
use crate::context::Context;
use crate::name::Name;
use crate::reject::Reject;
use crate::rejection::last_words;

pin_project! {
    /// The answer of a [`TimeoutService`](super::TimeoutService): the inner service's, or what its `Reject`
    /// made of the timeout. Dropping it drops the call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::timeout::{ResponseFuture, Timeout};
    /// use std::time::Duration;
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = Timeout::new("double", Duration::from_secs(1))?.layer().layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, R> {
        #[pin]
        pub(super) state: State<F>,
        // Made when the call has to wait for the first time.
        #[pin]
        pub(super) sleep: Option<Sleep>,
        // Of calls that can end early.
        pub(super) bound: Option<Bound>,
        pub(super) reject: R,
    }
}

pin_project! {
    #[project = StateProj]
    pub(super) enum State<F> {
        Called {
            #[pin]
            call: F,
        },
        // The deadline had passed on arrival.
        TooLate,
        Done,
    }
}

/// What a call keeps of its timeout: no more words than it needs, as they are copied with the future.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    name: Name,
    /// The end, or `NEVER`; before it has begun, the time from then on, in nanoseconds.
    end: Tick,
    flags: usize,
}

const NEVER: Tick = Tick(u64::MAX);

// One word for all: see `wide`.
const BEGUN: usize = 1;
const OF_ATTEMPT: usize = 2;
const HANDED_DOWN: usize = 4;

impl Bound {
    #[inline]
    pub(super) fn ending_at(timeout: &Timeout, end: Option<Tick>, context: &Context) -> Self {
        let of_attempt = if timeout.cuts_attempt(end, context) { OF_ATTEMPT } else { 0 };
        let handed_down = if timeout.is_handed_down() { HANDED_DOWN } else { 0 };
        let flags = BEGUN | of_attempt | handed_down;
        Self { name: timeout.label(), end: end.unwrap_or(NEVER), flags }
    }

    /// Its time counts from the first poll.
    #[inline]
    pub(super) fn later(timeout: &Timeout, after: Duration, context: &Context) -> Self {
        let Self { name, end, flags } = Self::ending_at(timeout, Some(Tick(nanos(after))), context);
        Self { name, end, flags: flags & !BEGUN }
    }

    #[inline]
    fn begin(&mut self) -> Option<HandedDown> {
        if self.flags & BEGUN != 0 {
            return None;
        }
        let now = now();
        (self.flags, self.end) = (self.flags | BEGUN, Tick(now.0.saturating_add(self.end.0)));
        Some(hand_down(now, 1))
    }

    #[inline]
    fn end(&self) -> Option<Tick> {
        (self.end != NEVER).then_some(self.end)
    }

    #[inline]
    fn hand_end_down(&self) -> Option<EndHandedDown> {
        self.end().filter(|_| self.flags & HANDED_DOWN != 0).map(|end| hand_end_down(Some(end)))
    }
}

impl<F, R, Res, Err> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Res, Err>>,
    R: Reject<(), Res, Err>,
{
    type Output = Result<Res, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            StateProj::Called { call } => {
                let handed_down = this.bound.as_mut().and_then(Bound::begin);
                let ends = this.bound.as_ref().and_then(Bound::hand_end_down);
                let polled = call.poll(cx);
                drop((handed_down, ends));
                if let Poll::Ready(result) = polled {
                    return Poll::Ready(result.map_err(R::map_err));
                }
                ready!(poll_end(this.sleep, this.bound.as_ref().and_then(Bound::end), cx));
            }
            StateProj::TooLate => {}
            StateProj::Done => panic!("polled after completion"),
        }
        let Some(Bound { name, flags, .. }) = *this.bound else { return Poll::Pending };
        // The call is gone before its answer is made.
        let detail = last_words(|| this.state.set(State::Done));
        Poll::Ready(this.reject.reject((), refusal(name, flags & OF_ATTEMPT != 0, detail)))
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("bound", &self.bound).finish_non_exhaustive()
    }
}
