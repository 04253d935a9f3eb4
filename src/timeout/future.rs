use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::handle::Timeout;
use crate::clock::{HandedDown, Tick, hand_down, hand_end_down, now, poll_end};
use crate::reject::Reject;

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
        pub(super) end: Option<Tick>,
        // Of calls that can end early.
        pub(super) timeout: Option<Timeout>,
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

/// The time counts from the first poll.
pub(super) const NOT_BEGUN: Option<Tick> = Some(Tick(0));

#[inline]
fn begin(end: &mut Option<Tick>, timeout: Option<&Timeout>) -> Option<HandedDown> {
    if *end != NOT_BEGUN {
        return None;
    }
    let now = now();
    *end = timeout.and_then(Timeout::duration).map(|after| now.after(after));
    Some(hand_down(now))
}

impl<F, R, Res, Err> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Res, Err>>,
    R: Reject<(), Res, Err>,
{
    type Output = Result<Res, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            StateProj::Called { call } => {
                let handed_down = begin(this.end, this.timeout.as_ref());
                let ends = this.timeout.as_ref().is_some_and(Timeout::is_handed_down);
                let ends = this.end.filter(|_| ends).map(|end| hand_end_down(Some(end)));
                let polled = call.poll(cx);
                drop((handed_down, ends));
                if let Poll::Ready(result) = polled {
                    return Poll::Ready(result.map_err(R::map_err));
                }
                ready!(poll_end(this.sleep, *this.end, cx));
            }
            StateProj::TooLate => {}
            StateProj::Done => panic!("polled after completion"),
        }
        let Some(timeout) = this.timeout else { return Poll::Pending };
        // The call is gone before its answer is made.
        this.state.set(State::Done);
        Poll::Ready(this.reject.reject((), timeout.refusal()))
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
