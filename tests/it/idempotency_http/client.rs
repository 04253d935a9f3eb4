//! The client's half, and both ends together.

use super::*;
use buttress::http::{replay_up_to, standard};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
use buttress::{Backoff, RetryBudget};
use http_body_util::Full;
use std::sync::Mutex;
use tower::{Layer, ServiceBuilder, service_fn};

type Keys = Arc<Mutex<Vec<Option<String>>>>;

/// Notes the keys that come.
fn noting(
    keys: &Keys,
) -> impl Service<Request<()>, Response = (), Error = Infallible, Future: Send> + Clone {
    let keys = Arc::clone(keys);
    service_fn(move |request: Request<()>| {
        let key = request.headers().get("idempotency-key");
        keys.lock().unwrap().push(key.map(|key| key.to_str().unwrap().to_owned()));
        std::future::ready(Ok(()))
    })
}

#[tokio::test]
async fn a_call_without_a_key_gets_one_of_its_own() {
    let keys = Keys::default();
    let client = IdempotencyKeyLayer::new().layer(noting(&keys));
    let of = |method: &str| Request::builder().method(method).uri("/").body(()).unwrap();
    for method in ["POST", "POST", "PATCH", "GET", "PUT", "DELETE"] {
        client.clone().oneshot(of(method)).await.unwrap();
    }
    let mut own = of("POST");
    own.headers_mut().insert("idempotency-key", "mine".parse().unwrap());
    client.oneshot(own).await.unwrap();
    let keys = std::mem::take(&mut *keys.lock().unwrap());
    assert_eq!(keys[3..], [None, None, None, Some("mine".to_owned())]);
    let made: std::collections::HashSet<_> = keys[..3].iter().flatten().collect();
    assert_eq!(made.len(), 3, "each its own");
    for key in made {
        let dashes: Vec<_> = key.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((key.len(), &*dashes), (36, &[8, 13, 18, 23][..]), "{key}");
        assert_eq!((&key[14..15], "89ab".contains(&key[19..20])), ("4", true), "{key}");
    }
}

#[tokio::test]
async fn keys_can_be_quoted_and_in_another_field() {
    let client = IdempotencyKeyLayer::new()
        .quoted()
        .header(axum::http::HeaderName::from_static("x-request-key"))
        .layer(service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(request.headers()["x-request-key"].to_str().unwrap().to_owned())
        }));
    let key = client.oneshot(Request::post("/").body(()).unwrap()).await.unwrap();
    assert!(key.len() == 38 && key.starts_with('"') && key.ends_with('"'), "{key}");
}

fn policy() -> RetryPolicy {
    let backoff = Backoff::exponential(Duration::from_millis(50), SECOND);
    RetryPolicy::builder().max_attempts(4).backoff(backoff).build().unwrap()
}

/// The answer is lost on the way `lost` times, after the payment was made.
fn client_of(
    server: Router,
    lost: u32,
    with_keys: bool,
) -> impl Service<Request<Full<Bytes>>, Response = Answer, Error = buttress::BoxError> + Clone {
    let ways = Runs::default();
    let network = service_fn(move |request: Request<_>| {
        let (server, way) = (server.clone(), ways.next());
        async move {
            let Ok(response) = server.oneshot(request).await;
            if way <= lost {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            }
            Ok(response)
        }
    });
    let keys = tower::util::option_layer(with_keys.then(IdempotencyKeyLayer::new));
    ServiceBuilder::new()
        .layer(keys)
        .layer(replay_up_to(1024))
        .layer(
            RetryLayer::new(policy())
                .budget(RetryBudget::unlimited("bank"))
                .classify(standard())
                .replay(HttpRequest::new()),
        )
        .service(network)
        .and_then(|response| async { Ok(Answer::of(response).await) })
}

fn payment() -> Request<Full<Bytes>> {
    Request::post("/payments").body(Full::from("10 EUR")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_post_whose_answer_was_lost_is_sent_again_and_executed_once() {
    let runs = Runs::default();
    let server = echo(&runs).layer(builder().required().build().unwrap());
    let client = client_of(server, 2, true);
    let answer = client.clone().oneshot(payment()).await.unwrap();
    assert_eq!((answer.text(), answer.is_replayed()), ("run 1: 10 EUR", true));
    assert_eq!(runs.count(), 1);
    // Another call is another payment, though it is the same request.
    let second = client.oneshot(payment()).await.unwrap();
    assert_eq!((second.text(), second.is_replayed()), ("run 2: 10 EUR", false));
}

#[tokio::test(start_paused = true)]
async fn without_a_key_it_is_not_sent_again() {
    let runs = Runs::default();
    let server = echo(&runs).layer(builder().build().unwrap());
    let error = client_of(server, 2, false).oneshot(payment()).await.unwrap_err();
    assert!(error.to_string().contains("reset"), "{error}");
    assert_eq!(runs.count(), 1);
}

/// An attempt that comes while the first is still at it waits as it is told, and gets its answer.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_finds_the_first_in_flight_comes_back() {
    let runs = Runs::default();
    let counter = runs.clone();
    let slow = Router::new().fallback(axum::routing::any(move || async move {
        let run = counter.next();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        format!("run {run}")
    }));
    let server = slow.layer(builder().required().build().unwrap());
    let policy = RetryPolicy::builder()
        .max_attempts(6)
        .attempt_timeout(Duration::from_millis(500))
        .deadline(20 * SECOND)
        .build()
        .unwrap();
    let client = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(replay_up_to(1024))
        .layer(
            RetryLayer::new(policy)
                .budget(RetryBudget::unlimited("bank"))
                .classify(standard())
                .replay(HttpRequest::new()),
        )
        .service(server.into_service::<_>());
    let answer = Answer::of(client.oneshot(payment()).await.unwrap()).await;
    assert_eq!((answer.text(), answer.is_replayed()), ("run 1", true));
    assert_eq!(runs.count(), 1);
}

/// A failure that is on record does not change by asking again.
#[tokio::test(start_paused = true)]
async fn a_failure_that_was_replayed_is_final() {
    let runs = Runs::default();
    let counter = runs.clone();
    let failing = Router::new().fallback(axum::routing::any(move || {
        counter.next();
        async { StatusCode::BAD_GATEWAY }
    }));
    let server = failing.layer(builder().required().build().unwrap());
    let attempts = Runs::default();
    let seen = attempts.clone();
    let counted = service_fn(move |request: Request<_>| {
        seen.next();
        server.clone().oneshot(request)
    });
    let client = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(replay_up_to(1024))
        .layer(RetryLayer::new(policy()).classify(standard()).replay(HttpRequest::new()))
        .service(counted);
    let answer = client.oneshot(payment()).await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!((attempts.count(), runs.count()), (2, 1), "the second attempt was told the first's");
}
