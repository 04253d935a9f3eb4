//! Keeps a failure of a moment from reaching whoever called: tries again what failed for a moment, and only that.
//!
//! A connection is reset, a replica restarts, a peer says "not now": the same call works a moment later,
//! and nobody needs to hear of it. But retries multiply. Three attempts at each of five tiers are 243
//! calls to the last; a client that retries everything triples the load on a backend that is already
//! down, and can keep it down after the cause has gone. It may also repeat what must not be repeated,
//! wait longer than anyone waits for it, or come back together with everybody else. So a retry here asks
//! five questions first: is it safe, can it help, is there time, may this run, may this backend take it.
//!
//! # Default
//!
//! Three attempts, 50 ms doubling with full jitter, and a [`RetryBudget`](crate::RetryBudget) that the
//! layer owns:
//!
//! ```
//! use buttress::retry::{RetryLayer, RetryPolicy};
//! use std::io;
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//! let mut service = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryPolicy::default()))
//!     .service(service_fn(|name: &'static str| async move {
//!         match CALLS.fetch_add(1, Ordering::Relaxed) {
//!             0 => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
//!             _ => Ok(format!("hello {name}")),
//!         }
//!     }));
//! assert_eq!(service.ready().await.unwrap().call("you").await.unwrap(), "hello you");
//! # });
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::http::{replay_up_to, standard};
//! use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
//! use buttress::{Backoff, FailureClass, RetryBudget};
//! use bytes::Bytes;
//! use http::{HeaderName, Request, Response};
//! use http_body_util::Full;
//! use std::time::Duration;
//! use tower::{ServiceBuilder, service_fn};
//!
//! // One budget for everything that calls this backend.
//! let budget = RetryBudget::builder("payments").ratio(0.1).build()?;
//! let policy = RetryPolicy::builder()
//!     .max_attempts(4)
//!     .class_budget(FailureClass::Flaky, 1)
//!     .backoff(Backoff::exponential(Duration::from_millis(25), Duration::from_secs(1)))
//!     .deadline(Duration::from_secs(3))
//!     .attempt_timeout(Duration::from_secs(1))
//!     .build()?;
//! let client = ServiceBuilder::new()
//!     .layer(replay_up_to(64 * 1024))
//!     .layer(
//!         RetryLayer::new(policy)
//!             .name("payments")
//!             .budget(budget)
//!             .classify(standard())
//!             .replay(HttpRequest::new().attempt_header(HeaderName::from_static("x-attempt"))),
//!     )
//!     .service(service_fn(|_| async { Ok::<_, std::io::Error>(Response::new(())) }));
//! # fn check<S: tower::Service<Request<Full<Bytes>>>>(_: S) {}
//! # check(client);
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! Without tower: [`RetryPolicy::run`] and [`Retry`], async and blocking.
//!
//! # Semantics
//!
//! **What is retried.** What the classifier calls a failure or throttled, be it an `Err` or an `Ok`, if
//! its [`RetryHint`](crate::RetryHint) allows: `Safe` always, `Unknown` only if the policy was told to,
//! `Never` never (but see [`class_budget`](RetryPolicyBuilder::class_budget) for permanent failures).
//! Refusals of our own layers are final, whatever the classifier says, unless they
//! [say otherwise](crate::Rejection::is_retryable). (They are known in every error that
//! [`AnyError`](crate::AnyError) looks into; for other error types use
//! [`error_chain`](crate::error_chain), for responses `http::standard`.) A request that cannot be sent again
//! ([`Replay`]) is not.
//!
//! **Time.** A retry is not started if the pause, or the pause and an
//! [expected attempt](RetryPolicyBuilder::expected_attempt_time), would not end before the deadline: the last
//! result is returned at once. The deadline is the earlier of the policy's and the one the request
//! carries, and is never extended; around a backend of [`presets::client`](crate::presets::client) the end of the total
//! timeout of whoever polls the call is one, too. HTTP requests take it along to the layers inside
//! ([`Replay::set_deadline`]). A wish of the callee beyond
//! [`max_retry_after`](RetryPolicyBuilder::max_retry_after) ends the run, too. An attempt in flight at the
//! deadline is cut off, and the call answered with a `DeadlineExceeded` refusal. Attempt timeouts count
//! from the first time an attempt has to wait.
//!
//! **Order of a retry.** Limits are checked and the budget is asked; the response is dropped; the pause;
//! readiness of the same instance that made the last attempt, for at most as long as the attempt timeout
//! and the deadline allow (set one of them); the call. The budget's token is held from before the pause, so
//! that waiting retries count.
//!
//! **Readiness.** Ready when the inner service is. The ready instance goes with the call.
//!
//! **Cancellation.** Dropping the future drops everything; a retry not sent yet is given back to the budget,
//! one on its way is paid. A panic of the inner service or the classifier passes through and leaves the
//! budget whole; one in an observer is caught.
//!
//! **Refused retries.** A retry that a layer of ours further in refuses, so that the callee never sees it, is
//! given back to the budget like one not sent. (Known by its error, as above; a refusal that came as a
//! response is paid.)
//!
//! **Sharing.** Services of one layer share its budget, clones too. Counters live in each call.
//!
//! **Change.** [`RetryLayer::from_slot`] and [`Retry::from_slot`] take the policy from a [`Slot`](crate::Slot): another
//! holds for the calls that begin after it was installed. A call that has begun keeps its own, between attempts too.
//!
//! **Cost.** A first attempt that works allocates nothing, makes no timer and reads no clock; it copies the
//! request, if a retry is possible at all. With a deadline it reads the clock; if it has to wait and there is
//! a deadline or an attempt timeout it makes a timer, which is two boxes; a request with exceptions of its own
//! costs a box. A pause of zero makes no timer. With a slot, one relaxed load more.
//!
//! # Order
//!
//! Outside of breaker, rate limit and attempt timeout, so that each attempt is seen by them; inside of a total
//! timeout, if not this layer keeps it. Retry at one place of the whole path only.
//!
//! # Comparison
//!
//! tower's `Retry` leaves policy, budget sharing and backoff to you, keeps the failed response while it waits,
//! and its `TpsBudget` takes a lock and reads the clock for each call; `TowerPolicy` brings our policies to
//! it. tower-resilience's retry has no budget, no jitter and no `Retry-After` by default, and boxes each call.
//!
//! # Events
//!
//! [`Retried`](crate::observe::EventKind::Retried) for each retry;
//! [`RetryAbandoned`](crate::observe::EventKind::RetryAbandoned) for each failure that is not retried (any
//! more), with the reason: `not_retryable`, `unsafe`, `attempts`, `class_budget`, `retry_after`, `deadline`,
//! `budget`, `not_replayable`, `not_ready` (in time, or at all).

mod builder;
mod classify;
mod config;
mod core;
mod future;
mod handle;
mod keep;
mod layer;
mod managed;
mod named;
mod overrides;
mod plan;
mod progress;
#[cfg(feature = "config")]
mod record;
mod service;
mod spares;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
#[cfg(feature = "tower")]
mod tower;
#[cfg(feature = "serde")]
mod wire;

#[cfg(feature = "http")]
pub use crate::replay::HttpRequest;
pub use crate::replay::{
    Attempt, CloneRequest, Replay, RetryOverride, WithDeadlines, WithOverrides,
};
pub use builder::RetryPolicyBuilder;
pub use classify::{classify_error, classify_error_name, is_retryable_error};
pub use config::{ExecutionGuarantee, RetryPolicy};
pub use future::ResponseFuture;
pub use handle::Retry;
pub(crate) use keep::SparingLayer;
pub use layer::RetryLayer;
pub use named::{ResolvePolicy, resolve_retry_policy};
#[cfg(feature = "config")]
pub(crate) use record::Record;
pub use service::RetryService;
#[cfg(feature = "tower")]
pub use tower::{Pause, TowerPolicy};
