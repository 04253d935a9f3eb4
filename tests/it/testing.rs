//! The contract kit against layers that keep the contract and, property by property, against layers
//! that break it.

use crate::support::state_shared_across_axum_connections;
use axum::http::StatusCode;
use buttress::testing::{
    Answer, ByHand, CountWaker, Probe, ProbeEvent, Property, Subject, TestableLayer, Violation,
    check, check_all,
};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::{BoxError, Layer, Service, ServiceExt};

/// Exactly these properties are violated, in the order of `Property::ALL`.
async fn violated<L>(subject: &Subject<u32, u32, BoxError, L>) -> Vec<Property>
where
    L: TestableLayer<u32, u32, BoxError>,
{
    match check_all(subject).await {
        Ok(()) => Vec::new(),
        Err(violations) => {
            println!("{violations}");
            violations.iter().map(|violation| violation.property()).collect()
        }
    }
}

fn subject<L>(layer: impl Fn() -> L + Send + Sync + 'static) -> Subject<u32, u32, BoxError, L>
where
    L: TestableLayer<u32, u32, BoxError>,
{
    Subject::new(layer, || 1, |n: u32| Ok::<u32, BoxError>(n)).ready_error(|| "broken".into())
}

// ---- layers that keep the contract -------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn layers_without_state_pass() {
    let identity = subject(tower::layer::util::Identity::new).stateless();
    check_all(&identity).await.unwrap();
    let map = subject(|| tower::util::MapRequestLayer::new(|n: u32| n + 1)).stateless();
    check_all(&map).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_layer_with_a_timer_passes_when_it_says_so() {
    let make = || tower::timeout::TimeoutLayer::new(Duration::from_secs(30));
    check_all(&subject(make).stateless().needs_runtime(true)).await.unwrap();
    let undeclared = violated(&subject(make).stateless()).await;
    assert_eq!(undeclared, [Property::NoTimerNeededOnHappyPath]);
}

#[tokio::test(start_paused = true)]
async fn towers_concurrency_limit_passes_except_that_finished_futures_hold_their_permit() {
    let make = || tower::limit::GlobalConcurrencyLimitLayer::new(2);
    let shared = |mut one: tower::limit::ConcurrencyLimit<Probe<u32, u32, BoxError>>,
                  mut two: tower::limit::ConcurrencyLimit<_>,
                  _| async move {
        let (_first, mut one_more) = (one.ready().await.is_ok(), one.clone());
        let _second = one_more.ready().await.is_ok();
        let third = CountWaker::new().poll_ready::<u32, _>(&mut two);
        if third.is_pending() { Ok(()) } else { Err("a third through a limit of 2".to_owned()) }
    };
    let declared = subject(make).shared_state(shared).reserves_in_ready(true);
    let holds = Property::ResponseReadyReleasesBeforeFutureDrop;
    assert_eq!(violated(&declared).await, [holds]);
    assert_eq!(
        violated(&subject(make).shared_state(shared)).await,
        [Property::ReadyTakesNothingScarce, holds]
    );
}

#[tokio::test(start_paused = true)]
async fn state_made_in_layer_is_found() {
    let per_call = subject(|| tower::limit::ConcurrencyLimitLayer::new(1))
        .reserves_in_ready(true)
        .shared_state(
            |mut one: tower::limit::ConcurrencyLimit<Probe<u32, u32, BoxError>>,
             mut two: tower::limit::ConcurrencyLimit<_>,
             _| async move {
                one.ready().await.map_err(|e| e.to_string())?;
                match CountWaker::new().poll_ready::<u32, _>(&mut two) {
                    Poll::Pending => Ok(()),
                    Poll::Ready(_) => Err("two through a limit of 1".to_owned()),
                }
            },
        );
    let seen = violated(&per_call).await;
    assert!(seen.contains(&Property::LayerTwiceSharesState));
}

#[tokio::test(start_paused = true)]
async fn towers_buffer_passes_except_that_one_error_or_panic_kills_every_clone() {
    // As documented: an error of the inner service ends the one worker for good. So does a panic.
    let buffer = subject(|| tower::buffer::BufferLayer::<u32>::new(8))
        .stateless()
        .polls_inner_in_ready(false)
        .reserves_in_ready(true)
        .needs_runtime(true)
        .rounds(4);
    assert_eq!(
        violated(&buffer).await,
        [Property::InnerReadyErrorIsPassedThrough, Property::PanickingInnerLeavesUsableState]
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_guessed_must_be_declared() {
    let bare =
        Subject::new(tower::layer::util::Identity::new, || 1_u32, |n: u32| Ok::<u32, BoxError>(n));
    assert_eq!(
        violated(&bare).await,
        [Property::InnerReadyErrorIsPassedThrough, Property::LayerTwiceSharesState]
    );
}

#[test]
fn the_kit_needs_no_runtime() {
    let subject = subject(tower::layer::util::Identity::new).stateless();
    let mut run = Box::pin(check_all(&subject));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if let Poll::Ready(result) = run.as_mut().poll(&mut cx) {
            return result.unwrap();
        }
    }
    panic!("not done after 100,000 polls");
}

// ---- one toy layer, broken in one way at a time ---------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
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
struct ToyState {
    taken: AtomicUsize,
    calls: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    lock: Mutex<()>,
}

struct ToyLayer {
    fault: Fault,
    state: Arc<ToyState>,
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

struct Toy<S> {
    inner: Option<S>,
    fault: Fault,
    state: Arc<ToyState>,
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
        if let Some(waker) = self.0.waker.lock().unwrap().take() {
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

type ToyFuture = Pin<Box<dyn Future<Output = Result<u32, BoxError>> + Send>>;

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
                *self.state.waker.lock().unwrap() = Some(cx.waker().clone());
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
            Fault::WakesOnlyTheLast => {
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

fn toy(fault: Fault) -> Subject<u32, u32, BoxError, ToyLayer> {
    subject(move || ToyLayer { fault, state: Arc::default() }).shared_state(
        |mut one: Toy<_>, two, _| async move {
            one.ready()
                .await
                .map_err(|e| e.to_string())?
                .call(1)
                .await
                .map_err(|e| e.to_string())?;
            match two.state.calls.load(Ordering::SeqCst) {
                1 => Ok(()),
                calls => Err(format!("{calls} calls counted by the second service")),
            }
        },
    )
}

#[tokio::test(start_paused = true)]
async fn the_toy_passes_without_its_faults() {
    check_all(&toy(Fault::None)).await.unwrap();
    check_all(&toy(Fault::Late).polls_inner_in_ready(false)).await.unwrap();
}

// A fault of the kind that corrupts every call is seen by nearly every property; the others are seen by
// the ones listed and by no other.
const SEEN_BY: &[(Fault, &[Property])] = {
    use Property::*;
    &[
        (Fault::CloneCopiesReadiness, &[CloneIsNotReady]),
        (Fault::Flaps, &[ReadyIsStableUntilCall]),
        (Fault::ErrorBecomesPending, &[InnerReadyErrorIsPassedThrough]),
        (Fault::ErrorBecomesReady, &[InnerReadyErrorIsPassedThrough]),
        (
            Fault::LeaksUncalledReadiness,
            &[NotCalledAfterReadyReleases, ReadyTakesNothingScarce, ServiceDropReleases],
        ),
        (Fault::ReservesInReady, &[ReadyTakesNothingScarce]),
        (
            Fault::ForgetsInner,
            &[NotCalledAfterReadyReleases, ReadyTakesNothingScarce, ServiceDropReleases],
        ),
        (Fault::KeepsACopyOfInner, &[ServiceDropReleases]),
        (Fault::GuardMadeAtFirstPoll, &[FutureDropBeforeFirstPollReleases]),
        (Fault::ReleasesOnlyOnAnswer, &[FutureDropMidFlightReleases]),
        (Fault::ReleasesOnlyOnDrop, &[ResponseReadyReleasesBeforeFutureDrop]),
        (Fault::StatePerLayerCall, &[LayerTwiceSharesState]),
        (Fault::BusyInReady, &[NoBusyWakeWhileWaiting]),
        (Fault::BusyInFuture, &[NoBusyWakeWhileWaiting]),
        (Fault::LosesTheWaker, &[NoBusyWakeWhileWaiting, EveryWaiterIsWoken]),
        // Its limit is checked in `poll_ready` and taken in `call`: ready is not stable either.
        (Fault::WakesOnlyTheLast, &[ReadyIsStableUntilCall, EveryWaiterIsWoken]),
        (Fault::TimerPerCall, &[NoTimerNeededOnHappyPath]),
        (Fault::PoisonsItsLock, &[PanickingInnerLeavesUsableState]),
    ]
};

#[tokio::test(start_paused = true)]
async fn each_fault_is_seen_by_its_property_and_by_no_other() {
    for (fault, properties) in SEEN_BY {
        assert_eq!(violated(&toy(*fault)).await, *properties, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_in_every_call_are_seen() {
    for fault in [Fault::CallsAClone, Fault::AnswersItself, Fault::PollsFinished] {
        let seen = violated(&toy(fault)).await;
        assert!(seen.contains(&Property::ReadiedInstanceIsTheOneCalled), "{fault:?}");
    }
    let late = toy(Fault::LateAndUnready).polls_inner_in_ready(false);
    let seen = violated(&late).await;
    assert!(seen.contains(&Property::ReadiedInstanceIsTheOneCalled));
    assert!(seen.contains(&Property::InnerReadyErrorIsPassedThrough));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_declaration_is_seen() {
    let property = Property::ReadiedInstanceIsTheOneCalled;
    let early = check(&toy(Fault::None).polls_inner_in_ready(false), property).await;
    assert_eq!(
        early.unwrap_err().to_string(),
        "readied_instance_is_the_one_called: expected 0 inner slots held by a ready service \
         (as declared), saw 1 held"
    );
    let late = check(&toy(Fault::Late), property).await.unwrap_err();
    assert_eq!((late.property(), late.seen()), (property, "0 held"));
}

#[test]
fn every_property_has_a_fault_that_only_a_few_see() {
    for property in Property::ALL {
        let listed = SEEN_BY.iter().any(|(_, seen)| seen.contains(property));
        let in_every_call = *property == Property::ReadiedInstanceIsTheOneCalled;
        assert!(listed || in_every_call, "{property}");
    }
}

// ---- the probe -------------------------------------------------------------------------------------

fn ready<S: Service<u32>>(service: &mut S) -> bool {
    matches!(CountWaker::new().poll_ready(service), Poll::Ready(Ok(())))
}

#[test]
fn a_probe_with_one_slot_serves_one_at_a_time_and_wakes_the_next() {
    let (mut first, handle) = Probe::new(|n: u32| Ok::<_, ()>(n + 1));
    handle.set_slots(1);
    let mut second = first.clone();
    let waker = CountWaker::new();

    assert!(ready(&mut first) && ready(&mut first), "ready stays ready");
    assert!(waker.poll_ready::<u32, _>(&mut second).is_pending());
    let mut call = ByHand::new(first.call(1));
    assert_eq!((handle.counts().reserved, handle.counts().in_flight), (0, 1));
    assert_eq!(waker.wakes(), 0, "the call holds the slot");
    assert_eq!(call.poll(), Poll::Ready(Ok(2)));
    assert_eq!(waker.wakes(), 1, "a finished call gives it back though its future is alive");
    assert!(ready(&mut second));
    drop(second);
    assert_eq!(handle.counts().abandoned, 1);
    assert_eq!(handle.violations(), []);
    use ProbeEvent::*;
    assert_eq!(
        handle.events(),
        [
            Ready { instance: 0 },
            Called { instance: 0, call: 1 },
            Completed { call: 1 },
            Ready { instance: 1 },
            Abandoned { instance: 1 },
        ]
    );
}

#[test]
fn a_probe_records_calls_without_readiness_and_use_after_errors() {
    let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, &str>(n));
    drop(probe.call(1));
    assert!(ready(&mut probe));
    drop(probe.call(1));
    drop(probe.call(1));
    handle.fail_ready("gone");
    assert_eq!(CountWaker::new().poll_ready::<u32, _>(&mut probe), Poll::Ready(Err("gone")));
    assert!(ready(&mut probe), "served all the same");
    let unready = Violation::CalledUnready { instance: 0 };
    let dead = Violation::UsedAfterReadyError { instance: 0 };
    assert_eq!(handle.violations(), [unready.clone(), unready, dead]);
    assert_eq!(handle.counts().dropped_before_poll, 3);
    assert_eq!(handle.counts().in_flight, 0);
}

#[test]
fn a_probe_panics_at_a_violation_when_asked_and_loses_no_slot() {
    let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, ()>(n));
    handle.panic_on_violation(true);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(probe.call(1))));
    assert!(panic.is_err());
    assert_eq!(handle.counts().in_flight, 0);
}

#[test]
fn a_probe_answers_as_scripted_then_as_held_then_as_computed() {
    let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, &str>(n));
    handle.next(Answer::Ready(Err("scripted")));
    handle.next(Answer::Never);
    handle.hold_answers(true);
    let mut call = |n| {
        assert!(ready(&mut probe));
        ByHand::new(probe.call(n))
    };
    let (mut scripted, mut never, mut held) = (call(1), call(2), call(3));
    handle.hold_answers(false);
    let mut computed = call(4);
    assert_eq!(scripted.poll(), Poll::Ready(Err("scripted")));
    assert!(never.poll().is_pending() && held.poll().is_pending());
    assert_eq!(computed.poll(), Poll::Ready(Ok(4)));
    handle.release(usize::MAX);
    assert!(held.is_woken() && !never.is_woken());
    assert_eq!(held.poll(), Poll::Ready(Ok(3)));
    drop(never);
    assert_eq!(handle.counts().dropped_mid_flight, 1);
    assert_eq!(handle.counts().most_in_flight, 4);
}

// ---- several real connections ------------------------------------------------------------------------

/// Lets the first `limit` requests through; answers 429 to the rest.
#[derive(Clone)]
struct FirstFew {
    limit: usize,
    seen: Arc<AtomicUsize>,
    fresh_in_layer: bool,
}

#[derive(Clone)]
struct FirstFewService<S>(S, FirstFew);

impl<S> Layer<S> for FirstFew {
    type Service = FirstFewService<S>;

    fn layer(&self, inner: S) -> FirstFewService<S> {
        let mut own = self.clone();
        if self.fresh_in_layer {
            own.seen = Arc::default();
        }
        FirstFewService(inner, own)
    }
}

impl<S> Service<axum::extract::Request> for FirstFewService<S>
where
    S: Service<axum::extract::Request, Response = axum::response::Response>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: axum::extract::Request) -> Self::Future {
        let admitted = self.1.seen.fetch_add(1, Ordering::SeqCst) < self.1.limit;
        let call = self.0.call(request);
        Box::pin(async move {
            let mut response = call.await?;
            if !admitted {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            }
            Ok(response)
        })
    }
}

#[tokio::test]
async fn state_lost_between_axum_connections_is_seen() {
    let expected = [200, 200, 200, 429, 429];
    let limit = |fresh_in_layer| FirstFew { limit: 3, seen: Arc::default(), fresh_in_layer };
    let shared = limit(false);
    state_shared_across_axum_connections(|r| r.layer(shared), StatusCode::OK, &expected)
        .await
        .unwrap();
    let fresh = limit(true);
    let lost = state_shared_across_axum_connections(|r| r.layer(fresh), StatusCode::OK, &expected);
    assert_eq!(
        lost.await.unwrap_err(),
        "state_shared_across_axum_connections: expected [200, 200, 200, 429, 429], \
         saw [200, 200, 200, 200, 200]"
    );
}
