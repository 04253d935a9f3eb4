//! With `http` requests: extensions, headers, bodies, methods.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use buttress::http::{ReplayBody, replay_up_to, standard};
use buttress::retry::{Attempt, HttpRequest, RetryLayer, RetryOverride, RetryPolicy};
use buttress::{Backoff, Deadline, FailureClass, respond_with};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

fn policy() -> RetryPolicy {
    RetryPolicy::builder().backoff(Backoff::constant(Duration::from_millis(100))).build().unwrap()
}

/// Attempt numbers and headers of the requests a server saw.
type Seen = Arc<Mutex<Vec<(u32, Option<String>)>>>;

trait Server:
    Service<Request<Full<Bytes>>, Response = Response<()>, Error = Infallible, Future: Send> + Clone
{
}

impl<S> Server for S where
    S: Service<Request<Full<Bytes>>, Response = Response<()>, Error = Infallible, Future: Send>
        + Clone
{
}

/// Answers these statuses one after the other, then 200.
fn server(statuses: &'static [u16]) -> (impl Server, Seen) {
    let seen = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let mut log = log.lock().unwrap();
        let header = request.headers().get("x-attempt").map(|v| v.to_str().unwrap().to_owned());
        log.push((Attempt::of(request.extensions()).0, header));
        let status = statuses.get(log.len() - 1).copied().unwrap_or(200);
        std::future::ready(Ok(Response::builder().status(status).body(()).unwrap()))
    });
    (service, seen)
}

