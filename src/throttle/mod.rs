//! Sends a backend no more than it takes.
//!
//! A backend over its quota, or too full, still has to read, judge and answer every call that it refuses. Callers
//! who come again at once double that work, until it does nothing else; and who is refused is left to chance. A throttle
//! learns at the caller how much is taken and does not send the rest: the backend keeps its time for what it can do, and
//! callers know at once.
//!
//! # Default
//!
//! ```
//! use buttress::throttle::Throttle;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let throttle = Throttle::new("api");
//! let service = ServiceBuilder::new()
//!     .layer(throttle.layer())
//!     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
//! assert_eq!(service.oneshot(1).await.unwrap(), 2);
//! assert_eq!(throttle.quota(), None); // nothing was throttled
//! # });
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::http::{extensions, standard};
//! use buttress::throttle::Throttle;
//! use buttress::{AsTyped, Typed};
//! use std::time::Duration;
//!
//! let throttle = Throttle::builder("api").k(1.5).max_wait(Duration::from_secs(1)).build()?;
//! let layer = throttle.layer().classify(standard::<Typed>()).context(extensions()).on_reject(AsTyped);
//! # let _ = layer;
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! **Quota.** The first call that is throttled (429, or unavailable with a `Retry-After`) starts a short measurement: what
//! is sent in it and not refused is the first rate, which of calls that come in bursts is too high for a second or two. It
//! takes sixteen answers, and 5 ms more than a refusal does. If none is refused in it there is no rate. Where refusals do
//! not say when to come again it is measured on until eight were refused, and at least one of eight: a few that are refused
//! are no quota. Once of 64 none is, there is no rate. From then on calls go at the rate, which grows while calls are taken
//! and wait, and falls with each that is throttled. A call whose turn would not come within `max_wait` and its deadline is
//! refused at once, unsent: `RateLimited` with the time until that turn. One that waits keeps its place until its deadline,
//! longer than `max_wait` if the rate falls meanwhile. If nothing is taken any more, single calls ask: when `Retry-After`
//! says, but at least every 30 s. Once nobody waited and nothing was throttled for 30 s, there is no rate any more, nor
//! once nothing was throttled for five minutes, whoever waits; both take at least the time of 64 turns. The rate grows
//! quickly until the first call is throttled, and then stays within a quarter above what was taken of the last calls while
//! somebody waited, until nothing was throttled for 30 s. Turns that nobody took can be taken later, for 100 ms at first:
//! less if it turns out that the backend does not save them as long, more if it does and calls wait, at most 1 s. What has
//! become less than a sixteenth of a turn stays so until the rate is measured anew.
//!
//! **Turns** go by who came first, and come at the rate as it is by then, whoever asks for them. Who leaves, leaves its
//! turn to the next who asks. Who does not ask holds up the others for no longer than its turn, and can take it for 50 ms,
//! for as long as turns are saved, and until the next one comes; after that it waits for another. When much changes at once
//! (a rate that was quite wrong, nothing is taken any more or something again, a command) all turns are void, and all who
//! wait ask anew when they look the next time, which is half-way to their turn and after a second at the latest. Who comes
//! meanwhile may be before them, and there may be no room for them any more, which is the only refusal after a wait but
//! that the deadline has passed.
//!
//! **Failures.** Of the calls in the window, `requests` were asked for and `accepts` were taken; those that
//! taught the quota are not among them. A share of
//! `max(0, (requests - k * accepts) / (requests + 1))` is refused here: `Overloaded`, which a retry takes as final.
//! Calls count when they end, so that those in flight are not taken for failures; those refused here count as
//! requests, and with `k = 2` a backend in trouble sees about twice what it takes. With fewer than ten
//! calls in the window none is refused, never more than `max_share`, and once a second one always passes, so that
//! it is seen when the backend is well again.
//!
//! # Semantics
//!
//! **Readiness.** Ready when the inner service is. A call that waits keeps the ready instance; under a limit of
//! connections put the throttle outside of it.
//!
//! **Cancellation.** A call dropped before it was sent gives its turn back. One dropped later says nothing.
//!
//! **Sharing.** Clones of a [`Throttle`] and its layers are one object. Several processes that share a quota each learn
//! their part.
//!
//! **Cost.** Two looks at the clock and three short locks for each call; nothing is allocated unless a call waits. One
//! that waits for more than 50 ms wakes half-way, and half-way again, and each second, since its turn may come earlier.
//!
//! # Order
//!
//! Inside of the retry, so that attempts count, outside of timeouts of attempts. A client of the
//! [presets](crate::presets) needs none: its [`Backend`](crate::Backend) learns quotas the same way, and spends them on
//! what is most important.
//!
//! # Comparison
//!
//! Client-side throttling of Google's SRE book is the second half. Most limiters of tower need the rate to be told,
//! which is right until the other side changes it.
//!
//! # Events
//!
//! `rejected`, `waited`, and `state_changed` between `free`, `measuring`, `limiting` and `stopped`. That a quota is too
//! old is told by the next call, or the next answer if it was still measured: readings show it, but tell nobody. Changes are
//! told in order, one after another: one that comes while another thread tells is told by that thread.

mod config;
mod core;
mod future;
mod handle;
mod layer;
mod line;
#[cfg(all(test, not(buttress_loom)))]
mod line_tests;
#[cfg(all(test, buttress_loom))]
mod loom_tests;
mod managed;
mod permit;
#[cfg(all(test, not(buttress_loom)))]
mod quota_tests;
mod service;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use config::ThrottleBuilder;
pub use future::ResponseFuture;
pub use handle::{Throttle, ThrottleStats};
pub use layer::ThrottleLayer;
pub use service::ThrottleService;
