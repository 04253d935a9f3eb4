use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::service_fn;

use crate::supervise::{Lifecycle, Phase};

use super::{Listener, Looked, ServeReport, Server, ServerBuilder};

pub(super) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Connections made in memory.
pub(super) struct Memory(pub(super) mpsc::Receiver<DuplexStream>);

impl Listener for Memory {
    type Stream = Looked<DuplexStream>;
    type Peer = &'static str;

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::Stream, Self::Peer)>> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(Ok((Looked::blind(stream), "memory"))),
            _ => Poll::Pending,
        }
    }
}

pub(super) struct Rig {
    pub(super) life: Lifecycle,
    connect: mpsc::Sender<DuplexStream>,
    pub(super) server: JoinSet<ServeReport>,
}

impl Rig {
    pub(super) fn new(builder: ServerBuilder) -> Self {
        let (connect, incoming) = mpsc::channel(64);
        let life = Lifecycle::new();
        life.advance(Phase::Ready, None);
        let server = builder.build().unwrap();
        let served = server.serve(Memory(incoming), service_fn(app), &life);
        let served = served.peer(|peer: &&str| (*peer).to_owned());
        let mut server = JoinSet::new();
        server.spawn(async move { served.await });
        Self { life, connect, server }
    }

    pub(super) async fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(256);
        self.connect.send(theirs).await.unwrap();
        ours
    }

    pub(super) async fn report(&mut self) -> ServeReport {
        self.server.join_next().await.unwrap().unwrap()
    }
}

/// A body that never ends, without a piece.
fn endless() -> BoxBody<Bytes, Infallible> {
    http_body_util::StreamBody::new(futures_util::stream::pending()).boxed()
}

pub(super) async fn app(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let full = |text: String| Full::from(text).boxed();
    if *request.method() == http::Method::CONNECT {
        super::edges::keep(request);
        return Ok(Response::new(full(String::new())));
    }
    Ok(match request.uri().path() {
        "/peer" => Response::new(full(request.extensions().get::<String>().unwrap().clone())),
        "/long" => {
            tokio::time::sleep(secs(600)).await;
            Response::new(full("long".into()))
        }
        path if path.starts_with("/big") => super::edges::big(path),
        "/length" => super::edges::streamed(|answer| answer.header("content-length", 7), false),
        "/trailers" => super::edges::streamed(|answer| answer, true),
        "/push" => super::edges::push(request),
        "/endless" => Response::new(endless()),
        "/panic" => panic!("on purpose"),
        "/own" => {
            Response::builder().header("connection", "keep-alive").body(full("own".into())).unwrap()
        }
        "/upgrade" => Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "x")
            .body(full(String::new()))
            .unwrap(),
        path => Response::new(full(path.to_owned())),
    })
}

pub(super) async fn ask(stream: &mut DuplexStream, path: &str) -> String {
    ask_as(stream, path, "HTTP/1.1").await
}

/// One short answer.
pub(super) async fn ask_as(stream: &mut DuplexStream, path: &str, version: &str) -> String {
    let request = format!("GET {path} {version}\r\nhost: x\r\nconnection: keep-alive\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if read == 0 || text.ends_with(&format!("\r\n\r\n{}", path.to_lowercase())) {
            return text;
        }
    }
}

/// How long until the server closes.
pub(super) async fn closed_after(stream: &mut DuplexStream) -> Duration {
    let begin = Instant::now();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    begin.elapsed()
}

fn about(took: Duration, expected: Duration) -> bool {
    took >= expected && took < expected + secs(1)
}

#[tokio::test(start_paused = true)]
async fn connections_that_do_nothing_are_closed_in_time() {
    let builder = Server::builder("t").header_timeout(secs(5)).keep_alive(secs(40));
    let rig = Rig::new(builder);
    let mut silent = rig.connect().await;
    assert!(about(closed_after(&mut silent).await, secs(5)));

    let mut half = rig.connect().await;
    half.write_all(b"GET / HT").await.unwrap();
    assert!(about(closed_after(&mut half).await, secs(5)));

    // A byte now and then does not help: the limit is the whole head's.
    let mut drip = rig.connect().await;
    let begin = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".chunks(1) {
        if drip.write_all(byte).await.is_err() {
            break;
        }
        tokio::time::sleep(secs(1)).await;
    }
    assert!(begin.elapsed() < secs(8), "{:?}", begin.elapsed());

    let mut kept = rig.connect().await;
    for _ in 0..4 {
        ask(&mut kept, "/a").await;
        tokio::time::sleep(secs(30)).await;
    }
    ask(&mut kept, "/a").await;
    assert!(about(closed_after(&mut kept).await, secs(40)));

    // Half a head on a connection that was kept.
    let mut kept = rig.connect().await;
    ask(&mut kept, "/a").await;
    tokio::time::sleep(secs(20)).await;
    kept.write_all(b"GET / HT").await.unwrap();
    assert!(about(closed_after(&mut kept).await, secs(5)));
}

#[tokio::test(start_paused = true)]
async fn slow_services_and_quiet_streams_have_no_limit() {
    let rig = Rig::new(Server::builder("t").header_timeout(secs(5)).keep_alive(secs(5)));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let begin = Instant::now();
    assert!(timeout(secs(3_000), closed_after(&mut stream)).await.is_err());
    assert!(begin.elapsed() >= secs(3_000));
    let mut long = rig.connect().await;
    long.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let read = long.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_one_that_takes_a_little_is_not() {
    let rig = Rig::new(Server::builder("t").write_timeout(secs(10)));
    let request = b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut slow = rig.connect().await;
    slow.write_all(request).await.unwrap();
    let mut read = 0;
    while read < 100_000 {
        tokio::time::sleep(secs(8)).await;
        read += slow.read(&mut [0; 4096]).await.unwrap();
    }
    let mut stuck = rig.connect().await;
    stuck.write_all(request).await.unwrap();
    tokio::time::sleep(secs(11)).await;
    let mut rest = Vec::new();
    stuck.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 256, "{}", rest.len());
}

