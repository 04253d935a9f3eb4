use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

use super::exchange::sealed::{Exchange, Record};
use crate::clock::hand_end_down;
use crate::reject::Reject;
use crate::sync::atomic::{AtomicBool, Ordering};

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pin_project! {
    /// The future of an [`IdempotencyService`](super::IdempotencyService). Dropping it before the request has
    /// been read gives everything up; dropping it later gives up nothing but the answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, ResponseFuture, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let once = IdempotencyLayer::new(gate, |order: &u64| {
    ///     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// });
    /// let sell = service_fn(async |order: u64| Ok::<_, std::io::Error>(format!("sold {order}")));
    /// let mut service = once.layer(sell);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _, _> = service.ready().await?.call(7);
    /// assert_eq!(call.await?, "sold 7");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, T, M> {
        #[pin]
        state: State<F, T>,
        caller: Option<Caller>,
        marker: PhantomData<fn() -> M>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, T> {
        Passing { #[pin] future: F },
        Answered { answer: Option<T> },
        Working { work: Option<Work<T>> },
        Detached { task: JoinHandle<T> },
    }
}

thread_local! {
    /// Whether the work that is being polled on this thread has said that it goes on without its caller.
    static DETACHED: Cell<bool> = const { Cell::new(false) };
}

/// One poll of the work: what it says meanwhile, whoever else is polled inside of it.
struct Listening {
    before: bool,
}

impl Listening {
    fn start() -> Self {
        Self { before: DETACHED.replace(false) }
    }

    fn has_detached(&self) -> bool {
        DETACHED.get()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        DETACHED.set(self.before);
    }
}

/// What the work is told of its caller, if it asks, and says to it.
#[derive(Clone, Debug)]
pub(super) struct Callee(Option<Arc<AtomicBool>>);

impl Callee {
    /// From here on the work goes on without its caller: what is left when this poll ends is spawned.
    pub(super) fn detach(&self) {
        DETACHED.set(true);
    }

    /// Whether somebody still wants the answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_none_or(|gone| !gone.load(Ordering::Relaxed))
    }
}

/// The caller's end.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<F, T, M> ResponseFuture<F, T, M> {
    #[inline]
    fn new(state: State<F, T>, caller: Option<Caller>) -> Self {
        Self { state, caller, marker: PhantomData }
    }

    #[inline]
    pub(super) fn passing(future: F) -> Self {
        Self::new(State::Passing { future }, None)
    }

    pub(super) fn answered(answer: T) -> Self {
        Self::new(State::Answered { answer: Some(answer) }, None)
    }

    /// `asks`: whether the work wants to know if its caller has gone.
    pub(super) fn working(asks: bool, work: impl FnOnce(Callee) -> Work<T>) -> Self {
        let gone = asks.then(Arc::<AtomicBool>::default);
        let work = Some(work(Callee(gone.clone())));
        Self::new(State::Working { work }, gone.map(Caller))
    }
}

/// Hands the work to the runtime, under the span that it began in.
fn spawn<T: Send + 'static>(work: Work<T>) -> JoinHandle<T> {
    #[cfg(feature = "tracing")]
    let work = tracing::Instrument::in_current_span(work);
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where work must not stop with its caller"
    )]
    tokio::spawn(work)
}

impl<F, Req, Res, Err, A, P, R> Future for ResponseFuture<F, Result<A, R::Error>, (Req, P, R)>
where
    F: Future<Output = Result<Res, Err>>,
    A: Send + 'static,
    P: Exchange<Req> + Record<Res, Err, Answer = A>,
    R: Reject<<P as Exchange<Req>>::Inner, A, Err, Error: Send + 'static>,
{
    type Output = Result<A, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Passing { future } => {
                    let result = ready!(future.poll(cx));
                    return Poll::Ready(result.map(P::pass).map_err(R::map_err));
                }
                StateProj::Answered { answer } => match answer.take() {
                    Some(answer) => return Poll::Ready(answer),
                    None => panic!("polled after it was ready"),
                },
                StateProj::Working { work } => {
                    let Some(working) = work else { panic!("polled after it was ready") };
                    // Here first: what need not wait need not be spawned.
                    let listening = Listening::start();
                    // It need not end with its caller.
                    let ends = hand_end_down(None);
                    let polled = working.as_mut().poll(cx);
                    drop(ends);
                    if polled.is_pending() && !listening.has_detached() {
                        return Poll::Pending;
                    }
                    drop(listening);
                    // What it holds is given back now, not when this future is dropped.
                    let Some(working) = work.take() else { return polled };
                    if polled.is_ready() {
                        return polled;
                    }
                    State::Detached { task: spawn(working) }
                }
                StateProj::Detached { task } => {
                    return Poll::Ready(match ready!(Pin::new(task).poll(cx)) {
                        Ok(answer) => answer,
                        Err(error) => match error.try_into_panic() {
                            Ok(panic) => resume_unwind(panic),
                            // Its record says now, or will, that the outcome is unknown.
                            Err(_) => panic!("the runtime that executed the call has gone"),
                        },
                    });
                }
            };
            state.set(next);
        }
    }
}

impl<F, T, M> fmt::Debug for ResponseFuture<F, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Passing { .. } => "ResponseFuture(passing)",
            State::Answered { .. } => "ResponseFuture(answered)",
            State::Working { .. } => "ResponseFuture(working)",
            State::Detached { .. } => "ResponseFuture(detached)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work that is polled inside of other work, by a layer further in or a body that calls one.
    #[test]
    fn each_poll_hears_its_own_work() {
        let work = Callee(None);
        for goes_on in [false, true] {
            let outer = Listening::start();
            if goes_on {
                work.detach();
            }
            for other_goes_on in [true, false] {
                let inner = Listening::start();
                assert!(!inner.has_detached());
                if other_goes_on {
                    work.detach();
                }
                assert_eq!(inner.has_detached(), other_goes_on);
                drop(inner);
                assert_eq!(outer.has_detached(), goes_on);
            }
        }
    }
}
