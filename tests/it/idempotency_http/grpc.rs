//! gRPC: the same, in its own words.

use super::*;
use axum::http::HeaderValue;
use buttress::idempotency::Unsized;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tower::Layer;

fn call(key: &str, message: &'static str) -> Request<Body> {
    let mut request = post(key, message);
    *request.uri_mut() = "/bank.Payments/Pay".parse().unwrap();
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

/// As tonic answers: a body of unknown length, and the status in the trailers.
fn unary(runs: &Runs, code: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("x-receipt", HeaderValue::from_static("42"));
    let data = Bytes::from(format!("message {}", runs.next()));
    let frames = [Frame::data(data), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

async fn ask<S, B>(service: &S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    send(service, request).await
}

#[tokio::test]
async fn a_unary_answer_is_replayed_with_its_trailers() {
    for code in ["0", "9"] {
        let runs = Runs::default();
        let counter = runs.clone();
        let layer = builder().unsized_answers(Unsized::Buffer).build().unwrap();
        let service = layer.layer(tower::service_fn(move |_| {
            std::future::ready(Ok::<_, Infallible>(unary(&counter, code)))
        }));
        for replayed in [false, true] {
            let answer = ask(&service, call(KEY, "10 EUR")).await;
            assert_eq!(answer.text(), "message 1");
            assert_eq!(answer.header("content-type"), Some("application/grpc"));
            assert_eq!(answer.is_replayed(), replayed);
            let trailers = answer.trailers.unwrap();
            assert_eq!(trailers["grpc-status"], code);
            assert_eq!(trailers["x-receipt"], "42");
        }
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_was_not_kept_says_that_the_call_was_executed() {
    let runs = Runs::default();
    let counter = runs.clone();
    let service = builder().build().unwrap().layer(tower::service_fn(move |_| {
        std::future::ready(Ok::<_, Infallible>(unary(&counter, "0")))
    }));
    let first = ask(&service, call(KEY, "10 EUR")).await;
    assert_eq!(first.text(), "message 1");
    assert_eq!(first.trailers.unwrap()["grpc-status"], "0");
    let replay = ask(&service, call(KEY, "10 EUR")).await;
    assert_eq!(replay.status, 200);
    assert_eq!(replay.header("grpc-status"), Some("6"), "ALREADY_EXISTS");
    assert_eq!((replay.text(), replay.trailers.is_none()), ("", true));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_answer_of_which_nothing_was_kept_is_one_of_grpc_all_the_same() {
    let runs = Runs::default();
    let counter = runs.clone();
    let gate = Idempotency::builder("payments", MemoryStore::default()).scope(Scope::global());
    let gate = gate.max_outcome(0).build().unwrap();
    let layer = IdempotencyLayer::http(gate).single_tenant().build().unwrap();
    let service = layer.layer(tower::service_fn(move |_| {
        std::future::ready(Ok::<_, Infallible>(unary(&counter, "0")))
    }));
    ask(&service, call(KEY, "10 EUR")).await;
    let replay = ask(&service, call(KEY, "10 EUR")).await;
    assert_eq!(replay.header("content-type"), Some("application/grpc"));
    assert_eq!(replay.header("grpc-status"), Some("6"), "ALREADY_EXISTS");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_failure_without_a_body_is_replayed() {
    let service = builder().build().unwrap().layer(tower::service_fn(|_| async {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "9")
            .header("grpc-message", "account closed");
        Ok::<_, Infallible>(response.body(Body::empty()).unwrap())
    }));
    for replayed in [false, true] {
        let answer = ask(&service, call(KEY, "10 EUR")).await;
        assert_eq!(answer.header("grpc-status"), Some("9"));
        assert_eq!(answer.header("grpc-message"), Some("account closed"));
        assert_eq!(answer.is_replayed(), replayed);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_trailers() {
    let store = Faulty::new();
    let runs = Runs::default();
    let counter = runs.clone();
    let layer = IdempotencyLayer::http(store.gate()).single_tenant().required().build().unwrap();
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = Arc::clone(&go);
    let service = layer.layer(tower::service_fn(move |_| {
        let (counter, wait) = (counter.clone(), Arc::clone(&wait));
        async move {
            wait.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(unary(&counter, "0"))
        }
    }));
    let refused = |answer: &Answer, code: &str| {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert_eq!(answer.header("grpc-status"), Some(code), "{answer:?}");
        assert_eq!(answer.text(), "");
    };
    let mut keyless = call(KEY, "10 EUR");
    keyless.headers_mut().remove("idempotency-key");
    refused(&ask(&service, keyless).await, "3");
    refused(&ask(&service, call("short", "10 EUR")).await, "3");

    let first = Box::pin(service.clone().oneshot(call(KEY, "10 EUR")));
    let mut first = first;
    assert!(futures_util::poll!(&mut first).is_pending());
    let in_flight = ask(&service, call(KEY, "10 EUR")).await;
    refused(&in_flight, "10");
    let pushback: u64 = in_flight.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((1..=5_000).contains(&pushback));
    refused(&ask(&service, call(KEY, "99 EUR")).await, "3");
    store.fail_begin(Some(StoreErrorKind::Unavailable));
    refused(&ask(&service, call(KEY, "10 EUR")).await, "14");
    store.fail_begin(None);
    go.add_permits(1);
    let Ok(first) = first.await;
    assert_eq!(Answer::of(first).await.text(), "message 1");
    assert_eq!(runs.count(), 1);
}

/// tonic's own types fit, and its client and ours understand each other.
#[test]
fn a_tonic_server_takes_the_layer() {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let layer = builder().unsized_answers(Unsized::Buffer).build().unwrap();
    let _server = tonic::transport::Server::builder().layer(layer).add_service(health);
}
