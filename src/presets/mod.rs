//! Whole stacks as plain data, and what is wrong with them.
//!
//! Each layer can be right and the stack wrong: an attempt that may take as long as the whole call is never
//! retried, a breaker that needs more calls than its window holds never opens, three attempts without a
//! budget triple the load on a backend that is down. A plan says everything in one place, and [`lint`]
//! finds what contradicts itself before it meets an outage.
//!
//! ```
//! use buttress::presets::{ClientPlan, LintSeverity, Plan};
//! use std::time::Duration;
//! let mut plan = ClientPlan::new("payments");
//! plan.attempt_timeout = Some(Duration::from_secs(30));
//! let report = plan.report();
//! assert_eq!(report.lints[0].severity, LintSeverity::Error);
//! println!("{report}");
//! ```
//!
//! # The stacks
//!
//! From the outside in:
//!
//! | [`client`] | why there |
//! |---|---|
//! | total timeout | bounds the retries and their pauses, too |
//! | retry, with a budget | each attempt below is one call |
//! | rate limit | retries are limited like first attempts |
//! | attempt timeout | outside of the breaker, which sees a call that was given up and counts it |
//! | breaker | judges attempts; a refusal of it ends the retries |
//! | conditioner, if it [has one](ClientLayer::conditioner) | everything else sees the faults |
//!
//! With retries it is the retry that ends an attempt, since a refusal of a timeout would be final; the wait for
//! the rate limit is then part of the attempt.
//!
//! | [`server`] | why there |
//! |---|---|
//! | rate limit | refuses before anything was done |
//! | timeout | outside of the failure budget, for the same reason |
//! | failure budget | does not count what the limit refuses |
//! | idempotency, if it [has one](ServerLayer::idempotency) | refusals are not recorded; a call goes on when its caller has gone |
//! | conditioner, if it [has one](ServerLayer::conditioner) | everything else sees the faults |
//!
//! For HTTP a `http::ContextLayer` goes outside of a server's stack, a `http::SendContextLayer` inside of a
//! client's.
//!
//! # Semantics
//!
//! Each layer keeps its own: see [`timeout`](crate::timeout), [`retry`](crate::retry),
//! [`rate_limit`](crate::rate_limit), [`circuit_breaker`](crate::circuit_breaker),
//! [`failure_budget`](crate::failure_budget), [`idempotency`](crate::idempotency),
//! [`conditioner`](crate::conditioner). *Readiness.* As ready as the inner service; with a rate limit always,
//! since that waits inside of the call. *Sharing.* All services of one layer and its clones share its objects.
//! *Cost.* That of the layers; a part that is absent costs a branch.

mod attempts;
mod client;
mod client_parts;
#[cfg(feature = "http")]
mod http;
mod lint;
mod objects;
mod optional;
mod part;
mod plan;
mod pool;
mod server;
mod shared;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
#[cfg(feature = "serde")]
mod wire;

pub use attempts::{Attempts, Sends};
pub use client::{ClientLayer, client};
#[cfg(feature = "config")]
pub(crate) use client_parts::ClientParts;
#[cfg(feature = "http")]
pub use http::AnyHttp;
pub use lint::{Lint, LintSeverity, Plan, Report, lint, lint_order};
pub use objects::{
    BackendPlan, BreakerPlan, EndpointsPlan, FailureBudgetPlan, HedgePlan, RateLimitPlan,
    RetryBudgetPlan,
};
pub use optional::{Maybe, MaybeFuture, Optional};
#[cfg(feature = "http")]
pub use part::ForHttp;
pub use part::{Absent, Faults, Gate, Part};
pub use plan::{ClientPlan, RetryPlan, ServerPlan};
pub use pool::PoolService;
#[cfg(feature = "config")]
pub(crate) use server::ServerParts;
pub use server::{ServerLayer, server};
