//! The limiter as a layer: contract, readiness, waiting, headers, real connections.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::rate_limit::{KeyedRateLimiter, RateLimitLayer, RateLimiter, WhenMissing};
use buttress::{AsTyped, Error, Rejection, RejectionKind, key_fn, respond_with};
use futures_util::{FutureExt, poll};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

fn limiter(quota: &str) -> RateLimiter {
    RateLimiter::new(quota.parse().unwrap())
}

fn keyed(quota: &str) -> KeyedRateLimiter<u32> {
    RateLimiter::keyed(quota.parse().unwrap(), 100).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

const MS: Duration = Duration::from_millis(1);

#[cfg(feature = "testing")]
mod contract {
    use super::*;
    use buttress::Quota;
    use buttress::testing::{Subject, TestableLayer, check_all};

    /// A quota that lets exactly `burst` calls through, and a layer made of it.
    async fn keeps_the_contract<L>(
        layer: impl Fn(Quota) -> L + Send + Sync + 'static,
        in_ready: bool,
    ) where
        L: TestableLayer<u32, u32, io::Error> + 'static,
        <L::Service as Service<u32>>::Error: std::fmt::Debug,
    {
        const BURST: u64 = 1000;
        let subject = Subject::new(
            move || layer(Quota::per_minute(1).unwrap().burst(BURST).unwrap()),
            || 1_u32,
            |n: u32| Ok::<_, io::Error>(n + 1),
        )
        .ready_error(|| io::Error::other("inner broke"))
        .polls_inner_in_ready(in_ready)
        .shared_state(|mut one, mut two, _probe| async move {
            for _ in 0..BURST {
                let one = one.ready().await.map_err(|e| format!("{e:?}"))?;
                one.call(1).await.map_err(|e| format!("{e:?}"))?;
            }
            match two.ready().await.map_err(|e| format!("{e:?}"))?.call(1).await {
                Err(_) => Ok(()),
                Ok(_) => Err("the second service had a quota of its own".to_owned()),
            }
        });
        check_all(&subject).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds_when_refusing() {
        keeps_the_contract(|quota| RateLimitLayer::new(RateLimiter::new(quota)), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds_per_key() {
        let layer = |quota| {
            let each = KeyedRateLimiter::<u32>::new(quota, 10).unwrap();
            RateLimitLayer::new(each).key(key_fn(|n: &u32| *n)).on_reject(AsTyped)
        };
        keeps_the_contract(layer, true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds_for_a_combination_with_costs() {
        let layer = |quota| {
            let each = KeyedRateLimiter::<u32>::new(quota, 10).unwrap();
            RateLimitLayer::new(RateLimiter::new(quota))
                .and(each.by(|n: &u32| Some(*n)))
                .cost(|n: &u32| u64::from(*n))
        };
        keeps_the_contract(layer, true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds_when_waiting() {
        let layer =
            |quota| RateLimitLayer::new(RateLimiter::new(quota)).wait(Duration::from_secs(1));
        keeps_the_contract(layer, false).await;
    }
}

#[cfg(feature = "http")]
#[tokio::test]
async fn state_shared_across_axum_connections() {
    use axum::http::StatusCode;
    use buttress::http::problem;
    let layer = RateLimitLayer::new(limiter("3/h")).on_reject(problem());
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(layer),
        StatusCode::OK,
        &[200, 200, 200, 429, 429],
    )
    .await
    .unwrap();
}

#[cfg(feature = "http")]
#[tokio::test]
async fn a_waiting_layer_shares_its_state_across_axum_connections_too() {
    use axum::http::StatusCode;
    use buttress::http::status_only;
    let layer =
        RateLimitLayer::new(limiter("2/h")).wait(Duration::from_secs(1)).on_reject(status_only());
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(layer),
        StatusCode::OK,
        &[200, 200, 429],
    )
    .await
    .unwrap();
}

/// One bucket per peer, however many connections it opens and whatever routes it asks for.
#[cfg(feature = "http")]
#[tokio::test]
async fn a_keyed_layer_shares_its_table_across_axum_connections() {
    use axum::http::StatusCode;
    let each = RateLimiter::keyed("3/h".parse().unwrap(), 100).unwrap();
    let layer = RateLimitLayer::new(each.clone()).key(peers()).on_reject(buttress::http::problem());
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(layer),
        StatusCode::OK,
        &[200, 200, 200, 429, 429],
    )
    .await
    .unwrap();
    assert_eq!((each.live_keys(), each.stats().acquired, each.stats().rejected), (1, 3, 2));
}

/// The key of a connection, where `axum::serve` puts it.
#[cfg(feature = "http")]
fn peers() -> buttress::http::PeerIp {
    use axum::extract::ConnectInfo;
    use std::net::SocketAddr;
    buttress::http::peer_ip()
        .or_extension(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()))
}

#[cfg(all(feature = "http", target_os = "linux"))]
#[tokio::test]
async fn peers_are_told_apart_by_address() {
    let each = RateLimiter::keyed("2/h".parse().unwrap(), 100).unwrap();
    let layer = RateLimitLayer::new(each).key(peers()).on_reject(buttress::http::problem());
    let hello = axum::routing::get(|| async { "hello" });
    let router = axum::Router::new().route("/", hello).layer(layer);
    let mut server = crate::support::Server::start(router).await;
    let mut seen = Vec::new();
    for n in [1, 2, 1, 2, 1, 2, 3] {
        let mut connection = server.connect_from(n).await;
        seen.push((n, connection.get("/").await.status().as_u16()));
    }
    assert_eq!(seen, [(1, 200), (2, 200), (1, 200), (2, 200), (1, 429), (2, 429), (3, 200)]);
}

#[tokio::test]
async fn refusing_asks_for_no_clone_and_gives_the_request_back() {
    struct NotClone(u32);
    impl Service<String> for NotClone {
        type Response = String;
        type Error = Infallible;
        type Future = std::future::Ready<Result<String, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: String) -> Self::Future {
            self.0 += 1;
            std::future::ready(Ok(req))
        }
    }
    let mut service = RateLimitLayer::new(limiter("1/h"))
        .on_reject(respond_with(|req: String, why: Rejection| {
            format!("{req}: {}", why.kind().as_str())
        }))
        .layer(NotClone(0));
    let answer = |s: Result<String, Infallible>| s.unwrap();
    assert_eq!(answer(service.ready().await.unwrap().call("a".into()).await), "a");
    assert_eq!(answer(service.ready().await.unwrap().call("b".into()).await), "b: rate_limited");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_that_was_made_stays_charged() {
    let limiter = limiter("2/h");
    let mut service = RateLimitLayer::new(limiter.clone())
        .layer(service_fn(|_: u32| std::future::pending::<Result<(), io::Error>>()));
    drop(service.ready().await.unwrap().call(1));
    assert!((1.0..1.1).contains(&limiter.tokens()));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_follows_the_policy() {
    let key = |n: &u32| (*n != 0).then_some(*n);
    let inner = || service_fn(|n: u32| async move { Ok::<_, io::Error>(n) });
    let each = keyed("1/h");
    let shared = RateLimitLayer::new(each.clone()).key(key).layer(inner());
    assert!(shared.clone().oneshot(0).await.is_ok());
    assert!(shared.clone().oneshot(0).await.is_err(), "those without a key share one bucket");
    assert!(shared.clone().oneshot(1).await.is_ok());
    let open = RateLimitLayer::new(each.by(key).when_missing(WhenMissing::Allow)).layer(inner());
    assert!(open.clone().oneshot(0).await.is_ok());
    assert!(
        open.clone().oneshot(1).await.is_err(),
        "the bucket of key 1 is the limiter's, not the layer's"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_costs_what_it_says() {
    let limiter = limiter("10/s");
    let service = RateLimitLayer::new(limiter.clone())
        .cost(|text: &&str| text.len() as u64)
        .on_reject(AsTyped)
        .layer(service_fn(|_: &str| async { Ok::<_, io::Error>(()) }));
    let call = |text| service.clone().oneshot(text);
    assert!(call("seven..").await.is_ok());
    let Err(Error::Rejected(why)) = call("four").await else { panic!("let through") };
    assert_eq!(why.retry_after(), Some(100 * MS));
    let Err(Error::Rejected(why)) = call("eleven.....").await else { panic!("let through") };
    assert_eq!(why.kind(), RejectionKind::ExceedsBurst);
    assert!(call("").await.is_ok(), "nothing costs nothing");
    assert!(near(limiter.tokens(), 3.0));
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_are_served_in_order_and_the_rest_refused_at_once() {
    let limiter = limiter("1/100ms");
    let service = RateLimitLayer::new(limiter.clone())
        .wait(250 * MS)
        .on_reject(AsTyped)
        .layer(service_fn(|n: u32| async move { Ok::<_, io::Error>(n) }));
    let start = Instant::now();
    let done = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..5 {
        let (service, done) = (service.clone(), Arc::clone(&done));
        tasks.spawn(async move {
            let answer = service.oneshot(i).await;
            let code = match answer {
                Ok(_) => "ok",
                Err(Error::Rejected(_)) => "refused",
                Err(Error::Inner(_)) => "inner",
            };
            done.lock().unwrap().push((i, code, start.elapsed().as_millis()));
        });
        tokio::task::yield_now().await;
    }
    while tasks.join_next().await.is_some() {}
    assert_eq!(
        *done.lock().unwrap(),
        [(0, "ok", 0), (3, "refused", 0), (4, "refused", 0), (1, "ok", 100), (2, "ok", 200)]
    );
}

/// A service whose slots are taken when it is made ready, as a connection pool's are.
#[derive(Clone)]
struct Pool {
    free: Arc<AtomicU32>,
    held: bool,
}

impl Service<()> for Pool {
    type Response = ();
    type Error = io::Error;
    type Future = std::future::Ready<Result<(), io::Error>>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        if self.held
            || self
                .free
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
        {
            self.held = true;
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
    fn call(&mut self, (): ()) -> Self::Future {
        assert!(std::mem::take(&mut self.held), "called without being ready");
        self.free.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_holds_nothing_of_the_inner_service_and_gives_its_token_back() {
    let limiter = limiter("1/100ms");
    let free = Arc::new(AtomicU32::new(1));
    let mut service = RateLimitLayer::new(limiter.clone())
        .wait(Duration::from_secs(10))
        .layer(Pool { free: Arc::clone(&free), held: false });
    service.ready().await.unwrap().call(()).await.unwrap();

    let mut waiting = Box::pin(service.ready().await.unwrap().call(()));
    assert!(poll!(&mut waiting).is_pending());
    assert_eq!((limiter.waiting(), free.load(Ordering::SeqCst)), (1, 1));
    drop(waiting);
    assert_eq!((limiter.waiting(), limiter.time_until_token()), (0, 100 * MS));

    // The token is there but the inner service is not ready: dropped there, it comes back.
    free.store(0, Ordering::SeqCst);
    advance(100 * MS).await;
    let mut readying = Box::pin(service.ready().await.unwrap().call(()));
    assert!(poll!(&mut readying).is_pending());
    assert!(near(limiter.tokens(), 0.0));
    drop(readying);
    assert!(near(limiter.tokens(), 1.0));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_key_cost_or_service_leaves_everything_usable() {
    let each = keyed("10/h");
    let service = RateLimitLayer::new(each.clone())
        .key(|n: &u32| Some(if *n == 13 { panic!("key") } else { *n }))
        .cost(|n: &u32| if *n == 14 { panic!("cost") } else { 1 })
        .layer(service_fn(|n: u32| async move {
            assert!(n != 15, "service");
            Ok::<_, io::Error>(n)
        }));
    for n in [13, 14, 15] {
        let call = std::panic::AssertUnwindSafe(service.clone().oneshot(n));
        assert!(call.catch_unwind().await.is_err());
    }
    assert!(service.clone().oneshot(1).await.is_ok());
    assert_eq!(each.stats().acquired, 2);
}

#[test]
fn the_future_is_small_and_everything_can_be_sent() {
    fn sendable<T: Send + Sync + 'static>(_: &T) {}
    let inner = service_fn(|n: u32| std::future::ready(Ok::<_, Infallible>(n)));
    let mut service = RateLimitLayer::new(keyed("1/s"))
        .key(key_fn(|n: &u32| *n))
        .on_reject(respond_with(|n: u32, _| n))
        .layer(inner);
    sendable(&service);
    let future = service.call(1);
    sendable(&future);
    assert!(size_of_val(&future) <= 32, "{}", size_of_val(&future));
    sendable(&limiter("1/s"));
}

#[cfg(feature = "http")]
mod headers {
    use super::*;
    use buttress::http::problem;
    use http::{Request, Response};

    fn header<'a>(response: &'a Response<axum::body::Body>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_on_admitted_and_refused_responses() {
        let limiter = RateLimiter::builder("api").quota("2/3s".parse().unwrap()).build().unwrap();
        let service = RateLimitLayer::new(limiter).on_reject(problem()).headers().layer(
            service_fn(|_: Request<()>| async {
                Ok::<_, Infallible>(Response::<axum::body::Body>::default())
            }),
        );
        let call = || service.clone().oneshot(Request::new(()));
        let first = call().await.unwrap();
        assert_eq!(header(&first, "ratelimit-policy"), Some("\"api\";q=2;w=3"));
        assert_eq!(header(&first, "ratelimit"), Some("\"api\";r=1;t=2"));
        assert_eq!(header(&first, "retry-after"), None);
        call().await.unwrap();
        advance(600 * MS).await;
        let refused = call().await.unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(header(&refused, "ratelimit-policy"), Some("\"api\";q=2;w=3"));
        assert_eq!(header(&refused, "ratelimit"), Some("\"api\";r=0;t=3"));
        assert_eq!(header(&refused, "retry-after"), Some("1"));
    }

    #[tokio::test(start_paused = true)]
    async fn they_replace_a_responders_except_its_time_to_come_back() {
        let limiter = RateLimiter::builder("api").quota("1/300s".parse().unwrap()).build().unwrap();
        let respond = buttress::respond_with(|(), _: Rejection| {
            Response::builder()
                .header("ratelimit", "mine")
                .header("ratelimit", "yours")
                .header("retry-after", "7")
                .body(axum::body::Body::empty())
                .unwrap()
        });
        let service = RateLimitLayer::new(limiter).on_reject(respond).headers().layer(service_fn(
            |(): ()| async { Ok::<_, Infallible>(Response::<axum::body::Body>::default()) },
        ));
        service.clone().oneshot(()).await.unwrap();
        let refused = service.oneshot(()).await.unwrap();
        assert_eq!(header(&refused, "ratelimit"), Some("\"api\";r=0;t=300"));
        assert_eq!(refused.headers().get_all("ratelimit").iter().count(), 1);
        assert_eq!(header(&refused, "ratelimit-policy"), Some("\"api\";q=1;w=300"));
        assert_eq!(header(&refused, "retry-after"), Some("7"), "the responder knows better");
    }

    /// They used to put the bare time in its place, with which all callers come back together.
    #[tokio::test(start_paused = true)]
    async fn a_responders_spread_time_to_come_back_stays() {
        let limiter = RateLimiter::builder("api").quota("1/300s".parse().unwrap()).build().unwrap();
        let spread = Duration::from_secs(100_000);
        let service = RateLimitLayer::new(limiter)
            .on_reject(problem().retry_jitter(spread))
            .headers()
            .layer(service_fn(|_: Request<()>| async {
                Ok::<_, Infallible>(Response::<axum::body::Body>::default())
            }));
        service.clone().oneshot(Request::new(())).await.unwrap();
        let mut waits = std::collections::HashSet::new();
        for _ in 0..20 {
            let refused = service.clone().oneshot(Request::new(())).await.unwrap();
            let wait: u64 = header(&refused, "retry-after").unwrap().parse().unwrap();
            assert!((300..=100_300).contains(&wait), "{wait}");
            assert_eq!(header(&refused, "ratelimit"), Some("\"api\";r=0;t=300"));
            waits.insert(wait);
        }
        assert!(waits.len() > 10, "{waits:?}");
        let grpc = Request::post("/").header("content-type", "application/grpc").body(()).unwrap();
        let refused = service.oneshot(grpc).await.unwrap();
        assert!(refused.headers().contains_key("grpc-retry-pushback-ms"));
        assert_eq!(header(&refused, "retry-after"), None, "it would not be spread");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_limits_the_tightest_is_shown() {
        let wide = RateLimiter::builder("wide").quota("100/s".parse().unwrap()).build().unwrap();
        let each = KeyedRateLimiter::<u32>::builder("each")
            .quota("5/s".parse().unwrap())
            .capacity(9)
            .build()
            .unwrap();
        let service = RateLimitLayer::new(wide)
            .and(each.by(key_fn(|_: &Request<()>| 7)))
            .on_reject(problem())
            .headers()
            .layer(service_fn(|_: Request<()>| async {
                Ok::<_, Infallible>(Response::<axum::body::Body>::default())
            }));
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(header(&response, "ratelimit"), Some("\"each\";r=4;t=1"));
    }

    #[tokio::test]
    async fn callers_are_told_apart_by_a_header() {
        use axum::routing::get;
        let each = RateLimiter::keyed("1/h".parse().unwrap(), 100).unwrap();
        let layer = RateLimitLayer::new(each)
            .key(buttress::http::header(http::header::AUTHORIZATION))
            .on_reject(problem());
        let router = axum::Router::new().route("/", get(|| async { "hello" })).layer(layer);
        let call = |token: &'static str| {
            let request = Request::get("/")
                .header("authorization", token)
                .body(axum::body::Body::empty())
                .unwrap();
            router.clone().oneshot(request)
        };
        assert_eq!(call("a").await.unwrap().status(), 200);
        assert_eq!(call("b").await.unwrap().status(), 200);
        assert_eq!(call("a").await.unwrap().status(), 429);
    }
}

/// What it did before: it waited for the token, however late that would be, and took it.
#[tokio::test(start_paused = true)]
async fn a_token_that_comes_after_the_deadline_is_refused_at_once_and_not_taken() {
    let limiter = limiter("1/s");
    let read = |with: &buttress::Context| *with;
    let layer = RateLimitLayer::new(limiter.clone()).wait(Duration::from_secs(60));
    let layer = layer.context(read).on_reject(AsTyped);
    let service = layer.layer(service_fn(async |_: buttress::Context| Ok::<_, io::Error>(())));
    let within = |time: Duration| {
        let deadline = buttress::Deadline::after(time);
        service.clone().oneshot(buttress::Context::new().with_deadline(deadline))
    };
    let refused = |error: Error<io::Error>| {
        let Error::Rejected(why) = error else { panic!("{error:?}") };
        (why.kind(), why.retry_after())
    };
    within(MS).await.unwrap();
    let began = Instant::now();
    for left in [500 * MS, 999 * MS] {
        let why = refused(within(left).await.unwrap_err());
        assert_eq!(why, (RejectionKind::RateLimited, Some(1000 * MS)));
    }
    let why = refused(within(Duration::ZERO).await.unwrap_err());
    assert_eq!(why, (RejectionKind::DeadlineExceeded, None));
    assert_eq!(began.elapsed(), Duration::ZERO);
    let stats = limiter.stats();
    assert_eq!((stats.acquired, stats.rejected, stats.waits), (1, 3, 0));
    // The next token is there for who has the time: after one second, not four.
    within(1000 * MS).await.unwrap();
    assert_eq!(began.elapsed(), 1000 * MS);
    // Who has none waits as long as the layer lets it.
    service.clone().oneshot(buttress::Context::new()).await.unwrap();
    assert_eq!(began.elapsed(), 2000 * MS);
    // Who finds a token is not asked for its deadline.
    advance(1000 * MS).await;
    within(Duration::ZERO).await.unwrap();
}

/// A new quota can move a turn beyond the deadline of one that waits already.
#[tokio::test(start_paused = true)]
async fn a_wait_that_cannot_end_in_time_any_more_ends_at_once() {
    let limiter = limiter("1/s");
    limiter.try_acquire().unwrap();
    let layer = RateLimitLayer::new(limiter.clone()).wait(Duration::from_secs(600));
    let layer = layer.context(|with: &buttress::Context| *with).on_reject(AsTyped);
    let service = layer.layer(service_fn(async |_: buttress::Context| Ok::<_, io::Error>(())));
    let deadline = buttress::Deadline::after(5000 * MS);
    let call = service.oneshot(buttress::Context::new().with_deadline(deadline));
    let mut call = Box::pin(call);
    assert!(poll!(&mut call).is_pending());
    limiter.set_quota("1/min".parse().unwrap());
    let Some(Err(Error::Rejected(why))) = call.now_or_never() else { panic!("it waits") };
    assert_eq!(why.kind(), RejectionKind::RateLimited);
}
