//! Faults of bodies, over real connections of hyper, HTTP/1 and HTTP/2.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use buttress::conditioner::{
    Conditioner, ConditionerLayer, Fault, FaultKind, FaultyBody, HttpCalls, Injected, Matcher, Rule,
};
use buttress::http::status_only;
use buttress::{BoxError, Lever};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{always, armed, ms};

const BOTH: [Proto; 2] = [Proto::Http1, Proto::Http2];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Proto {
    Http1,
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    async fn get(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        let request = Request::get(format!("http://localhost{path}")).body(Body::empty()).unwrap();
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// A server of `service` and a client, connected; for as long as the set lives.
async fn connected<S, B>(proto: Proto, service: S, tcp: bool) -> (Sender, JoinSet<()>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let sender = if tcp {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        join(proto, service, client.unwrap(), accepted.unwrap().0, &mut tasks).await
    } else {
        let (client, server): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
        join(proto, service, client, server, &mut tasks).await
    };
    (sender, tasks)
}

async fn join<S, B, T>(
    proto: Proto,
    service: S,
    client: T,
    server: T,
    tasks: &mut JoinSet<()>,
) -> Sender
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(service);
    tasks.spawn(async move {
        let io = TokioIo::new(server);
        // What breaks a connection is what these tests are about.
        let _ended = match proto {
            Proto::Http1 => {
                hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
            }
            Proto::Http2 => {
                let executor = TokioExecutor::new();
                hyper::server::conn::http2::Builder::new(executor)
                    .serve_connection(io, service)
                    .await
            }
        };
    });
    let io = TokioIo::new(client);
    match proto {
        Proto::Http1 => {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tasks.spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        }
        Proto::Http2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tasks.spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        }
    }
}

const SIZE: usize = 10_000;

fn content() -> Vec<u8> {
    (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// `/whole` has a length; `/streamed` comes in ten frames and ends with trailers.
async fn serve(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/whole" {
        return Ok(Response::new(Body::from(content())));
    }
    Ok(Response::new(streamed()))
}

fn streamed() -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "17".parse().unwrap());
    let frames: Vec<_> = content()
        .chunks(SIZE / 10)
        .map(|chunk| Frame::data(Bytes::copy_from_slice(chunk)))
        .chain([Frame::trailers(trailers)])
        .map(Ok::<_, io::Error>)
        .collect();
    Body::new(StreamBody::new(stream::iter(frames)))
}

type Server = ConditionerLayer<HttpCalls, buttress::http::StatusOnly, buttress::conditioner::Http>;

fn layer(conditioner: &Conditioner) -> Server {
    conditioner.layer().http().on_reject(status_only())
}

