//! A server that does what the path says.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// In a runtime of its own: when that goes, all of its sockets do.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
pub(crate) struct Seen {
    requests: AtomicU32,
    open: AtomicU32,
}

impl Seen {
    /// So many requests have come.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }

    /// So many are being worked on, or their bodies sent.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::SeqCst)
    }
}

struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn start_at(addr: SocketAddr) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let seen = Arc::<Seen>::default();
        // Bound without waiting, for whoever calls is in a runtime already.
        let listener = std::net::TcpListener::bind(addr).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, Arc::clone(&seen)));
        Self { addr, seen, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// It and all of its connections are gone.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn serve(listener: std::net::TcpListener, seen: Arc<Seen>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let seen = Arc::clone(&seen);
        let service = service_fn(move |request: Request<Incoming>| answer(seen.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // An error is the end of the connection, which is what the client is to see.
            let _ended = connection.await;
        });
    }
}

fn whole(text: &'static str) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// An error cuts the connection before a word was said.
async fn answer(seen: Arc<Seen>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let nth = seen.requests.fetch_add(1, Ordering::SeqCst);
    let open = Open::new(&seen);
    let mut words = request.uri().path().split('/').skip(1);
    let (what, n) = (words.next().unwrap(), words.next().map_or(0, |n| n.parse().unwrap()));
    let mut response = Response::new(whole("hello"));
    match what {
        "hello" => {}
        // The first n of all.
        "busy" if nth < n => {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert("retry-after", "1".parse().unwrap());
        }
        "broken" if nth < n => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        "dies" if nth < n => return Err(io::Error::other("dies")),
        "busy" | "broken" | "dies" => {}
        "slow" => tokio::time::sleep(Duration::from_millis(n.into())).await,
        "hangs" => std::future::pending().await,
        "echo" => {
            let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
            response = Response::new(Full::new(body).map_err(|no| match no {}).boxed_unsync());
        }
        // n words, one every 50 ms.
        "drips" => response = Response::new(drips(n, None, open)),
        // n words, then the connection is cut.
        "torn" => {
            let end = Err(io::Error::other("torn"));
            response = Response::new(drips(n, Some(end), open));
        }
        other => panic!("{other}"),
    }
    Ok(response)
}

fn drips(n: u32, end: Option<io::Result<Frame<Bytes>>>, open: Open) -> Body {
    let words = stream::iter(0..n).then(move |_| {
        let _open = &open;
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(Frame::data(Bytes::from_static(b"word ")))
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(words.chain(stream::iter(end))))
}
