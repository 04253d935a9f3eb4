//! The failure budget as a layer and as an object: contract, cancellation, actions, levers, slots.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::failure_budget::{
    BreachReason, BudgetState, BurnAlert, FailureBudget, FailureBudgetBuilder, FailureBudgetLayer,
    Severity,
};
use buttress::observe::{Event, EventKind};
use buttress::{
    AsTyped, LayerKind, Rejection, RejectionDetail, RejectionKind, RetryBudget, RetryCost, Slot,
    Verdict, classify_fn, error_chain,
};
use futures_util::FutureExt;
use tokio::time::{advance, sleep};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

/// Spent at the first failure of at least `n` calls.
fn strict(n: u32) -> FailureBudgetBuilder {
    FailureBudget::builder("test").threshold(0.0).min_samples(n)
}

async fn ok_or_fail(ok: bool) -> Result<(), io::Error> {
    if ok { Ok(()) } else { Err(io::Error::other("down")) }
}

#[cfg(feature = "testing")]
mod contract {
    use super::*;
    use buttress::failure_budget::FailureBudgetService;
    use buttress::testing::{Answer, Probe, Subject, check_all};

    type Budgeted =
        FailureBudgetService<Probe<u32, u32, io::Error>, buttress::AnyError, buttress::AsError>;

    /// Against a layer that refuses once its budget is spent.
    #[tokio::test(start_paused = true)]
    async fn every_property_of_the_contract_holds() {
        let subject = Subject::new(
            || strict(100).reject().latch().build().unwrap().layer(),
            || 1_u32,
            |n: u32| Ok::<_, io::Error>(n + 1),
        )
        .ready_error(|| io::Error::other("inner broke"))
        .shared_state(|mut one: Budgeted, mut two: Budgeted, probe| async move {
            for _ in 0..100 {
                probe.next(Answer::Ready(Err(io::Error::other("down"))));
                let _ = one.ready().await.map_err(|e| e.to_string())?.call(1).await;
            }
            let refused = two.ready().await.map_err(|e| e.to_string())?.call(1).await;
            match refused {
                Err(e) if Rejection::find(&*e).is_some() => Ok(()),
                other => Err(format!("the second service answered {other:?}")),
            }
        });
        check_all(&subject).await.unwrap();
    }

    /// While the budget acts, each call is decided about in `poll_ready`; here nearly all pass.
    #[tokio::test(start_paused = true)]
    async fn they_hold_while_it_acts_and_lets_calls_pass() {
        let subject = Subject::new(
            || {
                let budget =
                    FailureBudget::builder("test").threshold(0.999).shed().build().unwrap();
                for _ in 0..50 {
                    budget.record(true);
                }
                assert!(budget.tripped() && budget.snapshot().refused_share < 0.002);
                // The first call in a breach is the one that is refused.
                assert!(budget.try_acquire().is_err());
                budget.layer()
            },
            || 1_u32,
            |n: u32| Ok::<_, io::Error>(n + 1),
        )
        .ready_error(|| io::Error::other("inner broke"))
        .stateless();
        check_all(&subject).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn they_hold_with_nothing_in_the_slot() {
        let subject = Subject::new(
            || FailureBudgetLayer::from_slot(Slot::new()),
            || 1_u32,
            |n: u32| Ok::<_, io::Error>(n + 1),
        )
        .ready_error(|| io::Error::other("inner broke"))
        .stateless();
        check_all(&subject).await.unwrap();
    }
}

// ---- what counts -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn callers_that_give_up_late_count_and_those_that_give_up_early_do_not() {
    let budget = FailureBudget::new("test");
    let service = budget
        .layer()
        .layer(service_fn(|()| sleep(Duration::from_secs(9)).map(Ok::<_, io::Error>)));
    let mut unpolled = service.clone();
    drop(unpolled.ready().await.unwrap().call(()));
    for wait in [900, 1100] {
        let call = service.clone().oneshot(());
        assert!(tokio::time::timeout(Duration::from_millis(wait), call).await.is_err());
    }
    assert_eq!((budget.sample_count(), budget.failure_rate()), (1, 1.0));

