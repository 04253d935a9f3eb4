//! The layer over HTTP: what rules see, what is answered, what is marked.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
use buttress::conditioner::{
    Conditioner, ConditionerLayer, Fault, FaultKind, FaultyBody, Injected, Latency, Matcher, Rule,
    ignore_injected_http, request_id,
};
use buttress::http::{problem, standard, status_only};
use buttress::retry::{Attempt, RetryLayer, RetryPolicy};
use buttress::{
    Backoff, BoxError, Boxed, Classify, Outcome, Rejection, RetryBudget, RetryHint, Slot,
};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::{always, armed, ms};

fn get_request(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

type Seen = Arc<Mutex<Vec<Option<String>>>>;

/// Answers 200, and notes the mark on each request.
fn callee(
    seen: &Seen,
    mark: &'static str,
) -> impl Service<
    Request<()>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + use<>,
> + Clone
+ use<> {
    let seen = Arc::clone(seen);
    service_fn(move |request: Request<()>| {
        let mark = request.headers().get(mark).map(|mark| mark.to_str().unwrap().to_owned());
        seen.lock().unwrap().push(mark);
        async { Ok(Response::new(Body::from("done"))) }
    })
}

#[tokio::test(start_paused = true)]
async fn statuses_are_responses_and_everything_is_marked() {
    let seen = Seen::default();
    let send = async |fault: Fault| {
        let layer = always(fault).layer().http().on_reject(problem());
        let service = layer.layer(callee(&seen, "x-buttress-fault"));
        let response = service.oneshot(get_request("/")).await.unwrap();
        let mark = response.extensions().get::<Injected>().copied().map(Injected::fault);
        let refused = response.extensions().get::<Rejection>().is_some();
        let status = response.status().as_u16();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (status, mark, refused, head.headers, body, seen.lock().unwrap().drain(..).next())
    };
    use FaultKind as K;
    let (status, mark, refused, _, body, called) = send(Fault::status(507)).await;
    assert_eq!((status, mark, refused, called), (507, Some(K::Status), false, None));
    assert!(body.is_empty());

    let (status, mark, _, headers, _, called) = send(Fault::grpc(14, "50 % \u{e9}")).await;
    assert_eq!((status, mark, called), (200, Some(K::Grpc), None));
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(headers["grpc-message"], "50 %25 %C3%A9");

    let (status, mark, refused, _, body, called) = send(Fault::loss()).await;
    assert_eq!((status, mark, refused, called), (503, Some(K::Loss), true, None));
    assert!(body.starts_with(b"{\"type\""), "{body:?}");

    let (status, mark, refused, _, _, called) = send(Fault::reply_lost()).await;
    let marked = Some(Some("reply_lost".to_owned()));
    assert_eq!((status, mark, refused, called), (503, Some(K::ReplyLost), true, marked));

    let slow = Fault::latency(Latency::fixed(ms(5)).unwrap());
    let (status, mark, _, _, body, called) = send(slow).await;
    assert_eq!((status, mark), (200, Some(K::Latency)));
    assert_eq!((called, &body[..]), (Some(Some("latency".to_owned())), &b"done"[..]));

    let (status, mark, _, _, body, called) = send(Fault::corrupt_body(4)).await;
    assert_eq!((status, mark), (200, Some(K::CorruptedBody)));
    assert_eq!(called, Some(Some("corrupted_body".to_owned())));
    assert!(body.len() == 4 && body != "done");
}

#[tokio::test]
async fn what_is_not_touched_is_not_marked_and_the_mark_can_be_changed() {
    let seen = Seen::default();
    let spared = armed(Rule::new(Fault::reply_lost()).matching(Matcher::method("POST")));
    let service = spared.layer().http().layer(callee(&seen, "x-buttress-fault"));
    let response = service.oneshot(get_request("/")).await.unwrap();
    assert!(response.extensions().get::<Injected>().is_none());
    assert_eq!(*seen.lock().unwrap(), [None]);

    let own = HeaderName::from_static("x-chaos");
    for (header, expected) in [(Some(own), Some("truncated_body".to_owned())), (None, None)] {
        let seen = Seen::default();
        let layer = always(Fault::truncate_body(1)).layer().http().request_header(header);
        layer.layer(callee(&seen, "x-chaos")).oneshot(get_request("/")).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [expected]);
    }
}

