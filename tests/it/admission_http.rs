//! Admission in front of the handlers of an axum server: who waits, who is refused, and what callers see of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use buttress::admission::{Admission, AdmissionLayer};
use buttress::http::{ContextLayer, extensions, problem, standard};
use buttress::presets::{BackendPlan, ServerPlan, server};
use buttress::{Backend, Typed};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceBuilder, ServiceExt};

use crate::support::Server;

const MS: Duration = Duration::from_millis(1);

/// Handlers that answer as somebody lets them.
#[derive(Clone)]
struct Handlers {
    /// Who came in, in this order.
    order: Arc<Mutex<Vec<String>>>,
    running: Arc<AtomicU32>,
    answers: Arc<Semaphore>,
}

struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Handlers {
    fn new() -> Self {
        let answers = Arc::new(Semaphore::new(0));
        Self { order: Arc::default(), running: Arc::default(), answers }
    }

    fn router(&self) -> Router {
        let this = self.clone();
        let handler = |Path(who): Path<String>| async move {
            this.running.fetch_add(1, Relaxed);
            let _running = Running(this.running.clone());
            this.order.lock().unwrap().push(who);
            this.answers.acquire().await.unwrap().forget();
            "done"
        };
        Router::new().route("/{who}", get(handler))
    }

    fn order(&self) -> Vec<String> {
        self.order.lock().unwrap().clone()
    }
}

/// The server's stack, with so many handlers at a time.
fn served(in_flight: u32, time: Duration) -> (Router, Handlers, Backend) {
    let mut plan = ServerPlan::new("api");
    plan.backend = Some(BackendPlan::fixed(in_flight));
    plan.timeout = Some(time);
    let stack = server(&plan).unwrap().http();
    let (handlers, backend) = (Handlers::new(), stack.backend().unwrap().clone());
    let layers = ServiceBuilder::new().layer(ContextLayer::new("api")).layer(stack);
    (handlers.router().layer(layers), handlers, backend)
}

/// The two layers alone.
fn admitted(in_flight: u32) -> (Router, Handlers, Backend) {
    let admission = Admission::bulkhead("api", in_flight).unwrap();
    let backend = admission.backend().clone();
    let layer = AdmissionLayer::new(admission).classify(standard::<Typed>());
    let layer = layer.context(extensions()).on_reject(problem());
    let layers = ServiceBuilder::new().layer(ContextLayer::new("api")).layer(layer);
    let handlers = Handlers::new();
    (handlers.router().layer(layers), handlers, backend)
}

