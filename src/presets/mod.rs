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

mod lint;
mod optional;
mod plan;
mod stack;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
#[cfg(feature = "serde")]
mod wire;

pub use lint::{Lint, LintSeverity, Plan, Report, lint, lint_order};
pub use optional::{Maybe, MaybeFuture, Optional};
pub use plan::{
    BreakerPlan, ClientPlan, FailureBudgetPlan, RateLimitPlan, RetryBudgetPlan, ServerPlan,
};
pub use stack::{ClientLayer, ServerLayer, client, server};
#[cfg(feature = "config")]
pub(crate) use stack::{ClientParts, ServerParts};
