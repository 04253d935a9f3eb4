//! Runtime watchdog: names the worker of a tokio runtime that is blocked, while it is.
//!
//! **What it prevents.** One task that blocks (a lock, a synchronous call, a loop without a yield) holds a
//! worker. The others go on, so nothing looks wrong from inside, but the tasks queued behind it wait, and
//! the driver of timers and sockets may be among them. A task that measures its own delay runs on the other
//! workers and sees nothing.
//!
//! **Default.** A worker that is in one poll for 1 s is told once, and so is its end.
//!
//! ```
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! use buttress::supervise::watchdog::RuntimeWatchdog;
//! let dog = RuntimeWatchdog::builder("api", runtime.handle())
//!     .on_frozen(|freeze| eprintln!("{freeze:?}"))
//!     .build()?;
//! dog.start()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Customised.** With a heartbeat that stops when the runtime does, and an end by `SIGABRT`:
//!
//! ```
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! use buttress::supervise::{heartbeat::Heartbeat, watchdog::RuntimeWatchdog};
//! # use std::time::Duration;
//! let dog = RuntimeWatchdog::builder("api", runtime.handle())
//!     .frozen_after(Duration::from_millis(250))
//!     .abort_after(Duration::from_secs(60))
//!     .build()?;
//! let heart = Heartbeat::builder("api").requires("runtime", dog.clone()).build()?;
//! dog.start()?;
//! heart.start()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **How it decides.** A thread outside of the runtime reads two counters per worker that tokio publishes,
//! stable ones: how often it parked and unparked, and how long it was busy. A worker that is unparked and
//! changes neither is in one poll. Beside that a small task is asked to answer; if it does not, no worker
//! takes up new tasks. The two are reported apart. What a look is late itself does not count; by more than
//! half an interval or a quarter of the threshold, it is an `observer_gap`, and all starts again. So a
//! processor that is not to be had is not taken for a blocked worker, and a freeze is found later then.
//!
//! # Semantics
//! - **What is legal stays legal.** `block_in_place` and `spawn_blocking` free the worker; a task that yields,
//!   however busy, lets it publish. A computation for longer than the threshold without a yield is what this
//!   is for.
//! - **Where it looks.** At workers. The future of `block_on` runs on the calling thread, which is none of
//!   them in a runtime of several threads. A runtime of one thread is watched while somebody drives it; one
//!   whose `block_on` has returned looks frozen, so stop the watch before.
//! - **Ladder.** Event, thread list, callbacks, and only if asked for an abort. By default it never ends
//!   anything.
//! - **Limits.** Where there are no atomics of 64 bits tokio does not count, and only the small task remains.
//!   The thread list needs Linux.
//! - **Events.** `runtime_frozen`, `runtime_recovered`, `runtime_gone`, `observer_gap`, `aborting`.

mod config;
mod core;
mod handle;
mod threads;

pub use config::RuntimeWatchdogBuilder;
pub use handle::{RuntimeFreeze, RuntimeRecovery, RuntimeWatchdog, RuntimeWatchdogStats};
pub use threads::ThreadState;
