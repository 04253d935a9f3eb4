//! Keeps one ill server of several from failing its share of the calls, or most of them: chooses for each call by how
//! long calls take and how they end, and leaves out who fails.
//!
//! Several servers do the same work and one of them is ill. A client that spreads its calls evenly loses every
//! n-th; one that prefers whoever is least busy loses more, because nobody is as quick as a server that only
//! says 500.
//!
//! # Default
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use buttress::endpoints::Endpoints;
//! use tower::{Service, ServiceExt, service_fn};
//!
//! let server = |me: &'static str| {
//!     service_fn(move |_: u32| async move {
//!         if me == "a" { Err(std::io::Error::other("500")) } else { Ok(me) }
//!     })
//! };
//! let pool = Endpoints::new("search");
//! for me in ["a", "b", "c"] {
//!     pool.insert(me, server(me));
//! }
//! let mut client = pool.service();
//! let mut failed = 0;
//! for n in 0..1000 {
//!     failed += u32::from(client.ready().await.unwrap().call(n).await.is_err());
//! }
//! assert!(failed <= 20, "{failed}");
//! # }
//! ```
//!
//! # Customised
//!
//! ```
//! use buttress::endpoints::Endpoints;
//! use std::time::Duration;
//!
//! let pool: Endpoints<u8> = Endpoints::<u8>::builder("search")
//!     .max_ejected(0.2)
//!     .failures_in_row(5)
//!     .probe_after(Duration::from_secs(5))
//!     .slow_start(Duration::from_secs(30))
//!     .build()?;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! *Choice.* Four endpoints are drawn at random, and the one is taken where calls in flight, times their average time,
//! come to less: of differences below a tenth chance decides. Averages are over some twenty calls. What a few of them
//! took says less than what is in flight: answers of equal servers differ more than that, and a queue that was there
//! when the last answer came need not be there now. A failure counts as 20 times the pool's typical answer (its
//! geometric mean), and a call that hangs for as long as it has. What was learned fades towards the typical answer with
//! [`memory`](EndpointsBuilder::memory), so that nobody is avoided for ever because of an old bad day. An endpoint that
//! never got a call, or none for three times that long, gets the next first attempt, whatever the others have measured:
//! no call corrects what is believed of one that gets none. Up to three calls that are out for longer than the memory
//! do not count as long as later ones are answered: a long poll does not say that its endpoint hangs. More of them do:
//! they are work that takes long.
//!
//! *Ejection.* An endpoint is ejected after [three](EndpointsBuilder::failures_in_row) failures in a row, or when
//! its share of failures is so far above that of the others that chance does not explain it (four standard
//! deviations and twice as many). An answer that takes 16 typical answers counts as failure, so does a call
//! that is given up after 4, neither below a millisecond. Failures of all endpoints alike eject nobody by share.
//!
//! *Return.* After [`probe_after`](EndpointsBuilder::probe_after) one request, a first attempt, goes there as a
//! probe. If it is answered well the endpoint is back, with a tenth of its share at first and all of it after
//! [`slow_start`](EndpointsBuilder::slow_start). If not, or if it hangs, the next probe follows after twice
//! the time. The answer to a call from before the ejection takes nobody back.
//!
//! *Arrival.* An endpoint that is inserted while others answer starts as slowly, after the first call, which it gets at
//! once. Those that come or return together are not held back for each other, nor for one that hangs or has ten times
//! as much to do.
//!
//! *Limit.* At most [half](EndpointsBuilder::max_ejected) are left out. When more have failed, all are used again: the
//! fault is then rarely theirs, and those that are left could not carry it. Two are drawn then, so that the first to
//! answer again does not get every call. The first good answer of each takes it back, and it starts slowly beside those
//! that are well, not beside those that are still down.
//!
//! *Retries.* An attempt after the first does not go where the one before it went, if there is another endpoint.
//! It takes a [`Context`](crate::Context) with the number of the attempt and of the
//! [call](crate::Context::call), which [`presets`](crate::presets::ClientLayer::pool) gives to each.
//!
//! # Semantics
//!
//! *Readiness.* Always ready; nothing is reserved. The endpoint is chosen in `call`, and its own readiness is
//! waited for in the future. If that is an error the endpoint has failed, and the call with it.
//!
//! *Cancellation.* Dropping the future drops the call; it no longer counts as in flight. What it says is that
//! the answer takes at least so long: the average of its endpoint goes up, if that is more. If its caller
//! waited for more than 4 typical answers, it has failed. One that lost to a [hedge](crate::hedge) after that time
//! has not, since nobody gave up; but it counts among those in a row: once is chance, three times is not.
//!
//! *Sharing.* Clones of [`Endpoints`] and of its services share everything. Services see a change of the
//! endpoints at their next call. A call clones the service of its endpoint, through a shared reference:
//! services have to be `Sync` for the pool to be used by several threads (`BoxCloneSyncService` is).
//!
//! *Cost.* Two looks at the clock, at four endpoints, and a clone of the service of one; no lock and no
//! allocation of its own. Failures, probes and
//! the first call of an endpoint take a mutex and look at all.
//!
//! # Order
//!
//! Innermost, around the transport; retries and hedges outside, so that their attempts go elsewhere.
//!
//! # Comparison
//!
//! tower's `balance` takes whoever has the lowest load by a `PeakEwma` in which failures are quick answers: a
//! server that fails fast gets most of the traffic. It ejects nobody, and its services are not `Clone`.
//! Envoy's outlier detection ejects by failures in a row and by share; its probes are not real requests.
//!
//! # Events
//!
//! [`StateChanged`](crate::observe::EventKind::StateChanged) when an endpoint is ejected and when it is back,
//! with its label and why.

mod config;
mod core;
mod draw;
mod future;
mod handle;
mod health;
#[cfg(all(test, buttress_loom))]
mod loom_tests;
mod managed;
#[cfg(all(test, not(buttress_loom)))]
mod model_tests;
#[cfg(all(test, not(buttress_loom)))]
mod newcomer_tests;
mod service;
mod shared;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub(crate) use config::Config;
pub use config::EndpointsBuilder;
pub use future::ResponseFuture;
#[cfg(feature = "config")]
pub(crate) use handle::Pools;
pub use handle::{EndpointStats, Endpoints};
pub use service::EndpointsService;
