//! Keeps a service that begins to fail from going on at full speed: says beforehand how many calls may fail, and acts at
//! the one that is too many.
//!
//! A service that begins to fail usually goes on at full speed: callers keep calling, retries multiply,
//! a load test keeps pressing, a deployment goes on, and somebody looks at a chart half an hour later. A
//! failure budget says beforehand how many calls may fail, notices at the call that is one too many, and
//! does what was agreed for that case: tells, refuses, sheds, cuts the retries, stops the experiment,
//! shuts down.
//!
//! # Default
//!
//! More than 5 % of at least 50 calls in the last 30 s: then it tells its observers.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use buttress::failure_budget::FailureBudget;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let budget = FailureBudget::new("checkout");
//! let client = ServiceBuilder::new()
//!     .layer(budget.layer())
//!     .service(service_fn(|n: u32| async move {
//!         if n % 10 == 0 { Err(std::io::Error::other("down")) } else { Ok(n) }
//!     }));
//!
//! for n in 0..50 {
//!     let _ = client.clone().oneshot(n).await;
//! }
//! assert!(budget.tripped());
//! assert_eq!(budget.failure_rate(), 0.1);
//! # }
//! ```
//!
//! # Customised
//!
//! An objective of 99.9 % over 30 days; while it burns too fast a growing share of calls is shed, retries
//! are cut, and what is left of the budget survives a restart.
//!
//! ```
//! use buttress::RetryBudget;
//! use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
//! use std::time::Duration;
//!
//! let retries = RetryBudget::new("payments");
//! let budget = FailureBudget::builder("payments")
//!     .slo(0.999, Duration::from_secs(30 * 86_400))
//!     .min_samples(100)
//!     .shed()
//!     .probes(0.02)
//!     .lever(retries)
//!     .on_breach(|breach| eprintln!("payments: {breach}"))
//!     .build()?;
//! # #[cfg(feature = "http")]
//! let layer = FailureBudgetLayer::new(budget.clone())
//!     .classify(buttress::http::standard::<buttress::Typed>())
//!     .on_reject(buttress::http::problem());
//! let saved = budget.save(); // with the feature `serde`: to a file
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! It is *breached* when more than [`threshold`](FailureBudgetBuilder::threshold) of the calls in the
//! window failed, and there are at least [`min_samples`](FailureBudgetBuilder::min_samples). What is too
//! old is dropped before either is asked.
//!
//! It has *recovered* when the rate is no more than half the threshold
//! ([`recovery`](FailureBudgetBuilder::recovery)), on however few calls; an empty window has a rate of 0. So
//! it ends by itself when nothing is called any more: the next call notices it, or whoever asks; until then
//! levers stay engaged. With [`latch`](FailureBudgetBuilder::latch), and
//! after [`trip`](FailureBudget::trip), it is *tripped* and stays so until it is reset.
//!
//! | what came of the call | counts as |
//! |---|---|
//! | [`Outcome::Success`](crate::Outcome::Success) | success |
//! | [`Outcome::Failure`](crate::Outcome::Failure) of any class, a panic | failure |
//! | dropped by its caller after more than [`cancelled_after`](FailureBudgetBuilder::cancelled_after) (1 s) | failure |
//! | dropped sooner, or before it was polled | nothing |
//! | [`Outcome::Throttled`](crate::Outcome::Throttled): the callee is well and asks for less | nothing |
//! | [`Outcome::Ignored`](crate::Outcome::Ignored), a refusal of this or another layer | nothing |
//!
//! Faults that are injected on purpose are failures unless the classifier says otherwise: wrap it in
//! [`ignore_injected`](crate::conditioner::ignore_injected).
//!
//! While it acts, calls fare as [`BreachAction`] says. Which calls are refused is spread evenly, without a
//! random number: of any stretch of calls nearly the same share. A breach never refuses all: the
//! [`probes`](FailureBudgetBuilder::probes) find out whether things are better. A trip does.
//! Levers are engaged and released once each, in this order, also when changes race, and released when the
//! last handle is dropped. A budget that was taken out of a stack but is still held by services should be
//! [retired](FailureBudget::retire).
//!
//! With an objective ([`slo`](FailureBudgetBuilder::slo)) burn-rate alerts take the threshold's place. The
//! burn rate of a window is its failure rate through the share that may fail. An alert fires when both
//! its windows burn faster than its factor, each on at least `min_samples` calls, and ends when the short
//! one burns no faster than 0.9 of it. Pages act, tickets tell ([`act_on`](FailureBudgetBuilder::act_on)).
//! What is left of the budget is `1 - failures / (calls * (1 - objective))` over the period, of the calls
//! there have been: in the first hours of a period of 30 days it swings more than later.
//!
//! # Semantics
//!
//! *Readiness.* While it acts, the budget decides about the next call before it asks the inner service:
//! refused means ready, and refused in `call`. Nothing is reserved in `poll_ready`. While it does not act,
//! readiness is the inner service's; a call that is refused all the same, because the budget was spent since, leaves
//! that for the next call on this instance.
//!
//! *Cancellation.* Dropping the response future is safe at every point.
//!
//! *Sharing.* Clones of a [`FailureBudget`], all layers made from it and all services made by those share
//! one state. Several budgets can watch one stack, each with a layer and classifier of its own. With a
//! [`Slot`](crate::Slot) a budget is installed, replaced and uninstalled on a running stack; a call counts
//! with the budget that was there when it was made.
//!
//! *Cost.* A success: a clock, a few loads, one addition on a word that only a few threads share. No lock, no
//! allocation, and the same at any rate, since the window keeps at most 258 pages a stripe: one for each
//! call while they are few, one for each 128th of the window when they are many. A failure also adds up
//! the stripes. Below some 30 calls a second (1000 in the window) each call does while there are failures;
//! above, a success is judged every hundredth of the window, and a recovery noticed as late. A page is turned
//! under a mutex of its stripe. In SLO mode failures cost as successes; the alerts are judged sixty times
//! within their shortest window, and when somebody asks.
//!
//! # Order
//!
//! Outermost, it measures what callers get, with [`count_refusals`]: retries and breakers inside it have done what they could.
//! Without, the refusals of the layers inside count as nothing, and while a breaker refuses everything the window empties
//! and the budget recovers, with the callee still down. Inside the retry it measures the callee, attempt by attempt. Rejecting or shedding belongs outside of what is
//! to be relieved. A conditioner goes inside, so that what it injects is counted.
//!
//! # Comparison
//!
//! A circuit breaker protects a caller from a callee that is down, within seconds, and lets a few probes
//! decide. A failure budget watches a promise, over longer, acts in degrees, and on other parts than the
//! calls. tower has none; burn rates are usually computed by a monitoring system, minutes away from the
//! calls.
//!
//! # Events
//!
//! [`StateChanged`](crate::observe::EventKind::StateChanged) between `healthy`, `warned`, `breached`,
//! `tripped` and `retired`, with what was measured, and
//! [`Rejected`](crate::observe::EventKind::Rejected).

mod burn;
mod config;
mod core;
mod future;
mod guard;
mod handle;
mod layer;
mod managed;
mod permit;
mod refusals;
mod saved;
mod service;
mod settings;
mod shared;
mod slo;
mod state;

pub use config::{BreachAction, FailureBudgetBuilder};
pub use future::ResponseFuture;
pub use handle::FailureBudget;
pub use layer::FailureBudgetLayer;
pub use permit::Permit;
pub use refusals::{CountRefusals, count_refusals};
pub use saved::SavedState;
pub use service::FailureBudgetService;
pub use slo::{AlertStatus, BurnAlert, Severity, SloStatus};
pub use state::{Breach, BreachReason, BudgetState, FailureBudgetSnapshot, FailureBudgetStats};

#[cfg(all(test, buttress_loom))]
mod loom_tests;
#[cfg(all(test, not(buttress_loom)))]
mod reconfigure_tests;
#[cfg(all(test, not(buttress_loom)))]
mod slo_tests;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
