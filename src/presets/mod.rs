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

mod client;
#[cfg(feature = "http")]
mod http;
mod lint;
mod optional;
mod part;
mod plan;
mod server;
mod shared;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
#[cfg(feature = "serde")]
mod wire;

#[cfg(feature = "config")]
pub(crate) use client::ClientParts;
pub use client::{ClientLayer, client};
#[cfg(feature = "http")]
pub use http::AnyHttp;
pub use lint::{Lint, LintSeverity, Plan, Report, lint, lint_order};
pub use optional::{Maybe, MaybeFuture, Optional};
#[cfg(feature = "http")]
pub use part::ForHttp;
pub use part::{Absent, Faults, Gate, Part};
pub use plan::{
    BreakerPlan, ClientPlan, FailureBudgetPlan, RateLimitPlan, RetryBudgetPlan, ServerPlan,
};
#[cfg(feature = "config")]
pub(crate) use server::ServerParts;
pub use server::{ServerLayer, server};
