//! Ends a process in order and in time: see [`GracefulShutdown`].

mod budget;
mod callback;
mod config;
mod driver;
mod guard;
mod handle;
mod install;
mod job;
#[cfg(any(unix, windows))]
mod listener;
mod report;
mod scope;
mod shared;
mod signals;
#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
#[cfg_attr(not(any(unix, windows)), path = "elsewhere.rs")]
mod sys;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use callback::{CleanupCallback, CleanupResult, RegisterError, RegisterErrorKind};
pub use config::GracefulShutdownBuilder;
pub use handle::GracefulShutdown;
pub use install::InstallError;
pub use report::{
    CallbackOutcome, CallbackReport, ForcedExit, PhaseReport, ShutdownCause, ShutdownReport,
};
pub use scope::ShutdownScope;
pub use signals::{OnSignal, Signal, Signals};
