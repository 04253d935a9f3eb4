//! Keeps one caller from taking what all others pay for: a limit on how often something happens, for servers and for
//! clients.
//!
//! Without one a single caller in a loop takes the capacity that all others pay for, and a client of a
//! limited service learns its limit by being banned. The usual homemade counter per window lets twice
//! the limit through at each boundary, forgets to say when to come back, and keeps its state per
//! connection, so five connections get five limits.
//!
//! # Default
//!
//! ```
//! use buttress::rate_limit::{RateLimitLayer, RateLimiter};
//! use buttress::Quota;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let limiter = RateLimiter::new(Quota::per_second(100)?);
//! let service = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new(limiter.clone()))
//!     .service_fn(async |name: &str| Ok::<_, std::io::Error>(format!("hello {name}")));
//! assert_eq!(service.oneshot("ada").await.unwrap(), "hello ada");
//! // The object the layer was made from can be used and looked at directly.
//! limiter.try_acquire().unwrap();
//! assert_eq!(limiter.stats().acquired, 2);
//! # Ok::<(), buttress::ConfigError>(())
//! # }).unwrap();
//! ```
//!
//! # Customised
//!
//! One bucket per client and one for everybody, for an axum router; native `429` answers, with header
//! fields that tell clients how they stand:
//!
//! ```
//! # #[cfg(feature = "http")] fn main() -> Result<(), buttress::ConfigError> {
//! use axum::{Router, routing::get};
//! use buttress::http::{peer_ip, problem};
//! use buttress::rate_limit::{KeyedRateLimiter, RateLimitLayer, RateLimiter, WhenFull};
//!
//! let everybody = RateLimiter::builder("all").quota("5000/s burst 500".parse()?).build()?;
//! let each = KeyedRateLimiter::builder("client")
//!     .quota("100/min burst 20".parse()?)
//!     .capacity(50_000)
//!     .when_full(WhenFull::ShareOne)
//!     .build()?;
//! let limit = RateLimitLayer::new(everybody.clone())
//!     .and(each.by(peer_ip()))
//!     .cost(|req: &axum::extract::Request| if req.uri().path() == "/report" { 10 } else { 1 })
//!     .on_reject(problem())
//!     .headers();
//! let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(limit);
//!
//! // Later, from an admin page:
//! everybody.set_quota("8000/s burst 500".parse()?);
//! # let _ = app; Ok(()) }
//! # #[cfg(not(feature = "http"))] fn main() {}
//! ```
//!
//! A client that waits its turn instead, but not for long:
//!
//! ```
//! # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
//! # use std::time::Duration;
//! let limiter = RateLimiter::builder("maps api").quota("50/s burst 5".parse()?).max_waiting(100).build()?;
//! let layer = RateLimitLayer::new(limiter).wait(Duration::from_millis(500));
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! One limit for all processes of a service, in Redis or PostgreSQL; see [`SharedRateLimiter`]:
//!
//! ```no_run
//! # #[cfg(feature = "store-redis")] fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use buttress::rate_limit::{RateLimiter, SharedRateLimitLayer, WhenDown};
//! use buttress::store::RedisStore;
//! use std::time::Duration;
//!
//! let store = RedisStore::builder(redis::Client::open("redis://127.0.0.1/")?).build()?;
//! let limiter = RateLimiter::shared(store, "tenant", WhenDown::LocalShare { of: 4 })
//!     .quota("1000/s burst 200".parse()?)
//!     .advance(20, Duration::from_millis(50))
//!     .build()?;
//! let layer = SharedRateLimitLayer::new(limiter).key(|req: &(u64, String)| Some(req.0));
//! # let _ = layer; Ok(()) }
//! # #[cfg(not(feature = "store-redis"))] fn main() {}
//! ```
//!
//! # Semantics
//!
//! *What is promised.* A [`Quota`](crate::Quota) of `burst` tokens and a rate: on every interval of
//! length `t` at most `burst + rate * t` tokens are granted, whatever threads, refunds, waiters or
//! changes of the quota do. The algorithm is the generic cell rate algorithm on one atomic word: one
//! clock read and one exchange to grant, no write to refuse. A refusal carries the exact time after
//! which the same call would be granted, and what is left.
//!
//! *Readiness.* Refusing (the default) the service is as ready as the one it wraps, and asks the limit in
//! `call`. Waiting ([`RateLimitLayer::wait`]) it is always ready; the wrapped service is made ready when
//! the token is there. Nothing is ever reserved in `poll_ready`.
//!
//! *Waiting* is first come, first served, in a queue of bounded length, for `acquire`,
//! `acquire_blocking` and the layer together; nobody barges. The wait is known when it begins: one
//! that would end too late is refused at once, and so is one that would end after the request's
//! [deadline](RateLimitLayer::context).
//!
//! *Cancellation.* A waiter that is dropped gives its place to those behind it, who all move up; a token
//! that was granted but not used is given back, as far as time has not made it good already. A call
//! that reached the wrapped service stays charged.
//!
//! *Sharing.* The state is in the [`RateLimiter`]. Its clones, and all services of all layers made from
//! it, share it. [`KeyedRateLimiter`] keeps one bucket per key in a table of fixed size, see there.
//! Several limits can apply to one call, see [`Meter`].
//!
//! *Change.* [`RateLimitLayer::from_slot`] takes the limiter from a [`Slot`](crate::Slot): it is installed, replaced and
//! uninstalled while calls are made. A call that waits keeps its place at the limiter that it waits at; one that has been taken out
//! can [let them go](RateLimiter::release_waiting). A call that does not wait yet goes by what is there when it is polled first. While the slot is empty, the layer costs one load.
//!
//! *Shadow mode* computes, counts and reports, and refuses nothing.
//!
//! # Order
//!
//! Server: outside everything that costs (authentication that talks to a database, bodies, timeouts),
//! inside tracing and panic catching. Client: inside a retry, so that every attempt is charged, and
//! outside a circuit breaker, so that a wait is not taken for a slow call. A refusal is no failure of
//! the callee: breakers and budgets further out ignore it, and a retry honours its `retry_after` if that
//! fits the deadline.
//!
//! # Comparison
//!
//! tower's `RateLimit` is a fixed window, is not `Clone` and waits in `poll_ready` without a bound; to
//! share it a `Buffer` is needed, and under axum each connection gets its own. tower-resilience's
//! limiter has fixed and sliding windows, but neither keys nor costs, and its state is made by
//! `layer()`. `governor` is the same algorithm; it truncates the interval to whole nanoseconds, has no
//! queue and no combination of limits, and its keyed tables grow until they are swept.
//!
//! # Events
//!
//! `Rejected`, `WouldReject` (shadow mode), `Waited` (a wait that ended in a token), `TableFull` (at most
//! once a second), `StateChanged` (a shared limit's store went down or came back). Totals are in [`RateLimiter::stats`].

