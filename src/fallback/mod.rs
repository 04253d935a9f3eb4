//! Keeps a part that can be spared from failing the whole: answers in place of a refusal, and of a failure where it is
//! told to.
//!
//! A page is shown without its recommendations, a price from an hour ago is better than none. Written by hand at
//! every call, such an answer also hides what it was not meant for: the bad request, the bug, the outage that
//! nobody notices because every page looks fine. A fallback answers in the cases that it names, counts each, and
//! leaves everything else as it is.
//!
//! # Default
//!
//! ```
//! use buttress::circuit_breaker::CircuitBreaker;
//! use buttress::fallback::Fallback;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let breaker = CircuitBreaker::new("recommendations");
//! let service = ServiceBuilder::new()
//!     .layer(Fallback::new("recommendations").layer().value(Vec::<u32>::new()))
//!     .layer(breaker.layer())
//!     .service(service_fn(|user: u32| async move { Ok::<_, std::io::Error>(vec![user]) }));
//!
//! assert_eq!(service.clone().oneshot(7).await.unwrap(), [7]);
//! breaker.force_open();
//! assert!(service.oneshot(7).await.unwrap().is_empty(), "no recommendations, but a page");
//! # });
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::fallback::{Cause, Fallback};
//! use buttress::http::standard;
//! use http::{Request, Response, Uri};
//!
//! // Failures too, at most 50 at a time, and of the request only its address is kept.
//! let layer = Fallback::builder("prices")
//!     .max_in_flight(50)
//!     .build()?
//!     .layer()
//!     .failures(standard())
//!     .call(|address: Uri, cause: Cause| async move {
//!         let stale = Response::builder().header("age", 3600).body(format!("{address}: {cause}"));
//!         stale.map_err(buttress::BoxError::from)
//!     })
//!     .keep(|request: &Request<String>| Some(request.uri().clone()));
//! # let service = tower::Layer::layer(&layer, tower::service_fn(|_: Request<String>| async {
//! #     Ok::<_, std::io::Error>(Response::new(String::new()))
//! # }));
//! # fn check<S: tower::Service<Request<String>>>(_: S) {}
//! # check(service);
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! A layer that refuses can also answer by itself: `on_reject(buttress::respond_with(...))` is a fallback for its
//! own refusals, and costs nothing. The same [`Reject`](crate::Reject) works [here](FallbackLayer::respond), for
//! the refusals of all layers inside.
//!
//! # How it decides
//!
//! **What is answered.** A [`Rejection`](crate::Rejection) in the error or its `source()` chain that says "not
//! now": rate limited, circuit open, overloaded, budget exhausted, deadline exceeded, store unavailable. One that
//! says that the request is at fault (too large, no idempotency key, more than the whole burst), that an
//! effect may have happened, that a call panicked, that the process ends, or that a fault was injected, is not;
//! [`Refusals::only`] decides otherwise. With [`failures`](FallbackLayer::failures) also what a
//! [`Classify`](crate::Classify) calls a transient or flaky failure or a throttle, an injected connection error
//! among them. A permanent failure is never answered: the request is bad, and whoever sent it has to know.
//!
//! **With what.** A [value](FallbackLayer::value), what a [function](FallbackLayer::call) or a
//! [`Reject`](FallbackLayer::respond) makes of the request and the [`Cause`], or the answer of [another
//! service](FallbackLayer::service).
//!
//! **When there is none.** If the fallback fails, if as many are under way as may be, or if nothing could be kept
//! of the request, the caller gets the original result, error or response, as if there were no fallback.
//!
//! # What a fallback must not do
//!
//! Amazon [hardly uses any](https://aws.amazon.com/builders-library/avoiding-fallback-in-distributed-systems/)
//! (Jacob Gabrielson, "Avoiding fallback in distributed systems"): a fallback is code that runs only when something
//! is broken already, so it is the least tested; it makes a system with two modes of which one is nearly never
//! seen; and it moves the load of an outage to where there never was any. One of theirs turned the failure of a cache
//! into that of the whole site. So:
//!
//! - **Not more load on something shared.** Reading the database when the cache is down is how the database goes
//!   down. A value, or data that is already here, loads nothing. Where another service is asked, bound it with
//!   [`max_in_flight`](FallbackBuilder::max_in_flight), which is as good as unbounded until you do: only you know what
//!   that service bears. And put a breaker of its own around it.
//! - **Not only in an emergency.** What the normal mode also does (a failover to an endpoint that always has its
//!   share of the load) is better than a fallback. If it has to be one, make it run regularly: trip the breaker
//!   inside with `force_open`, or inject refusals.
//! - **Not an answer to a write.** "Accepted", said without doing it, is a lie that surfaces later.
//! - **Not in silence.** It is an outage that looks like success. Alert on
//!   [`answered`](FallbackStats::answered); the row in the [registry](crate::control) is a warning for ten seconds
//!   after each.
//!
//! # Semantics
//!
//! **Readiness.** Ready when the inner service is. An error of its `poll_ready` passes.
//!
//! **Errors.** The error type of the inner service is kept.
//!
//! **Bodies.** Untouched. The original response is held while the fallback runs, since it may be needed, and dropped
//! before the answer is given.
//!
//! **Cancellation.** Dropping the future drops the call or the fallback that is under way.
//!
//! **Panics.** One of the inner service, or of the fallback, goes to the caller. Nothing stays counted as under way.
//!
//! **Sharing.** All services of all layers of one [`Fallback`] share its bound and its counts.
//!
//! **Cost.** Where nothing is answered: what [`keep`](FallbackLayer::keep) does (by default a clone of the
//! request; nothing for a value), and a reference count. No clock, no lock, no allocation.
//!
//! # Order
//!
//! Outermost, so that it answers for all layers, and so that the retry has tried first. Inside of a
//! [timeout](crate::timeout) that also bounds the fallback. Never inside of a breaker or a failure budget, which would
//! see successes in the midst of an outage.
//!
//! # Comparison
//!
//! tower has none. tower-resilience's looks at errors only, counts nothing, and its fallback service has no
//! bound. Polly's is a function for the outcomes of a predicate.
//!
//! # Events
//!
//! [`FellBack`](crate::observe::EventKind::FellBack) for each fallback that has ended, with or without an answer.

mod answer;
mod cause;
mod config;
mod future;
mod handle;
#[cfg(all(test, not(buttress_loom)))]
mod hostile_tests;
mod keep;
mod layer;
#[cfg(all(test, buttress_loom))]
mod loom_tests;
mod managed;
#[cfg(all(test, not(buttress_loom)))]
mod model_tests;
mod service;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use answer::{Answer, ByService, Call, CallAnswer, Respond, ServiceAnswer, Value};
pub use cause::{Cause, Covers, Failures, Refusals};
pub use config::FallbackBuilder;
pub use future::ResponseFuture;
pub use handle::{Fallback, FallbackStats};
pub use keep::{Keep, Nothing};
pub use layer::FallbackLayer;
pub use service::FallbackService;
