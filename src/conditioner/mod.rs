//! A service is proved on good days. Its retries, timeouts, breakers and budgets are for the others, which
//! come rarely and never the same way twice, so nobody knows whether they work until they have to. A
//! conditioner makes bad days: it delays, loses and answers calls wrongly, by rules, at chosen places and
//! times, and the same way again from the same seed.
//!
//! # Default
//!
//! A bad network: so much latency, so much jitter, so much loss.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! use buttress::conditioner::Conditioner;
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let ms = Duration::from_millis;
//! let mobile = Conditioner::network(ms(80), ms(40), 0.2, None).unwrap();
//! let client = ServiceBuilder::new()
//!     .layer(mobile.layer())
//!     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
//!
//! let mut lost = 0;
//! for n in 0..1000 {
//!     lost += u32::from(client.clone().oneshot(n).await.is_err());
//! }
//! assert!((150..250).contains(&lost));
//! # }
//! ```
//!
//! # Customised
//!
//! Rules for some of the calls, at some times, on a server; only where it is allowed, only so much.
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Latency, Matcher, Rule, Schedule};
//! use buttress::{Slot, http::problem};
//! use std::time::Duration;
//!
//! let s = Duration::from_secs;
//! let slow = Latency::lognormal(Duration::from_millis(30), 1.0)?;
//! let bad_day = Conditioner::builder("shop")
//!     .rule(Rule::new(Fault::status(503)).share(0.1).matching(Matcher::path("/checkout/**")))
//!     .rule(Rule::new(Fault::reply_lost()).share(0.01).matching(Matcher::method("POST")))
//!     .rule(Rule::new(Fault::latency(slow)).during(Schedule::always().end(s(60)).ramp(s(10)).period(s(300))))
//!     .rule(Rule::new(Fault::truncate_body(1000)).share(0.01).max_active(5))
//!     .seed(20_240_229)
//!     .max_share(0.3)
//!     .allow_in(["test", "staging"])
//!     .environment_from("APP_ENV")
//!     .build()?;
//! # let armed =
//! bad_day.arm();
//! # assert!(armed.is_err(), "this is no such environment");
//! // The faults come and go while the server runs.
//! let slot = Slot::with(bad_day);
//! let layer = ConditionerLayer::from_slot(slot.clone()).http().on_reject(problem());
//! slot.uninstall();
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! For each rule in turn: does the call match, and if so, is a draw below the rule's share? The first
//! rule that hits acts, or with [`match_all`](ConditionerBuilder::match_all) all that do. A rule that
//! hits and may not act, because of its [`max_active`](Rule::max_active) or of
//! [`max_share`](ConditionerBuilder::max_share), leaves the call alone; the others do not take its turn.
//!
//! A draw is a hash of the seed, the number of the rule and the call's id, or, for calls without an id,
//! how many calls have matched the rule before. There is no generator that calls would have to take turns
//! at. So with ids a run is the same whenever and on however many threads its calls are made; without,
//! the same set of faults falls on calls in the order in which they happen to come. Shares and latencies
//! are exact to 53 bits, however small.
//!
//! What was decided can be [recorded](ConditionerBuilder::record), written down, and
//! [run again](ConditionerBuilder::replay), also where limits and schedules had a hand in it.
//!
//! # How it is kept from doing harm
//!
//! A conditioner that was built does nothing until it is [armed](Conditioner::arm), which fails in an
//! environment that is not one of those it is [allowed in](ConditionerBuilder::allow_in). Only
//! [`Conditioner::network`] is armed from the start. It can touch only a
//! [share](ConditionerBuilder::max_share) of all calls, only [so many at a time](Rule::max_active), only
//! calls that [ask for it](ConditionerBuilder::opt_in) with a secret. [`disarm`](Conditioner::disarm) and
//! [`kill`](Conditioner::kill) stop it and end the waits it has caused; as a [`Lever`](crate::Lever) a
//! failure budget stops it by itself.
//!
//! Everything it does is marked: with [`Injected`] in errors and in the extensions of HTTP responses,
//! with a header on HTTP requests that reach the callee, and with counts for each rule. Breakers and
//! budgets count injected faults as what they play; those that should not use [`ignore_injected`].
//!
//! # Semantics
//!
//! *Readiness.* As ready as the inner service; nothing is reserved in `poll_ready`. A call that is late is
//! made on the instance that was ready, and holds its place meanwhile; one that is not made leaves it to
//! the next call.
//!
//! *Cancellation.* Dropping the response future ends the wait and gives the place back, at every point. A
//! call that is late and dropped is never made.
//!
//! *Sharing.* Clones of a [`Conditioner`], all layers made from it and their services share one state. With
//! a [`Slot`](crate::Slot) it can be replaced; a call keeps the conditioner that was there when it was made.
//!
//! *Cost.* With nothing in the slot one relaxed load, disarmed two. No clock is read, nothing is
//! described, cloned or allocated, and the future is the inner one and a word. Armed, each call pays for
//! the rules it is compared with and some counts; one that a fault falls on for a box. The clock is read
//! only if a rule has a schedule. For HTTP, bodies have another type; one that nothing is done to is
//! handed through.
//!
//! *Faults of bodies* are the response's. A body that breaks off keeps its length, so that its reader
//! notices. Not everything that was sent before need arrive.
//!
//! # Order
//!
//! Innermost, so that everything else sees the faults: a loss inside a retry is retried, inside a breaker
//! counted, inside a timeout a hang is cut off. Outside of a rate limit or a queue it would test those.
//!
//! # Comparison
//!
//! tower has none. That of tower-resilience knows errors and latency; its seed is that of one shared
//! generator, so a concurrent run does not replay. Envoy's fault filter has delays, aborts and body rates
//! for chosen requests and a limit of active faults, and no seed; in Istio retries do not apply to its
//! faults. Toxiproxy breaks connections, not calls. None of them loses a reply after the effect.
//!
//! # Events
//!
//! [`Injected`](crate::observe::EventKind::Injected) for each fault.

mod applied;
mod arm;
#[cfg(feature = "http")]
mod body;
mod call;
mod config;
mod core;
mod draw;
mod fault;
mod future;
mod handle;
mod ignore;
mod injection;
mod latency;
mod layer;
mod managed;
mod matcher;
mod mode;
mod plan;
mod rule;
mod schedule;
mod service;
mod shared;
mod stats;
#[cfg(feature = "serde")]
mod wire;

pub use applied::Applied;
pub use arm::ArmError;
#[cfg(feature = "http")]
pub use body::FaultyBody;
#[cfg(feature = "http")]
pub use call::HttpCalls;
pub use call::{Call, Describe, DescribeFn, Unnamed, WithId, request_id};
pub use config::ConditionerBuilder;
pub use fault::Fault;
pub use future::ResponseFuture;
pub use handle::Conditioner;
pub use ignore::{IgnoreInjected, ignore_injected};
#[cfg(feature = "http")]
pub use ignore::{IgnoreInjectedHttp, ignore_injected_http};
pub use latency::Latency;
pub use layer::ConditionerLayer;
pub use matcher::Matcher;
#[cfg(feature = "http")]
pub use mode::Http;
pub use mode::Plain;
pub use plan::{CallKey, Decision, Plan};
pub use rule::Rule;
pub use schedule::Schedule;
pub use service::ConditionerService;
pub use stats::{ConditionerStats, RuleStats};

pub use crate::injected::{FaultKind, Injected};

#[cfg(all(test, not(buttress_loom)))]
mod tests;
