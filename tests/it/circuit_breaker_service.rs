//! The breaker as a layer: cancellation, panics, readiness, real connections.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
use buttress::observe::{Event, EventKind};
use buttress::{AsTyped, Error, RejectionKind, Verdict, classify_fn, error_chain};
use futures_util::FutureExt;
use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

fn tripping(n: u32) -> CircuitBreaker {
    CircuitBreaker::builder("test").consecutive_failures(n).build().unwrap()
}

fn trip(breaker: &CircuitBreaker) {
    while breaker.state() == CircuitState::Closed {
        breaker.try_acquire().unwrap().failure();
    }
}

#[cfg(feature = "http")]
#[tokio::test]
async fn state_shared_across_axum_connections_and_no_error_to_handle() {
    use axum::http::StatusCode;
    use buttress::http::{problem, standard};
    let layer = tripping(3).layer().classify(standard()).on_reject(problem());
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(layer),
        StatusCode::INTERNAL_SERVER_ERROR,
        &[500, 500, 500, 503, 503],
    )
    .await
    .unwrap();
}

/// One breaker per key in one table: `/a` trips its own on five different connections, `/b` keeps going.
#[cfg(feature = "http")]
#[tokio::test]
async fn a_keyed_breaker_shares_its_table_across_axum_connections() {
    use axum::extract::Request;
    use axum::http::StatusCode;
    use axum::routing::get;
    use buttress::circuit_breaker::KeyedCircuitBreaker;
    use buttress::http::{problem, standard};
    let breakers: KeyedCircuitBreaker<String> =
        CircuitBreaker::builder("routes").consecutive_failures(2).build_keyed(16).unwrap();
    let key = |request: &Request| Some(request.uri().path().to_owned());
    let layer = breakers.layer(key).classify(standard()).on_reject(problem());
    let router = axum::Router::new()
        .route("/a", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/b", get(|| async { "well" }))
        .layer(layer);
    let mut server = crate::support::Server::start(router).await;
    let mut seen = Vec::new();
    for path in ["/a", "/b", "/a", "/b", "/a", "/a", "/b"] {
        let mut connection = server.connect().await;
        seen.push(connection.get(path).await.status().as_u16());
    }
    assert_eq!(seen, [500, 200, 500, 200, 503, 503, 200]);
    assert_eq!(breakers.not_closed(), [("/a".to_owned(), CircuitState::Open)]);
    assert_eq!(breakers.len(), 2);
}

/// Never ready.
#[derive(Clone)]
struct Stuck;

impl Service<()> for Stuck {
    type Response = ();
    type Error = io::Error;
    type Future = std::future::Ready<Result<(), io::Error>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Pending
    }
    fn call(&mut self, (): ()) -> Self::Future {
        unreachable!("never ready")
    }
}

/// An inner service that is never ready used to hide the open circuit of a well-known peer.
#[tokio::test(start_paused = true)]
async fn open_is_seen_before_an_inner_service_that_is_never_ready() {
    let breaker = tripping(1);
    trip(&breaker);
    let mut service = breaker.layer().on_reject(AsTyped).layer(Stuck);
    let refused = service.ready().await.unwrap().call(()).await.unwrap_err();
    assert_eq!(refused.rejection().unwrap().kind(), RejectionKind::CircuitOpen);
    assert_eq!(breaker.stats().rejected_calls, 1);
}

