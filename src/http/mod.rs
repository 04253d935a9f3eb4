//! HTTP and gRPC vocabulary: who may be asked again, what a refusal looks like on the wire, and who
//! is calling.
//!
//! Without it every layer would guess. A retry that repeats a POST which timed out charges a card
//! twice. A breaker that counts a 404 as a failure opens on a healthy service. A limiter keyed by an
//! address the client writes itself limits nobody. A refusal that becomes an error of the service
//! resets a gRPC stream instead of sending a status.
//!
//! | to | use |
//! |---|---|
//! | judge calls, in any layer that takes a [`Classify`](crate::Classify) | [`standard`] |
//! | judge a gRPC call by its trailers | [`until_end_of_body`] |
//! | answer refusals, in any layer that takes a [`Reject`](crate::Reject) | [`problem`], [`status_only`] |
//! | send a request body again | [`replay_up_to`], [`ReplayBody`] |
//! | tell callers apart | [`peer_ip`], [`forwarded_for`], [`forwarded`], [`header`](fn@header), [`path`] |
//! | read `Retry-After` | [`retry_after`](fn@retry_after) |
//! | hear by when callers need their answers, and tell it to callees | [`ContextLayer`], [`SendContextLayer`] |
//! | know a caller's retry | [`CallerAttempt`] |
//!
//! # Default
//!
//! ```
//! use buttress::http::{problem, standard};
//! use buttress::{Classify, LayerKind, Outcome, Reject, Rejection, RejectionKind};
//! use http::{Request, Response};
//! use std::convert::Infallible;
//!
//! // How a layer uses the two.
//! fn serve<C, R>(classify: C, on_reject: R)
//! where
//!     C: Classify<Request<()>, Response<axum::body::Body>, Infallible>,
//!     R: Reject<Request<()>, Response<axum::body::Body>, Infallible, Error = Infallible>,
//! {
//!     let request = Request::get("/orders").body(()).unwrap();
//!     let ticket = classify.start(&request);
//!     let full = Rejection::new(RejectionKind::Overloaded, LayerKind::Custom("bulkhead"), "orders");
//!     let Ok(answer) = on_reject.reject(request, full);
//!     assert_eq!(answer.status(), 503);
//!     // Not a failure of the callee: it was never asked.
//!     assert_eq!(classify.finish(ticket, Ok(&answer)).outcome, Outcome::Ignored);
//! }
//! serve(standard(), problem());
//! ```
//!
//! # Customised
//!
//! ```
//! use buttress::http::{forwarded_for, problem, standard, Standard};
//! use buttress::Typed;
//! use std::time::Duration;
//!
//! // A client error of ours that is known to come before anything is sent.
//! let classify: Standard<Typed> = standard()
//!     .not_sent(|error| error.downcast_ref::<hyper::Error>().is_some_and(|e| e.is_canceled()));
//! // Nothing about the inside for strangers, and a spread of their return.
//! let on_reject = problem().detail(false).retry_jitter(Duration::from_secs(5));
//! // Behind two proxies of ours.
//! let key = forwarded_for(2);
//! # let _ = (classify, on_reject, key);
//! ```
//!
//! # Semantics
//!
//! Everything here is a value without shared state, except [`ReplayBody`]: nothing waits, nothing
//! takes part in readiness, and the layer of [`replay_up_to`] only wraps the request's body. Clones
//! are equal. A cancelled call needs no cleaning up.
//!
//! # Order
//!
//! [`replay_up_to`] goes just outside the retry layer. Responders belong to the layers they are
//! given to, so there is no order to get wrong.
//!
//! # Comparison
//!
//! tower-http's `classify` knows success and failure; [`standard`] also says what may be repeated and
//! when, and remembers the request's method for that. axum's `HandleErrorLayer` turns errors into
//! responses outside a layer; with [`problem`] the layer answers itself and its error type stays
//! `Infallible`. `http_body_util::Limited` fails a body that is too long; [`ReplayBody`] lets it
//! through and only stops keeping it.

mod attempt;
mod buffered;
mod classify;
mod context;
mod context_future;
mod context_layer;
mod context_send;
mod forwarded;
mod grpc;
mod headers;
mod keys;
mod problem;
mod replay;
mod retry_after;
mod sheet;
mod texts;
mod trailers;

#[cfg(test)]
mod tests;

pub(crate) use buffered::Fill;
pub(crate) use grpc::{answer_content_type as grpc_content_type, trailers_only};
pub(crate) use headers::{rate_limit_fields, refusal_fields};

pub use attempt::{ATTEMPT, CallerAttempt};
pub use buffered::Buffered;
pub use classify::{Standard, Ticket, standard};
pub use context::{Extensions, extensions};
pub use context_future::ContextFuture;
pub use context_layer::{CRITICALITY, ContextLayer, ContextService, TIMEOUT_MS};
pub use context_send::{SendContextLayer, SendContextService};
pub use forwarded::{ForwardedFor, forwarded, forwarded_for};
pub use keys::{HeaderText, PeerAddr, PeerIp, UriPath, header, path, peer_ip};
pub use problem::{Problem, StatusOnly, problem, status_only};
pub use replay::{ReplayBody, ReplayBodyLayer, ReplayBodyService, ReplayError, replay_up_to};
pub use retry_after::{MAX_RETRY_AFTER, retry_after};
pub use trailers::{JudgedBody, until_end_of_body};
