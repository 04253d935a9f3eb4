//! Keeps an expired cache entry from becoming a thousand calls at once: makes one call of several that ask for the same
//! at the same time, and gives all of them its answer.
//!
//! When an entry of a cache expires that a thousand requests a second read, all of them go to the database at
//! once, which becomes slow, so still more pile up. Nine hundred and ninety-nine of those calls are superfluous.
//!
//! # Default
//!
//! ```
//! use buttress::coalesce::Coalesce;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let users = Coalesce::new("users");
//! let service = ServiceBuilder::new()
//!     .layer(users.layer(|id: &u32| Some(*id)))
//!     .service(service_fn(|id: u32| async move {
//!         tokio::task::yield_now().await;
//!         Ok::<_, std::io::Error>(format!("user {id}"))
//!     }));
//! let (one, two) = tokio::join!(service.clone().oneshot(7), service.oneshot(7));
//! assert_eq!(one.unwrap(), two.unwrap());
//! assert_eq!((users.stats().led, users.stats().followed), (1, 1));
//! # });
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use axum::{Router, body::Body, routing::get};
//! use buttress::coalesce::{BufferResponse, Coalesce, Reads};
//! use buttress::http::{extensions, problem};
//! use http::header::USER_AGENT;
//!
//! // Answers up to 1 MiB are shared, browsers make no difference, and refusals are responses.
//! let pages = Coalesce::builder("pages").max_followers(200).build()?;
//! let layer = pages
//!     .http(Reads::new().ignoring(USER_AGENT))
//!     .share(BufferResponse::up_to(1 << 20).with_errors_cloned())
//!     .context(extensions())
//!     .on_reject(problem());
//! let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
//! # let _ = app;
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! **Which.** A [`Key`](crate::Key) says what a request reads; requests without one pass. The first of a key makes
//! the call, whoever comes while it is under way waits for its answer. Whoever comes after its end makes another:
//! nothing is kept, no answer and no failure. Two requests of one key must be entitled to the same answer: what
//! tells callers apart (tenant, user, language) belongs into the key.
//!
//! **HTTP** (`Coalesce::http`). Only `GET` and `HEAD` without a body. The key is the method, the URI and all
//! headers, `Authorization` and `Cookie` among them, except those that only trace a request or say by when it
//! needs an answer; so no `Vary` can be missed, and `Reads::ignoring` takes out what makes
//! no difference. What a server knows of a client beside the headers (its address, a certificate) is not in the key.
//! The response is read to its end, up to a cap, 64 KiB unless told otherwise. One that is longer, that is a stream
//! of events or another protocol (101), or that says by `Set-Cookie`, `Cache-Control: private` or `no-store`, or
//! `Vary: *` that it is for one client, goes to who made the call, and the others make their own. All who share a
//! response get its headers as they are, a request id that the server echoes among them: that of the one who made the
//! call, unless `BufferResponse::edit_headers` takes it out.
//!
//! **Deadlines.** Who waits is refused when its own deadline passes; the call goes on for the others. The layers
//! inside know the deadline of the request that the call was made with, and may end it then, so only those join it to
//! whom it leaves at least half of their own time. For another one a new call is made, which later ones join.
//!
//! **Bounds.** When as many calls are under way as may be, further ones are made each for itself
//! ([`max_keys`](CoalesceBuilder::max_keys)). When as many wait for one as may, further ones are refused
//! ([`max_followers`](CoalesceBuilder::max_followers)).
//!
//! # Semantics
//!
//! **Readiness.** Always ready: waiting for the call of another one needs no room. A call waits for the readiness of
//! the inner service in the future.
//!
//! **Errors.** All who wait get the failure, too: made again by each, the call would multiply when the callee is
//! least fit for it. An error becomes a [`BoxError`](crate::BoxError) with a [`SharedError`] in it, whose source is
//! the original; errors that are `Clone` [stay as they are](CloneResponse::with_errors_cloned) where told so.
//!
//! **Cancellation.** The call belongs to all who wait, and is handed over: it is polled by whoever is woken first,
//! not by a task of its own. If the one who made it goes, it goes on for the others; when the last one has gone, it
//! is dropped, since it only reads. (The [idempotency](crate::idempotency) layer, whose calls have effects, goes on
//! without any caller, in a task.) A caller that is not polled any more holds nobody up, since a call wakes all who
//! wait.
//!
//! **Panics.** A panic of the call goes to the one who polls it; the others are refused
//! ([`CallPanicked`](crate::RejectionKind::CallPanicked)). The next call of that key begins anew.
//!
//! **Sharing.** All services of all layers of one [`Coalesce`] share calls, and so does [`run`](Coalesce::run). Threads
//! have [`run_blocking`](Coalesce::run_blocking) and share theirs with one another: a thread that waits cannot go on
//! with a call that others leave, which may need their runtime. Stats and bounds are for all.
//!
//! **Nesting.** A call that waits for its own key waits for itself, polled or on a thread, and so do two that wait for
//! each other's.
//!
//! **Cost.** A call with a key: two short locks of a shard of the table, two of the call for each poll, three
//! allocations (four for an HTTP key); the clock is read only for requests with a deadline. The key is hashed once;
//! its equality runs under the lock of a shard. A call without a key: a reference count.
//!
//! # Order
//!
//! Inside of whatever tells callers apart and bounds them (rate limits, authentication); outside of the retry, the
//! breaker and all that protects the callee, which then see one call. Outside of a cache that would fill from
//! it.
//!
//! # Comparison
//!
//! tower has none. tower-resilience's leader polls alone: who follows hangs for as long as the leader is not polled,
//! and a follower wakes itself all the time. It needs a response that is `Clone`, so not that of a server. Go's
//! `singleflight` cannot be cancelled and keeps no bound.
//!
//! # Events
//!
//! [`Rejected`](crate::observe::EventKind::Rejected) for each refusal, and
//! [`TableFull`](crate::observe::EventKind::TableFull) for a call without room for its key. Calls that were spared
//! are counted.

mod config;
mod core;
mod future;
mod handle;
#[cfg(feature = "http")]
mod http;
mod layer;
mod managed;
#[cfg(all(test, not(buttress_loom)))]
mod model_tests;
mod service;
mod share;
mod table;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use config::CoalesceBuilder;
pub use future::ResponseFuture;
pub use handle::{Coalesce, CoalesceStats};
#[cfg(feature = "http")]
pub use http::{BufferResponse, HttpCoalesceLayer, ReadKey, Reads, SharedResponse};
pub use layer::CoalesceLayer;
pub use service::CoalesceService;
pub use share::{CloneResponse, ErrorsCloned, ErrorsShared, Share, ShareError, SharedError};
