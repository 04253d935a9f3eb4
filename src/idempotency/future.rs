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
use crate::reject::Reject;
use crate::sync::atomic::{AtomicU8, Ordering};

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pin_project! {
    /// The future of an [`IdempotencyService`](super::IdempotencyService). Dropping it before the request has
    /// been read gives everything up; dropping it later gives up nothing but the answer.
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

const READING: u8 = 0;
const DETACHED: u8 = 1;
const GONE: u8 = 2;

/// What the work is told of its caller, and says to it.
#[derive(Clone, Debug)]
pub(super) struct Callee(Arc<AtomicU8>);

impl Callee {
    /// From here on the work goes on without its caller.
    pub(super) fn detach(&self) {
        self.0.store(DETACHED, Ordering::Relaxed);
    }

    /// Whether somebody still wants the answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) != GONE
    }
}

/// The caller's end.
struct Caller(Arc<AtomicU8>);

impl Caller {
    fn is_reading(&self) -> bool {
        self.0.load(Ordering::Relaxed) == READING
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(GONE, Ordering::Relaxed);
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

    pub(super) fn working(work: impl FnOnce(Callee) -> Work<T>) -> Self {
        let phase = Arc::new(AtomicU8::new(READING));
        let work = Some(work(Callee(Arc::clone(&phase))));
        Self::new(State::Working { work }, Some(Caller(phase)))
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
                    let polled = working.as_mut().poll(cx);
                    if polled.is_pending() && this.caller.as_ref().is_some_and(Caller::is_reading) {
                        return Poll::Pending;
                    }
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
