//! A layer that can be broken in one way at a time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::{BoxError, Layer, Service};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    /// Copies its "inner is ready" flag into clones.
    CloneCopiesReadiness,
    /// Polls one instance ready and calls a clone of it.
    CallsAClone,
    /// Goes back to pending after it said ready.
    Flaps,
    /// Says pending when the inner service failed.
    ErrorBecomesPending,
    /// Says ready when the inner service failed.
    ErrorBecomesReady,
    /// Takes a permit in `poll_ready` that only `call` gives back.
    LeaksUncalledReadiness,
    /// Takes a permit in `poll_ready` and gives it back when dropped.
    ReservesInReady,
    /// Keeps the inner service of a dropped service.
    ForgetsInner,
    /// Has a copy of the inner service that nothing ever drops, as in a cycle of `Arc`s.
    KeepsACopyOfInner,
    /// Takes a permit in `call`; its guard is made inside the `async` block.
    GuardMadeAtFirstPoll,
    /// Gives the permit back when the inner service answers, and only then.
    ReleasesOnlyOnAnswer,
    /// Gives the permit back when the future is dropped, and only then.
    ReleasesOnlyOnDrop,
    /// Starts with new state in every `layer()`.
    StatePerLayerCall,
    /// Wakes itself out of a pending `poll_ready`.
    BusyInReady,
    /// Wakes itself out of a pending response future.
    BusyInFuture,
    /// Remembers the waker of the last waiter only.
    WakesOnlyTheLast,
    /// Wakes one waiter when there is room, and not the next if that one has gone.
    LosesTheWakeOfOneGone,
    /// Arms a timer for every call.
    TimerPerCall,
    /// Calls the inner service under a lock and unwraps it.
    PoisonsItsLock,
    /// Waits in its future, as declared, but calls without waiting for readiness.
    LateAndUnready,
    /// Waits in its future, as declared, and does it right.
    Late,
    /// Answers without calling the inner service.
    AnswersItself,
    /// Drops the waker of a pending inner `poll_ready`.
    LosesTheWaker,
    /// The response future polls the inner future again after it answered.
    PollsFinished,
}

const PERMITS: usize = 20;

#[derive(Default)]
pub(super) struct ToyState {
    taken: AtomicUsize,
    pub(super) calls: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
    lock: Mutex<()>,
}

pub(super) struct ToyLayer {
    pub(super) fault: Fault,
    pub(super) state: Arc<ToyState>,
}

impl<S: Clone> Layer<S> for ToyLayer {
    type Service = Toy<S>;

    fn layer(&self, inner: S) -> Toy<S> {
        if self.fault == Fault::KeepsACopyOfInner {
            std::mem::forget(inner.clone());
        }
        let state = match self.fault {
            Fault::StatePerLayerCall => Arc::default(),
            _ => Arc::clone(&self.state),
        };
        Toy { inner: Some(inner), fault: self.fault, state, ready: false, permit: None, polls: 0 }
    }
}

pub(super) struct Toy<S> {
    inner: Option<S>,
    fault: Fault,
    pub(super) state: Arc<ToyState>,
    ready: bool,
    permit: Option<Permit>,
    polls: usize,
}

/// One of `PERMITS`.
struct Permit(Arc<ToyState>);

impl Permit {
    fn take(state: &Arc<ToyState>) -> Option<Self> {
        let taken = state.taken.fetch_add(1, Ordering::SeqCst);
        let permit = Self(Arc::clone(state));
        (taken < PERMITS).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        if let Some(waker) = self.0.wakers.lock().unwrap().pop() {
            waker.wake();
        }
    }
}

impl<S: Clone> Clone for Toy<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            fault: self.fault,
            state: Arc::clone(&self.state),
            ready: self.ready && self.fault == Fault::CloneCopiesReadiness,
            permit: None,
            polls: 0,
        }
    }
}

impl<S> Drop for Toy<S> {
    fn drop(&mut self) {
        if self.fault == Fault::ForgetsInner {
            std::mem::forget(self.inner.take());
        }
        if self.fault == Fault::LeaksUncalledReadiness {
            std::mem::forget(self.permit.take());
        }
    }
}

pub(super) type ToyFuture = Pin<Box<dyn Future<Output = Result<u32, BoxError>> + Send>>;

