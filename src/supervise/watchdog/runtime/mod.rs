//! Names the worker of a tokio runtime that is blocked, while it is. See [`RuntimeWatchdog`].

mod config;
mod core;
mod handle;
mod threads;

pub use config::RuntimeWatchdogBuilder;
pub use handle::{RuntimeFreeze, RuntimeRecovery, RuntimeWatchdog, RuntimeWatchdogStats};
pub use threads::ThreadState;
