//! Which attempt a request is, told and heard over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::routing::get;
use buttress::http::{CallerAttempt, ContextLayer, SendContextLayer};
use buttress::presets::{ClientPlan, RetryPlan, client};
use buttress::retry::RetryPolicy;
use buttress::{BoxError, Context};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::support::Server;

type Calls = BoxCloneSyncService<Request<String>, Response<hyper::body::Incoming>, BoxError>;

/// Three attempts at once one after the other.
fn calls() -> Calls {
    let mut plan = ClientPlan::new("callee");
    plan.hedge = None;
    let policy = RetryPolicy::builder().max_attempts(3);
    let policy = policy.backoff(buttress::Backoff::constant(Duration::from_millis(1)));
    plan.retry = RetryPlan::from(policy.build().unwrap());
    Calls::new(
        ServiceBuilder::new()
            .layer(client(&plan).unwrap().http())
            .layer(SendContextLayer::new("callee"))
            .service(Client::builder(TokioExecutor::new()).build_http::<String>()),
    )
}

/// Fails twice, and then says which attempt it was.
fn third_time() -> Router {
    let asked = Arc::new(AtomicU32::new(0));
    let handler = move |request: Request| async move {
        let attempt = CallerAttempt::of(request.extensions()).get();
        let text = format!("{attempt}, told {:?}", request.headers().get("x-request-attempt"));
        let nth = asked.fetch_add(1, Relaxed);
        let status = if nth % 3 < 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, text)
    };
    Router::new().route("/", get(handler)).layer(ContextLayer::new("callee"))
}

async fn text(answer: Response<hyper::body::Incoming>) -> String {
    let body = axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_retry_says_which_attempt_it_is() {
    let server = Server::start(third_time()).await;
    let request = Request::get(format!("http://{}/", server.addr())).body(String::new()).unwrap();
    assert_eq!(text(calls().oneshot(request).await.unwrap()).await, r#"3, told Some("3")"#);
}

/// Passed on with all that it carries: its caller is at its ninth attempt, and we have three.
#[tokio::test]
async fn what_a_caller_says_takes_no_retry_away_and_is_not_passed_on() {
    let callee = Server::start(third_time()).await;
    let (calls, to) = (calls(), callee.addr());
    let gateway = move |request: Request| async move {
        let attempt = CallerAttempt::of(request.extensions()).get();
        assert_eq!(Context::of(request.extensions()).attempt(), 1);
        let (mut parts, _) = request.into_parts();
        parts.uri = format!("http://{to}/").parse().unwrap();
        let passed_on = Request::from_parts(parts, String::new());
        let answer = calls.oneshot(passed_on).await.unwrap();
        format!("{attempt}, then {}", text(answer).await)
    };
    let app = Router::new().route("/", get(gateway)).layer(ContextLayer::new("gateway"));
    let gateway = Server::start(app).await;
    let request =
        Request::get(format!("http://{}/", gateway.addr())).header("x-request-attempt", 9);
    let hyper = Client::builder(TokioExecutor::new()).build_http::<String>();
    let answer = hyper.request(request.body(String::new()).unwrap()).await.unwrap();
    assert_eq!(text(answer).await, r#"9, then 3, told Some("3")"#);
}

async fn heard(headers: &[(&'static str, &str)]) -> u32 {
    let service = ContextLayer::new("t").layer(service_fn(|request: Request| async move {
        assert_eq!(Context::of(request.extensions()).attempt(), 1);
        let attempt = CallerAttempt::of(request.extensions()).get();
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(attempt.to_string())))
    }));
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let Ok(answer) = service.oneshot(request.body(Body::empty()).unwrap()).await;
    let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_no_number_is_not_there_and_no_number_is_too_high() {
    let (own, grpc, envoy) =
        ("x-request-attempt", "grpc-previous-rpc-attempts", "x-envoy-attempt-count");
    for (value, attempt, after) in [
        ("1", 1, 2),
        ("2", 2, 3),
        (" 3 ", 3, 4),
        ("16", 16, 16),
        ("17", 16, 16),
        ("99999999999999999999999", 16, 16),
        ("0", 1, 1),
        ("-2", 1, 1),
        ("+2", 1, 1),
        ("2.5", 1, 1),
        ("2, 3", 1, 1),
        ("many", 1, 1),
        ("", 1, 1),
    ] {
        assert_eq!(heard(&[(own, value)]).await, attempt, "{value:?}");
        assert_eq!(heard(&[(envoy, value)]).await, attempt, "{value:?}");
        assert_eq!(heard(&[(grpc, value)]).await, after, "{value:?}");
    }
    assert_eq!(heard(&[]).await, 1);
    assert_eq!(heard(&[(envoy, "2"), (own, "4"), (grpc, "1")]).await, 4);
    assert_eq!(heard(&[(envoy, "2"), (own, "x")]).await, 2);
}

#[tokio::test]
async fn a_first_attempt_says_nothing_and_grpc_counts_those_before() {
    let sent = |attempt, headers: &[(&'static str, &'static str)]| {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        Context::new().with_attempt(attempt).put(request.extensions_mut());
        let seen = service_fn(|request: axum::http::Request<()>| async move {
            let mut answer = Response::new(());
            *answer.headers_mut() = request.headers().clone();
            Ok::<_, std::io::Error>(answer)
        });
        async move {
            let answer = SendContextLayer::new("t").layer(seen).oneshot(request).await.unwrap();
            let of =
                |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            [of("x-request-attempt"), of("grpc-previous-rpc-attempts"), of("x-envoy-attempt-count")]
        }
    };
    let told = |own: Option<&str>, grpc: Option<&str>| {
        [own.map(str::to_owned), grpc.map(str::to_owned), None]
    };
    let grpc = ("content-type", "application/grpc");
    assert_eq!(sent(1, &[]).await, told(None, None));
    assert_eq!(sent(1, &[grpc]).await, told(None, None));
    assert_eq!(sent(2, &[]).await, told(Some("2"), None));
    assert_eq!(sent(2, &[grpc]).await, told(None, Some("1")));
    // Of somebody else.
    let others = [
        ("x-request-attempt", "7"),
        ("grpc-previous-rpc-attempts", "7"),
        ("x-envoy-attempt-count", "7"),
    ];
    assert_eq!(sent(1, &others).await, told(None, None));
    let three = Some("3".to_owned());
    assert_eq!(sent(3, &others).await, [three.clone(), None, three]);
}
