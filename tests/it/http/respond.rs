//! What refusals look like on the wire.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use buttress::http::{Problem, problem, status_only};
use buttress::{LayerKind, Reject, Rejection, RejectionDetail, RejectionKind};
use bytes::Bytes;
use futures_util::future::{Either, MapErr, Ready, TryFutureExt, ready};
use http::{HeaderMap, Request, Response, Version};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

const KINDS: [(RejectionKind, u16, &str); 17] = [
    (RejectionKind::RateLimited, 429, "8"),
    (RejectionKind::ExceedsBurst, 429, "8"),
    (RejectionKind::CircuitOpen, 503, "14"),
    (RejectionKind::Overloaded, 503, "8"),
    (RejectionKind::BudgetExhausted, 503, "8"),
    (RejectionKind::DeadlineExceeded, 504, "4"),
    (RejectionKind::IdempotencyInFlight, 409, "10"),
    (RejectionKind::IdempotencyMismatch, 422, "3"),
    (RejectionKind::IdempotencyKeyMissing, 400, "3"),
    (RejectionKind::IdempotencyKeyInvalid, 400, "3"),
    (RejectionKind::RequestTooLarge, 413, "3"),
    (RejectionKind::RequestIncomplete, 400, "3"),
    (RejectionKind::IdempotencyOutcomeUnknown, 500, "2"),
    (RejectionKind::StoreUnavailable, 503, "14"),
    (RejectionKind::Draining, 503, "14"),
    (RejectionKind::Injected, 503, "14"),
    (RejectionKind::CallPanicked, 500, "2"),
];

fn why(kind: RejectionKind) -> Rejection {
    Rejection::new(kind, LayerKind::CircuitBreaker, "payments")
}

fn refuse(style: Problem, request: Request<()>, why: Rejection) -> Response<Full<Bytes>> {
    Reject::<_, _, Infallible>::reject(&style, request, why).unwrap()
}

fn bare(request: Request<()>, why: Rejection) -> Response<tonic::body::Body> {
    Reject::<_, _, Infallible>::reject(&status_only(), request, why).unwrap()
}

async fn json(response: Response<Full<Bytes>>) -> serde_json::Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

fn grpc(content_type: &str) -> Request<()> {
    Request::post("/pkg.Service/Method")
        .version(Version::HTTP_2)
        .header("content-type", content_type)
        .body(())
        .unwrap()
}

