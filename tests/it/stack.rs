//! The layers together, in the order the documentation gives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::timeout::Timeout;
use buttress::{Quota, Rejection, RejectionKind, RetryBudget};
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn};

fn counted(calls: &Arc<AtomicU32>) -> Arc<AtomicU32> {
    Arc::clone(calls)
}

/// Retry outside, breaker inside: each attempt is judged, and an open circuit ends the retries.
#[tokio::test(start_paused = true)]
async fn an_open_circuit_ends_the_retries() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = counted(&calls);
    let breaker = CircuitBreaker::builder("db").consecutive_failures(2).build().unwrap();
    let policy = RetryPolicy::builder().max_attempts(10).build().unwrap();
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy).budget(RetryBudget::unlimited("db")))
        .layer(breaker.layer())
        .service(service_fn(move |()| {
            seen.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionReset)) }
        }));
    let error = client.oneshot(()).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::CircuitOpen);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.stats().rejected_calls, 1, "the refusal was not retried");
}

/// What hangs opens the breaker by our timeout outside of it, which drops the call, and by tower's inside, which is
/// an error. Ours inside is a refusal, and counts as nothing: so say the docs of both modules.
#[tokio::test(start_paused = true)]
async fn the_place_of_a_timeout_decides_whether_a_breaker_sees_what_hangs() {
    let limit = Duration::from_millis(200);
    let breaker = |name| {
        let settings = CircuitBreaker::builder(name).consecutive_failures(3);
        settings.cancelled_after(limit / 2).build().unwrap()
    };
    let (outside, inside, towers) = (breaker("outside"), breaker("inside"), breaker("towers"));
    let timeout = || Timeout::new("attempt", limit).unwrap().layer();
    let hangs = || service_fn(|()| std::future::pending::<io::Result<()>>());
    let one = ServiceBuilder::new().layer(timeout()).layer(outside.layer()).service(hangs());
    let two = ServiceBuilder::new().layer(inside.layer()).layer(timeout()).service(hangs());
    let three = ServiceBuilder::new().layer(towers.layer()).timeout(limit).service(hangs());
    for _ in 0..3 {
        one.clone().oneshot(()).await.unwrap_err();
        two.clone().oneshot(()).await.unwrap_err();
        three.clone().oneshot(()).await.unwrap_err();
    }
    assert_eq!(outside.state(), CircuitState::Open);
    assert_eq!(inside.state(), CircuitState::Closed);
    assert_eq!(towers.state(), CircuitState::Open);
}

/// A refusal of our own limiter is retried when it says when, and that fits.
#[tokio::test(start_paused = true)]
async fn a_rate_limit_inside_is_waited_for_if_that_fits_the_deadline() {
    let limiter = RateLimiter::new(Quota::per_second(1).unwrap());
    let client = |deadline: Duration| {
        let policy = RetryPolicy::builder()
            .max_attempts(3)
            .attempt_timeout(Duration::from_millis(100))
            .deadline(deadline)
            .build()
            .unwrap();
        ServiceBuilder::new()
            .layer(RetryLayer::new(policy))
            .layer(RateLimitLayer::new(limiter.clone()))
            .service(service_fn(|()| async { Ok::<_, io::Error>(()) }))
    };
    assert!(client(Duration::from_secs(5)).oneshot(()).await.is_ok());
    let start = Instant::now();
    assert!(client(Duration::from_secs(5)).oneshot(()).await.is_ok());
    assert!(start.elapsed() >= Duration::from_secs(1));
    let start = Instant::now();
    let error = client(Duration::from_millis(500)).oneshot(()).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::RateLimited);
    assert_eq!(start.elapsed(), Duration::ZERO, "what cannot fit is answered at once");
}

/// Three tiers of three attempts each make 27 calls of one; a budget at each tier bounds it.
#[tokio::test(start_paused = true)]
async fn budgets_bound_the_amplification_of_a_whole_chain() {
    async fn load(budgeted: bool) -> u32 {
        let calls = Arc::new(AtomicU32::new(0));
        let seen = counted(&calls);
        let tier = |name: &'static str| {
            let budget =
                if budgeted { RetryBudget::new(name) } else { RetryBudget::unlimited(name) };
            let policy = RetryPolicy::builder().max_attempts(3).build().unwrap();
            RetryLayer::new(policy).budget(budget)
        };
        let chain =
            ServiceBuilder::new().layer(tier("a")).layer(tier("b")).layer(tier("c")).service(
                service_fn(move |()| {
                    seen.fetch_add(1, Ordering::Relaxed);
                    async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) }
                }),
            );
        for _ in 0..200 {
            assert!(chain.clone().oneshot(()).await.is_err());
        }
        calls.load(Ordering::Relaxed)
    }
    assert_eq!(load(false).await, 200 * 27);
    let bounded = load(true).await;
    assert!(bounded <= 220, "{bounded} calls for 200 requests");
}

