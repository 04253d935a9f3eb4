//! The store is down, full, or does not confirm.

use super::*;
use axum::routing::post as to;
use buttress::idempotency::Outage;

fn app(store: &Faulty, runs: &Runs) -> Router {
    let layer = IdempotencyLayer::http(store.gate()).single_tenant().build().unwrap();
    echo(runs).layer(layer)
}

#[tokio::test(start_paused = true)]
async fn without_the_store_nothing_runs() {
    let (store, runs) = (Faulty::new(), Runs::default());
    let app = app(&store, &runs);
    for (kind, status) in [
        (StoreErrorKind::Unavailable, 503),
        (StoreErrorKind::Unknown, 503),
        (StoreErrorKind::Full, 503),
        (StoreErrorKind::Refused, 503),
        (StoreErrorKind::Corrupt, 500),
    ] {
        store.fail_begin(Some(kind));
        let answer = send(&app, post(KEY, "a")).await;
        assert_eq!(answer.status.as_u16(), status, "{kind:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    assert_eq!(runs.count(), 0);
    let plain = Request::post("/payments").body(Body::from("a")).unwrap();
    assert_eq!(send(&app, plain).await.status, 200, "what has no key does not need it");
    store.fail_begin(None);
    assert_eq!(send(&app, post(KEY, "a")).await.text(), "run 2: a");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_it_runs_each_time_if_it_is_told_so() {
    let (store, runs) = (Faulty::new(), Runs::default());
    let gate = Idempotency::builder("payments", store.clone())
        .scope(Scope::global())
        .on_outage(Outage::RunUngated)
        .build()
        .unwrap();
    let app = echo(&runs).layer(IdempotencyLayer::http(gate).single_tenant().build().unwrap());
    store.fail_begin(Some(StoreErrorKind::Unavailable));
    for run in 1..=2 {
        let answer = send(&app, post(KEY, "a")).await;
        assert_eq!(answer.text(), format!("run {run}: a"));
        assert_eq!(answer.header("idempotency-status"), Some("ungated"));
    }
}

#[tokio::test]
async fn a_full_store_refuses_new_keys_and_still_answers_old_ones() {
    let store = MemoryStore::builder().capacity(1).build().unwrap();
    let runs = Runs::default();
    let gate = Idempotency::new("payments", store, Scope::global());
    let app = echo(&runs).layer(IdempotencyLayer::http(gate).single_tenant().build().unwrap());
    assert_eq!(send(&app, post(KEY, "a")).await.status, 200);
    let refused = send(&app, post("another-key-that-is-new", "a")).await;
    assert_eq!((refused.status.as_u16(), refused.kind()), (503, Some("store_unavailable")));
    assert!(send(&app, post(KEY, "a")).await.is_replayed());
    assert_eq!(runs.count(), 1);
}

/// The money has gone, so the caller must hear of it; and a duplicate must not run, now or later.
#[tokio::test(start_paused = true)]
async fn an_answer_that_the_store_does_not_take_is_given_and_recorded_later() {
    let (store, runs) = (Faulty::new(), Runs::default());
    let layer = IdempotencyLayer::http(store.gate()).single_tenant().build().unwrap();
    let executions = layer.detached();
    let app = echo(&runs).layer(layer);
    store.fail_complete(Some(StoreErrorKind::Unavailable));
    let first = send(&app, post(KEY, "a")).await;
    assert_eq!(first.text(), "run 1: a");
    assert_eq!(first.header("idempotency-status"), Some("unconfirmed"));
    // For longer than the lease.
    for _ in 0..12 {
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(send(&app, post(KEY, "a")).await.status, 409);
    }
    assert_eq!(executions.count(), 1, "it is still being tried");
    store.fail_complete(None);
    executions.idle().await;
    let replay = send(&app, post(KEY, "a")).await;
    assert_eq!((replay.text(), replay.is_replayed()), ("run 1: a", true));
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_tries_for_ever_to_record() {
    let (store, runs) = (Faulty::new(), Runs::default());
    let layer = IdempotencyLayer::http(store.gate()).single_tenant().build().unwrap();
    let executions = layer.detached();
    let app = echo(&runs).layer(layer);
    store.fail_complete(Some(StoreErrorKind::Unavailable));
    send(&app, post(KEY, "a")).await;
    let start = tokio::time::Instant::now();
    executions.idle().await;
    assert!(start.elapsed() < 400 * SECOND);
    tokio::time::sleep(60 * SECOND).await;
    let answer = send(&app, post(KEY, "a")).await;
    assert_eq!(answer.kind(), Some("idempotency_outcome_unknown"));
    assert_eq!(runs.count(), 1);
}

/// The record is there before the caller gets anything: who asks again at once is answered from it.
#[tokio::test(start_paused = true)]
async fn the_record_is_durable_before_the_first_byte_of_the_answer() {
    let (store, runs) = (Faulty::new(), Runs::default());
    let seen = store.completions.clone();
    let app = Router::new().route("/payments", to(|| async { "paid" }));
    let _ = runs;
    let app = app.layer(IdempotencyLayer::http(store.gate()).single_tenant().build().unwrap());
    for n in 0..20 {
        let key = format!("key-number-{n}-long-enough");
        let Ok(_head) = app.clone().oneshot(post(&key, "a")).await;
        assert_eq!(seen.count(), n + 1);
        let record = store.gate().record(&key).await.unwrap().unwrap();
        assert_eq!(record.state.outcome().unwrap().body(), Some(&b"paid"[..]));
    }
}

#[tokio::test]
async fn a_tenant_with_too_many_calls_under_way_is_told_to_come_back() {
    let gate = Idempotency::builder("payments", MemoryStore::default()).scope(Scope::global());
    let gate = gate.max_pending_per_scope(1).build().unwrap();
    let tenant = |parts: &axum::http::request::Parts| {
        Some(Scope::tenant(parts.headers.get("tenant")?.as_bytes()))
    };
    let layer = IdempotencyLayer::http(gate).tenant(tenant).build().unwrap();
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let inner = Arc::clone(&go);
    let app = Router::new().fallback(any(move || {
        let go = Arc::clone(&inner);
        async move { go.acquire().await.unwrap().forget() }
    }));
    let app = app.layer(layer);
    let call = |tenant: &'static str, key: String| {
        let mut request = post(&key, "a");
        request.headers_mut().insert("tenant", tenant.parse().unwrap());
        let app = app.clone();
        async move { send(&app, request).await }
    };
    let mut first = Box::pin(call("a", KEY.to_owned()));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let refused = call("a", format!("{KEY}2")).await;
    assert_eq!((refused.status.as_u16(), refused.kind()), (503, Some("overloaded")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut other = Box::pin(call("b", format!("{KEY}2")));
    assert!(futures_util::poll!(other.as_mut()).is_pending(), "of another tenant");
    go.add_permits(3);
    assert_eq!((first.await.status, other.await.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(call("a", format!("{KEY}2")).await.status, 200);
}
