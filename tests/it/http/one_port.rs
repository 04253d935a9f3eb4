//! REST and gRPC on one port, behind the same layers: each caller is refused in its own way, also by a layer
//! that no longer has the request.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use buttress::coalesce::{BufferResponse, Coalesce};
use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule};
use buttress::http::{problem, standard, status_only};
use buttress::presets::{ServerPlan, server};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
use buttress::timeout::Timeout;
use buttress::{Context, Deadline, Quota};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Layer, ServiceExt, service_fn};

const SHORT: Duration = Duration::from_millis(100);

/// Everything takes for ever, or is answered at once.
fn both(takes: Duration) -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    std::mem::forget(reporter);
    Router::new()
        .route("/rest", get(|| async { "hello" }))
        .merge(Routes::new(health).into_axum_router())
        .layer(axum::middleware::from_fn(
            move |request: Request, next: axum::middleware::Next| async move {
                let answer = next.run(request).await;
                tokio::time::sleep(takes).await;
                answer
            },
        ))
}

/// What a client of each kind is told.
async fn told(app: Router) -> ((u16, String), Result<i32, Code>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(app.clone());
            connections.spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let rest = reqwest::get(format!("{url}/rest")).await.unwrap();
    let kind = rest.headers().get("content-type").unwrap().to_str().unwrap().to_owned();
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let grpc = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    let grpc = grpc.map(|answer| answer.into_inner().status).map_err(|status| status.code());
    ((rest.status().as_u16(), kind), grpc)
}

fn refused(status: u16) -> (u16, String) {
    (status, "application/problem+json".to_owned())
}

#[tokio::test]
async fn a_timeout_ends_each_call_in_the_way_of_its_caller() {
    let timeout = || Timeout::new("api", SHORT).unwrap().layer().on_reject(problem());
    let (rest, grpc) = told(both(Duration::from_secs(60)).layer(timeout())).await;
    assert_eq!((rest, grpc), (refused(504), Err(Code::DeadlineExceeded)));
    let (rest, grpc) = told(both(Duration::ZERO).layer(timeout())).await;
    assert_eq!((rest.0, grpc), (200, Ok(1)));
}

#[tokio::test]
async fn the_stack_of_a_server_does_so_too() {
    let mut plan = ServerPlan::new("api");
    plan.timeout = Some(SHORT);
    let stack = server(&plan).unwrap().http();
    let (rest, grpc) = told(both(Duration::from_secs(60)).layer(stack)).await;
    assert_eq!((rest, grpc), (refused(504), Err(Code::DeadlineExceeded)));
}

#[tokio::test]
async fn so_do_a_limiter_and_a_reply_that_is_lost() {
    let limiter = RateLimiter::new(Quota::per_minute(1).unwrap());
    limiter.try_acquire().unwrap();
    let (rest, grpc) =
        told(both(Duration::ZERO).layer(RateLimitLayer::new(limiter).on_reject(problem()))).await;
    assert_eq!((rest, grpc), (refused(429), Err(Code::ResourceExhausted)));

    let lossy = Conditioner::builder("api").rule(Rule::new(Fault::reply_lost())).build().unwrap();
    lossy.arm().unwrap();
    let layer = ConditionerLayer::new(lossy).http().on_reject(problem());
    let (rest, grpc) = told(both(Duration::ZERO).layer(layer)).await;
    assert_eq!((rest, grpc), (refused(503), Err(Code::Unavailable)));
}

fn call(content_type: &'static str) -> http::Request<Full<Bytes>> {
    http::Request::get("/").header("content-type", content_type).body(Full::default()).unwrap()
}

/// The status, `grpc-status` and the content type of an answer.
fn seen<B>(answer: &Response<B>) -> (u16, Option<&str>, &str) {
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
    (answer.status().as_u16(), header("grpc-status"), header("content-type").unwrap_or(""))
}

#[tokio::test(start_paused = true)]
async fn a_retry_remembers_whom_it_answers() {
    let never = service_fn(|_: http::Request<Full<Bytes>>| {
        std::future::pending::<Result<Response<Body>, Infallible>>()
    });
    let policy = RetryPolicy::builder().max_attempts(1).attempt_timeout(SHORT).build().unwrap();
    let layer = RetryLayer::new(policy)
        .classify(standard())
        .replay(HttpRequest::new())
        .on_reject(status_only());
    for (asked, answer) in [
        ("application/json", (504, None, "")),
        ("application/grpc+proto", (200, Some("4"), "application/grpc")),
        ("application/grpc-web+proto", (200, Some("4"), "application/grpc-web")),
        ("application/grpc-web-text", (200, Some("4"), "application/grpc-web-text")),
    ] {
        let told = layer.layer(never).oneshot(call(asked)).await.unwrap();
        assert_eq!(seen(&told), answer, "{asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_call_of_another_is_refused_in_its_own_way() {
    let slow = service_fn(|_: http::Request<Full<Bytes>>| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let soon =
        |_: &http::Request<Full<Bytes>>| Context::new().with_deadline(Deadline::after(SHORT));
    let service = Coalesce::new("reads")
        .layer(|_: &http::Request<Full<Bytes>>| Some(1))
        .share(BufferResponse::up_to(1000).with_errors_cloned())
        .context(soon)
        .on_reject(problem())
        .layer(slow);
    let [rest, grpc] =
        ["application/json", "application/grpc"].map(|asked| service.clone().oneshot(call(asked)));
    let (rest, grpc) = tokio::join!(rest, grpc);
    assert_eq!(seen(&rest.unwrap()), (504, None, "application/problem+json"));
    assert_eq!(seen(&grpc.unwrap()), (200, Some("4"), "application/grpc"));
}
