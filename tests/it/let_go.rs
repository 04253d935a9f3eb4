//! What a call holds comes back, whenever and however the call ends: its future dropped before the first
//! poll, in flight, after the answer; a panic of whatever takes part; a reader that takes its time.

use std::io;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitState, KeyedCircuitBreaker};
use buttress::observe::Event;
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Rejection, RetryBudget, key_fn, respond_with};
use futures_util::{FutureExt, poll};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

/// Answers 0 never and everything else after a second.
async fn slow(n: u32) -> Result<u32, io::Error> {
    match n {
        0 => std::future::pending().await,
        _ => tokio::time::sleep(Duration::from_secs(1)).await,
    }
    Ok(n)
}

/// A half-open breaker with two probes: each way to end frees a place at once, and only an answer counts.
async fn probes_come_back<S>(breaker: CircuitBreaker, mut service: S)
where
    S: Service<u32, Response = u32> + Clone,
    S::Error: std::fmt::Debug,
{
    breaker.try_acquire().unwrap().failure();
    advance(Duration::from_secs(60)).await;
    let in_flight = || breaker.snapshot().probes_in_flight;

    for _ in 0..5 {
        let unpolled = service.ready().await.unwrap().call(1);
        assert_eq!(in_flight(), 1);
        drop(unpolled);
        assert_eq!(in_flight(), 0, "dropped before the first poll");
    }
    for _ in 0..5 {
        let mut flying = Box::pin(service.ready().await.unwrap().call(0));
        assert!(poll!(&mut flying).is_pending());
        assert_eq!(in_flight(), 1);
        drop(flying);
        assert_eq!(in_flight(), 0, "dropped in flight");
    }
    assert_eq!(breaker.state(), CircuitState::HalfOpen, "nothing has told anything");

    let mut answered = Box::pin(service.ready().await.unwrap().call(1));
    assert_eq!((&mut answered).await.unwrap(), 1);
    assert_eq!(in_flight(), 0, "answered, and its future still there");
    let mut second = Box::pin(service.ready().await.unwrap().call(1));
    assert_eq!((&mut second).await.unwrap(), 1);
    assert_eq!(breaker.state(), CircuitState::Closed);
    let before = breaker.stats();
    drop((answered, second));
    assert_eq!(breaker.stats(), before, "dropping what has answered is no news");
    assert_eq!((before.successful_calls, before.neutral_calls), (2, 10));
}

