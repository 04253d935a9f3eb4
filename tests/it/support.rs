//! What several rooms' tests need: a real server and several real connections to it.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// `router` behind a real `axum::serve` on a free loopback port, for as long as this lives.
pub(crate) struct Server {
    addr: SocketAddr,
    /// The server and our ends of the connections; dropping it stops them.
    tasks: JoinSet<()>,
}

impl Server {
    /// Handlers and layers see the peer's address as `ConnectInfo<SocketAddr>`.
    pub(crate) async fn start(router: Router) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self { addr, tasks }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A connection of its own, kept alive.
    pub(crate) async fn connect(&mut self) -> Connection {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        self.speak(stream).await
    }

    /// A connection from `127.0.0.n`. Linux answers for the whole of 127/8; elsewhere those addresses
    /// would have to be set up first.
    #[cfg(all(target_os = "linux", feature = "http"))]
    pub(crate) async fn connect_from(&mut self, n: u8) -> Connection {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, n], 0).into()).unwrap();
        let stream = socket.connect(self.addr).await.unwrap();
        self.speak(stream).await
    }

    async fn speak(&mut self, stream: TcpStream) -> Connection {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async move {
            // Ends with an error when the server goes first; the test has its answers by then.
            let _ended = connection.await;
        });
        Connection { sender }
    }
}

/// One HTTP/1.1 connection.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
}

impl Connection {
    pub(crate) async fn get(&mut self, path: &str) -> Response<String> {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        self.send(request).await
    }

    /// Waits for the head of the answer and leaves the body unread.
    pub(crate) async fn head(&mut self, path: &str) -> Response<hyper::body::Incoming> {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<String> {
        self.sender.ready().await.unwrap();
        let (parts, body) = self.sender.send_request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Response::from_parts(parts, String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The property `state_shared_across_axum_connections`: `layered` gets a router with the routes `/a`
/// and `/b`, both answering `handler`, and puts the layer under test around it. Then one request per
/// expected status is sent, each on a new connection, to `/a` and `/b` in turn. A layer that starts
/// afresh on each connection, or on each route, cannot give the statuses that one shared state gives.
/// A limiter with a burst of 3 expects `[200, 200, 200, 429, 429]` with a handler that answers 200.
pub(crate) async fn state_shared_across_axum_connections(
    layered: impl FnOnce(Router) -> Router,
    handler: StatusCode,
    expected: &[u16],
) -> Result<(), String> {
    assert!(expected.len() >= 3, "one connection shows nothing");
    let answer = axum::routing::get(move || async move { handler });
    let router = Router::new().route("/a", answer.clone()).route("/b", answer);
    let mut server = Server::start(layered(router)).await;
    let mut connections = Vec::new();
    let mut seen = Vec::new();
    for path in ["/a", "/b"].into_iter().cycle().take(expected.len()) {
        let mut connection = server.connect().await;
        seen.push(connection.get(path).await.status().as_u16());
        connections.push(connection);
    }
    if seen == expected {
        return Ok(());
    }
    Err(format!("state_shared_across_axum_connections: expected {expected:?}, saw {seen:?}"))
}

/// A future that is ready at its first poll and counts all of them: a second would be one too many.
pub(crate) fn counting_polls<T, F: Fn() -> T>(
    polls: &std::sync::Arc<std::sync::atomic::AtomicU32>,
    value: F,
) -> impl Future<Output = T> + use<T, F> {
    let polls = polls.clone();
    std::future::poll_fn(move |_| {
        polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::task::Poll::Ready(value())
    })
}

/// Polls a future that panics, twice; the second time it is over.
pub(crate) fn poll_twice_into_a_panic<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..2 {
        let poll = std::panic::AssertUnwindSafe(|| future.as_mut().poll(&mut cx).is_ready());
        assert!(std::panic::catch_unwind(poll).is_err());
    }
}
