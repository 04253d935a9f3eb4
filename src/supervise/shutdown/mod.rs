//! Ends a process in order and in time.
//!
//! Prevents a process that dies in the middle of its requests; one that never dies, because a callback hangs, the
//! runtime is blocked or a blocking task goes on; one that is killed at the end of a grace period which its own
//! plan exceeds.
//!
//! ```
//! use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
//!
//! let shutdown = GracefulShutdown::new("orders");
//! shutdown.register(CleanupCallback::blocking("db", || println!("closed")))?;
//! shutdown.install()?; // SIGTERM, SIGINT
//! // ... until somebody wants it to end:
//! let report = shutdown.trigger_blocking();
//! assert_eq!(report.exit_code(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised:
//!
//! ```
//! use buttress::supervise::{Phase, shutdown::{Budget, CleanupCallback, GracefulShutdown, OnSignal, ShutdownReport, Signal, Signals}};
//! use std::time::Duration;
//!
//! const SECOND: Duration = Duration::from_secs(1);
//!
//! fn main() -> ShutdownReport {
//!     let shutdown = GracefulShutdown::builder("orders")
//!         .budget(Budget::kubernetes(30 * SECOND).drain(15 * SECOND).cleanup(8 * SECOND))
//!         .signals(Signals::default().on(Signal::INT, OnSignal::Hurry))
//!         .force_exit_code(75)
//!         .build()
//!         .expect("a plan that fits");
//!     let flush = CleanupCallback::new("queue", async || Err("the broker is gone"));
//!     shutdown.register(flush.priority(10).timeout(2 * SECOND)).expect("a new name");
//!     let life = shutdown.lifecycle().clone();
//!     let work = || {
//!         let _hold = life.hold("work"); // the drain waits for it
//!         life.advance(Phase::Ready, None);
//!     };
//!     let ((), report) = shutdown.run_blocking(work).expect("signals can be handled");
//!     assert_eq!(report.callbacks.len(), 1);
//!     report
//! }
//! ```
//!
//! # How it goes
//!
//! | phase | ends when |
//! |---|---|
//! | [`LameDuck`](super::Phase::LameDuck) | its time is over: nothing here knows when the outside has noticed |
//! | [`Draining`](super::Phase::Draining) | nobody has a [`Hold`](super::Hold) any more, or at its limit |
//! | [`Cleanup`](super::Phase::Cleanup) | the callbacks have run, or at the deadline |
//! | [`Exited`](super::Phase::Exited) | the program is to return from `main` |
//!
//! There is one deadline, set by what began the shutdown; see [`Budget`]. A thread of
//! its own drives the phases, so a blocked runtime does not stop it, nor does dropping the future that
//! began it.
//!
//! Callbacks run one after the other: lower [priority](CleanupCallback::priority) first, equal ones in
//! the order of registration. An error or a panic is the callback's own, noted in the
//! [report](ShutdownReport), and the next one runs. One that is not done at its limit is left: it
//! holds up neither the next one nor the exit. Without a limit of its own it may take what is left,
//! less a twentieth for each of those after it.
//!
//! # Signals and the exit
//!
//! | signal | the first | the second | the third |
//! |---|---|---|---|
//! | `TERM` | begins it | nothing: orchestrators repeat it | nothing |
//! | `INT` | begins it | report, exit 130 | exit 130 from the signal handler |
//!
//! Other policies: [`Signals`], [`OnSignal`]. In a handler nothing is
//! done but to read a flag, to write to a pipe, or to leave the process. A thread at the other end of
//! the pipe does the rest; once a *signal* has come that begins a shutdown, it is also the one that
//! ends the process at the deadline: it writes the report to standard error and leaves by `_exit`,
//! whatever is blocked, even if the shutdown has ended and only `main` has not returned. After
//! [`trigger`](GracefulShutdown::trigger) and the like nothing ends the process, unless
//! [asked for](GracefulShutdownBuilder::exit_at_deadline). The exit codes are those of the
//! [report](ShutdownReport).
//!
//! Returning from an async `main` waits for the runtime's blocking tasks, until the deadline;
//! [`ShutdownReport::exit`] does not.
//!
//! On Windows, `INT` is Ctrl-C, `QUIT` Ctrl-Break, `HUP` a closed window, and `TERM` the end of the
//! session or of the system. Windows itself ends the process a few seconds after the last two, whatever
//! the budget, and the third `INT` is heard by the thread, too. The Windows part is compiled but not tested.
//!
//! # Semantics
//!
//! - *Sharing*: the [lifecycle](GracefulShutdown::lifecycle) is where the others come in: servers flip their
//!   readiness and hold the drain, health looks at it.
//! - *Phases*: others may move them, to cut waits short. Callbacks run nevertheless, and whoever
//!   [waits](GracefulShutdown::wait) waits for them.
//! - *Cancellation*: a future of [`trigger`](GracefulShutdown::trigger), [`wait`](GracefulShutdown::wait) or [`run`](GracefulShutdown::run)
//!   can be dropped; the shutdown goes on.
//! - *Runtime*: none is needed. Async callbacks run in the one in which they were registered, or else in
//!   one of their own; blocking ones on threads that nothing waits for.
//! - *Time* is real, also where a test has paused tokio's.
//! - *Cost*: [`is_shutting_down`](GracefulShutdown::is_shutting_down) and [`phase`](GracefulShutdown::phase) are one load. No
//!   thread before the shutdown itself or [`install`](GracefulShutdown::install), which starts the two that it takes:
//!   when the signal comes there may be none to be had. Callbacks run without limits then, up to the
//!   deadline.
//! - *Events*: `shutdown_begun`, `shutdown_phase_ended`, `drain_cut_off`, `callback_failed`,
//!   `callback_panicked`, `callback_timed_out`, `callback_skipped`, `forced_exit`, `no_exit_guard`,
//!   `is_process_1`; `callback_dropped` if an observer hangs and very many wait.
//!
//! # Comparison
//!
//! kstlib's `GracefulShutdown`, whose names, priorities and callbacks these are: its time is a limit for each
//! callback and not for all, and between 5 and 300 s; here it is one deadline, any time up to a day, and 28 s unless
//! set, since an orchestrator that waits 30 counts from before our signal. Its `force_exit_code` (1) is never
//! used; here it is 124, as `timeout(1)` ends with, and not the 1 with which so much else ends. There the
//! second `SIGINT` is swallowed, async callbacks do not run after a signal, and a callback that hangs holds the exit.
//!
//! `tokio::signal` never gives a signal back and needs a worker that is free: with all of them blocked,
//! a program that waits for it cannot be ended by Ctrl-C. `tokio-graceful-shutdown` and
//! `tokio-graceful` wait for subsystems or guards, up to a deadline; their signals are tokio's, and
//! neither ends a process whose runtime is stuck.

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
