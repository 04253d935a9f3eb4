//! buttress.

mod breaker;
mod fault;
pub(crate) mod idem;
mod limit;
#[cfg(feature = "live")]
mod live;
mod retry;
mod stack;
mod throttle;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use buttress::http::{peer_ip, problem, standard, status_only};
use buttress::rate_limit::{KeyedRateLimiter, RateLimitLayer, RateLimiter};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Reject, respond_with};
use http_body::Body as _;
use tower::ServiceBuilder;

use crate::http::{case, request, request_with_peer, router};
use crate::{Case, Expect};

pub fn cases() -> Vec<Case> {
    let mut all = breaker::cases();
    all.extend(limit::cases());
    all.extend(retry::cases());
    all.extend(fault::cases());
    all.extend(stack::cases());
    #[cfg(feature = "live")]
    all.extend(live::cases());
    all.extend(throttle::cases());
    all.extend(idem::cases());
    all.extend([
        case("answer", "us stack of 3", Expect::Allowed, request).against("http/answer/identity"),
        case("answer", "us stack of 3, replaying", Expect::Allowed, request)
            .against("http/answer/identity"),
        case("answer", "us retry", Expect::Allowed, request).against("http/answer/identity"),
        case("answer", "us breaker", Expect::Allowed, request).against("http/answer/identity"),
        case("answer", "us limit", Expect::Allowed, request).against("http/answer/identity"),
        case("answer, keyed by peer", "us limit by peer", Expect::Allowed, request_with_peer)
            .against("http/answer, keyed by peer/tower_governor by peer"),
        case("refuse", "us refusing", Expect::Refused, request).against("http/answer/plain"),
        case("refuse", "us refusing, without detail", Expect::Refused, request)
            .against("http/answer/plain"),
        case("refuse", "us refusing, status only", Expect::Refused, request)
            .against("http/answer/plain"),
    ]);
    all
}

/// Sends a request without a body again as it is; one with a body only once.
fn again(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Sends nothing again: what the layer itself costs, without copying requests.
fn once(_: &Request<Body>) -> Option<Request<Body>> {
    None
}

/// Our modes of [`crate::http::app`].
pub fn app(mode: &str) -> Option<Router> {
    let breaker = || {
        let breaker = CircuitBreaker::new("api");
        CircuitBreakerLayer::new(breaker).classify(standard()).on_reject(problem())
    };
    let limit = |limiter: RateLimiter| RateLimitLayer::new(limiter).on_reject(problem());
    let retry = |replay: fn(&Request<Body>) -> Option<Request<Body>>| {
        let respond = respond_with(|(), why| {
            let Ok(answer) = Reject::<_, _, Infallible>::reject(&problem(), Request::new(()), why);
            answer
        });
        RetryLayer::new(RetryPolicy::default())
            .classify(standard())
            .replay(replay)
            .on_reject(respond)
    };
    let stack = |replay| {
        let outer = limit(RateLimiter::new(limit::plenty()));
        router().layer(ServiceBuilder::new().layer(outer).layer(breaker()).layer(retry(replay)))
    };
    Some(match mode {
        "us stack of 3" => stack(once),
        "us stack of 3, replaying" => stack(again),
        "us retry" => router().layer(retry(once)),
        "us breaker" => router().layer(breaker()),
        "us limit" => router().layer(limit(RateLimiter::new(limit::plenty()))),
        "us limit by peer" => {
            let limiter = KeyedRateLimiter::builder("client")
                .quota(limit::plenty())
                .capacity(10_000)
                .build()
                .expect("a valid configuration");
            router().layer(RateLimitLayer::new(limiter).key(peer_ip()).on_reject(problem()))
        }
        "us refusing" => router().layer(limit(limit::exhausted())),
        "us refusing, without detail" => router()
            .layer(RateLimitLayer::new(limit::exhausted()).on_reject(problem().detail(false))),
        "us refusing, status only" => {
            router().layer(RateLimitLayer::new(limit::exhausted()).on_reject(status_only()))
        }
        _ => return None,
    })
}

/// Live bytes of a keyed limiter with so many keys.
pub(crate) fn live_bytes(keys: u64) -> i64 {
    crate::memory::live(|| limit::keyed(keys))
}
