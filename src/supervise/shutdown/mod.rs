//! Ends a process in order and in time.

mod budget;
mod callback;
mod config;
mod driver;
mod guard;
mod handle;
mod job;
mod report;
mod shared;
mod signals;
#[cfg(not(unix))]
#[path = "elsewhere.rs"]
mod sys;
#[cfg(unix)]
#[path = "unix.rs"]
mod sys;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use callback::{CleanupCallback, CleanupResult, RegisterError, RegisterErrorKind};
pub use config::GracefulShutdownBuilder;
pub use handle::{GracefulShutdown, InstallError, ShutdownScope};
pub use report::{
    CallbackOutcome, CallbackReport, ForcedExit, PhaseReport, ShutdownCause, ShutdownReport,
};
pub use signals::{OnSignal, Signal, Signals};
