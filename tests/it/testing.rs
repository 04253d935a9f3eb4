//! The contract kit against layers that keep the contract and, property by property, against layers
//! that break it.

mod toy;

use crate::support::state_shared_across_axum_connections;
use axum::http::StatusCode;
use buttress::testing::{
    Answer, ByHand, CountWaker, Probe, ProbeEvent, Property, Subject, TestableLayer, Violation,
    check, check_all,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::{BoxError, Layer, Service, ServiceExt};

use toy::{Fault, Toy, ToyLayer};

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

// ---- a toy layer, broken in one way at a time -------------------------------------------------

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

// A fault that corrupts every call is seen by nearly every property; these here are seen by the ones
// listed and by no other.
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
        // Their limit is checked in `poll_ready` and taken in `call`: ready is not stable either.
        (Fault::WakesOnlyTheLast, &[ReadyIsStableUntilCall, EveryWaiterIsWoken]),
        (Fault::LosesTheWakeOfOneGone, &[ReadyIsStableUntilCall, EveryWaiterIsWoken]),
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

// ---- the probe ---------------------------------------------------------------------------------

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

// ---- several real connections ------------------------------------------------------------------

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
