//! Failure budget.

mod burn;
mod config;
mod core;
mod future;
mod guard;
mod handle;
mod layer;
mod saved;
mod service;
mod shared;
mod slo;
mod state;

pub use config::{BreachAction, FailureBudgetBuilder};
pub use future::ResponseFuture;
pub use handle::{FailureBudget, Permit};
pub use layer::FailureBudgetLayer;
pub use saved::SavedState;
pub use service::FailureBudgetService;
pub use slo::{AlertStatus, BurnAlert, Severity, SloStatus};
pub use state::{Breach, BreachReason, BudgetState, FailureBudgetSnapshot, FailureBudgetStats};

#[cfg(all(test, buttress_loom))]
mod loom_tests;
#[cfg(all(test, not(buttress_loom)))]
mod slo_tests;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