/// The same once the open time was over: nobody came as far as a probe, and nobody was refused any more.
#[tokio::test(start_paused = true)]
async fn no_more_than_may_probe_wait_for_an_inner_service_that_is_never_ready() {
    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(1)
        .half_open_calls(2)
        .probe_lease(Duration::from_secs(5))
        .build()
        .unwrap();
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let service = breaker.layer().on_reject(AsTyped).layer(Stuck);
    let mut cx = Context::from_waker(Waker::noop());
    let mut poll_ready = |it: &mut _| Service::<()>::poll_ready(it, &mut cx).is_ready();
    let mut waiting = [service.clone(), service.clone()];
    let mut others = [service.clone(), service.clone(), service];
    // Due, and half-open.
    for state in [CircuitState::Open, CircuitState::HalfOpen] {
        if state == CircuitState::HalfOpen {
            drop(breaker.try_acquire().unwrap());
        }
        assert_eq!(breaker.snapshot().state, state);
        for it in &mut waiting {
            assert!(!poll_ready(it));
        }
        for it in &mut others {
            assert!(poll_ready(it), "hangs");
            let refused = it.call(()).await.unwrap_err();
            let refused = refused.rejection().unwrap();
            assert_eq!(refused.kind(), RejectionKind::CircuitOpen);
            assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
        }
    }
    // A place is free when it is given up, and when its lease has run out.
    let [gone, _stays] = waiting;
    drop(gone);
    let ready = others.each_mut().map(&mut poll_ready);
    assert_eq!(ready, [false, true, true]);
    advance(Duration::from_secs(6)).await;
    let mut late = others[0].clone();
    assert!(!poll_ready(&mut late));
    // Whatever waits goes on once the circuit is closed, and new ones do.
    breaker.reset();
    assert!(!poll_ready(&mut others[0]));
    assert!(!poll_ready(&mut others[0].clone()));
    breaker.force_open();
    assert!(poll_ready(&mut others[0]), "refuses");
    assert!(others[0].call(()).await.is_err());
}

/// It slept on, since only the inner service had its waker.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "callers are tasks")]
async fn who_waits_for_a_probe_is_woken_when_the_circuit_opens_again() {
    let breaker =
        CircuitBreaker::builder("test").consecutive_failures(1).half_open_calls(2).build().unwrap();
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let probe = breaker.try_acquire().unwrap();
    let mut service = breaker.layer().on_reject(AsTyped).layer(Stuck);
    let waits = tokio::spawn(async move { service.ready().await.unwrap().call(()).await });
    sleep(Duration::from_millis(10)).await;
    assert!(!waits.is_finished());
    probe.failure();
    let refused = timeout(Duration::from_secs(1), waits).await.expect("sleeps on").unwrap();
    assert_eq!(refused.unwrap_err().rejection().unwrap().kind(), RejectionKind::CircuitOpen);
}

/// Under another executor there is no timer: to make one was a panic, and only while the callee came back.
#[test]
fn outside_of_a_runtime_who_waits_for_a_probe_is_woken_by_the_circuit() {
    struct Woken(AtomicBool);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let breaker =
        CircuitBreaker::builder("test").consecutive_failures(1).open_for(Duration::from_millis(1));
    let breaker = breaker.build().unwrap();
    trip(&breaker);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let cx = &mut Context::from_waker(&waker);
    let service = breaker.layer().on_reject(AsTyped).layer(Stuck);
    // Ready, to be refused, while it is open.
    let mut waits = service.clone();
    while waits.poll_ready(cx).is_ready() {
        waits = service.clone();
    }
    assert!(!woken.0.load(Ordering::Relaxed));
    breaker.force_open();
    assert!(woken.0.load(Ordering::Relaxed));
    assert!(waits.poll_ready(cx).is_ready());
    let refused = waits.call(()).now_or_never().unwrap();
    assert_eq!(refused.unwrap_err().rejection().unwrap().kind(), RejectionKind::CircuitOpen);
}

/// A buffer's worker has the only place, and all callers wait behind it: it must not have it for ever.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "callers are tasks")]
async fn behind_a_buffer_nobody_waits_longer_than_a_place_is_held() {
    let breaker = tripping(1);
    let stack = ServiceBuilder::new()
        .buffer(8)
        .layer(breaker.layer().on_reject(AsTyped))
        .concurrency_limit(1)
        .service(service_fn(|()| std::future::pending::<Result<(), io::Error>>()));
    let _hangs = tokio::spawn(stack.clone().oneshot(()));
    sleep(Duration::from_millis(10)).await;
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    for _ in 0..2 {
        let start = Instant::now();
        let refused = timeout(Duration::from_secs(10), stack.clone().oneshot(())).await;
        assert!(refused.expect("hangs").is_err());
        let waited = start.elapsed().as_millis();
        assert!((5000..5010).contains(&waited), "{waited} ms");
    }
}

