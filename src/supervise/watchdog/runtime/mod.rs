//! Names the worker of a tokio runtime that is blocked, while it is. See [`RuntimeWatchdog`].

mod config;
mod core;
mod handle;
mod report;
mod shared;
mod threads;

pub use config::RuntimeWatchdogBuilder;
pub use handle::RuntimeWatchdog;
pub use report::{RuntimeFreeze, RuntimeRecovery, RuntimeWatchdogStats};
pub use threads::ThreadState;