impl<S> Service<u32> for Toy<S>
where
    S: Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone + Send + 'static,
{
    type Response = u32;
    type Error = BoxError;
    type Future = ToyFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.polls += 1;
        let inner = self.inner.as_mut().unwrap();
        match self.fault {
            Fault::Late | Fault::LateAndUnready => return Poll::Ready(Ok(())),
            Fault::CloneCopiesReadiness if self.ready => return Poll::Ready(Ok(())),
            Fault::Flaps if self.ready && self.polls.is_multiple_of(3) => return Poll::Pending,
            Fault::LeaksUncalledReadiness | Fault::ReservesInReady if self.permit.is_none() => {
                self.permit = Permit::take(&self.state);
                if self.permit.is_none() {
                    return Poll::Pending;
                }
            }
            Fault::WakesOnlyTheLast if self.state.taken.load(Ordering::SeqCst) > 0 => {
                *self.state.wakers.lock().unwrap() = vec![cx.waker().clone()];
                return Poll::Pending;
            }
            Fault::LosesTheWakeOfOneGone if self.state.taken.load(Ordering::SeqCst) > 0 => {
                self.state.wakers.lock().unwrap().push(cx.waker().clone());
                return Poll::Pending;
            }
            Fault::LosesTheWaker => {
                let ready = inner.poll_ready(&mut Context::from_waker(Waker::noop()));
                return ready;
            }
            _ => {}
        }
        let ready = inner.poll_ready(cx);
        if ready.is_pending() && self.fault == Fault::BusyInReady {
            cx.waker().wake_by_ref();
        }
        self.ready = ready.is_ready();
        match (self.fault, &ready) {
            (Fault::ErrorBecomesPending, Poll::Ready(Err(_))) => Poll::Pending,
            (Fault::ErrorBecomesReady, Poll::Ready(Err(_))) => Poll::Ready(Ok(())),
            _ => ready,
        }
    }

    fn call(&mut self, n: u32) -> ToyFuture {
        self.ready = false;
        self.polls = 0;
        self.state.calls.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        let ready_permit = self.permit.take();
        let inner = self.inner.as_mut().unwrap();
        match self.fault {
            Fault::CallsAClone => {
                let call = inner.clone().call(n);
                Box::pin(call)
            }
            Fault::LeaksUncalledReadiness | Fault::ReservesInReady => {
                let call = inner.call(n);
                Box::pin(async move {
                    let answer = call.await;
                    drop(ready_permit);
                    answer
                })
            }
            Fault::GuardMadeAtFirstPoll => {
                let call = inner.call(n);
                let taken = state.taken.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move {
                    let _permit = Permit(state);
                    if taken >= PERMITS {
                        return Err("out of permits".into());
                    }
                    call.await
                })
            }
            Fault::ReleasesOnlyOnAnswer => {
                let call = inner.call(n);
                Box::pin(async move {
                    let permit = Permit::take(&state);
                    if permit.is_none() {
                        return Err("out of permits".into());
                    }
                    let permit = std::mem::ManuallyDrop::new(permit);
                    let answer = call.await;
                    drop(std::mem::ManuallyDrop::into_inner(permit));
                    answer
                })
            }
            Fault::ReleasesOnlyOnDrop => {
                let permit = Permit::take(&state);
                let mut call = Box::pin(inner.call(n));
                let refused = permit.is_none();
                Box::pin(poll_fn(move |cx| {
                    let _held_until_the_future_goes = &permit;
                    if refused {
                        return Poll::Ready(Err("out of permits".into()));
                    }
                    call.as_mut().poll(cx)
                }))
            }
            Fault::BusyInFuture => {
                let mut call = Box::pin(inner.call(n));
                Box::pin(poll_fn(move |cx| {
                    cx.waker().wake_by_ref();
                    call.as_mut().poll(cx)
                }))
            }
            Fault::WakesOnlyTheLast | Fault::LosesTheWakeOfOneGone => {
                let permit = Permit::take(&state);
                let call = inner.call(n);
                Box::pin(async move {
                    let answer = call.await;
                    drop(permit);
                    answer
                })
            }
            Fault::TimerPerCall => {
                let call = inner.call(n);
                let timer = tokio::time::sleep(Duration::from_secs(1));
                Box::pin(async move {
                    let _timer = timer;
                    call.await
                })
            }
            Fault::PoisonsItsLock => {
                let guard = state.lock.lock().unwrap();
                let call = inner.call(n);
                drop(guard);
                Box::pin(call)
            }
            Fault::Late | Fault::LateAndUnready => {
                let clone = inner.clone();
                let mut owned = std::mem::replace(inner, clone);
                let waits = self.fault == Fault::Late;
                Box::pin(async move {
                    if waits {
                        poll_fn(|cx| owned.poll_ready(cx)).await?;
                    }
                    owned.call(n).await
                })
            }
            Fault::AnswersItself => Box::pin(async move { Ok(n) }),
            Fault::PollsFinished => {
                let mut call = Box::pin(inner.call(n));
                Box::pin(poll_fn(move |cx| {
                    let answer = call.as_mut().poll(cx);
                    if answer.is_ready() {
                        let _ = call.as_mut().poll(cx);
                    }
                    answer
                }))
            }
            _ => Box::pin(inner.call(n)),
        }
    }
}
