//! Watchdog: notices that something does not get on, while it does not.
//!
//! **What it prevents.** A thread in a deadlock, a task that never yields, a process that was stopped: none
//! of them can tell. Somebody else has to notice, on another thread, without the runtime that may be what is
//! frozen.
//!
//! **Default.** Ping it; after 30 s without a ping it fires, once.
//!
//! ```
//! use buttress::supervise::watchdog::Watchdog;
//! let dog = Watchdog::builder("worker").on_timeout(|freeze| eprintln!("{freeze:?}")).build()?;
//! let guard = dog.start_scoped()?;
//! for job in 0..3 {
//!     dog.ping();
//!     // work on it
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Customised.** The guarded work ends with an error; another process is watched by its heartbeat:
//!
//! ```no_run
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use buttress::supervise::watchdog::{FreezeCause, Watchdog};
//! # use std::time::Duration;
//! # async fn import(dog: Watchdog) {}
//! let dog = Watchdog::builder("import").timeout(Duration::from_secs(60)).build()?;
//! dog.guard(import(dog.clone()))?.await?;
//!
//! let bot = Watchdog::from_state_file("bot", "/run/bot.json")
//!     .max_age(Duration::from_secs(30))
//!     .check_interval(Duration::from_secs(5))
//!     .on_timeout(|freeze| if freeze.cause == FreezeCause::Dead { /* start it again */ })
//!     .build()?;
//! bot.start()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! **How it decides.** At each check it compares what it sees with what it saw before, by its own monotonic
//! clock: a count of pings, or which beat a file holds. No time that somebody wrote is compared, so no clock
//! step and no forged time matters. Silence for the whole timeout is a freeze, told once; the first change
//! after it is a recovery, and the next silence is told again. What a check is late itself (the process was
//! stopped, the machine slept or was starved) does not count as silence: the watched thread had no chance
//! either. By more than half an interval or a quarter of the timeout, it is an `observer_gap`, and all
//! silence starts again.
//!
//! Of another process it also sees, on Linux, that it has gone (at once, by a descriptor of the process, not
//! by its number), and that it is stopped by a signal or a debugger; both are a [`FreezeCause`] of their own.
//! A clean stop of its heartbeat is no freeze.
//!
//! # Semantics
//! - **Cost.** A ping is a relaxed load and a relaxed store. One thread looks at everything in the process;
//!   each state file has its own, since a file can hang.
//! - **Lateness.** A ping counts from the check that sees it, so a freeze is told after the timeout and at
//!   most two checks.
//! - **Callbacks** run on another thread, one after another, with a time limit, async ones on a runtime of
//!   their own. A panic in one stops nothing.
//! - **Cancellation.** What is guarded is dropped at its next point of suspension. A poll or a closure that
//!   blocks cannot be ended by anybody; [`with_watchdog`] tells on time nevertheless.
//! - **Sharing.** Clones share one watchdog; the last one that is dropped stops it.
//! - **Events.** `frozen`, `recovered`, `observer_gap`, `target_stopped`, `watchdog_blind`, and those of
//!   callbacks.

mod config;
mod core;
mod error;
mod file;
#[cfg(test)]
mod golden_tests;
mod guard;
mod handle;
mod runtime;
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