mod config;
mod core;
mod fleet;
mod future;
mod handle;
mod keyed;
mod keyed_config;
mod keyed_shared;
mod layer;
mod ledger;
mod limits;
mod managed;
mod meter;
mod print;
mod queue;
mod service;
mod shared;
mod stamp;
mod table;
mod wait;

#[cfg(all(test, buttress_loom))]
mod loom_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use config::RateLimiterBuilder;
pub use fleet::{
    AtCost, ForAll, ForEach, SharedBucket, SharedRateLimitLayer, SharedRateLimitService,
    SharedRateLimitStats, SharedRateLimiter, SharedRateLimiterBuilder, SharedResponseFuture,
    WhenDown, Which,
};
pub use future::{ResponseFuture, WaitingFuture};
pub use handle::RateLimiter;
pub(crate) use handle::WeakRateLimiter;
pub use keyed::{KeyBucket, KeyedRateLimiter};
pub use keyed_config::{KeyedRateLimiterBuilder, WhenFull};
pub use layer::{RateLimitLayer, Refuse, Wait};
pub use ledger::RateLimitStats;
pub use limits::{ByKey, Costed, FromSlot, Limit, WhenMissing};
pub use meter::{Both, Meter};
pub use service::RateLimitService;
#[cfg(feature = "http")]
pub use stamp::Headers;
pub use stamp::NoHeaders;
pub use wait::Acquire;
