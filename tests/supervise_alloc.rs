//! What tracking a request costs in memory: nothing beyond what hyper takes. A binary of its own, because
//! counting replaces the allocator. Server and client share a thread, which is what is counted.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use allocation_counter::measure;
use buttress::supervise::serve::{DrainLayer, Listener, Looked, Server};
use buttress::supervise::{Lifecycle, Phase};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};

async fn hello<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

/// One connection.
struct Once(Option<DuplexStream>);

impl Listener for Once {
    type Stream = Looked<DuplexStream>;
    type Peer = ();

    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, ())>> {
        match self.0.take() {
            Some(stream) => Poll::Ready(Ok((Looked::blind(stream), ()))),
            None => Poll::Pending,
        }
    }
}

enum Kind {
    /// What axum's `serve` is: hyper-util's builder.
    Plain,
    Ours,
    /// With an extension in each request, which cannot be free.
    Told,
}

fn start(kind: &Kind, tasks: &mut JoinSet<()>) -> DuplexStream {
    let (ours, theirs) = duplex(64 * 1024);
    match kind {
        Kind::Plain => tasks.spawn_local(async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(service_fn(hello::<Incoming>));
            let io = TokioIo::new(theirs);
            pin!(builder.serve_connection_with_upgrades(io, service)).await.unwrap();
        }),
        Kind::Ours | Kind::Told => tasks.spawn_local({
            let builder = Server::builder("count");
            let told = matches!(kind, Kind::Told);
            let builder = if told { builder.signal_everywhere() } else { builder };
            async move {
                let life = Lifecycle::new();
                life.advance(Phase::Ready, None);
                let server = builder.build().unwrap();
                server.serve(Once(Some(theirs)), service_fn(hello::<Incoming>), &life).await;
            }
        }),
    };
    ours
}

/// Allocations while `count` requests are answered, connecting included.
fn http1(kind: &Kind, count: usize) -> u64 {
    run(async {
        let mut tasks = JoinSet::new();
        let mut stream = start(kind, &mut tasks);
        let mut answer = [0; 1024];
        for _ in 0..count {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut read = 0;
            while !answer[..read].ends_with(b"hello") {
                read += stream.read(&mut answer[read..]).await.unwrap();
            }
        }
    })
}

fn http2(kind: &Kind, count: usize) -> u64 {
    run(async {
        let mut tasks = JoinSet::new();
        let io = TokioIo::new(start(kind, &mut tasks));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tasks.spawn_local(async move { connection.await.unwrap() });
        for _ in 0..count {
            let request = Request::get("http://x/").body(http_body_util::Empty::<Bytes>::new());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        }
    })
}

fn run(client: impl Future<Output = ()>) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    measure(|| runtime.block_on(local.run_until(client))).count_total
}

#[track_caller]
fn costs_the_same(protocol: &str, allocations: impl Fn(&Kind, usize) -> u64) {
    let each = |kind| {
        allocations(&kind, 100);
        let (few, many) = (allocations(&kind, 200), allocations(&kind, 2_200));
        (many - few) as f64 / 2_000.0
    };
    let (plain, ours, told) = (each(Kind::Plain), each(Kind::Ours), each(Kind::Told));
    println!(
        "{protocol}: {plain} allocations a request with hyper alone, {ours} with ours, {told} told"
    );
    // The control: it counts what is there to count.
    assert!(told >= plain + 2.9, "{protocol}: {told}");
    // Queues that grow now and then: less than one in a hundred requests.
    assert!(ours < plain + 0.01, "{protocol}: {ours} instead of {plain}");
}

#[test]
fn a_request_over_http1() {
    costs_the_same("HTTP/1", http1);
}

#[test]
fn a_request_over_http2() {
    costs_the_same("HTTP/2", http2);
}

#[test]
fn a_request_through_the_layer() {
    let life = Lifecycle::new();
    let service = DrainLayer::new("count", &life).layer(service_fn(hello::<()>));
    let once = || {
        let call = service.clone().oneshot(Request::new(()));
        let body = futures_util::FutureExt::now_or_never(call).unwrap().unwrap().into_body();
        let mut body = pin!(body);
        let frame = poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx));
        assert!(futures_util::FutureExt::now_or_never(frame).unwrap().is_some());
    };
    (0..50).for_each(|_| once());
    assert_eq!(measure(|| (0..100).for_each(|_| once())).count_total, 0);
}
