//! The drain layer: the contract, what is in flight, what is announced and refused.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use buttress::supervise::serve::{DrainLayer, DrainSignal};
use buttress::supervise::{Lifecycle, Phase};
use buttress::testing::{Subject, check_all};
use buttress::{AsTyped, Rejection, RejectionKind};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

type Answer = Response<Full<Bytes>>;

fn ok(_: Request<()>) -> Result<Answer, io::Error> {
    Ok(Response::new(Full::from("ok")))
}

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    for refuse in [false, true] {
        let make = move || {
            let layer = DrainLayer::new("contract", &Lifecycle::new()).on_reject(AsTyped);
            if refuse { layer.refuse() } else { layer }
        };
        let subject = Subject::new(make, || Request::new(()), ok)
            .ready_error(|| io::Error::other("inner broke"))
            .stateless();
        check_all(&subject).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_holds_the_drain_to_the_end_of_its_body() {
    let life = Lifecycle::new();
    let layer = DrainLayer::new("http", &life);
    let mut one = layer.layer(service_fn(async |request| ok(request)));
    let two = layer.layer(service_fn(async |request| ok(request)));
    let first = one.ready().await.unwrap().call(Request::new(())).await.unwrap();
    let second = two.oneshot(Request::new(())).await.unwrap();
    assert_eq!(layer.in_flight(), 2);
    life.advance(Phase::Draining, None);
    assert_eq!(life.held_by(), ["http".into()]);
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "ok");
    assert!(life.released().now_or_never().is_none());
    // Given up.
    drop(second);
    life.released().now_or_never().unwrap();
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_is_given_up_or_fails_holds_nothing() {
    let life = Lifecycle::new();
    let layer = DrainLayer::new("http", &life);
    let pending = layer
        .layer(service_fn(|_: Request<()>| std::future::pending::<Result<Answer, Infallible>>()));
    let call = pending.oneshot(Request::new(()));
    let mut call = Box::pin(call);
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(layer.in_flight(), 1);
    drop(call);
    assert_eq!(layer.in_flight(), 0);
    let failing =
        layer.layer(service_fn(async |_: Request<()>| Err::<Answer, _>(io::Error::other("down"))));
    assert!(failing.oneshot(Request::new(())).await.is_err());
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn the_end_is_announced_over_http1_only() {
    let life = Lifecycle::new();
    let service = DrainLayer::new("http", &life).layer(service_fn(async |request| ok(request)));
    for (phase, version, closes) in [
        (Phase::Ready, Version::HTTP_11, false),
        (Phase::LameDuck, Version::HTTP_11, true),
        (Phase::LameDuck, Version::HTTP_2, false),
        (Phase::Draining, Version::HTTP_11, true),
        (Phase::Draining, Version::HTTP_2, false),
    ] {
        life.advance(phase, None);
        let mut request = Request::new(());
        *request.version_mut() = version;
        let response = service.clone().oneshot(request).await.unwrap();
        let said = response.headers().get("connection");
        assert_eq!(said.is_some_and(|value| value == "close"), closes, "{phase:?} {version:?}");
        assert_eq!(said.is_some(), closes);
    }
}

#[tokio::test]
async fn once_draining_it_refuses_if_told_to() {
    let life = Lifecycle::new();
    let layer = DrainLayer::new("http", &life).refuse();
    // Never ready, which must not hide that it is over.
    let never = layer
        .layer(tower::util::MapRequestLayer::new(|request: Request<()>| request).layer(
            tower::limit::ConcurrencyLimit::new(service_fn(async |request| ok(request)), 0),
        ));
    assert!(never.clone().oneshot(Request::new(())).now_or_never().is_none());
    life.advance(Phase::LameDuck, None);
    assert!(never.clone().oneshot(Request::new(())).now_or_never().is_none());
    life.advance(Phase::Draining, None);
    let error = never.clone().oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::Draining);
    let answers = layer.clone().on_reject(buttress::http::problem());
    let answers = answers.layer(service_fn(async |request| ok(request)));
    let response = answers.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!((layer.refused(), layer.in_flight()), (2, 0));
    life.released().now_or_never().unwrap();
}

#[tokio::test]
async fn what_may_be_long_finds_the_signal() {
    let life = Lifecycle::new();
    let layer = DrainLayer::new("http", &life);
    let told = |layer: &DrainLayer, request: Request<()>| {
        let service = layer.layer(service_fn(async |request: Request<()>| {
            let told = request.extensions().get::<DrainSignal>().is_some();
            Ok::<Answer, Infallible>(Response::new(Full::from(told.to_string())))
        }));
        let response = service.oneshot(request).now_or_never().unwrap().unwrap();
        response.into_body().collect().now_or_never().unwrap().unwrap().to_bytes() == "true"
    };
    let build = |name, value| Request::builder().header(name, value).body(()).unwrap();
    assert!(!told(&layer, Request::new(())));
    assert!(!told(&layer, build("accept", "application/json")));
    assert!(told(&layer, build("accept", "text/event-stream")));
    assert!(told(&layer, build("accept", "Text/Event-Stream, */*")));
    let mut grpc = build("content-type", "application/grpc+proto");
    *grpc.method_mut() = http::Method::POST;
    *grpc.version_mut() = Version::HTTP_2;
    assert!(told(&layer, grpc));
    assert!(told(&layer, Request::builder().method("CONNECT").body(()).unwrap()));
    assert!(told(&layer.signal_everywhere(), Request::new(())));
}

/// With a server whose connections end as soon as they may: the layer's own part.
#[tokio::test]
async fn a_signal_fires_and_holds() {
    let life = Lifecycle::new();
    let signal = DrainSignal::new(&life);
    assert!(signal.draining().now_or_never().is_none() && signal.deadline().is_none());
    life.advance(Phase::LameDuck, Some(tokio::time::Instant::now()));
    assert!(signal.lame_duck().now_or_never().is_some() && !signal.is_draining());
    assert!(signal.deadline().is_none(), "the end of the lame duck cuts nothing");
    let hold = signal.hold("socket");
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    life.advance(Phase::Draining, Some(end));
    assert_eq!((signal.is_draining(), signal.deadline()), (true, Some(end)));
    assert_eq!(life.held_by(), ["socket".into()]);
    drop(hold);
    assert!(life.released().now_or_never().is_some());
}
