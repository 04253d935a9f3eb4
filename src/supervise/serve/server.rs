use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, Request, Response};
use hyper::body::{Body, Incoming};
use tower_service::Service;

use crate::error::{BoxError, ConfigError};
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::supervise::Lifecycle;

use super::core::Limits;
use super::listener::{Handshake, Listener, NoHandshake};
use super::report::ServeReport;
use super::run::run;

/// How a server treats its connections.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) name: Name,
    pub(super) limits: Limits,
    pub(super) drain: Duration,
    pub(super) max_connections: usize,
    pub(super) signal_everywhere: bool,
    pub(super) observers: Observers,
    pub(super) sabotage: Sabotage,
}

/// Parts of the drain left out, so that tests can show that they are needed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sabotage {
    pub(super) no_peek: bool,
    pub(super) no_queue_drain: bool,
    pub(super) no_deadline: bool,
}

/// Serves `app` on `listener` until `life` says to stop, then drains: see [`Serve`].
///
/// As [`Server::serve`] of a server named `http` with default limits.
///
/// ```
/// use axum::{Router, routing::get};
/// use buttress::supervise::{Lifecycle, Phase};
/// use buttress::supervise::serve::serve;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let life = Lifecycle::new();
/// # life.advance(Phase::Draining, None);
/// let report = serve(listener, Router::new().route("/", get(async || "hello")), &life).await;
/// assert!(report.is_clean());
/// # Ok(()) }
/// ```
pub fn serve<L: Listener, S>(listener: L, app: S, life: &Lifecycle) -> Serve<L, S> {
    Server::new("http").serve(listener, app, life)
}

/// The limits and the name of a server. Cheap to clone.
///
/// ```
/// use buttress::supervise::serve::Server;
/// use std::time::Duration;
/// let server = Server::builder("api").header_timeout(Duration::from_secs(5)).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Server(pub(super) Config);

impl Server {
    /// With default limits.
    ///
    /// ```
    /// let server = buttress::supervise::serve::Server::new("api");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self(Config::new(name.into()))
    }

    /// To be customised.
    ///
    /// ```
    /// assert!(buttress::supervise::serve::Server::builder("api").build().is_ok());
    /// ```
    pub fn builder(name: impl Into<Name>) -> ServerBuilder {
        ServerBuilder(Config::new(name.into()))
    }

    /// Serves `app` on `listener` until `life` says to stop, then drains.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::Server;
    /// # async fn f(app: axum::Router, listener: tokio::net::TcpListener, life: Lifecycle) {
    /// let report = Server::new("api").serve(listener, app, &life).await;
    /// # let _ = report; }
    /// ```
    pub fn serve<L: Listener, S>(&self, listener: L, app: S, life: &Lifecycle) -> Serve<L, S> {
        let config = self.0.clone();
        Serve { listener, app, life: life.clone(), config, peer: None, handshake: NoHandshake }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.0.name).finish()
    }
}

impl Config {
    fn new(name: Name) -> Self {
        Self {
            name,
            limits: Limits {
                header: Duration::from_secs(30),
                idle: Duration::from_secs(75),
                write: Duration::from_secs(60),
                grace: Duration::from_secs(1),
            },
            drain: Duration::from_secs(20),
            max_connections: usize::MAX,
            signal_everywhere: false,
            observers: Observers::default(),
            sabotage: Sabotage::default(),
        }
    }
}

/// Sets the limits of a [`Server`].
///
/// ```
/// use buttress::supervise::serve::{Server, ServerBuilder};
/// let builder: ServerBuilder = Server::builder("api");
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct ServerBuilder(Config);

