//! A server that is told to end while clients send loses requests at the edges: on connections that are
//! closed in the moment a request arrives, on connections that have just been made, and on those that
//! only the kernel has accepted yet. [`serve`] runs any tower service of HTTP requests so that none of
//! these is lost; [`DrainLayer`] brings part of it to servers with an accept loop of their own.
//!
//! # Default
//!
//! ```
//! use axum::{Router, routing::get};
//! use buttress::supervise::{Lifecycle, Phase};
//! use buttress::supervise::serve::serve;
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(async || "hello"));
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let life = Lifecycle::new();
//! life.advance(Phase::Ready, None);
//! # let stop = life.clone();
//! # tokio::task::yield_now().await;
//! # stop.advance(Phase::Draining, None);
//! // Whoever handles signals moves `life` on; this returns when the drain is over.
//! let report = serve(listener, app, &life).await;
//! println!("{report}");
//! # assert!(report.is_clean());
//! # Ok(()) }
//! ```
//!
//! # Customised
//!
//! ```
//! use axum::extract::ConnectInfo;
//! use buttress::supervise::Lifecycle;
//! use buttress::supervise::serve::Server;
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use tokio::net::TcpListener;
//!
//! # async fn f(app: axum::Router, listener: TcpListener, life: Lifecycle) -> Result<(), buttress::ConfigError> {
//! let server = Server::builder("api")
//!     .header_timeout(Duration::from_secs(5))
//!     .keep_alive(Duration::from_secs(120))
//!     .grace(Duration::from_millis(500))
//!     .max_connections(20_000)
//!     .build()?;
//! let report = server
//!     .serve(listener, app, &life)
//!     .peer(|peer: &SocketAddr| ConnectInfo(*peer))
//!     .await;
//! # let _ = report; Ok(()) }
//! ```
//!
//! # How it drains
//!
//! It follows the phases of the [`Lifecycle`](crate::supervise::Lifecycle), which it does not move:
//!
//! - **Ready** (and before): serves.
//! - **Lame duck**: readiness fails, so the outside is about to look elsewhere. It accepts and serves as
//!   before, but every answer over HTTP/1 says `Connection: close`, and HTTP/2 clients get GOAWAY (a new
//!   one after its first request). So clients that keep their connections whatever readiness says leave
//!   them, too.
//! - **Draining**: it takes what is in the kernel's queue of connections, stops listening, and then
//!   waits. A request is in flight until the end of its answer has been written to the socket, an upgraded
//!   connection until its stream is dropped. A connection that has just been made, or has just been answered, has a
//!   [grace](ServerBuilder::grace) to send a request, which is served. Before an idle one is closed, its
//!   unread bytes are looked at ([`Connected`]): if there are any, that is a request.
//! - **The deadline** of that phase: what is left is cut and counted in the [`ServeReport`], a tenth of
//!   the time (at most 200 ms) before, so that all is over when the phase is. Half a request, or a client
//!   that reads nothing, cannot hold the exit longer. The next phase does the same, if it comes earlier.
//!
//! What stays is the time between the look and the close, and between the last look at the queue and the
//! end of listening: microseconds. HTTP/1 has no way to close an idle connection that a client cannot
//! hit (RFC 9112, 9.3). With a lame duck that is longer than what clients and load balancers need to
//! notice, nobody sends at that time.
//!
//! Event streams, WebSockets and gRPC streams find a [`DrainSignal`] in their request's extensions and
//! should end themselves when it fires. Other requests do not have it (an extension allocates) unless
//! [asked for](ServerBuilder::signal_everywhere); handlers can have one from their state.
//!
//! # Semantics
//!
//! - **Protocols**: HTTP/1 and HTTP/2, told apart by the first bytes, upgrades included. TLS is a
//!   [handshake](Serve::handshake) of your own. Listeners: TCP, Unix sockets, any [`Listener`].
//! - **Limits** are always set: for the head of a request, between two requests, for a client that takes
//!   nothing from its socket. None for the service or for the body of a request: that is a layer's business.
//!   None, but for the deadline of the drain, for an HTTP/2 client that opens no window for an answer.
//! - **Readiness**: a clone of the service per request, waited for until ready, as in axum.
//! - **Cancellation**: dropping the server's future cuts every connection. A client that goes away drops
//!   the future of its request; one that closes its sending side is taken to be gone, as in axum.
//! - **Pipelining**: what a client has sent behind a request whose answer says `Connection: close` is not
//!   served, which the client can tell from that answer and repeat (RFC 9112, 9.6).
//! - **Errors** of `accept` that are not about one connection (no descriptors left) are waited out. If there
//!   are none left when the drain begins, what is in the kernel's queue is lost.
//! - **Blocked threads**: a handler that blocks its thread cannot be cut. The server returns at the
//!   deadline even so; the runtime must not be waited for then
//!   ([`shutdown_timeout`](tokio::runtime::Runtime::shutdown_timeout)).
//! - **Cost**: no allocation per request, one read of the clock when one ends; over HTTP/2, a reference is counted
//!   per piece of a body that does not say which one is its last.
//! - Needs tokio's runtime with time and I/O. Each connection is a task.
//!
//! # With an accept loop of your own
//!
//! [`DrainLayer`] counts requests to the end of their body, announces the end and refuses if told to.
//! It does not see connections: the accept queue, idle connections, deadlines and GOAWAY stay as the
//! accept loop has them, and axum's loses requests there. The last bytes of a body leave the server after
//! it has ended, so the accept loop's own drain has to be waited for as well. An upgraded connection holds
//! nothing: take a [hold](DrainSignal::hold).
//!
//! # Comparison
//!
//! `axum::serve` with a graceful shutdown stops listening at once and closes idle connections unseen; it
//! has no limits and no deadline. hyper-util's `GracefulShutdown` is the part that asks connections to
//! end. axum-server has a deadline. The test `supervise_serve` of this crate compares what is lost.
//!
//! # Events
//!
//! [`Supervised`](crate::observe::EventKind::Supervised): `drained`, `drain_cut` with the report,
//! `accept_failed`.

mod body;
mod core;
mod drive;
mod layer;
mod listener;
mod report;
mod run;
mod sent;
mod server;
mod service;
mod shared;
mod signal;
mod stream;

pub use body::DrainBody;
pub use layer::{DrainFuture, DrainLayer, DrainService};
pub use listener::{Connected, Handshake, Listener, Looked, NoHandshake, Unread};
pub use report::ServeReport;
pub use server::{Serve, Server, ServerBuilder, serve};
pub use signal::DrainSignal;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod tests;
