//! Notices that something does not get on, while it does not. See [`Watchdog`].

mod config;
mod core;
mod error;
mod file;
#[cfg(test)]
mod golden_tests;
mod guard;
mod handle;
mod runtime;
mod shared;
#[cfg(test)]
mod tests;
mod with;

pub use config::WatchdogBuilder;
pub use error::{Freeze, FreezeCause, WatchdogError, WatchdogTimeoutError};
pub use guard::{Guarded, WatchdogGuard};
pub use handle::{Watchdog, WatchdogStats};
pub use runtime::{
    RuntimeFreeze, RuntimeRecovery, RuntimeWatchdog, RuntimeWatchdogBuilder, RuntimeWatchdogStats,
    ThreadState,
};
pub use with::{TimedOut, WithWatchdog, with_watchdog, with_watchdog_blocking};
