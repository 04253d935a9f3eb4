//! An axum server with a rate limit for each peer: `cargo run --example axum_server`, then
//! `for i in $(seq 30); do curl -si localhost:3000 | head -1; done`.
//!
//! A refused request gets 429, `Retry-After`, the `RateLimit` fields and a problem document. The layer
//! answers by itself, so the service's error stays `Infallible` and there is no `HandleErrorLayer`. And
//! its state is in the limiter, so that all routes and all connections share it.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use buttress::http::{peer_ip, problem};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::{BoxError, Quota};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

fn app() -> Result<Router, BoxError> {
    // Ten at once, then five per second; at most 10,000 peers are remembered.
    let limiter = RateLimiter::keyed(Quota::per_second(5)?.burst(10)?, 10_000)?;
    let peer = peer_ip()
        .or_extension(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
    Ok(Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/other", get(|| async { "hello from the other route\n" }))
        .layer(RateLimitLayer::new(limiter).key(peer).headers().on_reject(problem())))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let smoke = std::env::var_os("BUTTRESS_SMOKE").is_some_and(|value| value == "1");
    let addr: SocketAddr = if smoke { "127.0.0.1:0" } else { "127.0.0.1:3000" }.parse()?;
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let server = axum::serve(listener, app()?.into_make_service_with_connect_info::<SocketAddr>());
    if smoke {
        tokio::spawn(server.into_future());
        return try_it(addr).await;
    }
    println!("listening on http://{addr}");
    Ok(server.with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?)
}

/// Twenty requests over as many connections, to two routes.
async fn try_it(addr: SocketAddr) -> Result<(), BoxError> {
    let (mut answered, mut refused) = (0, 0);
    for n in 0..20 {
        // A client of its own has a connection of its own.
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let path = if n % 2 == 0 { "" } else { "other" };
        let response = client.get(format!("http://{addr}/{path}").parse()?).await?;
        if response.status() == 200 {
            answered += 1;
            continue;
        }
        refused += 1;
        if refused == 1 {
            println!("{:?} {:#?}", response.status(), response.headers());
            println!("{}", String::from_utf8_lossy(&response.collect().await?.to_bytes()));
        } else {
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], "1");
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!((10..=13).contains(&answered), "one bucket for all connections and routes");
    Ok(())
}