/// What a client reads until the end or an error.
async fn read(body: Incoming) -> (Vec<u8>, Option<HeaderMap>, Result<(), hyper::Error>) {
    let mut body = body;
    let (mut bytes, mut trailers) = (Vec::new(), None);
    loop {
        match body.frame().await {
            None => return (bytes, trailers, Ok(())),
            Some(Err(error)) => return (bytes, trailers, Err(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
}

#[tokio::test]
async fn a_body_that_nothing_is_done_to_is_the_same_over_the_wire() {
    for proto in BOTH {
        let idle =
            Conditioner::builder("test").rule(Rule::new(Fault::truncate_body(1))).build().unwrap();
        let (mut client, _tasks) =
            connected(proto, layer(&idle).layer(service_fn(serve)), true).await;
        for path in ["/whole", "/streamed"] {
            let response = client.get(path).await.unwrap();
            assert_eq!(
                response.body().size_hint().exact().is_some(),
                path == "/whole",
                "{proto:?}"
            );
            let (bytes, _, end) = read(response.into_body()).await;
            assert!(end.is_ok() && bytes == content(), "{proto:?} {path}");
        }
    }
}

/// HTTP/1 breaks the connection, with a length or without; HTTP/2 resets the stream and goes on with the others.
#[tokio::test]
async fn a_truncated_body_breaks_off_for_its_reader() {
    for proto in BOTH {
        for path in ["/whole", "/streamed"] {
            for after in [0, 1, 2500, 9999] {
                let what = format!("{proto:?} {path} after {after}");
                let rule = Rule::new(Fault::truncate_body(after));
                let broken = armed(rule.max_active(1).matching(!Matcher::has_header("x-other")));
                let service = layer(&broken).layer(service_fn(serve));
                let (mut client, _tasks) = connected(proto, service, true).await;
                let response = client.get(path).await.expect(&what);
                assert_eq!(response.status(), 200, "{what}");
                let (bytes, trailers, end) = read(response.into_body()).await;
                assert!(end.is_err(), "{what}: a clean end after {}", bytes.len());
                assert!(trailers.is_none(), "{what}");
                assert_eq!(bytes, content()[..usize::try_from(after).unwrap()], "{what}");
                assert_eq!(broken.stats().rules[0].injected, 1, "{what}");
                assert_eq!(broken.stats().rules[0].active, 0, "{what}");
                broken.disarm();
                let again = client.get(path).await;
                match proto {
                    Proto::Http1 => {
                        assert!(again.is_err(), "{what}: the connection is still there")
                    }
                    Proto::Http2 => {
                        let (bytes, _, end) = read(again.unwrap().into_body()).await;
                        assert!(end.is_ok() && bytes == content(), "{what}");
                    }
                }
            }
            // A body that is not longer is left alone.
            let whole = always(Fault::truncate_body(SIZE as u64));
            let service = layer(&whole).layer(service_fn(serve));
            let (mut client, _tasks) = connected(proto, service, true).await;
            let (bytes, _, end) = read(client.get(path).await.unwrap().into_body()).await;
            assert!(end.is_ok() && bytes == content(), "{proto:?} {path}");
        }
    }
}

/// The changed bytes are the same however the body is cut into frames, one in each stretch.
#[tokio::test]
async fn a_corrupted_body_has_one_other_byte_in_each_stretch() {
    for one_in in [1, 64, 1000, 3333] {
        let mut seen: Option<Vec<u8>> = None;
        for proto in BOTH {
            for path in ["/whole", "/streamed"] {
                let noisy = Conditioner::builder("test")
                    .rule(Rule::new(Fault::corrupt_body(one_in)))
                    .seed(3)
                    .build()
                    .unwrap();
                noisy.arm().unwrap();
                let service = layer(&noisy).layer(service_fn(serve));
                let (mut client, _tasks) = connected(proto, service, true).await;
                let response = client.get(path).await.unwrap();
                let (bytes, trailers, end) = read(response.into_body()).await;
                assert!(end.is_ok());
                assert_eq!(trailers.is_some(), proto == Proto::Http2 && path == "/streamed");
                assert_eq!(bytes.len(), SIZE);
                let one_in = usize::try_from(one_in).unwrap();
                for (n, (got, sent)) in
                    bytes.chunks_exact(one_in).zip(content().chunks_exact(one_in)).enumerate()
                {
                    let changed = got.iter().zip(sent).filter(|(a, b)| a != b).count();
                    assert_eq!(changed, 1, "stretch {n} of {one_in}");
                }
                assert_eq!(*seen.get_or_insert_with(|| bytes.clone()), bytes, "{proto:?} {path}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_comes_frame_by_frame() {
    for proto in BOTH {
        let slow = always(Fault::slow_body(ms(100)));
        let service = layer(&slow).layer(service_fn(serve));
        let (mut client, _tasks) = connected(proto, service, false).await;
        let start = Instant::now();
        let mut body = client.get("/streamed").await.unwrap().into_body();
        assert!(start.elapsed() < ms(10), "{proto:?}: the head is not slow");
        let mut times = Vec::new();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.unwrap().into_data() {
                bytes.extend_from_slice(&data);
                times.push(start.elapsed().as_millis() / 100);
            }
        }
        assert_eq!(bytes, content());
        assert_eq!(times, (1..=10).collect::<Vec<_>>(), "{proto:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_narrow_line_hands_on_so_many_bytes_a_second() {
    for proto in BOTH {
        for path in ["/whole", "/streamed"] {
            let narrow = always(Fault::bandwidth(2_000));
            let service = layer(&narrow).layer(service_fn(serve));
            let (mut client, _tasks) = connected(proto, service, false).await;
            let start = Instant::now();
            let mut body = client.get(path).await.unwrap().into_body();
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.unwrap().into_data() else { continue };
                bytes.extend_from_slice(&data);
                let due = start.elapsed().as_secs_f64() * 2_000.0;
                let off = bytes.len() as f64 - due;
                // A piece is a twentieth of a second; tokio's timer is late by up to a millisecond.
                assert!(
                    off.abs() <= 110.0,
                    "{proto:?} {path}: {} when {due} were due",
                    bytes.len()
                );
            }
            assert_eq!(bytes, content());
            let took = start.elapsed();
            assert!(took >= ms(5000) && took <= ms(5110), "{proto:?} {path}: {took:?}");
        }
    }
}

/// A body of so many frames of 1000 bytes through a layer, without a connection.
async fn direct(conditioner: &Conditioner, frames: usize) -> FaultyBody<Body> {
    let inner = service_fn(move |_: Request<()>| async move {
        let frame = || Ok::<_, io::Error>(Frame::data(Bytes::from(vec![7; 1000])));
        let frames: Vec<_> = std::iter::repeat_with(frame).take(frames).collect();
        let body = StreamBody::new(stream::iter(frames));
        Ok::<_, Infallible>(Response::new(Body::new(body)))
    });
    let service = conditioner.layer().http().layer(inner);
    service.oneshot(Request::new(())).await.unwrap().into_body()
}

/// Each frame takes a tenth of what the timer can tell apart.
#[tokio::test(start_paused = true)]
async fn a_fast_line_is_as_fast_as_it_says() {
    let fast = always(Fault::bandwidth(10_000_000));
    let body = direct(&fast, 5000).await;
    let start = Instant::now();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 5_000_000);
    let took = start.elapsed();
    assert!(took >= ms(450) && took <= ms(510), "{took:?} for half a second's worth");
}

/// While a failure budget holds it back bytes pass freely; they are no debt afterwards.
#[tokio::test(start_paused = true)]
async fn what_passed_while_it_was_held_back_is_not_waited_for_later() {
    let narrow = always(Fault::bandwidth(1000));
    let mut body = direct(&narrow, 100).await;
    let start = Instant::now();
    narrow.engage();
    let mut read = 0;
    while read < 90_000 {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert!(start.elapsed() < ms(100), "{:?}", start.elapsed());
    narrow.release();
    body.collect().await.unwrap();
    let took = start.elapsed();
    assert!(took > ms(9000) && took < ms(10_500), "{took:?} for the last ten seconds' worth");
}

/// A line slower than a byte in a while still moves, and turning it off ends the wait.
#[tokio::test(start_paused = true)]
async fn turning_it_off_lets_a_slow_body_go() {
    let crawling = armed(Rule::new(Fault::bandwidth(1)).max_active(1));
    let service = layer(&crawling).layer(service_fn(serve));
    let (mut client, _tasks) = connected(Proto::Http1, service, false).await;
    let start = Instant::now();
    let mut body = client.get("/whole").await.unwrap().into_body();
    let mut bytes = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
    assert_eq!((bytes.len(), start.elapsed().as_secs()), (1, 1));
    assert_eq!(crawling.stats().rules[0].active, 1);
    crawling.disarm();
    let (rest, _, end) = read(body).await;
    bytes.extend(rest);
    assert!(end.is_ok() && bytes == content());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(crawling.stats().rules[0].active, 0);
}

#[tokio::test(start_paused = true)]
async fn several_faults_meet_on_one_body() {
    let bad = Conditioner::builder("test")
        .rule(Rule::new(Fault::slow_body(ms(10))))
        .rule(Rule::new(Fault::bandwidth(10_000)))
        .rule(Rule::new(Fault::truncate_body(5_000)))
        .rule(Rule::new(Fault::truncate_body(6_000)))
        .rule(Rule::new(Fault::corrupt_body(1_000)))
        .match_all()
        .build()
        .unwrap();
    bad.arm().unwrap();
    let response = Response::new(streamed());
    let mut service = layer(&bad).layer(service_fn(move |_: Request<()>| {
        let response = Response::new(streamed());
        async { Ok::<_, Infallible>(response) }
    }));
    drop(response);
    let start = Instant::now();
    let response = service.ready().await.unwrap().call(Request::new(())).await.unwrap();
    assert_eq!(bad.stats().rules.iter().map(|rule| rule.active).sum::<u32>(), 5);
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let error = loop {
        match body.frame().await.expect("an error, not an end") {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
            Err(error) => break error,
        }
    };
    let mark = Injected::find(&*error).unwrap();
    assert_eq!((mark.rule(), mark.fault()), (2, FaultKind::TruncatedBody));
    assert_eq!(bytes.len(), 5_000);
    assert_eq!(bytes.iter().zip(content()).filter(|(a, b)| **a != *b).count(), 5);
    assert!(start.elapsed() >= ms(500), "{:?}", start.elapsed());
    assert!(body.frame().await.is_none(), "over is over");
    assert!(body.is_end_stream());
    assert!(bad.stats().rules.iter().all(|rule| rule.active == 0), "before the body is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_gives_its_place_back() {
    let slow = armed(Rule::new(Fault::slow_body(ms(100))).max_active(1));
    let service = layer(&slow).layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(streamed()))
    }));
    let response = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(slow.stats().rules[0].active, 1);
    let spared = service.oneshot(Request::new(())).await.unwrap();
    assert!(spared.extensions().get::<Injected>().is_none());
    let mut body = response.into_body();
    assert!(futures_util::poll!(body.frame()).is_pending());
    drop(body);
    assert_eq!(slow.stats().rules[0].active, 0);
}

/// A service error breaks an HTTP/1 connection and resets an HTTP/2 stream, as a lost connection does.
#[tokio::test]
async fn a_loss_breaks_the_connection_where_nobody_makes_it_a_response() {
    for proto in BOTH {
        let lossy = armed(Rule::new(Fault::loss()).matching(Matcher::path("/whole")));
        let service = lossy.layer().http().layer(service_fn(serve));
        let (mut client, _tasks) = connected(proto, service, true).await;
        let (bytes, _, end) = read(client.get("/streamed").await.unwrap().into_body()).await;
        assert!(end.is_ok() && bytes == content());
        client.get("/whole").await.expect_err("lost");
        let again = client.get("/streamed").await;
        assert_eq!(again.is_ok(), proto == Proto::Http2);
    }
}

/// On the client's side, around a connection.
#[tokio::test]
async fn a_client_sees_faults_in_what_it_reads() {
    let (client, _tasks) = connected(
        Proto::Http1,
        layer(&Conditioner::builder("off").rule(Rule::new(Fault::loss())).build().unwrap())
            .layer(service_fn(serve)),
        true,
    )
    .await;
    let client = std::sync::Arc::new(tokio::sync::Mutex::new(client));
    let broken = always(Fault::truncate_body(2_500));
    let service = broken.layer().http().layer(service_fn(move |request: Request<()>| {
        let client = std::sync::Arc::clone(&client);
        async move { client.lock().await.get(request.uri().path()).await }
    }));
    let response = service.oneshot(Request::get("/streamed").body(()).unwrap()).await.unwrap();
    let body: FaultyBody<Incoming> = response.into_body();
    let frames: Vec<_> = body.into_data_stream().collect().await;
    let (error, data) = frames.split_last().unwrap();
    assert_eq!(data.iter().map(|data| data.as_ref().unwrap().len()).sum::<usize>(), 2_500);
    let error = error.as_ref().unwrap_err();
    assert_eq!(Injected::find(&**error).unwrap().fault(), FaultKind::TruncatedBody);
}
