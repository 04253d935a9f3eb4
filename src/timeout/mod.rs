//! Keeps a backend that hangs from taking its callers with it: ends a call that takes too long, and does not start one
//! that nobody waits for.
//!
//! Without one each caller waits, holds its connection, its memory and its
//! place, until none is left for the calls that would work. And a server that has fallen behind works for
//! callers who have long gone, so it never catches up. A timeout bounds the wait; a deadline that travels
//! with the request lets every layer see what of it is left.
//!
//! # Default
//!
//! ```
//! use buttress::timeout::Timeout;
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(Timeout::new("db", Duration::from_secs(1))?.layer())
//!     .service(service_fn(|()| std::future::pending::<Result<(), std::io::Error>>()));
//! let error = service.oneshot(()).await.unwrap_err();
//! let refusal = buttress::Rejection::find(&*error).unwrap();
//! assert_eq!(refusal.kind(), buttress::RejectionKind::DeadlineExceeded);
//! # Ok::<(), buttress::ConfigError>(())
//! # }).unwrap();
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use axum::{Router, routing::get};
//! use buttress::http::{extensions, problem};
//! use buttress::timeout::Timeout;
//! use std::time::Duration;
//!
//! // 504 instead of an error, and never longer than the request's own deadline.
//! let timeout = Timeout::new("api", Duration::from_secs(30))?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(timeout.layer().context(extensions()).on_reject(problem()));
//! # let _ = app;
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Semantics
//!
//! **Time.** A call ends at the earlier of its duration, counted from `call`, and the deadline in its
//! [`Context`](crate::Context). A request whose deadline has passed is refused and not sent. The result is
//! written into the context if it is earlier, so that the layers inside see it. An answer that is there
//! when the future is polled counts, even if it is late.
//!
//! **Readiness.** Ready when the inner service is. Waiting for readiness is not bounded. A call that is refused since
//! its deadline has passed does not reach the inner service, whose readiness, with the place in a limit that may go
//! with it, stays for the next call on this instance, or until it is dropped.
//!
//! **Cancellation.** At the timeout the inner future is dropped first, then the answer is made. Dropping the
//! future drops everything.
//!
//! **What is said.** Where a call is given up that waits for an [admission](crate::admission) inside, or was sent by
//! it, or waits for a retry that the backend's headroom pays for, the refusal says how the backend was:
//! [`RejectionDetail::Backend`](crate::RejectionDetail::Backend).
//!
//! **Blocking.** There is no form for threads: a call that blocks its thread cannot be ended from outside. Give its
//! time to what blocks, a socket for one; `supervise::watchdog::with_watchdog_blocking` ends the wait for work that may
//! go on unseen.
//!
//! **Sharing.** There is no state.
//!
//! **Cost.** One look at the clock, and tokio's timer, inside the future, once a call has to wait. A deadline
//! written into the extensions of a request that has none allocates there. Without a duration and a deadline,
//! nothing.
//!
//! # Order
//!
//! A total timeout outside of the retries, one for the attempts outside of the breaker and of whatever else
//! counts failures: a refusal is no failure of the callee and does not count, but a breaker or a failure budget
//! inside sees its call dropped after some time, and counts that if it was longer than its `cancelled_after`,
//! which therefore has to be below the timeout. Inside of the breaker a backend that hangs would never open it.
//!
//! A refusal is final for a retry outside. To have attempts cut off and tried again, give the time to the
//! retry ([`attempt_timeout`](crate::retry::RetryPolicyBuilder::attempt_timeout)). The
//! [presets](crate::presets) do all of this.
//!
//! # Comparison
//!
//! tower's `Timeout` boxes every error, knows no deadline and cannot answer with a response; tower-http's
//! answers with a status and knows no deadline.
//!
//! # Events
//!
//! None: the refusal says it, and the breaker and the retry outside of it tell of it.

mod future;
mod handle;
mod layer;
mod service;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use future::ResponseFuture;
pub use handle::Timeout;
pub use layer::TimeoutLayer;
pub use service::TimeoutService;