#[tokio::test(start_paused = true)]
async fn a_probes_place() {
    let build = || CircuitBreaker::builder("test").consecutive_failures(1).half_open_calls(2);
    let breaker = build().build().unwrap();
    probes_come_back(breaker.clone(), breaker.layer().layer(service_fn(slow))).await;

    let keyed: KeyedCircuitBreaker<&str> = build().build_keyed(4).unwrap();
    let layer = keyed.layer(key_fn(|_: &u32| "key"));
    probes_come_back(keyed.get(&"key"), layer.layer(service_fn(slow))).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_and_a_place_in_the_queue() {
    let limiter = RateLimiter::new("1/100ms burst 2".parse().unwrap());
    let mut service =
        RateLimitLayer::new(limiter.clone()).wait(Duration::from_secs(10)).layer(service_fn(slow));
    let tokens = || format!("{:.1}", limiter.tokens());

    drop(service.ready().await.unwrap().call(1));
    assert_eq!(
        (tokens(), limiter.stats().acquired),
        ("2.0".to_owned(), 0),
        "nothing taken before a poll"
    );

    let mut flying = Box::pin(service.ready().await.unwrap().call(0));
    assert!(poll!(&mut flying).is_pending());
    drop(flying);
    assert_eq!(tokens(), "1.0", "a call that was made is paid");

    let mut last = Box::pin(service.ready().await.unwrap().call(0));
    assert!(poll!(&mut last).is_pending());
    let mut waiting = Box::pin(service.ready().await.unwrap().call(1));
    assert!(poll!(&mut waiting).is_pending());
    assert_eq!(limiter.waiting(), 1);
    drop(waiting);
    assert_eq!((limiter.waiting(), limiter.time_until_token()), (0, Duration::from_millis(100)));

    let mut answered = Box::pin(service.ready().await.unwrap().call(1));
    assert_eq!((&mut answered).await.unwrap(), 1);
    limiter.reset();
    limiter.try_acquire().unwrap();
    drop((answered, last));
    assert_eq!(
        (tokens(), limiter.waiting()),
        ("1.0".to_owned(), 0),
        "dropping what was called is no news"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retrys_budget() {
    let budget = RetryBudget::new("test");
    let mut service =
        RetryLayer::new(RetryPolicy::DEFAULT).budget(budget.clone()).layer(service_fn(slow));
    let start = budget.stats();
    drop(service.ready().await.unwrap().call(1));
    let mut flying = Box::pin(service.ready().await.unwrap().call(0));
    assert!(poll!(&mut flying).is_pending());
    drop(flying);
    let mut answered = Box::pin(service.ready().await.unwrap().call(1));
    assert_eq!((&mut answered).await.unwrap(), 1);
    let after = budget.stats();
    assert_eq!((after.allowed, after.denied), (0, 0));
    assert_eq!(after.tokens, start.tokens + 1, "one call that worked has paid in");
    drop(answered);
    assert_eq!(budget.stats(), after, "dropping what has answered is no news");
}

/// Panics where it is told to.
#[derive(Clone, Copy, PartialEq)]
enum Bad {
    Ready,
    Call,
    Poll,
    Nothing,
}

#[derive(Clone)]
struct Moody(Bad);

impl Service<u32> for Moody {
    type Response = u32;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<u32, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        assert!(self.0 != Bad::Ready, "moody");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Self::Future {
        assert!(self.0 != Bad::Call, "moody");
        let bad = self.0;
        Box::pin(async move {
            assert!(bad != Bad::Poll, "moody");
            Ok(n)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_limiter_after_panics() {
    let limiter = RateLimiter::builder("test")
        .quota("1/100ms".parse().unwrap())
        .observe(|_: &Event<'_>| panic!("observer"))
        .build()
        .unwrap();
    let layer = RateLimitLayer::new(limiter.clone()).wait(Duration::from_secs(10));
    for bad in [Bad::Ready, Bad::Call, Bad::Poll] {
        limiter.reset();
        // The first finds a token, the second waits for one; the observer panics at that, too.
        for _ in 0..2 {
            let call = AssertUnwindSafe(layer.layer(Moody(bad)).oneshot(1));
            assert!(call.catch_unwind().await.is_err());
        }
        assert_eq!(limiter.waiting(), 0);
        assert_eq!(layer.layer(Moody(Bad::Nothing)).oneshot(1).await.unwrap(), 1);
    }
    limiter.reset();
    let responder = respond_with(|_: u32, _: Rejection| -> u32 { panic!("responder") });
    let refusing = RateLimitLayer::new(limiter.clone()).on_reject(responder);
    assert_eq!(refusing.layer(Moody(Bad::Nothing)).oneshot(1).await.unwrap(), 1);
    let refused = AssertUnwindSafe(refusing.layer(Moody(Bad::Nothing)).oneshot(1));
    assert!(refused.catch_unwind().await.is_err());
    limiter.set_shadow(true);
    assert!(limiter.try_acquire().is_ok());
    limiter.set_shadow(false);
    advance(Duration::from_millis(100)).await;
    assert_eq!(refusing.layer(Moody(Bad::Nothing)).oneshot(1).await.unwrap(), 1);
    assert_eq!(limiter.stats().rejected, 1);
}

/// A key or a responder that panics takes no probe's place with it, nor any other key's breaker.
#[tokio::test(start_paused = true)]
async fn a_keyed_breaker_after_panics() {
    let keyed: KeyedCircuitBreaker<u32> =
        CircuitBreaker::builder("test").consecutive_failures(2).build_keyed(4).unwrap();
    let layer = keyed.layer(key_fn(|n: &u32| if *n == 13 { panic!("key") } else { *n }));
    let call =
        async |bad, n| AssertUnwindSafe(layer.layer(Moody(bad)).oneshot(n)).catch_unwind().await;
    assert!(call(Bad::Nothing, 13).await.is_err());
    assert!(call(Bad::Call, 1).await.is_err());
    assert!(call(Bad::Poll, 1).await.is_err());
    assert_eq!(keyed.not_closed(), [(1, CircuitState::Open)], "panics are failures");
    assert!(call(Bad::Nothing, 1).await.unwrap().is_err());
    assert_eq!(call(Bad::Nothing, 2).await.unwrap().unwrap(), 2);

    let responder = respond_with(|_: u32, _: Rejection| -> u32 { panic!("responder") });
    let answering = layer.clone().on_reject(responder);
    let refused = AssertUnwindSafe(answering.layer(Moody(Bad::Nothing)).oneshot(1));
    assert!(refused.catch_unwind().await.is_err());
    advance(Duration::from_secs(60)).await;
    assert_eq!(answering.layer(Moody(Bad::Nothing)).oneshot(1).await.unwrap(), 1);
    assert!(keyed.not_closed().is_empty());
}

/// A key whose clone or hash panics at any moment takes no room in the table.
#[test]
fn a_table_of_breakers_after_keys_that_panic() {
    use std::cell::Cell;
    use std::hash::{Hash, Hasher};
    thread_local!(static PATIENCE: Cell<u32> = const { Cell::new(u32::MAX) });
    fn wear() {
        let left = PATIENCE.get().checked_sub(1);
        PATIENCE.set(left.unwrap_or(u32::MAX));
        left.unwrap_or_else(|| std::panic::resume_unwind(Box::new("out of patience")));
    }
    #[derive(PartialEq, Eq)]
    struct Touchy(u32);
    impl Clone for Touchy {
        fn clone(&self) -> Self {
            wear();
            Self(self.0)
        }
    }
    impl Hash for Touchy {
        fn hash<H: Hasher>(&self, state: &mut H) {
            wear();
            self.0.hash(state);
        }
    }

    // Into an empty table, or in the place of a key that was there.
    for before in [None, Some(Touchy(1))] {
        for patience in 0.. {
            let keyed: KeyedCircuitBreaker<Touchy> =
                CircuitBreaker::builder("test").consecutive_failures(1).build_keyed(1).unwrap();
            let _ = before.as_ref().map(|key| keyed.get(key));
            PATIENCE.set(patience);
            let got = std::panic::catch_unwind(AssertUnwindSafe(|| keyed.get(&Touchy(2))));
            PATIENCE.set(u32::MAX);
            keyed.get(&Touchy(3)).try_acquire().unwrap().failure();
            let guarded = keyed.get(&Touchy(3)).try_acquire().is_err();
            assert!(guarded, "{} before, patience for {patience}", before.iter().count());
            if got.is_ok() {
                assert!(patience > 3, "both clones and hashes are made");
                break;
            }
        }
    }
}

/// A peer that reads the head of an endless answer and then nothing more, on a real connection: the probe it
/// made has decided, its token is spent, its retry is over; all others are served.
#[cfg(feature = "http")]
#[tokio::test]
async fn everything_while_a_peer_does_not_read() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use buttress::http::{problem, standard};
    use tower::ServiceBuilder;

    let breaker = CircuitBreaker::builder("test")
        .consecutive_failures(1)
        .open_for(Duration::from_millis(1))
        .build()
        .unwrap();
    let limiter = RateLimiter::new("3/h burst 3".parse().unwrap());
    let budget = RetryBudget::new("test");
    let endless = || async {
        let chunks = futures_util::stream::repeat("chunk ".repeat(10_000));
        Body::from_stream(futures_util::StreamExt::map(chunks, Ok::<_, io::Error>))
    };
    let again = |request: &http::Request<Body>| {
        Some(http::Request::get(request.uri().clone()).body(Body::empty()).unwrap())
    };
    let retry = RetryLayer::new(RetryPolicy::DEFAULT)
        .budget(budget.clone())
        .classify(standard())
        .replay(again)
        .on_reject(respond_with(|(), _| http::Response::new(Body::empty())));
    let router = Router::new().route("/endless", get(endless)).route("/", get(|| async { "hi" }));
    let router = router.layer(
        ServiceBuilder::new()
            .layer(retry)
            .layer(RateLimitLayer::new(limiter.clone()).on_reject(problem()))
            .layer(breaker.layer().classify(standard()).on_reject(problem())),
    );
    breaker.try_acquire().unwrap().failure();
    while breaker.state() == CircuitState::Open {
        tokio::task::yield_now().await;
    }

    let mut server = crate::support::Server::start(router).await;
    let unread = server.connect().await.head("/endless").await;
    assert_eq!(unread.status(), 200);
    assert_eq!(breaker.state(), CircuitState::Closed, "the head has decided");
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    assert_eq!((limiter.stats().acquired, limiter.waiting()), (1, 0));
    assert_eq!((budget.stats().allowed, budget.stats().denied), (0, 0));
    for _ in 0..2 {
        assert_eq!(server.connect().await.get("/").await.body(), "hi");
    }
    assert_eq!(server.connect().await.get("/").await.status(), 429);
    drop(unread);
    assert_eq!(breaker.stats().successful_calls, 3);
}
