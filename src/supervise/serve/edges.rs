//! What is rare, and has to come out right even so.

use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::service_fn;

use crate::supervise::{Lifecycle, Phase};

use super::fakes::{Hidden, ROOM, buffered, hiding, late};
use super::tests::{Memory, Rig, app, ask, closed_after, secs};
use super::{Looked, ServeReport, Server};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// In pieces, whose end is seen only when asked for.
pub(super) fn streamed(
    head: impl FnOnce(response::Builder) -> response::Builder,
    trailers: bool,
) -> Answer {
    let mut frames = vec![Ok(Frame::data(Bytes::from("/length")))];
    if trailers {
        frames.push(Ok(Frame::trailers(HeaderMap::new())));
    }
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    head(Response::builder()).body(body).unwrap()
}

/// Large: of a length that is known, of one that is not, and with trailers.
pub(super) fn big(path: &str) -> Answer {
    let piece = Bytes::from("x".repeat(50_000));
    let mut frames = vec![Ok(Frame::data(piece.clone())), Ok(Frame::data(piece))];
    match path {
        "/big" => return Response::new(Full::from("x".repeat(100_000)).boxed()),
        "/big/trailers" => frames.push(Ok(Frame::trailers(HeaderMap::new()))),
        _ => {}
    }
    Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed())
}

fn detached(task: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    tasks.detach_all();
}

/// Keeps a tunnel for ever.
pub(super) fn keep(request: Request<Incoming>) {
    detached(async move {
        let _tunnel = hyper::upgrade::on(request).await.unwrap();
        std::future::pending().await
    });
}