/// Half a minute, as a probe has, was long for an instance that nobody polls any more.
#[tokio::test(start_paused = true)]
async fn an_instance_that_nobody_polls_holds_a_place_for_a_few_seconds_only() {
    let breaker = tripping(1);
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let service = breaker.layer().on_reject(AsTyped).layer(Stuck);
    let mut idle = service.clone();
    assert!(idle.ready().now_or_never().is_none());
    advance(Duration::from_millis(4999)).await;
    assert!(service.clone().ready().now_or_never().is_some(), "there is no other place");
    advance(Duration::from_millis(1)).await;
    assert!(service.clone().ready().now_or_never().is_none(), "the place is free again");
}

/// A limit whose places are all with calls that hang, and a callee that comes back.
#[tokio::test(start_paused = true)]
async fn a_full_limit_inside_hides_neither_the_circuit_nor_its_end() {
    let breaker = tripping(2);
    let is_well = Arc::new(AtomicU32::new(0));
    let seen = is_well.clone();
    let callee = service_fn(move |()| {
        let seen = seen.clone();
        async move {
            while seen.load(Ordering::Relaxed) == 0 {
                sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, io::Error>(())
        }
    });
    let limited = tower::limit::ConcurrencyLimit::new(callee, 2);
    let service = breaker.layer().on_reject(AsTyped).layer(limited);
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut call = boxed(service.clone().oneshot(()));
        assert!(futures_util::poll!(call.as_mut()).is_pending());
        hanging.push(call);
    }
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let mut hung = Vec::new();
    let mut refused = 0;
    for _ in 0..20 {
        let mut call = boxed(service.clone().oneshot(()));
        match futures_util::poll!(call.as_mut()) {
            Poll::Pending => hung.push(call),
            Poll::Ready(answer) => refused += u32::from(answer.is_err()),
        }
    }
    assert_eq!((hung.len(), refused), (1, 19));
    is_well.store(1, Ordering::Relaxed);
    for call in hanging.into_iter().chain(hung) {
        call.await.unwrap();
    }
    for _ in 0..5 {
        service.clone().oneshot(()).await.unwrap();
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
}

/// A service that is kept ready told how long the circuit was open when readiness was asked.
#[tokio::test(start_paused = true)]
async fn a_promised_refusal_tells_what_is_left_when_it_is_given() {
    let breaker = tripping(1);
    trip(&breaker);
    let open_for = breaker.snapshot().next_probe.unwrap();
    let service = breaker.layer().on_reject(AsTyped).layer(Stuck);
    for (kept, left) in
        [(0, open_for), (4, open_for - Duration::from_secs(4)), (3600, Duration::ZERO)]
    {
        let mut service = service.clone();
        service.ready().await.unwrap();
        advance(Duration::from_secs(kept)).await;
        let refused = service.call(()).await.unwrap_err();
        assert_eq!(refused.rejection().unwrap().retry_after(), Some(left));
        breaker.reset();
        trip(&breaker);
    }
}

/// Where the timeout of an attempt belongs.
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_opens_the_circuit_of_a_callee_that_hangs_and_one_inside_does_not() {
    use buttress::timeout::Timeout;
    let hangs = service_fn(|()| std::future::pending::<Result<(), io::Error>>());
    let timeout = || Timeout::new("attempts", Duration::from_millis(500)).unwrap().layer();
    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(3)
        .cancelled_after(Duration::from_millis(400));
    let (outside, inside) = (breaker.clone().build().unwrap(), breaker.build().unwrap());
    let guarded = timeout().layer(outside.layer().layer(hangs));
    let blind = inside.layer().layer(timeout().layer(hangs));
    for _ in 0..3 {
        guarded.clone().oneshot(()).await.unwrap_err();
        blind.clone().oneshot(()).await.unwrap_err();
    }
    assert_eq!([outside.state(), inside.state()], [CircuitState::Open, CircuitState::Closed]);
}

#[tokio::test(start_paused = true)]
async fn once_ready_to_refuse_it_refuses_even_if_the_circuit_closes_meanwhile() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let breaker = tripping(1);
    trip(&breaker);
    let mut service = breaker.layer().layer(service_fn(move |()| {
        seen.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, io::Error>(()) }
    }));
    service.ready().await.unwrap();
    breaker.reset();
    assert!(service.call(()).await.is_err());
    assert_eq!(
        calls.load(Ordering::Relaxed),
        0,
        "an inner service that was not readied is not called"
    );
    assert!(service.ready().await.unwrap().call(()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_on_a_hanging_callee_opens_the_circuit() {
    let breaker = tripping(3);
    let service =
        breaker.layer().layer(service_fn(|()| std::future::pending::<Result<(), io::Error>>()));
    for _ in 0..3 {
        let call = service.clone().oneshot(());
        assert!(tokio::time::timeout(Duration::from_secs(2), call).await.is_err());
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn calls_dropped_early_or_never_polled_are_neutral() {
    let breaker = tripping(1);
    let service = breaker
        .layer()
        .layer(service_fn(|()| sleep(Duration::from_secs(9)).map(Ok::<_, io::Error>)));
    let mut ready = service.clone();
    drop(ready.ready().await.unwrap().call(()));
    advance(Duration::from_secs(60)).await;
    assert!(tokio::time::timeout(Duration::from_millis(900), service.oneshot(())).await.is_err());
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.stats().neutral_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_gives_its_place_back_and_does_not_close_the_circuit() {
    let breaker = tripping(1);
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let service =
        breaker.layer().layer(service_fn(|()| std::future::pending::<Result<(), io::Error>>()));
    let mut one = service.clone();
    let mut probe = boxed(one.ready().await.unwrap().call(()));
    assert!(probe.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(breaker.snapshot().probes_in_flight, 1);
    assert!(breaker.try_acquire().is_err());
    drop(probe);
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), CircuitState::Closed);
}

fn boxed<F: Future>(future: F) -> std::pin::Pin<Box<F>> {
    Box::pin(future)
}

#[tokio::test(start_paused = true)]
async fn panics_count_as_failures_and_leave_everything_usable() {
    let breaker = tripping(4);
    let in_call = breaker
        .layer()
        .layer(service_fn(|()| -> std::future::Ready<Result<(), io::Error>> { panic!("in call") }));
    let in_poll = breaker
        .layer()
        .layer(service_fn(|()| async { panic!("in poll") as Result<(), io::Error> }));
    for _ in 0..2 {
        assert!(AssertUnwindSafe(in_call.clone().oneshot(())).catch_unwind().await.is_err());
        assert!(AssertUnwindSafe(in_poll.clone().oneshot(())).catch_unwind().await.is_err());
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.stats().failed_calls, 4);
    breaker.reset();
    assert!(breaker.call(|| async { Ok::<_, io::Error>(()) }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_panicking_classifier_gives_a_probe_its_place_back() {
    let breaker = tripping(1);
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let bad = classify_fn(|_: Result<&(), &io::Error>| -> Verdict { panic!("classifier") });
    let service = breaker.layer().classify(bad).layer(service_fn(|()| async { Ok(()) }));
    assert!(AssertUnwindSafe(service.oneshot(())).catch_unwind().await.is_err());
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_classifier_panicked_is_over() {
    let breaker = tripping(1);
    let bad = classify_fn(|_: Result<&(), &io::Error>| -> Verdict { panic!("classifier") });
    let polls = Arc::new(AtomicU32::new(0));
    let inner = service_fn(|()| crate::support::counting_polls(&polls, || Ok(())));
    let service = breaker.layer().classify(bad).layer(inner);
    crate::support::poll_twice_into_a_panic(service.clone().call(()));
    assert_eq!(polls.load(Ordering::Relaxed), 1, "the inner call had ended");
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_observer_changes_nothing() {
    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(1)
        .observe(|_: &Event<'_>| panic!("observer"))
        .build()
        .unwrap();
    trip(&breaker);
    assert!(breaker.try_acquire().is_err());
    breaker.reset();
    assert!(breaker.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn observers_may_use_the_breaker_they_observe() {
    let slot: Arc<Mutex<Option<CircuitBreaker>>> = Arc::default();
    let inside = slot.clone();
    let states = Arc::new(Mutex::new(Vec::new()));
    let seen = states.clone();
    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(1)
        .observe(move |event: &Event<'_>| {
            if let EventKind::StateChanged { .. } = event.kind
                && let Some(breaker) = &*inside.lock().unwrap()
            {
                seen.lock().unwrap().push((breaker.state(), breaker.stats().state_changes));
            }
        })
        .build()
        .unwrap();
    *slot.lock().unwrap() = Some(breaker.clone());
    trip(&breaker);
    assert_eq!(*states.lock().unwrap(), [(CircuitState::Open, 1)]);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_inner_layers_are_not_failures_of_the_callee() {
    let inner = tripping(1);
    trip(&inner);
    let outer = tripping(1);
    let service = CircuitBreakerLayer::new(outer.clone())
        .classify(error_chain())
        .layer(inner.layer().layer(service_fn(|()| async { Ok::<_, io::Error>(()) })));
    for _ in 0..5 {
        assert!(service.clone().oneshot(()).await.is_err());
    }
    assert_eq!(outer.state(), CircuitState::Closed);
    assert_eq!(outer.stats().neutral_calls, 5);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_was_measured_and_when_to_come_back() {
    let breaker = CircuitBreaker::builder("payments")
        .failure_rate(0.5)
        .window_calls(4)
        .min_calls(4)
        .open_for(Duration::from_millis(1500))
        .build()
        .unwrap();
    trip(&breaker);
    advance(Duration::from_millis(500)).await;
    let why = breaker.try_acquire().unwrap_err();
    assert_eq!(why.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(
        why.to_string(),
        "circuit breaker is open (circuit_breaker `payments`), failure_rate 1 against 0.500, retry after 1s"
    );
    let error = breaker.call(|| async { Ok::<_, io::Error>(()) }).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)));
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_reports_and_lets_through() {
    let would = Arc::new(AtomicU32::new(0));
    let seen = would.clone();
    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(1)
        .shadow(true)
        .observe(move |event: &Event<'_>| {
            seen.fetch_add(
                u32::from(matches!(event.kind, EventKind::WouldReject(_))),
                Ordering::Relaxed,
            );
        })
        .build()
        .unwrap();
    let service = breaker.layer().layer(service_fn(|ok: bool| async move {
        if ok { Ok(()) } else { Err(io::Error::other("down")) }
    }));
    assert!(service.clone().oneshot(false).await.is_err());
    assert_eq!(breaker.state(), CircuitState::Open);
    for _ in 0..3 {
        assert!(service.clone().oneshot(true).await.is_ok());
    }
    assert_eq!(would.load(Ordering::Relaxed), 3);
    assert_eq!(
        breaker.state(),
        CircuitState::Open,
        "calls let through in shadow mode decide nothing"
    );
    advance(Duration::from_secs(60)).await;
    assert!(service.oneshot(true).await.is_ok());
    assert_eq!(breaker.state(), CircuitState::Closed, "a probe does");
}

/// Under a balancer: pending while open, and woken by time, by an operator and by the end of a probe.
#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn unready_while_open_wakes_when_the_circuit_lets_calls_through() {
    use buttress::testing::CountWaker;
    let breaker = tripping(1);
    let new = || {
        breaker
            .layer()
            .unready_while_open()
            .layer(service_fn(|()| async { Ok::<_, io::Error>(()) }))
    };
    let mut endpoint = new();
    let waker = CountWaker::new();
    assert!(waker.poll_ready(&mut endpoint).is_ready());
    endpoint.call(()).await.unwrap();

    trip(&breaker);
    assert!(waker.poll_ready(&mut endpoint).is_pending());
    assert_eq!(waker.take(), 0);
    advance(Duration::from_secs(61)).await;
    tokio::task::yield_now().await;
    assert_eq!(waker.take(), 1, "woken when the open time has passed");
    assert!(waker.poll_ready(&mut endpoint).is_ready());
    assert!(waker.poll_ready(&mut endpoint).is_ready(), "ready stays ready");

    // The probe is out: another endpoint of the same breaker has to wait for it.
    let probe = breaker.try_acquire().unwrap();
    let mut other = new();
    assert!(waker.poll_ready(&mut other).is_pending());
    probe.success();
    assert!(waker.take() >= 1, "woken by the change of state");
    assert!(waker.poll_ready(&mut other).is_ready());

    breaker.force_open();
    let mut third = new();
    assert!(waker.poll_ready(&mut third).is_pending());
    let _ = waker.take();
    breaker.reset();
    assert_eq!(waker.take(), 1, "woken by the operator");
    assert!(waker.poll_ready(&mut third).is_ready());
}

#[tokio::test(start_paused = true)]
async fn subscribers_see_the_latest_state() {
    let breaker = tripping(1);
    let mut states = breaker.subscribe();
    trip(&breaker);
    assert_eq!(states.changed().await, Some(CircuitState::Open));
    advance(Duration::from_secs(60)).await;
    breaker.try_acquire().unwrap().success();
    assert_eq!(states.changed().await, Some(CircuitState::Closed));
    assert!(states.changed().now_or_never().is_none());
}

#[test]
fn works_without_any_runtime() {
    let breaker = tripping(1);
    let service = breaker.layer().layer(service_fn(|n: u32| async move { Ok::<_, io::Error>(n) }));
    assert_eq!(service.oneshot(3).now_or_never().unwrap().unwrap(), 3);
    assert!(breaker.call_blocking(|| Err::<(), _>(io::Error::other("down"))).is_err());
    assert!(breaker.call_blocking(|| Ok::<_, io::Error>(())).unwrap_err().rejection().is_some());
}

#[test]
fn a_panic_in_a_blocking_call_is_a_failure() {
    let breaker = tripping(1);
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        breaker.call_blocking(|| -> Result<(), io::Error> { panic!("blocking") })
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_count_refusals_and_changes_of_state() {
    use buttress::observe::Metrics;
    use metrics_util::debugging::DebuggingRecorder;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let breaker =
            CircuitBreaker::builder("m").consecutive_failures(1).observe(Metrics).build().unwrap();
        trip(&breaker);
        assert!(breaker.try_acquire().is_err());
    });
    let mut names: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, ..)| key.key().name().to_owned())
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names, ["buttress.events", "buttress.rejections", "buttress.state_changes"]);
}

#[test]
fn services_and_futures_fit_where_axum_and_tonic_put_them() {
    fn fits<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn sends<T: Send + 'static>(_: &T) {}
    let breaker = tripping(1);
    let mut service = breaker.layer().layer(service_fn(|()| async { Ok::<_, io::Error>(()) }));
    fits(&breaker);
    fits(&breaker.layer());
    fits(&service);
    sends(&service.call(()));
    assert!(size_of_val(&service.call(())) <= 200, "{}", size_of_val(&service.call(())));
}

/// Judges nothing: it panics before the call is made.
struct PanicsAtStart;

impl<T, E> buttress::Classify<(), T, E> for PanicsAtStart {
    type Ticket = ();
    fn start(&self, (): &()) {
        panic!("classifier");
    }
    fn finish(&self, (): (), _: Result<&T, &E>) -> Verdict {
        Verdict::success()
    }
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_before_a_direct_call_gives_the_probes_place_back() {
    let breaker = tripping(1);
    trip(&breaker);
    advance(Duration::from_secs(60)).await;
    let call = breaker.call_with(&PanicsAtStart, || async { Ok::<_, io::Error>(()) });
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    let blocking =
        AssertUnwindSafe(|| breaker.call_blocking_with(&PanicsAtStart, || Ok::<_, io::Error>(())));
    assert!(std::panic::catch_unwind(blocking).is_err());
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), CircuitState::Closed);
}

/// An endpoint that waits for a circuit forced open would otherwise wait for ever.
#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn shadow_mode_wakes_those_who_wait_and_is_no_change_of_state() {
    use buttress::testing::CountWaker;
    let breaker = tripping(1);
    breaker.force_open();
    let mut states = breaker.subscribe();
    let mut endpoint = breaker
        .layer()
        .unready_while_open()
        .layer(service_fn(|()| async { Ok::<_, io::Error>(()) }));
    let waker = CountWaker::new();
    assert!(waker.poll_ready(&mut endpoint).is_pending());
    breaker.set_shadow(true);
    assert_eq!(waker.take(), 1);
    assert!(waker.poll_ready(&mut endpoint).is_ready());
    assert!(states.changed().now_or_never().is_none());
}

/// Told once, and dropped when the service is: not a change of state per request.
#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_is_no_news() {
    let text = Arc::new(Mutex::new(Vec::new()));
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = text.clone();
    let log = tracing_subscriber::fmt().with_writer(move || Sink(sink.clone())).finish();
    let _log = tracing::subscriber::set_default(log);
    let keyed: buttress::circuit_breaker::KeyedCircuitBreaker<u32> =
        CircuitBreaker::builder("keyless").build_keyed(8).unwrap();
    let service = keyed
        .layer(|_: &u32| None)
        .layer(service_fn(|n: u32| async move { Ok::<_, io::Error>(n) }));
    for n in 0..3 {
        assert_eq!(service.clone().oneshot(n).await.unwrap(), n);
    }
    let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
    assert_eq!(text, "");
}

/// What was called once, failed and went away must not keep its place for ever.
#[tokio::test(start_paused = true)]
async fn breakers_whose_open_time_is_over_make_way() {
    let keyed: buttress::circuit_breaker::KeyedCircuitBreaker<u32> =
        CircuitBreaker::builder("pods").consecutive_failures(1).build_keyed(4).unwrap();
    let fail = |key: u32| keyed.get(&key).try_acquire().map(|permit| permit.failure());
    keyed.get(&0).force_open();
    for key in 1..4 {
        fail(key).unwrap();
    }
    // All places are taken by open circuits: 10 goes unguarded.
    for _ in 0..3 {
        fail(10).unwrap();
    }
    advance(Duration::from_secs(3600)).await;
    for key in 10..100 {
        fail(key).unwrap();
        assert!(fail(key).is_err(), "{key} is not guarded");
        advance(Duration::from_secs(61)).await;
    }
    assert!(fail(0).is_err(), "forced open stays");
    assert_eq!(keyed.len(), 4);
}

/// As many keys as were promised: none may lose its window because its part of the table is full.
#[tokio::test(start_paused = true)]
async fn as_many_keys_as_the_capacity_keep_their_breakers() {
    for capacity in [255, 256, 1000] {
        let keyed: buttress::circuit_breaker::KeyedCircuitBreaker<u32> =
            CircuitBreaker::builder("hosts")
                .consecutive_failures(3)
                .build_keyed(usize::try_from(capacity).unwrap())
                .unwrap();
        for _ in 0..3 {
            for key in 0..capacity {
                keyed.get(&key).try_acquire().unwrap().failure();
            }
        }
        assert_eq!(keyed.len(), usize::try_from(capacity).unwrap());
        assert_eq!(keyed.not_closed().len(), usize::try_from(capacity).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_never_polled_is_neutral_also_where_calls_are_timed() {
    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(1)
        .slow_calls(Duration::from_secs(1), 1.0)
        .min_calls(1)
        .build()
        .unwrap();
    let mut service =
        breaker.layer().layer(service_fn(|()| std::future::pending::<Result<(), io::Error>>()));
    let call = service.ready().await.unwrap().call(());
    advance(Duration::from_secs(60)).await;
    drop(call);
    assert_eq!(breaker.state(), CircuitState::Closed);
}
