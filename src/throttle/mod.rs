//! Learns how many calls a callee accepts from those it throttles, and sends no more than that.
//!
//! A client that is over its quota wastes the callee's time with each call that is refused, and when it retries
//! those, more than with the calls themselves. To obey `Retry-After` in each call alone stops too much and
//! starts again all at once.
//!
//! # Default
//!
//! ```
//! use buttress::throttle::Throttle;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(Throttle::new("api").layer())
//!     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
//! assert_eq!(service.oneshot(1).await.unwrap(), 2);
//! # });
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::http::{extensions, standard};
//! use buttress::throttle::Throttle;
//! use std::time::Duration;
//!
//! let throttle = Throttle::builder("api").max_wait(Duration::from_millis(200)).build()?;
//! let layer = throttle.layer().classify(standard()).context(extensions());
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! **Learning.** Until something is throttled everything passes and nothing is counted. Then everything passes
//! a little longer, until 16 calls were accepted or refused, and a rate is set. Whenever a call is throttled
//! the callee has nothing left; so what it accepted between two that were is its quota for that time, to
//! the call. Throttled is what the classifier says (429), and a failure that names a time (503 with
//! `Retry-After`).
//!
//! **Sending.** 3 % more than that, so that the quota is always used and a change of it seen. The more is
//! accepted in a row the faster that grows: a quota ten times as large is found after some hundred calls. If
//! less than six tenths of what is sent are accepted, the rate follows at once. If nothing is, it waits for
//! the `Retry-After`, 30 s at most, and sends single calls then.
//!
//! **Waiting.** A call whose turn comes within a tenth of its remaining time (or within two turns, if they are
//! further apart, but not half of that time), and within `max_wait`, waits for it; any other is refused at once, with the time. Places are handed out in order of arrival; the wait is known
//! from the start and does not grow when the rate falls.
//!
//! **Ending.** If nothing had to wait and nothing was throttled for 30 s, everything passes again.
//!
//! **Not yet good.** A quota below ten calls a second is used to four fifths only; after one that falls sharply the
//! rate can stay far too low for long.
//!
//! # Semantics
//!
//! **Readiness.** Ready when the inner service is; waits after that, with the instance that was found ready.
//!
//! **Cancellation.** A call that leaves while it waits gives its place back; the next to arrive gets one earlier.
//!
//! **Sharing.** All services of all layers of one [`Throttle`] share its rate. Each attempt takes a place, so
//! retries outside of it do not get around it.
//!
//! **Cost.** While nothing is throttled a look at the clock and at one word. After that a short lock when a call is
//! sent and when it ends.
//!
//! # Order
//!
//! Inside of the retry, so that each attempt counts; a refusal of it is final there if the deadline does not
//! leave room for its time.
//!
//! # Comparison
//!
//! The adaptive mode of AWS's SDKs sends at a rate found by a cubic function of time and 70 % of it after each
//! throttled call; its bucket can fall below zero, after which calls sleep for minutes, and retries do not
//! pass through it. Client-side throttling as in Google's SRE book refuses at random and lets twice the
//! quota through.
//!
//! # Events
//!
//! [`StateChanged`](crate::observe::EventKind::StateChanged) from `up` to `limiting` and back,
//! [`Rejected`](crate::observe::EventKind::Rejected) and [`Waited`](crate::observe::EventKind::Waited).

mod core;
mod handle;
mod layer;
mod managed;
mod service;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use handle::{Throttle, ThrottleBuilder, ThrottlePermit, ThrottleStats};
pub use layer::ThrottleLayer;
pub use service::{ResponseFuture, ThrottleService};