#[tokio::test]
async fn every_kind_has_the_documented_status() {
    for (kind, status, code) in KINDS {
        let response = refuse(problem(), Request::new(()), why(kind));
        assert_eq!(response.status(), status, "{kind:?}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let expected = (kind == RejectionKind::Draining).then_some("close");
        assert_eq!(response.headers().get("connection").map(|v| v.to_str().unwrap()), expected);
        let document = json(response).await;
        assert_eq!(document["type"], "about:blank");
        assert_eq!(document["status"], status);
        assert_eq!(document["kind"], kind.as_str());
        assert_eq!(document["layer"], "circuit_breaker");
        assert_eq!(document["name"], "payments");
        assert!(document["detail"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(document["title"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(document.get("retry_after").is_none());

        let response = bare(Request::new(()), why(kind));
        assert_eq!(response.status(), status, "{kind:?}");
        assert!(response.body().is_end_stream());

        for response in [
            refuse(problem(), grpc("application/grpc"), why(kind)).map(drop),
            bare(grpc("application/grpc+proto"), why(kind)).map(drop),
        ] {
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "application/grpc");
            assert_eq!(response.headers()["grpc-status"], code, "{kind:?}");
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(message.ends_with("(circuit_breaker `payments`)"), "{message}");
        }
    }
}

#[tokio::test]
async fn the_time_to_come_back_is_rounded_up() {
    for (wait, seconds, millis) in [
        (Duration::ZERO, "0", "0"),
        (Duration::from_nanos(1), "1", "1"),
        (Duration::from_millis(1500), "2", "1500"),
        (Duration::from_secs(60), "60", "60000"),
        (Duration::from_secs(3600), "3600", "3600000"),
        (Duration::MAX, "18446744074", "86400000"),
    ] {
        let why = why(RejectionKind::CircuitOpen).with_retry_after(wait);
        let response = refuse(problem(), Request::new(()), why.clone());
        assert_eq!(response.headers()["retry-after"], seconds);
        assert_eq!(json(response).await["retry_after"].to_string(), seconds);
        let response = bare(grpc("application/grpc"), why);
        assert_eq!(response.headers()["grpc-retry-pushback-ms"], millis);
        assert!(response.headers().get("retry-after").is_none());
    }
    let never = bare(grpc("application/grpc"), why(RejectionKind::ExceedsBurst));
    assert_eq!(never.headers()["grpc-retry-pushback-ms"], "-1");
}

#[test]
fn a_quota_adds_the_rate_limit_fields() {
    let quota = RejectionDetail::Quota {
        limit: 20,
        remaining: 0,
        reset: Duration::from_millis(150),
        window: Duration::from_millis(200),
    };
    let why = why(RejectionKind::RateLimited).with_detail(quota);
    let response = refuse(problem(), Request::new(()), why.clone());
    assert_eq!(response.headers()["ratelimit"], r#""payments";r=0;t=1"#);
    assert_eq!(response.headers()["ratelimit-policy"], r#""payments";q=20;w=1"#);
    let response = bare(Request::new(()), why);
    assert_eq!(response.headers()["ratelimit"], r#""payments";r=0;t=1"#);
}

#[tokio::test]
async fn nothing_of_the_request_comes_back() {
    let request = || {
        let mut request = Request::builder().header("content-length", "9").header("te", "x");
        for value in ["a", "b", "c"] {
            request = request.header("cookie", value).header("ratelimit", value);
        }
        request.body(()).unwrap()
    };
    let why = why(RejectionKind::CircuitOpen).with_retry_after(Duration::from_secs(1));
    let response = refuse(problem(), request(), why.clone());
    let names = response.headers().keys().map(http::HeaderName::as_str).collect::<Vec<_>>();
    assert_eq!(names, ["retry-after", "content-type"]);
    let names = bare(request(), why).headers().keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names, ["retry-after"]);
}

#[tokio::test]
async fn long_names_are_written_in_full() {
    for length in (0..400).chain([5000]) {
        let name = "n".repeat(length);
        let quota = RejectionDetail::Quota {
            limit: 20,
            remaining: 3,
            reset: Duration::from_secs(1),
            window: Duration::from_secs(1),
        };
        let why = Rejection::new(RejectionKind::RateLimited, LayerKind::RateLimit, name.clone())
            .with_retry_after(Duration::from_secs(1234))
            .with_detail(quota);
        let response = refuse(problem(), Request::new(()), why.clone());
        assert_eq!(response.headers()["retry-after"], "1234");
        assert_eq!(response.headers()["ratelimit"], format!("\"{name}\";r=3;t=1").as_str());
        let policy = format!("\"{name}\";q=20;w=1");
        assert_eq!(response.headers()["ratelimit-policy"], policy.as_str());
        let document = json(response).await;
        assert_eq!(document["name"], name.as_str());
        assert_eq!(document["retry_after"], 1234);
        let response = bare(grpc("application/grpc"), why);
        let message = format!("rate limit exceeded (rate_limit `{name}`)");
        assert_eq!(response.headers()["grpc-message"], message.as_str());
        assert_eq!(response.headers()["grpc-retry-pushback-ms"], "1234000");
    }
}

#[tokio::test]
async fn without_detail_nothing_is_said_about_the_inside() {
    let quota = RejectionDetail::Quota {
        limit: 20,
        remaining: 0,
        reset: Duration::from_secs(1),
        window: Duration::from_secs(1),
    };
    let why =
        why(RejectionKind::RateLimited).with_detail(quota).with_retry_after(Duration::from_secs(1));
    let quiet = problem().detail(false);
    let response = refuse(quiet, Request::new(()), why.clone());
    assert!(response.headers().get("ratelimit").is_none());
    let expected = serde_json::json!({
        "type": "about:blank", "title": "Too Many Requests", "status": 429, "retry_after": 1,
    });
    assert_eq!(json(response).await, expected);
    let response = refuse(quiet, grpc("application/grpc"), why);
    assert_eq!(response.headers()["grpc-message"], "rate limit exceeded");
}

#[test]
fn jitter_spreads_and_never_shortens() {
    let spread = problem().retry_jitter(Duration::from_secs(5));
    let why = why(RejectionKind::CircuitOpen).with_retry_after(Duration::from_secs(10));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let response = refuse(spread, Request::new(()), why.clone());
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((10..=15).contains(&wait), "{wait}");
        seen.insert(wait);
    }
    assert!(seen.len() >= 4, "{seen:?}");

    let wild = problem().retry_jitter(Duration::MAX);
    let why = why.with_retry_after(Duration::MAX);
    refuse(wild, Request::new(()), why);
}

#[test]
fn draining_closes_http_1_connections_only() {
    for (version, closes) in
        [(Version::HTTP_10, true), (Version::HTTP_11, true), (Version::HTTP_2, false)]
    {
        let request = Request::builder().version(version).body(()).unwrap();
        let response = refuse(problem(), request, why(RejectionKind::Draining));
        assert_eq!(response.headers().contains_key("connection"), closes, "{version:?}");
    }
}

#[test]
fn grpc_web_gets_its_content_type_back() {
    let response = bare(grpc("application/grpc-web+proto"), why(RejectionKind::Overloaded));
    assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
    let response = bare(grpc("application/json"), why(RejectionKind::Overloaded));
    assert_eq!(response.status(), 503);
}

/// A layer as simple as can be: refuses everything while it has a reason.
#[derive(Clone)]
struct Refuse<R> {
    why: Option<Rejection>,
    on_reject: R,
}

#[derive(Clone)]
struct RefuseService<S, R> {
    inner: S,
    layer: Refuse<R>,
}

impl<S, R: Clone> Layer<S> for Refuse<R> {
    type Service = RefuseService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RefuseService { inner, layer: self.clone() }
    }
}

type Answer<S, Req, R, E> = Either<
    Ready<Result<<S as Service<Req>>::Response, E>>,
    MapErr<
        <S as Service<Req>>::Future,
        fn(
            <S as Service<Req>>::Error,
        )
            -> <R as Reject<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
    >,
>;

impl<S, R, Req> Service<Req> for RefuseService<S, R>
where
    S: Service<Req>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = Answer<S, Req, R, R::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        match &self.layer.why {
            Some(why) => Either::Left(ready(self.layer.on_reject.reject(req, why.clone()))),
            None => Either::Right(self.inner.call(req).map_err(R::map_err as fn(_) -> _)),
        }
    }
}

#[tokio::test]
async fn an_axum_router_needs_no_error_handler() {
    let why = why(RejectionKind::RateLimited).with_retry_after(Duration::from_millis(1));
    for (why, status) in [(None, 200), (Some(why), 429)] {
        let app: axum::Router = axum::Router::new()
            .route("/", get(|| async { "hello" }))
            .layer(ServiceBuilder::new().layer(Refuse { why, on_reject: problem() }));
        let answer: Result<_, Infallible> = app.oneshot(Request::new(Body::empty())).await;
        assert_eq!(answer.unwrap().status(), status);
    }
}

#[tokio::test]
async fn a_tonic_server_sends_a_real_status() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let (_reporter, health) = tonic_health::server::health_reporter();
    let why = why(RejectionKind::RateLimited).with_retry_after(Duration::from_millis(20));
    let layer = Refuse { why: Some(why), on_reject: status_only() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder()
        .layer(layer)
        .add_service(health)
        .serve_with_incoming(incoming);
    let client = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let mut client = HealthClient::new(endpoint.unwrap().connect().await.unwrap());
        let request = HealthCheckRequest { service: String::new() };
        client.check(request).await.unwrap_err()
    };
    let status = tokio::select! {
        biased;
        status = client => status,
        served = server => panic!("server ended: {served:?}"),
    };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.message(), "rate limit exceeded (circuit_breaker `payments`)");
    let metadata: HeaderMap = status.metadata().clone().into_headers();
    assert_eq!(metadata["grpc-retry-pushback-ms"], "20");
}

/// The bodies people use.
#[test]
fn responders_fit_the_usual_bodies() {
    fn from_bytes<B>()
    where
        Problem: Reject<Request<()>, Response<B>, Infallible, Error = Infallible>,
    {
    }
    from_bytes::<Body>();
    from_bytes::<Full<Bytes>>();
    from_bytes::<reqwest::Body>();
    from_bytes::<Bytes>();
    fn default<B>()
    where
        buttress::http::StatusOnly:
            Reject<Request<()>, Response<B>, Infallible, Error = Infallible>,
    {
    }
    default::<Body>();
    default::<tonic::body::Body>();
    default::<String>();
}
