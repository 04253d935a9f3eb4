//! A hyper client that survives a bad service: `cargo run --example hyper_client`.
//!
//! Three layers, in this order: the retry outside, so that each attempt passes the breaker; the attempt
//! timeout inside, so that the breaker sees what hangs. All three judge an answer with the same
//! classifier, and only the retry knows the deadline of the whole.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
use buttress::http::standard;
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Backoff, BoxError, Rejection, RetryBudget};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Service as _, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let service = shaky_service().await?;

    let budget = RetryBudget::new("orders");
    let breaker = CircuitBreaker::builder("orders")
        .consecutive_failures(5)
        .open_for(Duration::from_secs(10))
        .build()?;
    let policy = RetryPolicy::builder()
        .max_attempts(3)
        .backoff(Backoff::exponential(Duration::from_millis(20), Duration::from_millis(200)))
        .deadline(Duration::from_secs(2))
        .build()?;
    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy).budget(budget.clone()).classify(standard()))
        .layer(CircuitBreakerLayer::new(breaker.clone()).classify(standard()))
        .timeout(Duration::from_millis(500))
        .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());

    // Every fifth answer of the service is an error, and no caller notices.
    for _ in 0..10 {
        let request = Request::get(&service.url).body(Full::default())?;
        let response = client.ready().await?.call(request).await?;
        assert_eq!(response.status(), StatusCode::OK);
    }
    println!("10 of 10 calls worked, with {} attempts", service.attempts.load(Relaxed));

    // It breaks for good. Each call is tried again, but not for long: the budget knows a retry that
    // helps from one that adds to the trouble, and after five failures nobody asks any more.
    service.broken.store(true, Relaxed);
    let before = service.attempts.load(Relaxed);
    let mut refused = 0;
    for _ in 0..20 {
        let request = Request::get(&service.url).body(Full::default())?;
        match client.ready().await?.call(request).await {
            Ok(response) => assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR),
            Err(error) => {
                refused += 1;
                if let (1, Some(why)) = (refused, Rejection::find(&*error)) {
                    println!("refused: {why}");
                }
            }
        }
    }
    let asked = service.attempts.load(Relaxed) - before;
    println!("20 more calls: {asked} attempts, {refused} refused at once");
    println!("breaker {}, because {}", breaker.state(), breaker.snapshot().reason);
    println!("budget: {:?}", budget.stats());
    assert_eq!((breaker.state(), asked), (CircuitState::Open, 5));
    Ok(())
}

#[derive(Default)]
struct Service {
    url: String,
    attempts: AtomicU32,
    broken: AtomicBool,
}

/// Fails every fifth request, and all of them once it is broken.
async fn shaky_service() -> Result<Arc<Service>, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = Arc::new(Service { url, ..Service::default() });
    let state = service.clone();
    let answer = async move || match state.attempts.fetch_add(1, Relaxed) {
        n if n % 5 == 4 || state.broken.load(Relaxed) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    };
    let app = Router::new().route("/", get(answer));
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(service)
}