/// An upgrade that never reads.
pub(super) fn push(request: Request<Incoming>) -> Answer {
    detached(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        while stream.write_all(b"news").await.is_ok() {
            tokio::time::sleep(secs(1)).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "x")
        .body(Empty::new().boxed())
        .unwrap()
}

async fn connect2(rig: &Rig) -> http2::SendRequest<Empty<Bytes>> {
    connect2_as(rig, &http2::Builder::new(TokioExecutor::new())).await
}

async fn connect2_as(
    rig: &Rig,
    builder: &http2::Builder<TokioExecutor>,
) -> http2::SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(rig.connect().await);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    detached(async move {
        let _ = connection.await;
    });
    sender
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_not_called_broken() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(rig.connect().await);
    }
    let mut sender = connect2(&rig).await;
    rig.life.advance(Phase::Draining, None);
    for (stream, what) in streams.iter_mut().zip(["GET /length", "GET /trailers", "HEAD /a"]) {
        let request = format!("{what} HTTP/1.1\r\nhost: x\r\nte: trailers\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let request = Request::get("http://x/trailers").body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().trailers().is_some());
    drop(sender);
    let report = rig.report().await;
    assert_eq!((report.requests_drained, report.requests_broken), (4, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn from_an_idle_http2_connection_nothing_is_taken() {
    let mut rig = Rig::new(Server::builder("t").grace(secs(100)).drain_timeout(secs(5)));
    let _sender = connect2(&rig).await;
    tokio::time::sleep(secs(1)).await;
    rig.life.advance(Phase::Draining, None);
    let report = rig.report().await;
    assert_eq!((report.connections_aborted, report.connections_closed), (0, 1), "{report}");
}

/// A client whose window is smaller than an answer, and that is slow in taking it: in one piece, in pieces, and with
/// trailers, of which nobody can tell that they come.
const WINDOW: u32 = 1_000;

async fn slow_answer(rig: &Rig, path: &str) -> (http2::SendRequest<Empty<Bytes>>, Incoming) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).adaptive_window(false);
    let mut sender = connect2_as(rig, &builder).await;
    let request = Request::get(format!("http://x{path}")).body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    (sender, answer.into_body())
}

const SLOW: [&str; 3] = ["/big", "/big/pieces", "/big/trailers"];

#[tokio::test(start_paused = true)]
async fn an_http2_answer_is_in_flight_until_the_client_has_taken_it() {
    for path in SLOW {
        let mut rig = Rig::new(Server::builder("t").grace(secs(1)).drain_timeout(secs(100)));
        let (sender, body) = slow_answer(&rig, path).await;
        rig.life.advance(Phase::Draining, None);
        // Longer than any grace, without a byte.
        tokio::time::sleep(secs(30)).await;
        let taken = body.collect().await;
        assert_eq!(taken.map(|body| body.to_bytes().len()).ok(), Some(100_000), "{path}");
        drop(sender);
        let report = rig.report().await;
        assert!(report.is_clean(), "{path}: {report}");
        assert_eq!((report.requests_drained, report.requests_broken), (1, 0), "{path}: {report}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_answer_may_take_longer_than_a_connection_may_be_idle() {
    for path in SLOW {
        let rig = Rig::new(Server::builder("t").keep_alive(secs(5)));
        let (mut sender, body) = slow_answer(&rig, path).await;
        tokio::time::sleep(secs(30)).await;
        let taken = body.collect().await;
        assert_eq!(taken.map(|body| body.to_bytes().len()).ok(), Some(100_000), "{path}");
        // And it may be idle as long as any after that, and no longer.
        tokio::time::sleep(secs(4)).await;
        assert!(sender.ready().await.is_ok(), "{path}");
        tokio::time::sleep(secs(4)).await;
        assert!(sender.ready().await.is_err(), "{path}: kept");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_answer_that_is_not_taken_by_the_deadline_is_cut_and_said_to_be() {
    for path in SLOW {
        let mut rig = Rig::new(Server::builder("t").grace(secs(1)).drain_timeout(secs(20)));
        let (_sender, _body) = slow_answer(&rig, path).await;
        rig.life.advance(Phase::Draining, None);
        let report = rig.report().await;
        assert!(report.took > secs(19) && !report.is_clean(), "{path}: {report}");
        assert_eq!((report.connections_closed, report.connections_aborted), (0, 1), "{path}");
        if path == "/big" {
            assert_eq!((report.requests_drained, report.requests_aborted), (0, 1), "{report}");
        }
    }
}

/// What was answered before the drain began did not say that it is the last, so the client may send another one.
#[tokio::test(start_paused = true)]
async fn the_grace_begins_when_the_client_has_its_answer() {
    for path in ["/big", "/big/pieces"] {
        let rig = Rig::new(Server::builder("t").grace(secs(1)).drain_timeout(secs(100)));
        let mut stream = rig.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(secs(1)).await;
        rig.life.advance(Phase::Draining, None);
        tokio::time::sleep(secs(3)).await;
        let mut taken = Vec::new();
        let in_pieces = path == "/big/pieces";
        while taken.iter().filter(|byte| **byte == b'x').count() < 100_000
            || in_pieces && !taken.ends_with(b"0\r\n\r\n")
        {
            assert_ne!(stream.read_buf(&mut taken).await.unwrap(), 0, "{path}: it is closed");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(ask(&mut stream, "/a").await.contains("connection: close"), "{path}");
    }
}

/// What comes while an answer is written is of the next request.
#[tokio::test(start_paused = true)]
async fn half_a_head_behind_an_answer_has_the_time_of_a_head() {
    let rig = Rig::new(Server::builder("t").header_timeout(secs(5)).keep_alive(secs(40)));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(secs(1)).await;
    stream.write_all(b"GET / HT").await.unwrap();
    tokio::time::sleep(secs(1)).await;
    let took = closed_after(&mut stream).await;
    assert!(took < secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_grace_begins_after_the_handshake() {
    let (connect, incoming) = mpsc::channel(1);
    let life = Lifecycle::new();
    let server = Server::builder("t").grace(secs(1)).build().unwrap();
    let served = server.serve(Memory(incoming), service_fn(app), &life);
    let served = served.handshake(async |stream: Looked<DuplexStream>| {
        tokio::time::sleep(secs(3)).await;
        Ok(stream)
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { served.await });
    let (mut stream, theirs) = duplex(256);
    connect.send(theirs).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    life.advance(Phase::Draining, None);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(ask(&mut stream, "/a").await.starts_with("http/1.1 200"));
}

/// One that reads nothing from its socket has the write timeout, and no more, also while it is asked to end.
#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_while_its_connection_ends_has_the_write_timeout() {
    let mut rig = Rig::new(Server::builder("t").write_timeout(secs(10)).drain_timeout(secs(100)));
    let hidden = Hidden::default();
    let io = TokioIo::new(hiding(rig.connect().await, &hidden));
    let handshake = http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.unwrap();
    detached(async move {
        let _ = connection.await;
    });
    let request = Request::get("http://x/big").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    rig.life.advance(Phase::Draining, None);
    hidden.hide(Hidden::ALL);
    detached(async move {
        let _ = answer.into_body().collect().await;
    });
    let report = rig.report().await;
    assert!(report.took >= secs(9) && report.took < secs(12), "{report}");
    assert_eq!((report.requests_drained, report.requests_broken), (0, 1), "{report}");
}

/// A client that goes on sending keeps its connection no longer than one that says nothing.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_stops_sending_is_not_waited_for_longer_than_the_grace() {
    let (connect, incoming) = mpsc::channel(1);
    let (gone, mut goes) = mpsc::channel(1);
    let server = Server::builder("t").grace(secs(1)).build().unwrap();
    let served = server.serve(Memory(incoming), service_fn(app), &Lifecycle::new());
    let served = served.handshake(move |stream: Looked<DuplexStream>| {
        let (_, writes) = tokio::io::split(buffered(stream, ROOM, gone.clone()));
        let request = &b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"[..];
        let reads = request.chain(tokio::io::repeat(b'x'));
        async move { Ok(Looked::blind(tokio::io::join(reads, writes))) }
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { served.await });
    let (_stream, theirs) = duplex(1024);
    connect.send(theirs).await.unwrap();
    // Nobody sleeps: the clock goes by what is told to it.
    for _ in 0..20 {
        assert!(goes.try_recv().is_err(), "before its grace is over");
        tokio::time::advance(Duration::from_millis(49)).await;
    }
    for _ in 0..4 {
        tokio::time::advance(Duration::from_millis(49)).await;
        tokio::task::yield_now().await;
    }
    assert!(goes.try_recv().is_ok(), "it is kept");
}

/// A server through a stream with a buffer, its client's end, and when the server has let go of it.
async fn buffering(room: usize) -> (JoinSet<ServeReport>, DuplexStream, mpsc::Receiver<()>) {
    let (connect, incoming) = mpsc::channel(1);
    let (gone, goes) = mpsc::channel(1);
    let server = Server::builder("t").write_timeout(secs(10)).build().unwrap();
    let served = server.serve(Memory(incoming), service_fn(app), &Lifecycle::new());
    let served = served.handshake(move |stream: Looked<DuplexStream>| {
        let stream = buffered(stream, room, gone.clone());
        async move { Ok(stream) }
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { served.await });
    let (stream, theirs) = duplex(256);
    connect.send(theirs).await.unwrap();
    (tasks, stream, goes)
}

/// How long the server keeps it from now on.
async fn kept(goes: &mut mpsc::Receiver<()>) -> Duration {
    let begin = tokio::time::Instant::now();
    assert!(timeout(secs(100), goes.recv()).await.is_ok(), "it is kept");
    begin.elapsed()
}

/// What such a stream holds, a part of an answer or all of it, is not what its peer has taken: it would keep the connection
/// for ever. Nor is the room that it has made before, and tells of when it is asked again: that would be worth the
/// write timeout a second time.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_out_of_a_buffer_has_the_write_timeout() {
    for room in [ROOM, 16 * ROOM] {
        let (_server, stream, mut goes) = buffering(room).await;
        let hidden = Hidden::default();
        let handshake =
            http2::handshake(TokioExecutor::new(), TokioIo::new(hiding(stream, &hidden)));
        let (mut sender, connection) = handshake.await.unwrap();
        let mut client = JoinSet::new();
        client.spawn(async move { drop(connection.await) });
        let request = || Request::get("http://x/big").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request()).await.unwrap();
        let taken = answer.into_body().collect().await.unwrap();
        assert_eq!(taken.to_bytes().len(), 100_000);
        let answer = sender.send_request(request()).await.unwrap();
        hidden.hide(Hidden::ALL);
        client.spawn(async move { drop(answer.into_body().collect().await) });
        let took = kept(&mut goes).await;
        assert!(took >= secs(10) && took < secs(11), "{room}: {took:?}");
    }
}

/// From when it took it, not from when somebody looked.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_something_out_of_a_buffer_has_the_write_timeout_again_and_no_more() {
    let (_server, mut stream, mut goes) = buffering(ROOM).await;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    for _ in 0..2 {
        tokio::time::sleep(secs(6)).await;
        assert_ne!(stream.read(&mut [0; 100]).await.unwrap(), 0);
    }
    let took = kept(&mut goes).await;
    assert!(took >= secs(10) && took < secs(11), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_over_http2_is_cut_and_counted() {
    let mut rig = Rig::new(Server::builder("t").drain_timeout(secs(5)));
    let mut sender = connect2(&rig).await;
    let request = Request::builder().method(Method::CONNECT).uri("x:1").body(Empty::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    let _tunnel = hyper::upgrade::on(answer).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    rig.life.advance(Phase::Draining, None);
    let report = rig.report().await;
    assert!(report.took > secs(4), "{report}");
    assert_eq!((report.connections_aborted, report.upgrades_aborted), (1, 1), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_that_only_writes_is_cut_too() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    let request = b"GET /push HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"news") {
        stream.read_buf(&mut answer).await.unwrap();
    }
    rig.server.shutdown().await;
    assert!(timeout(secs(10), closed_after(&mut stream)).await.is_ok(), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn limits_may_be_as_long_as_they_come() {
    let most = Duration::MAX;
    let builder = Server::builder("t").header_timeout(most).keep_alive(most).write_timeout(most);
    let mut rig = Rig::new(builder.grace(most).drain_timeout(most));
    let mut stream = rig.connect().await;
    ask(&mut stream, "/a").await;
    let mut sender = connect2(&rig).await;
    let request = || Request::get("http://x/a").body(Empty::new()).unwrap();
    assert!(sender.send_request(request()).await.is_ok());
    rig.life.advance(Phase::Draining, None);
    tokio::time::sleep(secs(1)).await;
    assert!(ask(&mut stream, "/b").await.contains("connection: close"));
    drop((stream, sender));
    assert!(rig.report().await.is_clean());
}

/// A request whose head comes in two pieces, the first of which is found by the look before the close. Kept, and
/// on a connection that has said nothing yet, which may begin as HTTP/2 does.
#[tokio::test(start_paused = true)]
async fn half_a_head_found_at_the_last_moment_keeps_the_connection() {
    for (hides, kept, first) in (0..6).flat_map(|n| [(n, true, 9), (n, false, 9), (n, false, 1)]) {
        let (connect, incoming) = mpsc::channel(1);
        let life = Lifecycle::new();
        let hidden = Hidden::default();
        let its = hidden.clone();
        let served = Server::new("t").serve(Memory(incoming), service_fn(app), &life);
        let served = served.handshake(move |stream: Looked<DuplexStream>| {
            let stream = late(stream, &its);
            async move { Ok(stream) }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { served.await });
        let (mut stream, theirs) = duplex(256);
        connect.send(theirs).await.unwrap();
        if kept {
            ask(&mut stream, "/a").await;
        }
        tokio::time::sleep(secs(10)).await;
        let (one, two) = b"PUT /b HTTP/1.1\r\nhost: x\r\n\r\n".split_at(first);
        hidden.hide(hides);
        stream.write_all(one).await.unwrap();
        life.advance(Phase::Draining, None);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let what = format!("{hides} hidden reads, kept: {kept}, {first} bytes");
        assert!(stream.write_all(two).await.is_ok(), "{what}");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("/b"), "{what}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_pipelined_behind_the_last_answer_is_not_served_and_the_client_can_tell() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    rig.life.advance(Phase::LameDuck, None);
    let two = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(two).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("connection: close") && answer.ends_with("/a"), "{answer}");
    rig.life.advance(Phase::Draining, None);
    assert!(rig.report().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_side_is_gone() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(secs(1)).await;
    rig.life.advance(Phase::Draining, None);
    stream.shutdown().await.unwrap();
    assert_eq!(closed_after(&mut stream).await, Duration::ZERO);
    let report = rig.report().await;
    assert_eq!((report.requests_broken, report.connections_closed), (1, 1), "{report}");
}

/// Fails, at first, for a reason that is one connection's.
struct Flaky(Memory, u32);

impl super::Listener for Flaky {
    type Stream = Looked<DuplexStream>;
    type Peer = &'static str;

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::Stream, Self::Peer)>> {
        if self.1 > 0 {
            self.1 -= 1;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.0.poll_accept(cx)
    }
}

#[tokio::test]
async fn one_that_gave_up_in_the_queue_does_not_cost_the_others() {
    let (connect, incoming) = mpsc::channel(4);
    for _ in 0..3 {
        connect.send(duplex(64).1).await.unwrap();
    }
    assert_eq!(super::Listener::close(Flaky(Memory(incoming), 2), 10).len(), 3);
}
