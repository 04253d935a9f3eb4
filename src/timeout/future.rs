use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::handle::{Timeout, refusal};
use crate::clock::{EndHandedDown, Tick, begin, beginning, hand_end_down, nanos, poll_end};
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
    end: Tick,
    flags: usize,
}

/// When a call ends. Two words, so that it comes in registers: what is written to memory in words and read in pairs of
/// them at once stalls the processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The end, or `NEVER`; before it has begun, the time from then on, in nanoseconds.
    at: Tick,
    flags: usize,
}

const NEVER: Tick = Tick(u64::MAX);

// One word for all: see `wide`.
const BEGUN: usize = 1;
const OF_ATTEMPT: usize = 2;
const HANDED_DOWN: usize = 4;
const PAST: usize = 8;

impl End {
    pub(super) const NONE: Self = Self { at: NEVER, flags: 0 };

    #[inline]
    pub(super) fn at(timeout: &Timeout, end: Option<Tick>, context: &Context) -> Self {
        let of_attempt = if timeout.cuts_attempt(end, context) { OF_ATTEMPT } else { 0 };
        let handed_down = if timeout.is_handed_down() { HANDED_DOWN } else { 0 };
        Self { at: end.unwrap_or(NEVER), flags: BEGUN | of_attempt | handed_down }
    }

    /// It is over before it is sent.
    pub(super) fn past(timeout: &Timeout, context: &Context) -> Self {
        let Self { at, flags } = Self::at(timeout, None, context);
        Self { at, flags: flags | PAST }
    }

    #[inline]
    pub(super) const fn is_past(self) -> bool {
        self.flags & PAST != 0
    }

    /// Its time counts from the first poll.
    #[inline]
    pub(super) fn later(timeout: &Timeout, after: Duration, context: &Context) -> Self {
        let Self { at, flags } = Self::at(timeout, Some(Tick(nanos(after))), context);
        Self { at, flags: flags & !BEGUN }
    }
}

impl Bound {
    #[inline]
    pub(super) fn new(timeout: &Timeout, end: End) -> Self {
        Self { name: timeout.label(), end: end.at, flags: end.flags }
    }

    /// How long it has from its first poll on, if that is still to come.
    #[inline]
    fn after(&self) -> Option<u64> {
        (self.flags & BEGUN == 0).then_some(self.end.0)
    }

    /// It was not answered in its first poll, which is this one.
    fn begin(&mut self) {
        (self.flags, self.end) =
            (self.flags | BEGUN, Tick(beginning().0.saturating_add(self.end.0)));
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
                let polled = match this.bound {
                    Some(bound) => match bound.after() {
                        Some(after) => {
                            let beginning = begin(after);
                            let polled = call.poll(cx);
                            if polled.is_pending() {
                                bound.begin();
                            }
                            drop(beginning);
                            polled
                        }
                        None => {
                            let ends = bound.hand_end_down();
                            let polled = call.poll(cx);
                            drop(ends);
                            polled
                        }
                    },
                    None => call.poll(cx),
                };
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
