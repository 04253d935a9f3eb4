//! What is recorded, and what duplicates get.

use super::*;
use axum::Extension;
use axum::http::HeaderName;
use axum::response::IntoResponse;
use axum::routing::post as to;
use buttress::idempotency::{EffectContext, InFlight, NotExecuted, Unsized};
use buttress::store::State;
use futures_util::{FutureExt, poll, stream};
use tokio::sync::Semaphore;

/// The same answer each time, from a handler that counts.
fn answering<A>(runs: &Runs, answer: impl Fn() -> A + Clone + Send + Sync + 'static) -> Router
where
    A: IntoResponse + Send + 'static,
{
    let runs = runs.clone();
    Router::new().route(
        "/payments",
        to(move || {
            runs.next();
            let answer = answer();
            async move { answer }
        }),
    )
}

#[tokio::test]
async fn a_replay_is_the_answer_of_then() {
    let runs = Runs::default();
    let answer = || {
        let headers = [
            ("location", "/payments/7"),
            ("content-type", "application/json"),
            ("set-cookie", "session=secret"),
            ("date", "Thu, 26 Nov 2026 19:00:00 GMT"),
            ("x-request-id", "17"),
            ("x-receipt", "42"),
            ("access-control-allow-origin", "https://a.example"),
            ("ratelimit", "\"a\";r=1;t=1"),
        ];
        (StatusCode::CREATED, headers, r#"{"paid":10}"#)
    };
    let layer = builder().replay_header(HeaderName::from_static("x-receipt")).build().unwrap();
    let app = answering(&runs, answer).layer(layer);
    let first = send(&app, post(KEY, "a")).await;
    assert_eq!((first.status.as_u16(), first.text()), (201, r#"{"paid":10}"#));
    assert_eq!(first.header("idempotency-status"), Some("stored"));
    assert_eq!(first.header("set-cookie"), Some("session=secret"));
    assert!(!first.is_replayed());

    let replay = send(&app, post(KEY, "a")).await;
    assert_eq!((replay.status, replay.body.clone()), (first.status, first.body.clone()));
    assert!(replay.is_replayed());
    let mut names: Vec<_> = replay.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    // axum adds the length.
    names.retain(|name| *name != "content-length");
    assert_eq!(names, ["content-type", "idempotency-replayed", "location", "x-receipt"]);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn set_cookie_is_in_no_record() {
    let store = Faulty::new();
    let layer = IdempotencyLayer::http(store.gate()).single_tenant().build().unwrap();
    let app = answering(&Runs::default(), || ([("set-cookie", "session=secret")], "paid"));
    let app = app.layer(layer);
    send(&app, post(KEY, "a")).await;
    let replay = send(&app, post(KEY, "a")).await;
    assert!(replay.is_replayed() && replay.header("set-cookie").is_none());
    let seen = store.seen.lock().unwrap().clone();
    assert!(seen.windows(4).any(|window| window == b"paid"), "the test sees what is stored");
    assert!(!seen.windows(6).any(|window| window == b"secret"));
}

#[tokio::test]
async fn every_status_of_the_handler_is_recorded() {
    for status in [200, 204, 301, 400, 402, 404, 409, 429, 500, 502, 503, 599] {
        let runs = Runs::default();
        let status = StatusCode::from_u16(status).unwrap();
        let app = answering(&runs, move || (status, "text")).layer(builder().build().unwrap());
        for _ in 0..3 {
            assert_eq!(send(&app, post(KEY, "a")).await.status, status);
        }
        assert_eq!(runs.count(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_says_not_executed_leaves_the_key_free() {
    let runs = Runs::default();
    let answer = || (StatusCode::SERVICE_UNAVAILABLE, Extension(NotExecuted), "bank closed");
    let layer = builder().build().unwrap();
    let store = layer.gate().store().clone();
    let app = answering(&runs, answer).layer(layer);
    for _ in 0..3 {
        let answer = send(&app, post(KEY, "a")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (503, "bank closed"));
        assert!(!answer.is_replayed());
    }
    assert_eq!(runs.count(), 3);
    assert!(store.is_empty());
}

#[tokio::test]
async fn a_handler_can_say_it_through_its_context_too_if_it_fails() {
    for (status, runs_again) in [(StatusCode::BAD_GATEWAY, true), (StatusCode::OK, false)] {
        let runs = Runs::default();
        let seen = runs.clone();
        let handler = move |Extension(effect): Extension<EffectContext>| {
            seen.next();
            effect.not_applied();
            async move { status }
        };
        let app = Router::new().route("/payments", to(handler)).layer(builder().build().unwrap());
        for _ in 0..2 {
            assert_eq!(send(&app, post(KEY, "a")).await.status, status);
        }
        assert_eq!(runs.count(), 1 + u32::from(runs_again), "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_recorded_without_its_body() {
    let runs = Runs::default();
    let gate = Idempotency::builder("payments", MemoryStore::default())
        .scope(Scope::global())
        .max_outcome(1000)
        .build()
        .unwrap();
    let layer = IdempotencyLayer::http(gate).single_tenant().unsized_answers(Unsized::Buffer);
    let layer = layer.build().unwrap();
    let sized = answering(&runs, || ([("etag", "\"7\"")], "x".repeat(5000)));
    let pieces = || {
        let pieces = vec![Ok::<_, Infallible>(Bytes::from("xxxxx")); 1000];
        ([("etag", "\"7\"")], Body::from_stream(stream::iter(pieces)))
    };
    let unsized_ = answering(&runs, pieces);
    for (key, app) in [(KEY, sized), ("a-key-for-the-second-one", unsized_)] {
        let app = app.layer(layer.clone());
        let first = send(&app, post(key, "a")).await;
        assert_eq!(first.body.len(), 5000, "the caller gets all of it");
        assert_eq!(first.header("idempotency-status"), Some("not-retained"));
        let replay = send(&app, post(key, "a")).await;
        assert_eq!((replay.status.as_u16(), replay.text()), (200, ""));
        assert!(replay.is_replayed());
        assert_eq!(replay.header("idempotency-body"), Some("omitted"));
        assert_eq!(replay.header("etag"), Some("\"7\""));
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn an_answer_whose_head_is_too_large_is_recorded_as_its_status() {
    let runs = Runs::default();
    let gate = Idempotency::builder("payments", MemoryStore::default()).scope(Scope::global());
    let gate = gate.max_outcome(50).build().unwrap();
    let layer = IdempotencyLayer::http(gate).single_tenant().build().unwrap();
    let location = || [("location", format!("/payments/{}", "7".repeat(50)))];
    let app = answering(&runs, move || (StatusCode::CREATED, location(), "x")).layer(layer);
    let first = send(&app, post(KEY, "a")).await;
    assert_eq!((first.status.as_u16(), first.text()), (201, "x"));
    assert_eq!(first.header("idempotency-status"), Some("not-retained"));
    let replay = send(&app, post(KEY, "a")).await;
    assert_eq!((replay.status.as_u16(), replay.text()), (201, ""));
    assert!(replay.is_replayed() && replay.header("location").is_none());
    assert_eq!(replay.header("idempotency-head"), Some("omitted"));
    assert_eq!(replay.header("idempotency-body"), Some("omitted"));
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_recorded_without_its_body_and_passed_on_as_it_comes() {
    let runs = Runs::default();
    let endless = || {
        Body::from_stream(stream::unfold(0, |n| async move {
            tokio::time::sleep(SECOND).await;
            Some((Ok::<_, Infallible>(Bytes::from(format!("event {n}\n"))), n + 1))
        }))
    };
    let app = answering(&runs, endless).layer(builder().build().unwrap());
    let Ok(first) = app.clone().oneshot(post(KEY, "a")).await;
    assert_eq!(first.headers()["idempotency-status"], "not-retained");
    let replay = send(&app, post(KEY, "a")).await;
    assert_eq!(
        replay.header("idempotency-body"),
        Some("omitted"),
        "recorded before its first byte"
    );
    let mut body = first.into_body();
    for n in 0..3 {
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, format!("event {n}\n"));
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_answer_without_a_length_can_be_kept() {
    let runs = Runs::default();
    let pieces = || {
        let pieces = ["a", "b", "c"].map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
        Body::from_stream(stream::iter(pieces))
    };
    let layer = builder().unsized_answers(Unsized::Buffer).build().unwrap();
    let app = answering(&runs, pieces).layer(layer);
    for _ in 0..2 {
        assert_eq!(send(&app, post(KEY, "a")).await.text(), "abc");
    }
    assert_eq!(runs.count(), 1);
}

/// It may never end: no more of it is read than could be kept.
#[tokio::test]
async fn an_endless_answer_is_read_up_to_the_bound_and_then_passed_on() {
    let (runs, pieces) = (Runs::default(), Runs::default());
    let gate = Idempotency::builder("payments", MemoryStore::default())
        .scope(Scope::global())
        .max_outcome(1_000)
        .build()
        .unwrap();
    let layer = IdempotencyLayer::http(gate).single_tenant().unsized_answers(Unsized::Buffer);
    let counter = pieces.clone();
    let endless = move || {
        let counter = counter.clone();
        // The end is for a test that fails.
        Body::from_stream(stream::iter((0..10_000).map(move |_| {
            counter.next();
            Ok::<_, Infallible>("0123456789")
        })))
    };
    let app = answering(&runs, endless).layer(layer.build().unwrap());
    let Ok(first) = app.clone().oneshot(post(KEY, "a")).await;
    assert_eq!(pieces.count(), 101);
    assert_eq!(first.headers()["idempotency-status"], "not-retained");
    assert_eq!(Answer::of(first).await.body.len(), 100_000, "the caller gets all of it");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_recorded_without_its_body() {
    let runs = Runs::default();
    let broken = || {
        let pieces = [Ok(Bytes::from("half")), Err(std::io::Error::other("disk lost"))];
        Body::from_stream(stream::iter(pieces))
    };
    let layer = builder().unsized_answers(Unsized::Buffer).build().unwrap();
    let app = answering(&runs, broken).layer(layer);
    let Ok(first) = app.clone().oneshot(post(KEY, "a")).await;
    let mut body = first.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    assert!(body.frame().await.unwrap().is_err(), "the caller sees what happened");
    let replay = send(&app, post(KEY, "a")).await;
    assert_eq!(replay.header("idempotency-body"), Some("omitted"));
    assert_eq!(runs.count(), 1);
}

/// A handler that waits to be let go.
fn held(runs: &Runs, go: &Arc<Semaphore>) -> Router {
    let (runs, go) = (runs.clone(), Arc::clone(go));
    Router::new().route(
        "/payments",
        to(move || async move {
            let run = runs.next();
            go.acquire().await.unwrap().forget();
            format!("run {run}")
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_in_flight_is_told_to_come_back_and_a_mistake_is_told_first() {
    let (runs, go) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let app = held(&runs, &go).layer(builder().build().unwrap());
    let mut first = Box::pin(app.clone().oneshot(post(KEY, "a")));
    assert!(poll!(&mut first).is_pending());

    let duplicate = send(&app, post(KEY, "a")).await;
    assert_eq!(
        (duplicate.status, duplicate.kind()),
        (StatusCode::CONFLICT, Some("idempotency_in_flight"))
    );
    let wait: u64 = duplicate.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait));
    // Not 409: to come back with this would not help.
    let mistake = send(&app, post(KEY, "b")).await;
    assert_eq!(mistake.status, 422);
    assert_eq!(mistake.header("retry-after"), None);

    go.add_permits(1);
    let Ok(first) = first.await;
    assert_eq!(Answer::of(first).await.text(), "run 1");
    assert_eq!(send(&app, post(KEY, "b")).await.status, 422, "still after it");
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn duplicates_can_wait_for_the_first_up_to_a_limit() {
    let (runs, go) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let gate = Idempotency::builder("payments", MemoryStore::default())
        .scope(Scope::global())
        .in_flight(InFlight::Wait(3 * SECOND))
        .build()
        .unwrap();
    let app = held(&runs, &go).layer(IdempotencyLayer::http(gate).single_tenant().build().unwrap());
    let mut first = Box::pin(app.clone().oneshot(post(KEY, "a")));
    assert!(poll!(&mut first).is_pending());
    let start = tokio::time::Instant::now();
    assert_eq!(send(&app, post(KEY, "b")).await.status, 422);
    assert_eq!(start.elapsed(), Duration::ZERO, "a mistake does not wait");
    assert_eq!(send(&app, post(KEY, "a")).await.status, 409);
    assert!(start.elapsed() >= 3 * SECOND);

    let mut second = Box::pin(app.clone().oneshot(post(KEY, "a")));
    assert!(poll!(&mut second).is_pending());
    go.add_permits(1);
    let Ok(second) = second.await;
    let second = Answer::of(second).await;
    assert_eq!((second.text(), second.is_replayed()), ("run 1", true));
    let Ok(first) = first.await;
    assert_eq!(Answer::of(first).await.text(), "run 1");
}

#[tokio::test]
async fn a_panic_is_answered_with_outcome_unknown_from_then_on() {
    let runs = Runs::default();
    let seen = runs.clone();
    let app = Router::new().route(
        "/payments",
        to(move || async move {
            seen.next();
            panic!("boom");
            #[expect(unreachable_code, reason = "for the type")]
            ""
        }),
    );
    let app = app.layer(builder().build().unwrap());
    let first = std::panic::AssertUnwindSafe(app.clone().oneshot(post(KEY, "a")));
    assert!(first.catch_unwind().await.is_err(), "it goes on to layers that catch panics");
    for _ in 0..2 {
        let answer = send(&app, post(KEY, "a")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.kind()),
            (500, Some("idempotency_outcome_unknown"))
        );
        assert_eq!(answer.header("retry-after"), None, "to come back would not help");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_error_of_the_service_says_that_nobody_knows() {
    let gate = gate();
    let layer = IdempotencyLayer::http(gate.clone()).single_tenant().build().unwrap();
    let service = tower::Layer::layer(
        &layer,
        tower::service_fn(|_| async {
            Err::<Response<Body>, _>(std::io::Error::other("connection reset"))
        }),
    );
    let error = service.clone().oneshot(post(KEY, "a")).await.unwrap_err();
    assert_eq!(error.to_string(), "connection reset", "the type of errors stays what it was");
    assert_eq!(gate.record(KEY).await.unwrap().unwrap().state, State::Interrupted);
    let again = service.oneshot(post(KEY, "a")).await.unwrap();
    assert_eq!(again.status(), 500);
}

/// What an operator has found out is given to whoever asks, if it is an answer at all.
#[tokio::test]
async fn what_an_operator_has_found_out_is_answered() {
    let gate = gate();
    let layer = IdempotencyLayer::http(gate.clone()).single_tenant().build().unwrap();
    let service = tower::Layer::layer(
        &layer,
        tower::service_fn(|_| async { Err::<Response<Body>, _>(std::io::Error::other("reset")) }),
    );
    let outcomes = [
        (Outcome::new(201, vec![], b"paid".to_vec()), 201),
        // Of `run`, and of a later version.
        (Outcome::new(0, vec![], b"paid".to_vec()), 500),
        (Outcome::new(200, vec![9], b"paid".to_vec()), 500),
    ];
    for (n, (outcome, status)) in outcomes.into_iter().enumerate() {
        let key = format!("key-number-{n}-long-enough");
        assert!(service.clone().oneshot(post(&key, "a")).await.is_err());
        let generation = gate.record(&key).await.unwrap().unwrap().generation;
        let resolution = Resolution::completed(outcome);
        assert_eq!(gate.resolve(&key, generation, resolution).await.unwrap(), Finish::Applied);
        let answer = Answer::of(service.clone().oneshot(post(&key, "a")).await.unwrap()).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.text() == "paid", status == 201);
    }
}
