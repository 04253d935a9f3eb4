//! Notices that something does not get on, while it does not.
//!
//! Prevents a freeze that nobody notices. A thread in a deadlock, a task that never yields, a process that was stopped: none
//! of them can tell. Somebody else has to notice, on another thread, without the runtime that may be what is
//! frozen.
//!
//! # Default
//!
//! Ping it; after 30 s without a ping it fires, once.
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
//! # Customised
//!
//! The guarded work ends with an error; another process is watched by its heartbeat:
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
//! # How it decides
//!
//! At each check it compares what it sees with what it saw before, by its own monotonic
//! clock: a count of pings, or which beat a file holds. No time that somebody wrote is compared, so no clock
//! step and no forged time matters. Silence for the whole timeout is a freeze, told once; the first change
//! after it is a recovery, and the next silence is told again. When a check comes late itself (the process was
//! stopped, the machine slept or was starved), the time since the one before does not count as silence: the
//! watched thread had no chance either. If it is late by more than half an interval and a quarter of the
//! timeout, that is an `observer_gap`, and all silence starts again. So on a starved machine a freeze is told
//! later, rather than one that is none.
//!
//! Of another process it also sees, on Linux, that it has gone (at once, by a descriptor of the process, not
//! by its number), and that it is stopped by a signal or a debugger; both are a [`FreezeCause`] of their own.
//! A clean stop of its heartbeat is no freeze. A file that cannot be read (no descriptor is left, the disk fails) says
//! nothing about the process: that time does not count, and `watchdog_blind` is told. For longer than the timeout it is
//! a freeze ([`FreezeCause::Unreadable`]), since nobody else would tell. That says nothing about the process, so what is
//! seen of it after that is told once more, with its own cause: that it has gone, also while the file cannot be read, or
//! is silent. One that is found frozen and goes then is told to have gone, too: kill what is silent, and start again what is
//! dead. A file that cannot be understood is a freeze, and so is one that is not there.
//!
//! # What watches what
//!
//! | | watches | sees |
//! |---|---|---|
//! | [`Watchdog`] | a thread or a task that pings, any [`Progress`](super::Progress) | silence |
//! | [`Watchdog::from_state_file`] | another process | silence, death, a stop |
//! | [`RuntimeWatchdog`] | a tokio runtime | which worker is blocked |
//! | [`with_watchdog`], [`with_watchdog_blocking`] | one piece of work | that it takes too long |
//!
//! # Semantics
//! - **Cost.** A ping is a relaxed load and a relaxed store. One thread looks at everything in the process, and
//!   a second takes over when a look takes more than a second: a source of progress, or an observer, may hang in the very
//!   lock that is to be told of. Each state file has a thread of its own, since a file can hang.
//! - **Lateness.** A ping counts from the check that sees it, so a freeze is told after the timeout and at
//!   most two checks.
//! - **Callbacks** run on another thread, one after another, with a time limit, async ones on a runtime of
//!   their own. A panic in one stops nothing.
//! - **Panics.** A source of progress that panics is one that does not change: `watchdog_blind` is told once, and a
//!   freeze after the timeout. It is asked again after pauses that double, up to a quarter of the timeout and a minute,
//!   and at once after a start.
//! - **Cancellation.** What is guarded is dropped at its next point of suspension. A poll or a closure that
//!   blocks cannot be ended by anybody; [`with_watchdog`] tells on time nevertheless.
//! - **Sharing.** Clones share one watchdog; the last one that is dropped stops it.
//! - **Events.** `frozen`, `recovered`, `observer_gap`, `target_stopped`, `watchdog_blind`, and those of
//!   callbacks.
//!
//! # Comparison
//!
//! kstlib's `Watchdog`, whose names and 30 s these are: it fires once and never again, its async form runs on the
//! loop that it watches, its `raise_on_timeout` raises where nobody sees it (here [`Watchdog::guard`] and
//! [`Watchdog::scope`] end with the error), and it has no patience with a file that is not there yet. Its limits are
//! clamped, and asked to look every 20 s it looks every second; here what is out of range is refused, and what is
//! asked for is done. tokio's `timeout` cannot end a future that blocks: one of 2 s under a limit of 100 ms ends with
//! `Ok`, after 2 s.

mod config;
mod core;
#[cfg(test)]
mod core_tests;
mod error;
mod file;
#[cfg(test)]
mod golden_tests;
mod guard;
mod handle;
mod managed;
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
