//! Spans of what calls wait for, and of a server's stack.

use std::future::pending;
use std::io;
use std::time::Duration;

use buttress::admission::{Admission, AdmissionLayer};
use buttress::coalesce::Coalesce;
use buttress::idempotency::{Idempotency, InFlight, Scope};
use buttress::observe::SpanLayer;
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{Retry, RetryLayer, RetryPolicy};
use buttress::store::{Fingerprint, MemoryStore};
use buttress::throttle::Throttle;
use buttress::{Backoff, BoxError, Context, Deadline, Quota, Verdict, classify_fn};
use futures_util::FutureExt;
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tracing::Instrument;

use super::Log;

const SECOND: Duration = Duration::from_secs(1);

/// How each span of this kind ended, with all that it is in, in the order of their ends.
fn ends(log: &Log, span: &str) -> Vec<String> {
    let start = format!("{span}{{");
    let of = |line: String| {
        let (path, _) = line.split_once(": buttress: close")?;
        let path = path.rsplit("DEBUG ").next()?.trim_start();
        path.rsplit(':').next()?.starts_with(&start).then(|| path.to_owned())
    };
    log.lines().into_iter().filter_map(of).collect()
}

fn wait(layer: &str, name: &str, outcome: &str) -> String {
    format!("caller:wait{{layer=\"{layer}\" name=\"{name}\" outcome=\"{outcome}\"}}")
}