#[tokio::test(start_paused = true)]
async fn the_end_is_announced_from_the_lame_duck_on() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut first = rig.connect().await;
    assert!(!ask(&mut first, "/a").await.contains("connection: close"));
    rig.life.advance(Phase::LameDuck, None);
    // The one that was open and a new one.
    assert!(ask(&mut first, "/a").await.contains("connection: close"));
    assert_eq!(closed_after(&mut first).await, Duration::ZERO);
    let mut second = rig.connect().await;
    let answer = ask(&mut second, "/own").await;
    assert_eq!(answer.matches("connection:").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    // To HTTP/1.0, where keeping is what has to be said.
    let mut old = rig.connect().await;
    let answer = ask_as(&mut old, "/a", "HTTP/1.0").await;
    assert!(!answer.contains("keep-alive"), "{answer}");
    drop(old);
    // Even if the service says so itself.
    let mut old = rig.connect().await;
    let answer = ask_as(&mut old, "/own", "HTTP/1.0").await;
    assert!(!answer.contains("keep-alive"), "{answer}");
    assert_eq!(closed_after(&mut old).await, Duration::ZERO);
    let mut upgraded = rig.connect().await;
    let request = "GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    upgraded.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    upgraded.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101") && !answer.contains("close"), "{answer}");

    // A client that was told has closed, too; one that does not is waited for a moment.
    drop((first, second, old, upgraded));
    tokio::time::sleep(Duration::from_millis(1)).await;
    rig.life.advance(Phase::Draining, None);
    let report = rig.report().await;
    assert_eq!((report.accepted, report.connections), (5, 0));
    assert!(rig.life.held_by().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_of_the_lifecycle_the_servers_own_holds() {
    let mut rig = Rig::new(Server::builder("t").drain_timeout(secs(7)));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(secs(1)).await;
    let begin = Instant::now();
    rig.life.advance(Phase::Draining, None);
    let report = rig.report().await;
    assert!(begin.elapsed() > secs(6) && begin.elapsed() <= secs(7), "{:?}", begin.elapsed());
    assert_eq!((report.requests_aborted, report.connections_aborted), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_next_phase_ends_the_drain_at_once() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(secs(1)).await;
    let begin = Instant::now();
    rig.life.advance(Phase::Cleanup, None);
    assert_eq!(rig.report().await.requests_aborted, 1);
    assert!(begin.elapsed() < secs(1));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_the_limit_waits_and_is_served_in_the_drain_even_so() {
    let mut rig = Rig::new(Server::builder("t").max_connections(1));
    let mut one = rig.connect().await;
    ask(&mut one, "/a").await;
    let mut two = rig.connect().await;
    assert!(timeout(secs(10), ask(&mut two, "/b")).await.is_err());
    drop(one);
    let mut answer = [0; 12];
    two.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut three = rig.connect().await;
    rig.life.advance(Phase::Draining, None);
    assert!(ask(&mut three, "/c").await.contains("connection: close"));
    drop(two);
    let report = rig.report().await;
    assert_eq!((report.queued, report.connections_aborted), (1, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_takes_its_connection_only() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    assert_eq!(ask(&mut stream, "/panic").await, "");
    let mut next = rig.connect().await;
    assert!(ask(&mut next, "/a").await.starts_with("http/1.1 200"));
    drop(next);
    rig.life.advance(Phase::Draining, None);
    let report = rig.report().await;
    assert!(report.is_clean() && report.took < secs(2), "{report}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_server_cuts_everything() {
    let mut rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(secs(1)).await;
    rig.server.shutdown().await;
    assert_eq!(closed_after(&mut stream).await, Duration::ZERO);
    assert!(rig.life.held_by().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_in_the_extensions() {
    let rig = Rig::new(Server::builder("t"));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..read].ends_with(b"memory"));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_is_under_the_limit_and_its_failure_is_the_end_of_one_connection() {
    let (connect, incoming) = mpsc::channel(64);
    let life = Lifecycle::new();
    let server = Server::builder("t").header_timeout(secs(5)).build().unwrap();
    // The first byte decides; none, and it waits.
    let shake = |mut stream: Looked<DuplexStream>| async move {
        let first = stream.read_u8().await?;
        if first == b'!' { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    let served = server.serve(Memory(incoming), service_fn(app), &life);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { served.handshake(shake).await });
    let open = async |first: &[u8]| {
        let (mut ours, theirs) = duplex(256);
        connect.send(theirs).await.unwrap();
        ours.write_all(first).await.unwrap();
        ours
    };
    assert!(about(closed_after(&mut open(b"").await).await, secs(5)));
    assert_eq!(closed_after(&mut open(b"?").await).await, Duration::ZERO);
    assert!(ask(&mut open(b"!").await, "/a").await.starts_with("http/1.1 200"));
    life.advance(Phase::Draining, None);
    let report = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(report.accepted, 3);
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_served_too() {
    let path = std::env::temp_dir().join(format!("buttress-serve-{}", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let life = Lifecycle::new();
    let served = super::serve(listener, service_fn(app), &life);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { served.await });
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("/a"), "{answer}");
    // From the queue: nobody has accepted it yet.
    let mut queued = tokio::net::UnixStream::connect(&path).await.unwrap();
    life.advance(Phase::Draining, None);
    queued.write_all(request).await.unwrap();
    answer.clear();
    queued.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("/a"), "{answer}");
    assert!(tasks.join_next().await.unwrap().unwrap().is_clean());
    std::fs::remove_file(&path).unwrap();
}
