//! A gRPC server that refuses with a real status, and a client that understands it:
//! `cargo run --example grpc`.
//!
//! The service is tonic's ready-made health check, so there is nothing to generate. An error that leaves
//! a tower layer would reset the stream, and the client would see no status at all; here the layer
//! answers by itself, with `RESOURCE_EXHAUSTED` and the time after which to come back.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use buttress::http::{replay_up_to, standard, status_only};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
use buttress::{BoxError, Quota, RetryBudget};
use hyper::Request;
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}", incoming.local_addr()?);
    // Three calls at once, then four per second.
    let limiter = RateLimiter::builder("health").quota(Quota::per_second(4)?.burst(3)?).build()?;
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(RateLimitLayer::new(limiter.clone()).on_reject(status_only()))
        .add_service(health)
        .serve_with_incoming(incoming);
    tokio::spawn(server);

    // A client without our layers sees the refusal as what it is.
    let channel = Channel::from_shared(url)?.connect().await?;
    let mut plain = HealthClient::new(channel.clone());
    for _ in 0..3 {
        plain.check(HealthCheckRequest::default()).await?;
    }
    let status = plain.check(HealthCheckRequest::default()).await.expect_err("the bucket is empty");
    println!("without layers: {:?}, {}", status.code(), status.message());
    println!(
        "                come back in {:?} ms",
        status.metadata().get("grpc-retry-pushback-ms")
    );
    assert_eq!(status.code(), Code::ResourceExhausted);

    // With them it waits for as long as the server asked, and tries again.
    let policy = RetryPolicy::builder().max_attempts(3).deadline(Duration::from_secs(5)).build()?;
    let stack = ServiceBuilder::new()
        .layer(replay_up_to(64 * 1024))
        .layer(
            RetryLayer::new(policy)
                .budget(RetryBudget::new("health"))
                .replay(HttpRequest::new())
                .classify(standard()),
        )
        .layer(CircuitBreakerLayer::new(CircuitBreaker::new("health")).classify(standard()))
        .map_request(|request: Request<_>| request.map(Body::new))
        .service(channel);
    let mut patient = HealthClient::new(stack);
    let asked = Instant::now();
    for _ in 0..3 {
        patient.check(HealthCheckRequest::default()).await?;
    }
    println!("with layers:    3 calls answered in {:?}", asked.elapsed());
    println!("server:         {:?}", limiter.stats());
    assert!(asked.elapsed() >= Duration::from_millis(500), "the server's wish was respected");
    Ok(())
}