#[tokio::test]
async fn rules_see_url_method_path_and_headers() {
    let hits = async |matcher: Matcher, request: Request<()>| {
        let layer = armed(Rule::new(Fault::status(503)).matching(matcher)).layer().http();
        let service = layer.layer(callee(&Seen::default(), "x"));
        service.oneshot(request).await.unwrap().status() == 503
    };
    let whole = || get_request("http://shop.example/checkout/7?coupon=x");
    let server_side = || get_request("/checkout/7?coupon=x");
    let long = format!("http://shop.example/{}/checkout", "x".repeat(2000));
    for request in [whole(), server_side(), get_request(&long)] {
        assert!(hits(Matcher::name_or_url("/checkout"), request).await);
    }
    assert!(hits(Matcher::name_or_url("?coupon=x"), server_side()).await);
    assert!(hits(Matcher::name_or_url("shop.example/check"), whole()).await);
    assert!(!hits(Matcher::name_or_url("shop.example"), server_side()).await);
    assert!(!hits(Matcher::name_or_url("/Checkout"), whole()).await);
    for request in [whole(), server_side()] {
        assert!(hits(Matcher::path("/checkout/*"), request).await);
    }
    assert!(!hits(Matcher::path("/checkout"), whole()).await);
    assert!(hits(Matcher::method("GET"), whole()).await);
    assert!(!hits(Matcher::method("get"), whole()).await);
    let mut request = whole();
    request.headers_mut().insert("x-tenant", "blue".parse().unwrap());
    assert!(hits(Matcher::header("X-Tenant", "blue"), request).await);
    assert!(!hits(Matcher::header("X-Tenant", "blue"), whole()).await);
}

/// What a retry may do after an injected fault is what it might after the real one: a loss was never
/// sent, a lost reply may have taken effect.
#[tokio::test]
async fn a_lost_reply_to_a_post_is_not_safe_to_repeat() {
    let judge = async |method: &str, fault: Fault, native: bool| {
        let request = || Request::builder().method(method).uri("/").body(()).unwrap();
        let conditioner = always(fault);
        let callee = || callee(&Seen::default(), "x");
        if native {
            let service = conditioner.layer().http().on_reject(status_only()).layer(callee());
            let judge = standard::<buttress::Typed>();
            let ticket =
                Classify::<_, Response<FaultyBody<Body>>, Infallible>::start(&judge, &request());
            let answer = service.oneshot(request()).await.unwrap();
            Classify::<Request<()>, _, Infallible>::finish(&judge, ticket, Ok(&answer))
        } else {
            let service = conditioner.layer().http().layer(callee());
            let judge = standard::<Boxed>();
            let ticket =
                Classify::<_, Response<FaultyBody<Body>>, BoxError>::start(&judge, &request());
            let answer = service.oneshot(request()).await;
            Classify::<Request<()>, _, BoxError>::finish(&judge, ticket, answer.as_ref())
        }
    };
    let unknown = RetryHint::Unknown { after: None };
    for native in [false, true] {
        for (method, fault, hint) in [
            ("POST", Fault::loss(), RetryHint::SAFE),
            ("POST", Fault::reply_lost(), unknown),
            ("GET", Fault::reply_lost(), RetryHint::SAFE),
            ("POST", Fault::hang_for(ms(1)), unknown),
            ("POST", Fault::error(io::ErrorKind::BrokenPipe, ""), unknown),
            ("POST", Fault::error(io::ErrorKind::PermissionDenied, ""), RetryHint::Never),
        ] {
            let what = format!("{method} {:?} native {native}", fault.kind());
            let verdict = judge(method, fault, native).await;
            assert!(verdict.outcome.is_failure(), "{what}: {verdict:?}");
            assert_eq!(verdict.retry, hint, "{what}");
        }
        let verdict = judge("POST", Fault::status(503), native).await;
        assert_eq!((verdict.outcome, verdict.retry), (Outcome::FAILURE, unknown));
    }
}

