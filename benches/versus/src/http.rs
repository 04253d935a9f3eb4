//! Layers in an axum `Router`, called as a server calls it: the service cloned for each request, the
//! body of the answer read to its end. Peers here; ours are in `us`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use http_body::Body as _;
use tower::{BoxError, ServiceBuilder};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::GlobalKeyExtractor;
use tower_resilience::bulkhead::{BulkheadLayer, BulkheadServiceError};
use tower_resilience::circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer};
use tower_resilience::ratelimiter::{RateLimiterLayer, RateLimiterServiceError};
use tower_resilience::timelimiter::{TimeLimiterError, TimeLimiterLayer};

use crate::case::{Callers, Case, CloneEach, Expect};

const HOUR: Duration = Duration::from_secs(3600);

/// The handler all of them stand before.
pub fn router() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

pub fn request() -> Request<Body> {
    Request::builder().uri("/").body(Body::empty()).expect("a valid request")
}

pub fn request_with_peer() -> Request<Body> {
    let mut request = request();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 4000))));
    request
}

/// Reads the body, as a connection would; true for a 2xx.
pub fn is_success(answer: Result<Response<Body>, Infallible>) -> bool {
    let Ok(mut answer) = answer;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(frame)) = Pin::new(answer.body_mut()).poll_frame(&mut cx) {
        let _ = std::hint::black_box(frame);
    }
    answer.status().is_success()
}

/// `with_state` applies the layers once, as `axum::serve` does for a connection.
pub fn called(app: Router, request: fn() -> Request<Body>) -> Callers {
    let service = app.with_state::<()>(()).into_service::<Body>();
    Box::new(move || Box::new(CloneEach { service: service.clone(), request, allowed: is_success }))
}

/// Wraps without doing anything: what any layer costs in a `Router`.
#[derive(Clone, Copy, Debug)]
pub struct Identity<S>(pub S);

impl<S: tower::Service<Req>, Req> tower::Service<Req> for Identity<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> S::Future {
        self.0.call(request)
    }
}

/// What a server runs, by name: for the table and for the load tool.
pub fn app(mode: &str) -> Option<Router> {
    if let Some(ours) = crate::us::app(mode) {
        return Some(ours);
    }
    Some(match mode {
        "plain" => router(),
        "identity" => router().layer(tower::layer::layer_fn(Identity)),
        "tower stack of 3" => router().layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(|_: BoxError| async {
                    StatusCode::SERVICE_UNAVAILABLE
                }))
                .load_shed()
                .concurrency_limit(10_000)
                .timeout(Duration::from_secs(10)),
        ),
        "tower_governor" => {
            let config = GovernorConfigBuilder::default()
                .per_nanosecond(1)
                .burst_size(1_000_000_000)
                .key_extractor(GlobalKeyExtractor)
                .finish()
                .expect("a valid configuration");
            router().layer(GovernorLayer::new(config))
        }
        "tower_governor by peer" => {
            let config = GovernorConfigBuilder::default()
                .per_nanosecond(1)
                .burst_size(1_000_000_000)
                .finish()
                .expect("a valid configuration");
            router().layer(GovernorLayer::new(config))
        }
        "tower_governor refusing" => {
            let config = GovernorConfigBuilder::default()
                .period(HOUR)
                .burst_size(1)
                .key_extractor(GlobalKeyExtractor)
                .finish()
                .expect("a valid configuration");
            let _ = config.limiter().check_key(&());
            router().layer(GovernorLayer::new(config))
        }
        "tower-resilience breaker" => router().layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(|_: CircuitBreakerError<Infallible>| async {
                    StatusCode::SERVICE_UNAVAILABLE
                }))
                .layer(resilient_breaker()),
        ),
        "tower-resilience stack of 4" => {
            type E = RateLimiterServiceError<
                CircuitBreakerError<BulkheadServiceError<TimeLimiterError<Infallible>>>,
            >;
            let bulkhead = BulkheadLayer::builder()
                .max_concurrent_calls(10_000)
                .build_with_handle()
                .expect("a valid configuration")
                .0;
            router().layer(
                ServiceBuilder::new()
                    .layer(HandleErrorLayer::new(|_: E| async { StatusCode::SERVICE_UNAVAILABLE }))
                    .layer(resilient_limiter(1_000_000_000, Duration::from_secs(1)))
                    .layer(resilient_breaker())
                    .layer(bulkhead)
                    .layer(
                        TimeLimiterLayer::builder()
                            .timeout_duration(Duration::from_secs(10))
                            .build(),
                    ),
            )
        }
        "tower-resilience limiter refusing" => router().layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(|_: RateLimiterServiceError<Infallible>| async {
                    StatusCode::TOO_MANY_REQUESTS
                }))
                .layer(resilient_limiter(1, HOUR)),
        ),
        _ => return None,
    })
}

fn resilient_breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .name("api")
        .sliding_window_size(100)
        .build_with_handle()
        .expect("a valid configuration")
        .0
}

fn resilient_limiter(calls: usize, period: Duration) -> RateLimiterLayer {
    RateLimiterLayer::builder()
        .name("api")
        .limit_for_period(calls)
        .refresh_period(period)
        .timeout_duration(Duration::ZERO)
        .build_with_handle()
        .expect("a valid configuration")
        .0
}

/// The case of one mode of [`app`].
pub fn case(
    what: &str,
    mode: &'static str,
    expect: Expect,
    request: fn() -> Request<Body>,
) -> Case {
    Case::new(format!("http/{what}/{mode}"), expect, move || {
        let callers = called(app(mode).expect("a known mode"), request);
        if expect == Expect::Refused {
            // What may pass has passed before anybody measures.
            crate::runtime().block_on(callers().run(1));
        }
        callers
    })
    .scales()
}

pub fn cases() -> Vec<Case> {
    use Expect::{Allowed, Refused};
    vec![
        case("answer", "plain", Allowed, request),
        case("answer", "identity", Allowed, request),
        case("answer", "tower stack of 3", Allowed, request),
        case("answer", "tower-resilience breaker", Allowed, request),
        case("answer", "tower-resilience stack of 4", Allowed, request),
        case("answer", "tower_governor", Allowed, request),
        case("answer, keyed by peer", "tower_governor by peer", Allowed, request_with_peer),
        case("refuse", "tower_governor refusing", Refused, request),
        case("refuse", "tower-resilience limiter refusing", Refused, request),
    ]
}
