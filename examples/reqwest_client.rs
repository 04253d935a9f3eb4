//! The layers around a reqwest client: `cargo run --example reqwest_client`.
//!
//! Ten lines make reqwest speak the `http` crate's types. Then everything in `buttress::http` fits: what
//! may be repeated, for how long to wait, what counts against the breaker.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::post;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use buttress::http::standard;
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{BoxError, RetryBudget};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt};

/// The adapter.
fn plain_http(
    client: reqwest::Client,
) -> impl Service<Request<Full<Bytes>>, Response = Response<reqwest::Body>, Error = BoxError> + Clone
{
    tower::service_fn(move |request: Request<Full<Bytes>>| {
        let client = client.clone();
        async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            Ok(client.execute(request).await?.into())
        }
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = busy_service().await?;
    // reqwest repeats some requests by itself; two kinds of retry would multiply.
    let reqwest = reqwest::Client::builder().retry(reqwest::retry::never()).build()?;

    let policy = RetryPolicy::builder().max_attempts(3).deadline(Duration::from_secs(5)).build()?;
    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy).budget(RetryBudget::new("charges")).classify(standard()))
        .layer(CircuitBreakerLayer::new(CircuitBreaker::new("charges")).classify(standard()))
        .timeout(Duration::from_secs(2))
        .service(plain_http(reqwest));

    // Nobody knows whether a POST that failed was carried out: it is not repeated.
    let charge = Request::post(format!("{url}/charge")).body(Full::from("10 euro"))?;
    let response = client.ready().await?.call(charge).await?;
    println!("without a key: {}", response.status());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);

    // With a key the service itself makes sure that it is carried out once.
    let charge = Request::post(format!("{url}/charge"))
        .header("idempotency-key", "2f1c")
        .body(Full::from("10 euro"))?;
    let response = client.ready().await?.call(charge).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    println!("with a key: {status}, {:?}", String::from_utf8_lossy(&body));
    assert_eq!((status, &*body), (StatusCode::OK, &b"charged 10 euro"[..]));
    Ok(())
}

/// Asks for a second of patience twice, then works.
async fn busy_service() -> Result<String, BoxError> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let charge = async |body: String| match CALLS.fetch_add(1, Relaxed) {
        0 | 1 => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response(),
        _ => format!("charged {body}").into_response(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/charge", post(charge));
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}