    let held = budget.try_acquire().unwrap();
    drop(budget.try_acquire().unwrap());
    advance(Duration::from_millis(1001)).await;
    drop(held);
    assert_eq!(budget.sample_count(), 2);

    let lenient = FailureBudget::builder("test").ignore_cancelled().build().unwrap();
    let held = lenient.try_acquire().unwrap();
    advance(Duration::from_secs(1000)).await;
    drop(held);
    assert_eq!(lenient.sample_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn panics_count_as_failures_and_leave_everything_usable() {
    let budget = FailureBudget::new("test");
    let in_call = budget
        .layer()
        .layer(service_fn(|()| -> std::future::Ready<Result<(), io::Error>> { panic!("in call") }));
    let in_poll =
        budget.layer().layer(service_fn(|()| async { panic!("in poll") as Result<(), io::Error> }));
    let bad = classify_fn(|_: Result<&(), &io::Error>| -> Verdict { panic!("classifier") });
    let judged = budget.layer().classify(bad).layer(service_fn(|()| async { Ok(()) }));
    assert!(AssertUnwindSafe(in_call.oneshot(())).catch_unwind().await.is_err());
    assert!(AssertUnwindSafe(in_poll.oneshot(())).catch_unwind().await.is_err());
    assert_eq!(budget.stats().failures, 2);
    assert!(AssertUnwindSafe(judged.oneshot(())).catch_unwind().await.is_err());
    assert_eq!(budget.stats().samples, 2, "a classifier that panics has said nothing");
    let blocking = || budget.call_blocking(|| -> Result<(), io::Error> { panic!("blocking") });
    assert!(std::panic::catch_unwind(AssertUnwindSafe(blocking)).is_err());
    assert_eq!(budget.stats().failures, 3);
    assert!(budget.call(|| async { Ok::<_, io::Error>(()) }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn refusals_and_throttling_are_no_samples_of_an_outer_budget() {
    let inner = strict(1).reject().build().unwrap();
    inner.trip();
    let outer = FailureBudget::new("outer");
    let service = FailureBudgetLayer::new(outer.clone())
        .classify(error_chain())
        .layer(inner.layer().layer(service_fn(|()| async { Ok::<_, io::Error>(()) })));
    for _ in 0..5 {
        assert!(service.clone().oneshot(()).await.is_err());
    }
    assert_eq!(outer.sample_count(), 0);
    assert_eq!(inner.stats().rejected, 5);
    outer.try_acquire().unwrap().record(buttress::Outcome::Throttled);
    assert_eq!(outer.sample_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn several_budgets_watch_one_stack_each_by_its_own_rule() {
    let all = FailureBudget::new("all");
    let writes = FailureBudget::builder("writes").min_samples(2).reject().build().unwrap();
    let only_writes = classify_fn(|result: Result<&&str, &io::Error>| match result {
        Ok(&"read") => Verdict::ignored(),
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::failure(buttress::FailureClass::Transient),
    });
    let service = ServiceBuilder::new()
        .layer(FailureBudgetLayer::new(all.clone()).classify(error_chain()))
        .layer(FailureBudgetLayer::new(writes.clone()).classify(only_writes))
        .service(service_fn(|what: &'static str| async move {
            if what == "fail" { Err(io::Error::other("down")) } else { Ok(what) }
        }));
    for what in ["read", "read", "write", "fail"] {
        let _ = service.clone().oneshot(what).await;
    }
    assert_eq!((all.sample_count(), writes.sample_count()), (4, 2));
    assert!(writes.tripped() && !all.tripped());
    assert!(service.clone().oneshot("read").await.is_err(), "the inner budget refuses");
    assert_eq!(all.sample_count(), 4);
}

// ---- what it does ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_was_measured_and_when_to_come_back() {
    let budget =
        FailureBudget::builder("checkout").threshold(0.2).min_samples(4).reject().build().unwrap();
    for n in 0..4 {
        budget.record(n % 2 == 0);
    }
    advance(Duration::from_secs(10)).await;
    let why = budget.call(|| ok_or_fail(true)).await.unwrap_err();
    let why = why.rejection().unwrap();
    assert_eq!(
        (why.kind(), why.layer()),
        (RejectionKind::BudgetExhausted, LayerKind::FailureBudget)
    );
    assert_eq!(why.name(), "checkout");
    assert_eq!(why.retry_after(), Some(Duration::from_secs(20)));
    assert!(matches!(
        why.detail(),
        RejectionDetail::Threshold { what: "failure_rate", measured: 0.5, threshold: 0.2 }
    ));
    budget.reset();
    budget.trip();
    let why = budget.try_acquire().unwrap_err();
    assert_eq!((why.retry_after(), why.detail()), (None, RejectionDetail::None), "by hand");
}

#[cfg(feature = "http")]
#[tokio::test]
async fn state_shared_across_axum_connections_and_the_refusal_is_a_503_with_retry_after() {
    use axum::http::StatusCode;
    use buttress::http::{problem, standard};
    let budget = strict(3).reject().build().unwrap();
    let layer = budget.layer().classify(standard()).on_reject(problem());
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(layer),
        StatusCode::INTERNAL_SERVER_ERROR,
        &[500, 500, 500, 503, 503],
    )
    .await
    .unwrap();

    let service = budget.layer().classify(standard()).on_reject(problem()).layer(service_fn(
        |_: axum::http::Request<axum::body::Body>| async {
            Ok::<_, std::convert::Infallible>(axum::http::Response::new(axum::body::Body::empty()))
        },
    ));
    let answer =
        service.oneshot(axum::http::Request::new(axum::body::Body::empty())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((25..=30).contains(&wait), "{wait}");
}

#[tokio::test(start_paused = true)]
async fn a_breach_refuses_and_ends_by_itself_in_a_running_stack() {
    let budget = strict(2).reject().build().unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let service = budget.layer().layer(service_fn(move |ok| {
        seen.fetch_add(1, Ordering::Relaxed);
        ok_or_fail(ok)
    }));
    for _ in 0..2 {
        assert!(service.clone().oneshot(false).await.is_err());
    }
    for _ in 0..20 {
        assert!(service.clone().oneshot(true).await.is_err());
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert_eq!(budget.stats().rejected, 20);
    advance(Duration::from_millis(30_001)).await;
    assert!(service.clone().oneshot(true).await.is_ok());
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert_eq!((budget.stats().breaches, budget.stats().recoveries), (1, 1));
}

/// An inner service that is never ready must not hide that its budget is spent; and who was told that the
/// service is ready to refuse is refused, even if the budget is reset meanwhile.
#[tokio::test(start_paused = true)]
async fn spent_is_seen_before_an_inner_service_that_is_never_ready() {
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
    let budget = strict(1).reject().build().unwrap();
    budget.trip();
    let mut service = budget.layer().on_reject(AsTyped).layer(Stuck);
    let ready = service.ready().await.unwrap();
    budget.reset();
    let refused = ready.call(()).await.unwrap_err();
    assert_eq!(refused.rejection().unwrap().kind(), RejectionKind::BudgetExhausted);
    assert_eq!(budget.stats().rejected, 1);
    assert!(service.ready().now_or_never().is_none(), "now the inner service is asked");
}

#[tokio::test(start_paused = true)]
async fn levers_are_engaged_by_a_breach_and_released_by_recovery_and_by_dropping_the_budget() {
    let retries = RetryBudget::new("payments");
    let shut_down = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&shut_down);
    let budget = strict(1)
        .lever(retries.clone())
        .lever(move |spent: bool| {
            if spent {
                flag.store(true, Ordering::Relaxed);
            }
        })
        .build()
        .unwrap();
    let cut = || retries.failed(RetryCost::Failed).is_none();
    assert!(!cut());
    budget.record(true);
    assert!(cut() && shut_down.load(Ordering::Relaxed));
    advance(Duration::from_secs(31)).await;
    assert!(!budget.tripped());
    assert!(!cut());

    budget.trip();
    assert!(cut());
    budget.retire();
    assert!(!cut(), "uninstalled");
    budget.reset();
    budget.trip();
    let clone = budget.clone();
    drop(budget);
    assert!(cut());
    drop(clone);
    assert!(!cut(), "nobody could release it any more");
}

#[tokio::test(start_paused = true)]
async fn changes_and_refusals_are_told_in_order() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    let budget = strict(2)
        .reject()
        .observe(move |event: &Event<'_>| {
            assert_eq!((event.layer, event.name.as_str()), (LayerKind::FailureBudget, "test"));
            sink.lock().unwrap().push(match &event.kind {
                EventKind::StateChanged { from, to, reason } => format!("{from} {to}: {reason}"),
                other => other.as_str().to_owned(),
            });
        })
        .build()
        .unwrap();
    budget.record(true);
    budget.record(true);
    assert!(budget.try_acquire().is_err());
    advance(Duration::from_secs(31)).await;
    assert!(!budget.tripped());
    budget.trip();
    budget.trip();
    budget.reset();
    budget.reset();
    budget.record(true);
    budget.record(true);
    budget.reset();
    assert_eq!(
        *log.lock().unwrap(),
        [
            "healthy breached: failure_rate 1.0000 above 0 (2 calls in 30s)",
            "rejected",
            "breached healthy: recovered",
            "healthy tripped: operator",
            "tripped healthy: operator",
            "healthy breached: failure_rate 1.0000 above 0 (2 calls in 30s)",
            "breached healthy: operator",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_ends_by_itself_is_not_told_as_the_operators() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    let hour = Duration::from_secs(3600);
    let budget = FailureBudget::builder("test")
        .slo(0.9, 24 * hour)
        .burn_alerts([BurnAlert::new(Severity::Ticket, hour, 5.0)])
        .min_samples(1)
        .observe(move |event: &Event<'_>| {
            if let EventKind::StateChanged { from, to, reason } = &event.kind {
                sink.lock().unwrap().push(format!("{from} {to}: {reason}"));
            }
        })
        .build()
        .unwrap();
    budget.record(true);
    assert_eq!(budget.state(), BudgetState::Warned);
    advance(hour).await;
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert_eq!(*log.lock().unwrap(), ["healthy warned: burn rate", "warned healthy: recovered"]);
}

// ---- at run time -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_budget_is_installed_replaced_and_uninstalled_on_a_running_stack() {
    let slot = Slot::new();
    let mut service = FailureBudgetLayer::from_slot(slot.clone()).layer(service_fn(ok_or_fail));
    let first = strict(1).reject().latch().build().unwrap();
    assert!(service.ready().await.unwrap().call(false).await.is_err());
    slot.install(first.clone());
    assert!(service.ready().await.unwrap().call(false).await.is_err());
    assert_eq!(first.state(), BudgetState::Tripped, "the call before was not counted");
    let refused = service.ready().await.unwrap().call(true).await.unwrap_err();
    assert!(Rejection::find(&*refused).is_some());

    let second = FailureBudget::new("second");
    slot.install(second.clone());
    assert!(service.ready().await.unwrap().call(true).await.is_ok());
    assert_eq!((first.stats().samples, second.stats().samples), (1, 1));

    // A call counts with the budget that was there when it was made.
    let call = service.ready().await.unwrap().call(true);
    assert!(slot.uninstall().is_some());
    call.await.unwrap();
    assert_eq!(second.stats().samples, 2);
    assert!(service.ready().await.unwrap().call(true).await.is_ok());
    assert_eq!(second.stats().samples, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installing_under_load_loses_no_call_and_counts_each_at_most_once() {
    const CALLS: u64 = 4_000;
    // There before the first call, and until one was counted: the tasks may be done before this one goes on.
    let first = FailureBudget::new("under load");
    let slot = Slot::with(first.clone());
    let answered = Arc::new(AtomicU32::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut service = FailureBudgetLayer::from_slot(slot.clone()).layer(service_fn(ok_or_fail));
        let answered = Arc::clone(&answered);
        tasks.spawn(async move {
            for _ in 0..CALLS {
                service.ready().await.unwrap().call(true).await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
    }
    while first.stats().samples == 0 {
        tokio::task::yield_now().await;
    }
    let mut budgets = vec![first];
    while !tasks.is_empty() {
        let budget = FailureBudget::new("under load");
        slot.install(budget.clone());
        budgets.push(budget);
        tokio::task::yield_now().await;
        if budgets.len().is_multiple_of(3) {
            slot.uninstall();
        }
        while tasks.try_join_next().is_some_and(|task| task.map(|()| true).unwrap()) {}
    }
    assert_eq!(u64::from(answered.load(Ordering::Relaxed)), 4 * CALLS);
    let counted: u64 = budgets.iter().map(|budget| budget.stats().samples).sum();
    assert!(counted > 0 && counted <= 4 * CALLS, "{counted}");
}

// ---- SLO mode through the public interface -----------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_total_outage_pages_when_the_workbook_says() {
    let month = Duration::from_secs(30 * 86_400);
    let alerts = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&alerts);
    let budget = FailureBudget::builder("api")
        .slo(0.999, month)
        .reject()
        .on_alert(move |alert| {
            sink.lock().unwrap().push((alert.alert.severity, alert.alert.factor, alert.firing));
        })
        .build()
        .unwrap();
    // Seven hours of one call a second, then all fail: in 51.8 s 1.44 % of an hour have.
    for _ in 0..25_200 {
        budget.record(false);
        advance(Duration::from_secs(1)).await;
    }
    let mut outage = 0;
    while !budget.tripped() {
        budget.record(true);
        advance(Duration::from_secs(1)).await;
        outage += 1;
        assert!(outage < 120);
    }
    // The hour is cut into minutes and so up to one longer.
    assert!((52..=54).contains(&outage), "{outage} s");
    let snapshot = budget.snapshot();
    assert_eq!(snapshot.breach.unwrap().reason, BreachReason::BurnRate);
    assert!(alerts.lock().unwrap().contains(&(Severity::Page, 14.4, true)));
    let slo = snapshot.slo.unwrap();
    assert!(slo.budget_remaining < 0.0, "52 of 25252 failed, 25 may");
    assert_eq!(slo.time_to_exhaustion, Some(Duration::ZERO));
    assert!(budget.try_acquire().is_err());
    // The short window is five minutes: it ends when it has dropped.
    advance(Duration::from_secs(240)).await;
    assert!(budget.tripped());
    advance(Duration::from_secs(70)).await;
    assert_ne!(budget.state(), BudgetState::Breached);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_classifier_panicked_is_over() {
    let budget = strict(1).build().unwrap();
    let bad = classify_fn(|_: Result<&(), &io::Error>| -> Verdict { panic!("classifier") });
    let polls = Arc::new(AtomicU32::new(0));
    let inner = service_fn(|()| crate::support::counting_polls(&polls, || Ok(())));
    let service = budget.layer().classify(bad).layer(inner);
    crate::support::poll_twice_into_a_panic(service.clone().call(()));
    assert_eq!(polls.load(Ordering::Relaxed), 1, "the inner call had ended");
}

/// What load generators and batch jobs want: too many failures end the run, in order.
#[cfg(feature = "http")]
#[tokio::test]
async fn a_breach_shuts_a_real_server_down_and_lets_what_is_under_way_finish() {
    use axum::http::StatusCode;
    use axum::routing::get;

    let stop = Arc::new(tokio::sync::Notify::new());
    let lever = Arc::clone(&stop);
    let budget = FailureBudget::builder("run")
        .threshold(0.5)
        .min_samples(4)
        .latch()
        .lever(move |engaged: bool| {
            if engaged {
                lever.notify_one();
            }
        })
        .build()
        .unwrap();
    let layer = FailureBudgetLayer::new(budget.clone()).classify(buttress::http::standard());
    let handler = async || (StatusCode::INTERNAL_SERVER_ERROR, "no\n");
    let app = axum::Router::new()
        .route("/", get(handler))
        .layer(layer.on_reject(buttress::http::problem()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let calls = async {
        for n in 1..=4 {
            let answer = client.get(&url).send().await.unwrap();
            assert_eq!(answer.status(), 500, "call {n} is answered");
        }
    };
    let server = axum::serve(listener, app)
        .with_graceful_shutdown(async move { stop.notified().await })
        .into_future();
    let both = async { tokio::join!(server, calls).0 };
    tokio::time::timeout(Duration::from_secs(10), both).await.unwrap().unwrap();
    assert!(budget.tripped());
    assert!(client.get(&url).send().await.unwrap_err().is_connect(), "nobody listens any more");
}

/// Behind a breaker that refuses everything the window emptied: healthy again, levers released, nobody served.
#[tokio::test(start_paused = true)]
async fn an_outermost_budget_that_counts_refusals_does_not_recover_in_the_midst_of_an_outage() {
    use buttress::circuit_breaker::CircuitBreaker;
    use buttress::failure_budget::count_refusals;
    use buttress::{AnyError, BoxError, Classify};

    async fn states<C: Classify<(), (), BoxError> + Clone>(classifier: C) -> [BudgetState; 2] {
        let budget = strict(5).threshold(0.1).build().unwrap();
        let breaker = CircuitBreaker::builder("db").consecutive_failures(5).build().unwrap();
        let service = ServiceBuilder::new()
            .layer(budget.layer().classify(classifier))
            .layer(breaker.layer())
            .service_fn(|()| ok_or_fail(false));
        for _ in 0..5 {
            service.clone().oneshot(()).await.unwrap_err();
        }
        let tripped = budget.state();
        for _ in 0..50 {
            advance(Duration::from_secs(1)).await;
            service.clone().oneshot(()).await.unwrap_err();
        }
        [tripped, budget.state()]
    }
    assert_eq!(states(AnyError).await, [BudgetState::Breached, BudgetState::Healthy]);
    assert_eq!(states(count_refusals(AnyError)).await, [BudgetState::Breached; 2]);
}

/// A service that is kept ready told what was left of the window when readiness was asked.
#[tokio::test(start_paused = true)]
async fn a_promised_refusal_tells_what_is_left_when_it_is_given() {
    let budget = strict(1).reject().build().unwrap();
    let mut service = budget.layer().on_reject(AsTyped).layer(service_fn(ok_or_fail));
    service.ready().await.unwrap().call(false).await.unwrap_err();
    let asked = |error: buttress::Error<io::Error>| error.rejection().unwrap().retry_after();
    let at_once = asked(service.ready().await.unwrap().call(true).await.unwrap_err()).unwrap();
    assert!(at_once > Duration::from_secs(10), "{at_once:?}");
    for (kept, left) in [(4, at_once - Duration::from_secs(4)), (60, Duration::ZERO)] {
        let mut service = service.clone();
        service.ready().await.unwrap();
        advance(Duration::from_secs(kept)).await;
        let refused = asked(service.call(true).await.unwrap_err());
        assert_eq!(refused, Some(left));
        budget.reset();
        service.ready().await.unwrap().call(false).await.unwrap_err();
    }
}