fn request(method: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).body(Full::from("body")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn retries_carry_their_number_and_first_attempts_do_not() {
    let (inner, seen) = server(&[503, 503]);
    let replay = HttpRequest::new().attempt_header(HeaderName::from_static("x-attempt"));
    let service = RetryLayer::new(policy()).classify(standard()).replay(replay).layer(inner);
    assert_eq!(service.oneshot(request("GET")).await.unwrap().status(), 200);
    let expected = [(1, None), (2, Some("2".to_owned())), (3, Some("3".to_owned()))];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn methods_decide_what_is_repeated() {
    for (method, key, told, calls) in [
        ("GET", false, false, 2),
        ("PUT", false, false, 2),
        ("POST", false, false, 1),
        ("POST", true, false, 2),
        ("POST", false, true, 2),
    ] {
        let (inner, seen) = server(&[503]);
        let policy = policy().to_builder().retry_unsafe(told).build().unwrap();
        let layer = RetryLayer::new(policy).classify(standard()).replay(HttpRequest::new());
        let mut request = request(method);
        if key {
            request.headers_mut().insert("idempotency-key", "a1".parse().unwrap());
        }
        layer.layer(inner).oneshot(request).await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), calls, "{method} key {key} told {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_timed_out_is_not_repeated_and_a_get_is() {
    for (method, calls) in [("GET", 3), ("POST", 1)] {
        let count = Arc::new(AtomicU32::new(0));
        let inner = {
            let count = Arc::clone(&count);
            service_fn(move |_: Request<Full<Bytes>>| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<Result<Response<()>, Infallible>>()
            })
        };
        let policy = policy().to_builder().attempt_timeout(Duration::from_secs(1)).build().unwrap();
        let late = respond_with(|(), _| Response::builder().status(504).body(()).unwrap());
        let layer =
            RetryLayer::new(policy).classify(standard()).replay(HttpRequest::new()).on_reject(late);
        // With a responder the error type stays what it was.
        let answer: Result<_, Infallible> = layer.layer(inner).oneshot(request(method)).await;
        assert_eq!(answer.unwrap().status(), 504);
        assert_eq!(count.load(Ordering::Relaxed), calls, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_and_exceptions_are_read_from_extensions() {
    let run = |change: fn(&mut Request<Full<Bytes>>)| async move {
        let (inner, seen) = server(&[503, 503, 503, 503, 503]);
        let layer = RetryLayer::new(policy()).classify(standard()).replay(HttpRequest::new());
        let mut request = request("GET");
        change(&mut request);
        layer.layer(inner).oneshot(request).await.unwrap();
        seen.lock().unwrap().len()
    };
    assert_eq!(run(|_| {}).await, 3);
    assert_eq!(
        run(|r| Deadline::after(Duration::from_millis(150)).put(r.extensions_mut())).await,
        2
    );
    let never = |r: &mut Request<_>| {
        r.extensions_mut().insert(RetryOverride::never());
    };
    assert_eq!(run(never).await, 1);
    let patient = |r: &mut Request<_>| {
        r.extensions_mut().insert(RetryOverride::new().class_budget(FailureClass::Transient, 4));
    };
    assert_eq!(run(patient).await, 3, "the budget: two tokens at the start");
}

/// A layer inside used to see only the deadline that the request came with.
#[tokio::test(start_paused = true)]
async fn every_attempt_carries_the_deadline_that_holds() {
    let left = |policy: RetryPolicy, own: Option<Duration>| async move {
        let left = Arc::new(Mutex::new(vec![]));
        let log = Arc::clone(&left);
        let inner = service_fn(move |request: Request<Full<Bytes>>| {
            log.lock().unwrap().push(Deadline::of(request.extensions()).map(Deadline::remaining));
            let answer = Response::builder().status(503).body(()).unwrap();
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let layer = RetryLayer::new(policy).classify(standard()).replay(HttpRequest::new());
        let mut request = request("GET");
        if let Some(own) = own {
            Deadline::after(own).put(request.extensions_mut());
        }
        layer.layer(inner).oneshot(request).await.unwrap();
        Arc::into_inner(left).unwrap().into_inner().unwrap()
    };
    let ms = |n| Some(Duration::from_millis(n));
    let second = || {
        let steady = RetryPolicy::builder().backoff(Backoff::constant(Duration::from_millis(100)));
        steady.deadline(Duration::from_secs(1)).build().unwrap()
    };
    assert_eq!(left(second(), None).await, [ms(1000), ms(900), ms(800)]);
    assert_eq!(left(second(), ms(5000)).await, [ms(1000), ms(900), ms(800)], "never extended");
    assert_eq!(left(second(), ms(500)).await, [ms(500), ms(400), ms(300)]);
    assert_eq!(left(policy(), ms(500)).await, [ms(500), ms(400), ms(300)]);
    assert_eq!(left(policy(), None).await, [None; 3]);
}

/// Found by a function, it is as good as the policy's.
#[tokio::test(start_paused = true)]
async fn a_deadline_read_from_elsewhere_is_passed_on_too() {
    let layer = RetryLayer::new(policy())
        .replay(HttpRequest::new())
        .deadlines(|_: &Request<()>| Some(Deadline::after(Duration::from_secs(7))));
    let inner = service_fn(|request: Request<()>| {
        let left = Deadline::of(request.extensions()).map(Deadline::remaining);
        std::future::ready(Ok::<_, Infallible>(left))
    });
    let left = layer.layer(inner).oneshot(Request::new(())).await.unwrap();
    assert_eq!(left, Some(Duration::from_secs(7)));
}

#[tokio::test(start_paused = true)]
async fn the_pushback_of_a_grpc_server_is_waited_for_or_ends_the_call() {
    // Status, pushback, then calls, and milliseconds until the last of them.
    for (status, pushback, calls, waited) in [
        ("14", None, 2, 100),
        ("14", Some("700"), 2, 700),
        ("14", Some("0"), 2, 100),
        ("14", Some("-1"), 1, 0),
        ("14", Some("soon"), 1, 0),
        ("8", Some("250"), 2, 250),
        ("8", Some("-1"), 1, 0),
        // More than the policy waits for.
        ("14", Some("10001"), 1, 0),
        // Not retryable, whatever it asks for.
        ("3", Some("10"), 1, 0),
        ("12", Some("10"), 1, 0),
        // Whether a POST took effect nobody knows.
        ("4", Some("10"), 1, 0),
        ("10", None, 1, 0),
        ("10", Some("300"), 2, 300),
    ] {
        let count = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&count);
        let inner = service_fn(move |_: Request<Full<Bytes>>| {
            let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            let mut answer = Response::builder().header("content-type", "application/grpc");
            answer = answer.header("grpc-status", if first { status } else { "0" });
            if let Some(pushback) = pushback.filter(|_| first) {
                answer = answer.header("grpc-retry-pushback-ms", pushback);
            }
            std::future::ready(Ok::<_, Infallible>(answer.body(()).unwrap()))
        });
        let mut request = request("POST");
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let start = tokio::time::Instant::now();
        let layer = RetryLayer::new(policy()).classify(standard()).replay(HttpRequest::new());
        let answer = layer.layer(inner).oneshot(request).await.unwrap();
        let name = format!("status {status}, pushback {pushback:?}");
        assert_eq!(
            answer.headers()["grpc-status"],
            if calls == 1 { status } else { "0" },
            "{name}"
        );
        assert_eq!(count.load(Ordering::Relaxed), calls, "{name}");
        assert_eq!(start.elapsed(), Duration::from_millis(waited), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn streamed_bodies_are_sent_again_up_to_their_cap() {
    for (cap, calls) in [(64, 2), (2, 1)] {
        let bodies = Arc::new(Mutex::new(vec![]));
        let log = Arc::clone(&bodies);
        let inner = service_fn(move |request: Request<ReplayBody<Body>>| {
            let log = Arc::clone(&log);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let first = log.lock().unwrap().is_empty();
                log.lock().unwrap().push(body);
                let status = if first { 503 } else { 200 };
                Ok::<_, Infallible>(Response::builder().status(status).body(()).unwrap())
            }
        });
        let client = ServiceBuilder::new()
            .layer(replay_up_to(cap))
            .layer(RetryLayer::new(policy()).classify(standard()).replay(HttpRequest::new()))
            .service(inner);
        let stream = futures_util::stream::iter(["he", "llo"].map(Ok::<_, Infallible>));
        let request = Request::put("/").body(Body::from_stream(stream)).unwrap();
        let status = client.oneshot(request).await.unwrap().status();
        assert_eq!(status, if calls == 1 { 503 } else { 200 }, "the answer itself, not an error");
        assert_eq!(*bodies.lock().unwrap(), vec![Bytes::from("hello"); calls]);
    }
}

/// The property `state_shared_across_axum_connections`: five connections, one budget.
#[tokio::test]
async fn one_budget_for_all_connections_of_a_server() {
    let calls = Arc::new(AtomicU32::new(0));
    let handler = {
        let calls = Arc::clone(&calls);
        axum::routing::get(move || async move {
            calls.fetch_add(1, Ordering::Relaxed);
            StatusCode::SERVICE_UNAVAILABLE
        })
    };
    let policy = RetryPolicy::builder().backoff(Backoff::none()).build().unwrap();
    let layer = RetryLayer::new(policy)
        .classify(standard())
        .replay(|request: &Request<Body>| {
            Some(Request::get(request.uri().clone()).body(Body::empty()).unwrap())
        })
        .on_reject(respond_with(|(), _| Response::new(Body::empty())));
    let router =
        Router::new().route("/a", handler.clone()).route("/b", handler).layer(layer.clone());
    let mut server = crate::support::Server::start(router).await;
    for path in ["/a", "/b", "/a", "/b", "/a"] {
        assert_eq!(server.connect().await.get(path).await.status(), 503);
    }
    // 28 tokens are two retries, however many connections and routes there are.
    assert_eq!(calls.load(Ordering::Relaxed), 5 + 2);
    assert_eq!(layer.retry_budget().unwrap().stats().denied, 4);
}