#[cfg(feature = "http")]
mod http {
    use super::*;
    use crate::support::Server;
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, Response, StatusCode};
    use axum::routing::get;
    use buttress::http::{problem, standard};
    use futures_util::StreamExt;

    /// The whole server stack on a router: native answers, one state for all connections, no
    /// `HandleErrorLayer`.
    #[tokio::test]
    async fn limit_and_breaker_answer_natively_on_every_connection() {
        let limiter = RateLimiter::new(Quota::per_minute(6).unwrap().burst(6).unwrap());
        let breaker = CircuitBreaker::builder("db").consecutive_failures(2).build().unwrap();
        let app = Router::new()
            .route("/bad", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
            .route("/good", get(|| async { "good" }))
            .layer(
                ServiceBuilder::new()
                    .layer(RateLimitLayer::new(limiter).headers().on_reject(problem()))
                    .layer(breaker.layer().classify(standard()).on_reject(problem())),
            );
        let mut server = Server::start(app).await;
        let mut seen = Vec::new();
        for path in ["/good", "/bad", "/bad", "/good", "/good", "/good", "/good"] {
            let mut connection = server.connect().await;
            let answer = connection.get(path).await;
            let retry_after = answer.headers().get("retry-after").is_some();
            assert!(answer.headers().contains_key("ratelimit"), "{path}");
            seen.push((answer.status().as_u16(), retry_after));
        }
        assert_eq!(
            seen,
            [
                (200, false),
                (500, false),
                (500, false),
                (503, true),
                (503, true),
                (503, true),
                (429, true)
            ]
        );
    }

    /// A reader that takes its time over a body holds neither a probe's place nor the verdict.
    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_holds_nothing() {
        let breaker = CircuitBreaker::builder("db").consecutive_failures(1).build().unwrap();
        breaker.try_acquire().unwrap().failure();
        let endless = || async {
            Body::from_stream(futures_util::stream::repeat("chunk").map(Ok::<_, io::Error>))
        };
        let app = Router::new()
            .route("/", get(endless))
            .layer(breaker.layer().classify(standard()).on_reject(problem()));
        tokio::time::advance(Duration::from_secs(60)).await;
        let response = app.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await;
        assert_eq!(breaker.state(), CircuitState::Closed, "the head decided; the body is unread");
        drop(response);
        assert_eq!(breaker.stats().successful_calls, 1);
    }

    /// A responder turns a refusal into a response, and the layers further out still know it: it is not
    /// retried, and an outer breaker does not take it for a failure.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_answered_natively_is_a_refusal_to_the_layers_outside() {
        let open = || {
            let breaker = CircuitBreaker::builder("db").consecutive_failures(1).build().unwrap();
            breaker.try_acquire().unwrap().failure();
            breaker
        };
        for grpc in [false, true] {
            let (inner, outer) =
                (open(), CircuitBreaker::builder("all").consecutive_failures(1).build().unwrap());
            let limiter = RateLimiter::new(Quota::per_second(1).unwrap());
            let respond = || buttress::respond_with(|(), _| Response::new(Body::empty()));
            let client = ServiceBuilder::new()
                .layer(outer.layer().classify(standard()).on_reject(problem()))
                .layer(
                    RetryLayer::new(RetryPolicy::DEFAULT).classify(standard()).on_reject(respond()),
                )
                .layer(RateLimitLayer::new(limiter).on_reject(problem()))
                .layer(inner.layer().classify(standard()).on_reject(problem()))
                .service(service_fn(|_: Request<()>| async {
                    Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
                }));
            let request = || {
                let request = Request::post("/").header("idempotency-key", "1");
                let kind = if grpc { "application/grpc" } else { "text/plain" };
                request.header("content-type", kind).body(()).unwrap()
            };
            let start = Instant::now();
            let answer = client.clone().oneshot(request()).await.unwrap();
            assert_eq!(answer.status(), if grpc { 200 } else { 503 });
            assert_eq!(inner.stats().rejected_calls, 1, "grpc {grpc}: not retried");
            assert_eq!(start.elapsed(), Duration::ZERO);
            // The limiter's says when to come back, so it is retried then, and finds the circuit open.
            client.oneshot(request()).await.unwrap();
            assert!(start.elapsed() >= Duration::from_secs(1));
            assert_eq!(inner.stats().rejected_calls, 2);
            assert_eq!(outer.state(), CircuitState::Closed);
        }
    }
}