impl ServerBuilder {
    /// How long a client may take for the head of a request, the first one included. Default: 30 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = buttress::supervise::serve::Server::builder("api").header_timeout(Duration::from_secs(5));
    /// ```
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.0.limits.header = timeout;
        self
    }

    /// How long a connection may be idle between two requests. Longer than that of the load balancer in
    /// front, so that it is the one who closes. Default: 75 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = buttress::supervise::serve::Server::builder("api").keep_alive(Duration::from_secs(120));
    /// ```
    pub fn keep_alive(mut self, timeout: Duration) -> Self {
        self.0.limits.idle = timeout;
        self
    }

    /// How long a client may take nothing of what is written to its socket, also of what a stream with a buffer of its own
    /// (TLS) holds, into which more may be written meanwhile. One that takes frames of HTTP/2 but
    /// opens no window for an answer is not seen by this. Default: 60 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = buttress::supervise::serve::Server::builder("api").write_timeout(Duration::from_secs(20));
    /// ```
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.0.limits.write = timeout;
        self
    }

    /// While draining: how long a connection that has just been made, or just been answered, is given to
    /// send a request before it is closed. Should be longer than clients think between two requests.
    /// Default: 1 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = buttress::supervise::serve::Server::builder("api").grace(Duration::from_millis(500));
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.0.limits.grace = grace;
        self
    }

    /// How long the drain may take if the [`Lifecycle`] names no deadline. Default: 20 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = buttress::supervise::serve::Server::builder("api").drain_timeout(Duration::from_secs(10));
    /// ```
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.0.drain = timeout;
        self
    }

    /// With this many connections no more are accepted: they wait in the kernel's queue. Those in the
    /// queue when the drain begins are served even so. Default: no limit.
    ///
    /// ```
    /// let builder = buttress::supervise::serve::Server::builder("api").max_connections(10_000);
    /// ```
    pub fn max_connections(mut self, most: usize) -> Self {
        self.0.max_connections = most;
        self
    }

    /// Puts the [`DrainSignal`](super::DrainSignal) into the extensions of every request, not only of those
    /// that ask for an upgrade, a tunnel, an event stream or gRPC. Three allocations per request.
    ///
    /// ```
    /// let builder = buttress::supervise::serve::Server::builder("api").signal_everywhere();
    /// ```
    pub fn signal_everywhere(mut self) -> Self {
        self.0.signal_everywhere = true;
        self
    }

    /// Adds an observer, which is told how drains ended and when accepting fails.
    ///
    /// ```
    /// use buttress::observe::Event;
    /// let builder = buttress::supervise::serve::Server::builder("api")
    ///     .observe(|event: &Event<'_>| eprintln!("{event:?}"));
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.0.observers.add(observer);
        self
    }

    /// Leaves out a part of the drain, to show in a test that it is needed: `peek`, `queue`, `deadline`.
    ///
    /// # Panics
    /// If there is no such part.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn sabotage(mut self, part: &str) -> Self {
        match part {
            "peek" => self.0.sabotage.no_peek = true,
            "queue" => self.0.sabotage.no_queue_drain = true,
            "deadline" => self.0.sabotage.no_deadline = true,
            _ => panic!("the drain has no part `{part}`"),
        }
        self
    }

    /// The server.
    ///
    /// # Errors
    /// If a limit is zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// let error = buttress::supervise::serve::Server::builder("api").keep_alive(Duration::ZERO).build();
    /// assert!(error.is_err());
    /// ```
    pub fn build(self) -> Result<Server, ConfigError> {
        let config = self.0;
        let limits = config.limits;
        let times = [
            ("header_timeout", limits.header),
            ("keep_alive", limits.idle),
            ("write_timeout", limits.write),
            ("grace", limits.grace),
            ("drain_timeout", config.drain),
        ];
        for (field, time) in times {
            if time.is_zero() {
                return Err(ConfigError::new(field, format!("{time:?}"), "a duration above zero"));
            }
        }
        if config.max_connections == 0 {
            return Err(ConfigError::new("max_connections", 0, "at least 1"));
        }
        Ok(Server(config))
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerBuilder").field(&self.0.name).finish()
    }
}

type Introduce<P> = Arc<dyn Fn(&P) -> Extensions + Send + Sync>;

/// A server about to run: await it.
///
/// It gives its [`ServeReport`] when `life` was in [`Draining`](crate::supervise::Phase::Draining) and
/// everything has ended or been cut. Dropping it cuts everything at once.
///
/// ```
/// # use buttress::supervise::Lifecycle;
/// # async fn f(app: axum::Router, listener: tokio::net::TcpListener, life: Lifecycle) {
/// let served = buttress::supervise::serve::serve(listener, app, &life);
/// let report = served.await;
/// # let _ = report; }
/// ```
#[must_use = "a server does nothing unless it is awaited"]
pub struct Serve<L: Listener, S, H = NoHandshake> {
    pub(super) listener: L,
    pub(super) app: S,
    pub(super) life: Lifecycle,
    pub(super) config: Config,
    pub(super) peer: Option<Introduce<L::Peer>>,
    pub(super) handshake: H,
}

