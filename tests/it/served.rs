//! Layers behind a real `axum::serve`, or in front of one, with several connections: coalescing, the fallback, the throttle.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use buttress::Typed;
use buttress::coalesce::{BufferResponse, Coalesce, Reads};
use buttress::fallback::{Cause, Fallback};
use buttress::http::{problem, standard};
use buttress::throttle::Throttle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::Server;

const MS: Duration = Duration::from_millis(1);

/// Until `is` says so; the sockets are real, and so is the time.
async fn becomes(what: &str, is: impl Fn() -> bool) {
    let looks = async {
        while !is() {
            sleep(MS).await;
        }
    };
    assert!(timeout(10_000 * MS, looks).await.is_ok(), "not {what}");
}

/// Counted until it is dropped.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[tokio::test]
async fn equal_reads_of_several_connections_are_one_call_whoever_of_them_goes() {
    let reads = Coalesce::new("pages");
    let (runs, callers) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let answers = Arc::new(Semaphore::new(0));
    let (ran, answered, here) = (runs.clone(), answers.clone(), callers.clone());
    let handler = async move || {
        let run = ran.fetch_add(1, Relaxed);
        answered.acquire().await.unwrap().forget();
        format!("run {run}")
    };
    let share = BufferResponse::up_to(1_000).with_errors_cloned();
    let app = Router::new()
        .route("/page", get(handler))
        .layer(reads.http(Reads::new()).share(share).on_reject(problem()))
        .layer(from_fn(move |request: Request, next: Next| {
            let counted = Counted::new(&here);
            async move {
                let response = next.run(request).await;
                drop(counted);
                response
            }
        }));
    let mut server = Server::start(app).await;

    let mut first = server.connect().await;
    let first = tokio::task::JoinSet::from_iter([async move { first.get("/page").await }]);
    becomes("at work", || runs.load(Relaxed) == 1).await;
    let mut others = JoinSet::new();
    for _ in 0..4 {
        let mut connection = server.connect().await;
        others.spawn(async move { connection.get("/page").await });
    }
    becomes("followed", || reads.stats().followed == 4).await;
    // The one that made the call closes its connection.
    drop(first);
    becomes("gone", || callers.load(Relaxed) == 4).await;
    answers.add_permits(1);
    while let Some(answer) = others.join_next().await {
        let answer = answer.unwrap();
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::OK, "run 0"));
    }
    assert_eq!((runs.load(Relaxed), reads.stats().led, reads.stats().in_flight), (1, 1, 0));
    // Nothing is kept.
    answers.add_permits(1);
    assert_eq!(server.connect().await.get("/page").await.body(), "run 1");
}

#[tokio::test]
async fn a_fallback_answers_for_what_fails_inside_on_every_connection_as_many_at_a_time_as_it_may()
{
    let fallback = Fallback::builder("pages").max_in_flight(1).build().unwrap();
    let answers = Arc::new(Semaphore::new(0));
    let answered = answers.clone();
    let stale = move |path: String, cause: Cause| {
        let answered = answered.clone();
        async move {
            answered.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Response::new(Body::from(format!("stale {path}: {cause}"))))
        }
    };
    let layer = fallback.layer::<Typed>().failures(standard()).call(stale);
    let layer = layer.keep(|request: &Request| Some(request.uri().path().to_owned()));
    let broken = || async { (StatusCode::SERVICE_UNAVAILABLE, "broken") };
    let app = Router::new()
        .route("/a", get(broken))
        .route("/b", get(broken))
        .route("/live", get(async || "live"))
        .layer(layer);
    let mut server = Server::start(app).await;

    let mut connection = server.connect().await;
    let mut first = JoinSet::from_iter([async move { connection.get("/a").await }]);
    becomes("at work", || fallback.stats().in_flight == 1).await;
    let mut other = server.connect().await;
    let refused = timeout(10_000 * MS, other.get("/b")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.body(), "broken", "one is under way already");

    answers.add_permits(2);
    let first = first.join_next().await.unwrap().unwrap();
    assert_eq!((first.status(), first.body().as_str()), (StatusCode::OK, "stale /a: failure"));
    assert_eq!(other.get("/b").await.body(), "stale /b: failure");
    // What is well, or the request's own fault, passes as it is.
    assert_eq!(other.get("/live").await.body(), "live");
    assert_eq!(other.get("/nowhere").await.status(), StatusCode::NOT_FOUND);
    let stats = fallback.stats();
    assert_eq!((stats.answered, stats.full, stats.in_flight), (2, 1, 0));
}

/// A hundred a second, twenty at once.
struct Quota {
    left: f64,
    at: Instant,
    taken: u32,
    refused: u32,
}

impl Quota {
    fn takes(&mut self) -> StatusCode {
        let now = Instant::now();
        let more = (now - self.at).as_secs_f64() * 100.0;
        (self.left, self.at) = ((self.left + more).min(20.0), now);
        if self.left < 1.0 {
            self.refused += 1;
            return StatusCode::TOO_MANY_REQUESTS;
        }
        self.left -= 1.0;
        self.taken += 1;
        StatusCode::OK
    }
}

#[tokio::test]
async fn a_throttle_before_several_connections_sends_a_server_hardly_more_than_it_takes() {
    let quota = Quota { left: 20.0, at: Instant::now(), taken: 0, refused: 0 };
    let quota = Arc::new(Mutex::new(quota));
    let takes = quota.clone();
    let app = Router::new().route("/", get(async move || takes.lock().unwrap().takes()));
    let mut server = Server::start(app).await;

    let throttle = Throttle::builder("api").seed(7).build().unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let connection = Arc::new(tokio::sync::Mutex::new(server.connect().await));
        let send = service_fn(move |request: Request| {
            let connection = connection.clone();
            async move { Ok::<_, io::Error>(connection.lock().await.send(request).await) }
        });
        // A layer of its own for each: the rate is one.
        let service = throttle.layer().classify(standard()).layer(send);
        callers.spawn(async move {
            loop {
                let request = Request::get("/").header("host", "localhost");
                let request = request.body(Body::empty()).unwrap();
                // Answered, or refused here or there: it comes again.
                let _ = service.clone().oneshot(request).await;
                sleep(2 * MS).await;
            }
        });
    }
    let seen = || {
        let quota = quota.lock().unwrap();
        (quota.taken, quota.refused)
    };
    becomes("learned", || throttle.quota().is_some()).await;
    let start = seen();
    becomes("settled", || seen().0 >= start.0 + 100).await;
    let before = seen();
    becomes("taken", || seen().0 >= before.0 + 150).await;
    let refused = seen().1 - before.1;
    // Without a throttle they send a thousand a second or more.
    assert!(refused < 75, "{refused} refused beside 150 taken");
}
