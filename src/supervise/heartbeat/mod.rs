//! A file that says "I am here and I work", for whoever watches from outside.
//!
//! Prevents a frozen process that looks alive. One that is there and does nothing, and one that is not there any more,
//! look the same from outside: no answer. A file that is written again and again tells them apart, for a
//! container's probe, a supervisor, a script.
//!
//! # Default
//!
//! The first beat is made at once, then one every 10 s. Stopping, also by a drop, is written
//! down, so that an ended process is not taken for a live one.
//!
//! ```
//! # let path = std::env::temp_dir().join(format!("beat-mod-{}", std::process::id()));
//! use buttress::supervise::heartbeat::Heartbeat;
//! # use std::time::Duration;
//! let heart = Heartbeat::builder("orders").file(&path).build()?;
//! heart.start()?;
//! assert!(Heartbeat::is_alive(&path, Duration::from_secs(30)));
//! drop(heart);
//! assert_eq!(Heartbeat::verdict(&path, Duration::from_secs(30)).as_str(), "stopped");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Customised
//!
//! A thread that beats proves that this thread runs. Name what has to make progress, and
//! it beats only if that did:
//!
//! ```
//! # let path = std::env::temp_dir().join(format!("beat-cust-{}", std::process::id()));
//! use buttress::supervise::{Pulse, heartbeat::Heartbeat};
//! # use std::time::Duration;
//! let worker = Pulse::new();
//! let heart = Heartbeat::builder("orders")
//!     .file(&path)
//!     .interval(Duration::from_secs(5))
//!     .requires("worker", worker.clone())
//!     .on_missed_beat(|missed| eprintln!("{missed}"))
//!     .build()?;
//! heart.start()?;
//! worker.ping(); // in the worker's loop
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a reader decides
//!
//! In this order: a clean stop is [`Stopped`](HeartbeatVerdict::Stopped). A beat of
//! an earlier boot or another machine is just that. On the same machine the process is looked up by number
//! *and* start. Then the age counts: by the time since boot, which nobody can set, where writer and reader
//! share it; else by the wall clock, where a beat from the future is
//! [`ClockSkew`](HeartbeatVerdict::ClockSkew). A machine that was suspended counts that time: its beats are
//! stale until the next one.
//!
//! Files of the original program, which has the first four fields only, are read, and it reads ours. They
//! know no boot and no start, so for them the host name, the process number and the wall clock have to do.
//!
//! # Semantics
//! - **Threads.** One thread writes, with a fixed schedule; a slow disk delays nobody else. Callbacks run on
//!   another, one after another, with a time limit, async ones on a runtime of their own; a panic in one
//!   stops nothing. A writer that hangs in a write is reported by the one that all watchdogs share.
//! - **Files.** Each beat replaces the file in one step; a full disk leaves the old one. Directories are
//!   made at the start only. A lock beside the file (`NAME.lock`, which stays, and is the owner's alone) keeps a second
//!   writer out, also one in another process; it goes with the process. Unix only: elsewhere a second writer is not noticed.
//!   [`beat`](Heartbeat::beat) without a start takes no lock.
//! - **Sharing.** Clones share one heartbeat; the last one that is dropped stops it.
//! - **Events.** `beat_late`, `beat_not_written`, `beat_withheld`, `beat_resumed`, `beat_not_stopped`,
//!   `target_dead`, `target_back`, and `callback_overran`, `callback_panicked`, `callback_dropped`.
//!
//! Outside Linux a state file has no boot and no namespaces, and readers use the wall clock.
//!
//! # Comparison
//!
//! kstlib's `Heartbeat`, whose file, names and interval of 10 s these are: its beats go on while the program is
//! frozen, its file stays alive after a clean stop, and a time stamp of next year is alive until then. Its intervals
//! are clamped to 1 to 300 s; here others are refused. gunicorn and Puma do the same for workers of their own, systemd
//! for services of its own. A lock file says that a process is there, not that it works.

mod config;
mod core;
mod error;
mod file;
#[cfg(test)]
mod golden_tests;
mod handle;
mod managed;
mod place;
mod reader;
mod shared;
mod state;
mod target;
#[cfg(test)]
mod tests;
mod time;

pub use config::HeartbeatBuilder;
pub use error::{HeartbeatError, MissedBeat};
pub use file::Durability;
pub use handle::{Heartbeat, HeartbeatStats};
pub use reader::{HeartbeatReader, HeartbeatVerdict};
pub use state::{BeatState, CorruptHeartbeat, HeartbeatState};
pub use target::HeartbeatTarget;