impl<L: Listener, S, H> Serve<L, S, H> {
    /// Puts what `introduce` makes of the peer's address into the extensions of every request: three
    /// allocations per request.
    ///
    /// ```
    /// use axum::extract::ConnectInfo;
    /// use buttress::http::PeerAddr;
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::serve;
    /// use std::net::SocketAddr;
    /// # async fn f(listener: tokio::net::TcpListener) {
    /// let app: axum::Router = axum::Router::new();
    /// let life = Lifecycle::new();
    /// // For `ConnectInfo` in handlers of axum's:
    /// let server = serve(listener, app, &life).peer(|peer: &SocketAddr| ConnectInfo(*peer));
    /// # let _ = server; }
    /// # async fn g(listener: tokio::net::TcpListener, app: axum::Router, life: Lifecycle) {
    /// // For a rate limit by address:
    /// let server = serve(listener, app, &life).peer(|peer: &SocketAddr| PeerAddr(*peer));
    /// # let _ = server; }
    /// ```
    pub fn peer<E>(mut self, introduce: impl Fn(&L::Peer) -> E + Send + Sync + 'static) -> Self
    where
        E: Clone + Send + Sync + 'static,
    {
        let before = self.peer.take();
        self.peer = Some(Arc::new(move |peer| {
            let mut extensions = before.as_ref().map(|before| before(peer)).unwrap_or_default();
            extensions.insert(introduce(peer));
            extensions
        }));
        self
    }

    /// Does this with each connection first: TLS. It runs in the connection's task, and may take as long as
    /// the head of a request.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::{Connected, Looked, serve};
    /// use tokio::net::{TcpListener, TcpStream};
    /// # struct TlsStream(TcpStream);
    /// # impl tokio::io::AsyncRead for TlsStream {
    /// #     fn poll_read(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>,
    /// #         buf: &mut tokio::io::ReadBuf<'_>) -> std::task::Poll<std::io::Result<()>> {
    /// #         std::pin::Pin::new(&mut self.0).poll_read(cx, buf) } }
    /// # impl tokio::io::AsyncWrite for TlsStream {
    /// #     fn poll_write(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>,
    /// #         buf: &[u8]) -> std::task::Poll<std::io::Result<usize>> {
    /// #         std::pin::Pin::new(&mut self.0).poll_write(cx, buf) }
    /// #     fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>)
    /// #         -> std::task::Poll<std::io::Result<()>> { std::pin::Pin::new(&mut self.0).poll_flush(cx) }
    /// #     fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>)
    /// #         -> std::task::Poll<std::io::Result<()>> { std::pin::Pin::new(&mut self.0).poll_shutdown(cx) }
    /// # }
    /// # #[derive(Clone)] struct TlsAcceptor;
    /// # impl TlsAcceptor { async fn accept(&self, tcp: TcpStream) -> std::io::Result<TlsStream> { Ok(TlsStream(tcp)) } }
    /// # async fn f(listener: TcpListener, app: axum::Router, life: Lifecycle, acceptor: TlsAcceptor) {
    /// let server = serve(listener, app, &life).handshake(move |tcp: TcpStream| {
    ///     let acceptor = acceptor.clone();
    ///     async move {
    ///         let tls = acceptor.accept(tcp).await?;
    ///         Ok(Looked::new(tls, |tls: &TlsStream| tls.0.unread()))
    ///     }
    /// });
    /// # server.await; }
    /// ```
    pub fn handshake<H2: Handshake<L::Stream>>(self, handshake: H2) -> Serve<L, S, H2> {
        Serve {
            listener: self.listener,
            app: self.app,
            life: self.life,
            config: self.config,
            peer: self.peer,
            handshake,
        }
    }
}

impl<L, S, H, B> IntoFuture for Serve<L, S, H>
where
    L: Listener,
    H: Handshake<L::Stream>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = ServeReport;
    type IntoFuture = Pin<Box<dyn Future<Output = ServeReport> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

impl<L: Listener, S, H> fmt::Debug for Serve<L, S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("name", &self.config.name).finish_non_exhaustive()
    }
}