#[tokio::test(start_paused = true)]
async fn budgets_can_ignore_what_was_injected() {
    for (ignore, expected) in [(false, CircuitState::Open), (true, CircuitState::Closed)] {
        for fault in [Fault::status(503), Fault::loss(), Fault::reply_lost()] {
            let breaker = CircuitBreaker::builder("shop").consecutive_failures(2).build().unwrap();
            let kind = fault.kind();
            let inner = always(fault)
                .layer()
                .http()
                .on_reject(problem())
                .layer(callee(&Seen::default(), "x"));
            for _ in 0..5 {
                if ignore {
                    let layer = CircuitBreakerLayer::new(breaker.clone());
                    let layer = layer.classify(ignore_injected_http(standard()));
                    layer
                        .layer(inner.clone())
                        .oneshot(get_request("/"))
                        .await
                        .map(drop)
                        .unwrap_or(());
                } else {
                    let layer = CircuitBreakerLayer::new(breaker.clone()).classify(standard());
                    layer
                        .layer(inner.clone())
                        .oneshot(get_request("/"))
                        .await
                        .map(drop)
                        .unwrap_or(());
                }
            }
            assert_eq!(breaker.state(), expected, "{kind:?}");
        }
    }
}

/// Behind a retry: with the attempt in the id, what was lost once need not be lost again.
#[tokio::test(start_paused = true)]
async fn a_request_id_with_the_attempt_replays_whole_retries() {
    let lossy = Conditioner::builder("shop")
        .rule(Rule::new(Fault::status(503)).share(0.5))
        .build()
        .unwrap();
    lossy.arm().unwrap();
    let run = async || {
        let mut statuses = Vec::new();
        for n in 0..50 {
            let seen = Seen::default();
            let policy = RetryPolicy::builder().max_attempts(4).backoff(Backoff::none());
            let retry = RetryLayer::new(policy.build().unwrap())
                .budget(RetryBudget::unlimited("shop"))
                .classify(standard())
                .replay(buttress::retry::HttpRequest::new());
            let faults = lossy.layer().http().request_id(|request: &Request<_>| {
                let Attempt(attempt) = Attempt::of(request.extensions());
                let id = request.headers().get("x-request-id")?;
                Some(request_id(id).wrapping_add(attempt.into()))
            });
            let client = ServiceBuilder::new().layer(retry).layer(faults).service(service_fn(
                |_: Request<buttress::http::ReplayBody<Body>>| async {
                    Ok::<_, io::Error>(Response::new(Body::empty()))
                },
            ));
            let request = Request::get("/").header("x-request-id", format!("r{n}"));
            let request = request.body(buttress::http::ReplayBody::new(Body::empty(), 0)).unwrap();
            let answer = client.oneshot(request).await.unwrap();
            statuses.push((answer.status().as_u16(), lossy.stats().injected));
            drop(seen);
        }
        statuses
    };
    let first = run().await;
    let injected = lossy.stats().injected;
    let second: Vec<_> = run().await.into_iter().map(|(s, n)| (s, n - injected)).collect();
    assert_eq!(first, second);
    let ok = first.iter().filter(|(status, _)| *status == 200).count();
    assert!((40..50).contains(&ok), "15 of 16 get through in the end: {ok}");
    assert!((25..75).contains(&injected), "{injected}");
}

#[tokio::test]
async fn state_shared_across_axum_connections_and_no_error_to_handle() {
    // By count: the first three calls are hit, whatever connection they come on.
    let slot = Slot::with(
        Conditioner::builder("shop").rule(Rule::new(Fault::loss())).max_share(0.5).build().unwrap(),
    );
    slot.get().unwrap().arm().unwrap();
    let layer = ConditionerLayer::from_slot(slot).http().on_reject(problem());
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(layer),
        StatusCode::OK,
        &[200, 503, 200, 503, 200, 503],
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn faults_come_and_go_on_a_running_server() {
    let slot = Slot::new();
    let layer = ConditionerLayer::from_slot(slot.clone()).http().on_reject(problem());
    let app = Router::new().route("/", get(async || "fine")).layer(layer);
    let mut server = crate::support::Server::start(app).await;
    let mut connection = server.connect().await;
    assert_eq!(connection.get("/").await.body(), "fine");
    slot.install(always(Fault::status(418)));
    assert_eq!(connection.get("/").await.status(), 418);
    slot.install(always(Fault::loss()));
    let lost = connection.get("/").await;
    assert_eq!(lost.status(), 503);
    assert!(lost.body().contains("\"kind\":\"injected\""), "{lost:?}");
    slot.uninstall();
    assert_eq!(connection.get("/").await.body(), "fine");
}