type Call = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A request that has arrived, and is not answered yet.
fn arrived(app: &Router, who: &str, headers: &[(&'static str, &str)]) -> Call {
    let mut call = call(app, who, headers);
    assert!((&mut call).now_or_never().is_none(), "{who} is answered");
    call
}

fn call(app: &Router, who: &str, headers: &[(&'static str, &str)]) -> Call {
    let mut request = Request::get(format!("/{who}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    app.clone().oneshot(request).map(Result::unwrap).boxed()
}

/// The status, and what the problem document says of who refused.
async fn problem_of(answer: Response<Body>) -> (StatusCode, String) {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(!answer.headers().contains_key("retry-after"), "nobody knows when there is a place");
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"], status.as_u16());
    (status, format!("{} {} {}", body["layer"], body["name"], body["kind"]).replace('"', ""))
}

fn full() -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, "admission api overloaded".to_owned())
}

fn expired() -> (StatusCode, String) {
    (StatusCode::GATEWAY_TIMEOUT, "admission api deadline_exceeded".to_owned())
}

const LOW: (&str, &str) = ("x-request-criticality", "sheddable");

#[tokio::test(start_paused = true)]
async fn who_finds_the_room_full_is_told_so_unless_somebody_matters_less() {
    let (app, handlers, backend) = served(1, 60_000 * MS);
    let first = arrived(&app, "first", &[]);
    let mut room: Vec<_> = (1..10_000).map(|_| arrived(&app, "waits", &[])).collect();
    let mut low = arrived(&app, "low", &[LOW]);
    assert_eq!(backend.stats().waiting, 10_000);

    // Of the same class, and its deadline is later.
    sleep(MS).await;
    assert_eq!(problem_of(call(&app, "other", &[LOW]).await).await, full());
    assert!((&mut low).now_or_never().is_none());
    room.push(arrived(&app, "waits", &[]));
    assert_eq!(problem_of(low.await).await, full());
    assert_eq!(problem_of(call(&app, "late", &[]).await).await, full());

    assert_eq!(backend.stats().waiting, 10_000);
    assert_eq!(handlers.order(), ["first"]);
    drop((first, room));
    let stats = backend.stats();
    assert_eq!((stats.waiting, stats.in_flight, stats.full), (0, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn whose_time_ends_while_it_waits_never_reaches_a_handler() {
    for (app, handlers, backend) in [served(1, 60_000 * MS), admitted(1)] {
        let first = arrived(&app, "first", &[]);
        let began = Instant::now();
        let late = call(&app, "late", &[("x-request-timeout-ms", "200")]).await;
        assert_eq!(problem_of(late).await, expired());
        let took = began.elapsed();
        assert!((195 * MS..=205 * MS).contains(&took), "{took:?}");
        // There is a place again.
        handlers.answers.add_permits(2);
        assert_eq!(first.await.status(), StatusCode::OK);
        assert_eq!(call(&app, "next", &[]).await.status(), StatusCode::OK);
        assert_eq!(handlers.order(), ["first", "next"]);
        let stats = backend.stats();
        assert_eq!((stats.waiting, stats.in_flight, stats.hopeless), (0, 0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_the_server_bounds_the_wait_and_the_handler_together() {
    let (app, handlers, _) = served(1, 1_000 * MS);
    let (began, first) = (Instant::now(), arrived(&app, "first", &[]));
    sleep(300 * MS).await;
    let waits = arrived(&app, "waits", &[]);
    sleep(300 * MS).await;
    handlers.answers.add_permits(1);
    assert_eq!(first.await.status(), StatusCode::OK);
    // Its turn comes after 300 of 1,000 ms, and its handler hangs.
    assert_eq!(waits.await.status(), StatusCode::GATEWAY_TIMEOUT);
    let took = began.elapsed();
    assert!((1_300 * MS..=1_305 * MS).contains(&took), "{took:?}");
    assert_eq!(handlers.order(), ["first", "waits"]);
    assert_eq!(handlers.running.load(Relaxed), 0);
    // And one that has no turn is refused as late, too.
    let hangs = arrived(&app, "hangs", &[]);
    let began = Instant::now();
    assert_eq!(problem_of(call(&app, "never", &[]).await).await.0, StatusCode::GATEWAY_TIMEOUT);
    let took = began.elapsed();
    assert!((995 * MS..=1_005 * MS).contains(&took), "{took:?}");
    drop(hangs);
    assert_eq!(handlers.order(), ["first", "waits", "hangs"]);
}

#[tokio::test(start_paused = true)]
async fn the_critical_go_first_and_among_them_the_urgent() {
    for (app, handlers, _) in [served(1, 60_000 * MS), admitted(1)] {
        let mut calls = tokio::task::JoinSet::new();
        calls.spawn(arrived(&app, "first", &[]));
        let urgent = [LOW, ("x-request-timeout-ms", "500")];
        calls.spawn(arrived(&app, "batch", &urgent));
        calls.spawn(arrived(&app, "later", &[("x-request-timeout-ms", "900")]));
        calls.spawn(arrived(&app, "sooner", &[("x-request-timeout-ms", "700")]));
        handlers.answers.add_permits(4);
        while let Some(answer) = calls.join_next().await {
            assert_eq!(answer.unwrap().status(), StatusCode::OK);
        }
        assert_eq!(handlers.order(), ["first", "sooner", "later", "batch"]);
    }
}

/// Until `is` says so; the sockets are real, and so is the time.
async fn becomes(what: &str, is: impl Fn() -> bool) {
    let looks = async {
        while !is() {
            sleep(5 * MS).await;
        }
    };
    assert!(timeout(10_000 * MS, looks).await.is_ok(), "not {what}");
}

async fn caller(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(b"GET /gone HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_goes_leaves_no_trace_in_the_room_and_none_in_the_handler() {
    let (app, handlers, backend) = served(1, 60_000 * MS);
    let mut server = Server::start(app).await;
    let works = caller(&server).await;
    becomes("at work", || handlers.running.load(Relaxed) == 1).await;
    let waits = caller(&server).await;
    becomes("waiting", || backend.stats().waiting == 1).await;
    drop(waits);
    becomes("gone from the room", || backend.stats().waiting == 0).await;
    assert_eq!(backend.stats().in_flight, 1);
    drop(works);
    becomes("gone from the handler", || handlers.running.load(Relaxed) == 0).await;
    assert_eq!(backend.stats().in_flight, 0);

    handlers.answers.add_permits(1);
    let answer = server.connect().await.get("/next").await;
    assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::OK, "done"));
    assert_eq!(handlers.order(), ["gone", "next"]);
}