fn caller() -> tracing::Span {
    tracing::info_span!("caller")
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_token_is_a_span() {
    let log = Log::default();
    let _guard = log.listen_to_spans(tracing::Level::DEBUG);
    let build = || {
        let quota = Quota::per_second(1).unwrap();
        RateLimiter::builder("api").quota(quota).max_waiting(2).build().unwrap()
    };
    let service = RateLimitLayer::new(build())
        .wait(10 * SECOND)
        .layer(service_fn(|n: u32| async move { Ok::<_, BoxError>(n) }));
    let call = || service.clone().oneshot(1).instrument(caller());
    call().await.unwrap();
    assert!(ends(&log, "wait").is_empty(), "who need not wait has none");
    call().await.unwrap();
    assert_eq!(ends(&log, "wait"), [wait("rate_limit", "api", "let_through")]);
    assert!(call().now_or_never().is_none());
    assert_eq!(ends(&log, "wait")[1..], [wait("rate_limit", "api", "left")]);
    let direct = build();
    direct.acquire().await.unwrap();
    let acquired = async { direct.acquire().await };
    acquired.instrument(caller()).await.unwrap();
    assert_eq!(ends(&log, "wait")[2..], [wait("rate_limit", "api", "let_through")]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_place_is_a_span() {
    let log = Log::default();
    let _guard = log.listen_to_spans(tracing::Level::DEBUG);
    let soon = |by: &Duration| Context::new().with_deadline(Deadline::after(*by));
    let layer = AdmissionLayer::new(Admission::bulkhead("db", 1).unwrap()).context(soon);
    let service = layer.layer(service_fn(|_: Duration| async {
        sleep(SECOND).await;
        Ok::<_, BoxError>(())
    }));
    let call = |by| service.clone().oneshot(by).instrument(caller());
    let (first, second) = tokio::join!(call(60 * SECOND), call(60 * SECOND));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(ends(&log, "wait"), [wait("admission", "db", "let_through")]);
    let (first, second) = tokio::join!(call(60 * SECOND), call(SECOND / 2));
    assert!(first.is_ok() && second.is_err());
    assert_eq!(ends(&log, "wait")[1..], [wait("admission", "db", "refused")]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_before_a_retry_is_a_span_of_its_own() {
    let log = Log::default();
    let _guard = log.listen_to_spans(tracing::Level::DEBUG);
    let backoff = Backoff::constant(SECOND);
    let policy = RetryPolicy::builder().max_attempts(2).backoff(backoff).build().unwrap();
    let broken = || {
        service_fn(|()| async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) })
    };
    let layer = RetryLayer::new(policy).name("pay");
    layer.layer(broken()).oneshot(()).instrument(caller()).await.unwrap_err();
    let pause = wait("retry", "pay", "let_through");
    assert_eq!(ends(&log, "wait"), [pause.as_str()], "beside the attempts, not in one");
    assert_eq!(ends(&log, "retry_attempt").len(), 1);
    assert!(layer.layer(broken()).oneshot(()).instrument(caller()).now_or_never().is_none());
    assert_eq!(ends(&log, "wait")[1..], [wait("retry", "pay", "left")]);
    let retry = Retry::new(policy).name("pay");
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let run = retry.run(|_| async { Err::<(), _>(refused()) });
    run.instrument(caller()).await.unwrap_err();
    caller().in_scope(|| retry.run_blocking_with(drop, |_| Err::<(), _>(refused())).unwrap_err());
    assert_eq!(ends(&log, "wait")[2..], [pause.as_str(), pause.as_str()]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_call_of_another_is_a_span() {
    let log = Log::default();
    let _guard = log.listen_to_spans(tracing::Level::DEBUG);
    let reads =
        Coalesce::new("reads").layer(|n: &u32| Some(*n)).layer(service_fn(|n: u32| async move {
            sleep(SECOND).await;
            Ok::<_, io::Error>(n)
        }));
    let call = || reads.clone().oneshot(1).instrument(caller());
    let (led, followed) = tokio::join!(call(), call());
    assert_eq!((led.unwrap(), followed.unwrap()), (1, 1));
    assert_eq!(ends(&log, "wait"), [wait("coalesce", "reads", "let_through")]);

    let gate = Idempotency::builder("orders", MemoryStore::default())
        .scope(Scope::global())
        .in_flight(InFlight::Wait(10 * SECOND))
        .build()
        .unwrap();
    let run = || {
        let made = || async {
            sleep(SECOND).await;
            Ok::<_, io::Error>(())
        };
        gate.run("1", Fingerprint::NONE, made).instrument(caller())
    };
    let (first, second) = tokio::join!(run(), run());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(ends(&log, "wait")[1..], [wait("idempotency", "orders", "let_through")]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_turn_in_a_learned_quota_is_a_span_and_told() {
    let log = Log::default();
    let _guard = log.listen_to_spans(tracing::Level::DEBUG);
    let throttle = Throttle::builder("api").max_wait(10 * SECOND).build().unwrap();
    let classify = classify_fn(|result: Result<&(), &()>| match result {
        Ok(()) => Verdict::success(),
        Err(()) => Verdict::throttled(None),
    });
    // Takes ten a second.
    let mut last = tokio::time::Instant::now();
    for _ in 0..1000 {
        sleep(Duration::from_millis(10)).await;
        let call = async {
            let now = tokio::time::Instant::now();
            let taken = now >= last + Duration::from_millis(100);
            if taken {
                last = now;
                Ok(())
            } else {
                Err(())
            }
        };
        let _ = throttle.run_with(call, &classify, None).instrument(caller()).await;
    }
    let waits = ends(&log, "wait");
    assert!(waits.len() > 10, "{}", waits.len());
    assert!(waits.iter().all(|span| *span == wait("throttle", "api", "let_through")), "{waits:?}");
    let told = log.lines().iter().filter(|line| line.contains("event=\"waited\"")).count();
    assert_eq!(told, waits.len(), "each wait is told once");
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn what_a_servers_stack_decides_is_found_at_the_call() {
    use axum::body::Body;
    use axum::routing::{get, post};
    use buttress::presets::{ServerPlan, server};
    use http::Request;
    let log = Log::default();
    let _guard = log.listen_to_spans(tracing::Level::DEBUG);
    let mut plan = ServerPlan::new("api");
    plan.timeout = Some(SECOND);
    let stack = server(&plan).unwrap().http();
    let stack = stack.idempotent(MemoryStore::default(), |_| Some(Scope::global())).unwrap();
    let app: axum::Router = axum::Router::new()
        .route("/", post(|| async { "done" }))
        .route("/slow", get(pending::<&str>));
    let service = app.layer(stack).layer(SpanLayer::new("api").http());
    let call = |path: &str| {
        let req =
            Request::post(path).header("idempotency-key", "8e03978e-40d5-43e8-bc93-6894a57f9324");
        let call = service.clone().oneshot(req.body(Body::empty()).unwrap());
        call.instrument(caller()).map(|answer| answer.unwrap().status())
    };
    let span = |more: &str| format!("caller:request{{layer=\"server\" name=\"api\" {more}}}");
    assert_eq!(call("/").await, 200);
    assert_eq!(ends(&log, "request"), [span("outcome=\"answered\"")]);
    assert_eq!(call("/").await, 200);
    let replayed: Vec<_> =
        log.lines().into_iter().filter(|line| line.contains("event=\"replayed\"")).collect();
    assert!(replayed.len() == 1 && replayed[0].contains("caller:request{"), "{replayed:?}");
    let slow = || service.clone().oneshot(Request::get("/slow").body(Body::empty()).unwrap());
    assert_eq!(slow().instrument(caller()).await.unwrap().status(), 504);
    let ended = ends(&log, "request");
    let refused = ended.last().unwrap();
    assert!(
        refused.starts_with(span("outcome=\"refused\" why=").trim_end_matches('}')),
        "{refused}"
    );
    assert!(refused.contains("deadline"), "{refused}");
    assert!(slow().instrument(caller()).now_or_never().is_none());
    assert_eq!(ends(&log, "request").last().unwrap(), &span("outcome=\"left\""));
}

#[tokio::test(start_paused = true)]
async fn errors_are_told_from_refusals_and_info_sees_none_of_it() {
    let log = Log::default();
    let guard = log.listen_to_spans(tracing::Level::DEBUG);
    let limiter = RateLimiter::new(Quota::per_second(1).unwrap());
    let inner =
        service_fn(
            |n: u32| async move { if n == 0 { Err(BoxError::from("broken")) } else { Ok(n) } },
        );
    let service = SpanLayer::new("jobs").layer(RateLimitLayer::new(limiter).layer(inner));
    let call = |n| service.clone().oneshot(n).instrument(caller());
    call(0).await.unwrap_err();
    call(1).await.unwrap_err();
    advance(SECOND).await;
    call(1).await.unwrap();
    let ended = ends(&log, "request");
    for (span, outcome) in ended.iter().zip(["failed", "refused", "answered"]) {
        assert!(span.contains(&format!("outcome=\"{outcome}\"")), "{ended:?}");
    }
    assert_eq!(ended.len(), 3);
    drop(guard);
    let _guard = log.listen_to_spans(tracing::Level::INFO);
    let before = log.lines().len();
    advance(SECOND).await;
    service.clone().oneshot(1).await.unwrap();
    assert_eq!(log.lines().len(), before, "a healthy system is quiet");
}
