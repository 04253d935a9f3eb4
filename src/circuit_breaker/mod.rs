//! Keeps a callee that is down from holding up its callers: refuses at once for a while instead of calling, and finds
//! out by a few probes when it is well again.
//!
//! A callee that is down is called again and again: every caller waits for the same timeout, threads and
//! connections pile up behind it, and when it comes back it is met by everything that has been waiting.
//! A circuit breaker notices, answers at once for a while instead of calling, lets a few probes find out
//! when the callee is well again, and only then lets everyone back in.
//!
//! # Default
//!
//! Five failures in a row open it, for 60 s; then one probe decides.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use buttress::circuit_breaker::CircuitBreaker;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let breaker = CircuitBreaker::new("payments");
//! let client = ServiceBuilder::new()
//!     .layer(breaker.layer())
//!     .service(service_fn(|_: &str| async { Err::<(), _>(std::io::Error::other("down")) }));
//!
//! for _ in 0..5 {
//!     assert!(client.clone().oneshot("pay").await.is_err());
//! }
//! let refused = client.oneshot("pay").await.unwrap_err();
//! let why = buttress::Rejection::find(&*refused).unwrap();
//! assert_eq!(why.name(), "payments");
//! # }
//! ```
//!
//! # Customised
//!
//! A failure rate over ten seconds, slow calls, doubling open time, a ramp, and a native HTTP answer.
//!
//! ```
//! use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
//! use std::time::Duration;
//!
//! let breaker = CircuitBreaker::builder("payments")
//!     .failure_rate(0.5)
//!     .window(Duration::from_secs(10))
//!     .min_calls(20)
//!     .slow_calls(Duration::from_secs(2), 0.8)
//!     .consecutive_failures(30)
//!     .open_for(Duration::from_secs(1))
//!     .open_for_max(Duration::from_secs(60))
//!     .half_open_calls(3)
//!     .ramp(Duration::from_secs(5))
//!     .build()?;
//! # #[cfg(feature = "http")]
//! let layer = CircuitBreakerLayer::new(breaker.clone())
//!     .classify(buttress::http::standard::<buttress::Typed>())
//!     .on_reject(buttress::http::problem());
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! *Closed*, it counts. It trips on failures in a row, on the failure rate or on the slow-call rate of a
//! window, whichever is configured and reached first. Windows really slide: the last n calls exactly, or
//! the last stretch of time in ten buckets of which the oldest leaves gradually; either costs the same
//! whether it holds ten calls or a hundred thousand. Rates are judged when a failed or slow call is
//! recorded, so a success never opens a circuit.
//!
//! *Open*, it refuses, and says how long it will go on to.
//!
//! *Half-open*, it gives out [`half_open_calls`](CircuitBreakerBuilder::half_open_calls) probes. A probe is
//! a reservation with a lease: it returns its place when it is dropped, and when it hangs loses it to the
//! next call that asks. The verdict falls as soon as the outstanding probes cannot change it. Without a
//! verdict in [`half_open_for`](CircuitBreakerBuilder::half_open_for) it opens again.
//!
//! Every change of state begins a new generation. The result of a call admitted in an earlier one is
//! counted in the totals and decides nothing: a success that set out before the trip cannot close the
//! circuit, nor a late failure open it again.
//!
//! | what came of the call | counts as |
//! |---|---|
//! | [`Outcome::Success`](crate::Outcome::Success) | success |
//! | [`Outcome::Failure`](crate::Outcome::Failure) of any class, a panic of the inner service | failure |
//! | dropped by its caller after more than [`cancelled_after`](CircuitBreakerBuilder::cancelled_after) (1 s) | failure |
//! | dropped sooner, or before it was polled | nothing |
//! | [`Outcome::Throttled`](crate::Outcome::Throttled), [`Outcome::Ignored`](crate::Outcome::Ignored), a refusal of another layer | nothing |
//! | took longer than [`slow_calls`](CircuitBreakerBuilder::slow_calls) says, and succeeded, failed or was dropped | slow, besides the above |
//!
//! A call that was throttled or ignored never counts as slow, however long it took, except in
//! [`slow_calls`](CircuitBreakerStats::slow_calls) of the totals.
//!
//! # Semantics
//!
//! *Readiness.* The breaker looks at its own state before it polls the inner service. Open means ready, and
//! refused in `call`: never an error from `poll_ready`, which would tell callers to throw the service
//! away. Nothing is reserved in `poll_ready`. Once the open time is over and until the circuit is closed, no more instances
//! than may [probe](CircuitBreakerBuilder::half_open_calls) wait for an inner service that is not ready, each for the
//! [lease](CircuitBreakerBuilder::probe_lease) of a probe and at most 5 s; all others are ready, and refused in `call`: a
//! full pool or limit inside does not hide the circuit. Who waits is woken when the circuit opens and when its time is over, and
//! is refused then; the second takes tokio's timer, and outside of a runtime waits for the caller to ask again. Who began to wait while the circuit was closed is woken by the inner service only. A call that finds the inner service ready and is refused all the same, since
//! the probes' places are taken or the circuit has opened since, leaves that readiness for the next call on this instance,
//! or until it is dropped. (A [keyed](KeyedCircuitBreaker) breaker knows its key only in `call`, and is as
//! ready as the inner service.)
//! [`unready_while_open`](CircuitBreakerLayer::unready_while_open) is for load balancers.
//!
//! *Cancellation.* Dropping the response future is safe at every point: a probe's place is free again at
//! once.
//!
//! *Sharing.* Clones of a [`CircuitBreaker`], all layers made from it and all services made by those share
//! one state, also where a framework calls `layer()` for every connection. For separate states make
//! separate breakers, or one per key with a [`KeyedCircuitBreaker`].
//!
//! *Change.* [`reconfigure`](CircuitBreaker::reconfigure) gives a running breaker other settings: it keeps
//! its state and, where the window is the same, what it has counted.
//! [`CircuitBreakerLayer::from_slot`] takes the breaker from a [`Slot`](crate::Slot): it is installed, replaced and
//! uninstalled while calls are made. A call that has begun keeps its breaker, with its outcome and a probe's place; so does a
//! refusal for which readiness was told. While the slot is empty, the layer costs one load.
//!
//! *Cost.* While closed: one load to admit and one to record, plus the count itself. No lock, no
//! allocation; no clock unless a time window or slow calls need it. Failures, probes and changes of state
//! take a mutex.
//!
//! # Order
//!
//! Retry outside the breaker, so that each attempt is judged and an open circuit ends the retries. Of timeouts
//! per attempt, a [`Timeout`](crate::timeout) of this crate goes outside of the breaker: inside, its refusal would count as
//! nothing. Set [`cancelled_after`](CircuitBreakerBuilder::cancelled_after) below it, and calls that it gives up are failures.
//! tower's timeout goes inside: its error is a failure. On a server, put it around the handler's dependencies, not
//! around the handler.
//!
//! # Comparison
//!
//! tower has no breaker. That of tower-resilience keeps cumulative counts instead of a window (0.14: after
//! 100 000 successes, 100 000 failures open it), scans every call of its time window, takes an async mutex
//! twice a call, and lets a straggler of before the trip close the half-open circuit. `recloser` and
//! `failsafe` have no half-open reservations. The measurements are in `benches/versus`.
//!
//! # Events
//!
//! [`StateChanged`](crate::observe::EventKind::StateChanged) with the reason,
//! [`Rejected`](crate::observe::EventKind::Rejected), in shadow mode
//! [`WouldReject`](crate::observe::EventKind::WouldReject), and
//! [`TableFull`](crate::observe::EventKind::TableFull) from a keyed breaker.

mod config;
mod core;
mod counter;
mod future;
mod guard;
mod handle;
mod keyed;
mod keyed_layer;
mod layer;
mod managed;
mod permit;
mod place;
mod reopening;
mod service;
mod shared;
mod state;
mod transitions;
mod trip;

pub use config::CircuitBreakerBuilder;
pub use future::ResponseFuture;
pub use handle::CircuitBreaker;
pub use keyed::KeyedCircuitBreaker;
pub use keyed_layer::{KeyedCircuitBreakerLayer, KeyedCircuitBreakerService};
pub use layer::CircuitBreakerLayer;
pub use permit::{Permit, StateChanges};
pub use service::CircuitBreakerService;
pub use state::{CircuitBreakerSnapshot, CircuitBreakerStats, CircuitState, TripReason};

#[cfg(all(test, buttress_loom))]
mod loom_tests;
#[cfg(all(test, not(buttress_loom)))]
mod model_tests;
#[cfg(all(test, not(buttress_loom)))]
mod reconfigure_tests;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
