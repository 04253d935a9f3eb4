//! A server process that starts, stays alive, and dies without losing a request.
//!
//! Each part works alone: take the heartbeat without the watchdog, the drain without the signals.
//!
//! - [`Lifecycle`]: the phases of the process on one deadline; everything else looks at it.
//! - [`Progress`] and [`Pulse`]: proof that work goes on, for whoever has to report it.
//! - [`Heartbeat`]: a file that says so to whoever watches from outside, and its readers.
//! - [`ProcessSupervisor`]: child processes, restarted when they end or freeze; [`OrphanSweep`] for those that
//!   a killed one has left.
//! - [`Watchdog`]: notices that a thread, a task or another process does not get on; [`with_watchdog`] for one
//!   piece of work; [`RuntimeWatchdog`] for the workers of tokio.

mod alert;
mod heartbeat;
mod identity;
mod lifecycle;
mod monitor;
#[cfg(unix)]
mod process;
mod progress;
mod watchdog;

pub use alert::Alert;
pub use heartbeat::{
    BeatState, CorruptHeartbeat, Durability, Heartbeat, HeartbeatBuilder, HeartbeatError,
    HeartbeatReader, HeartbeatState, HeartbeatStats, HeartbeatTarget, HeartbeatVerdict, MissedBeat,
};
pub use identity::{ProcessIdentity, ProcessStatus};
pub use lifecycle::{Hold, Lifecycle, Phase};
#[cfg(unix)]
pub use process::{
    Child, ChildProcess, ChildState, ChildStatus, Exit, FoundOrphans, KillResult, Lifeline, Line,
    LineSink, Liveness, Orphan, OrphanSweep, Output, ProcessSupervisor, ProcessSupervisorBuilder,
    Restart, Strategy, Stream, SupervisorEnd, SupervisorReport, SupervisorStats, kill_process,
    kill_process_blocking,
};
pub use progress::{Progress, Pulse};
pub use watchdog::{
    Freeze, FreezeCause, Guarded, RuntimeFreeze, RuntimeRecovery, RuntimeWatchdog,
    RuntimeWatchdogBuilder, RuntimeWatchdogStats, ThreadState, TimedOut, Watchdog, WatchdogBuilder,
    WatchdogError, WatchdogGuard, WatchdogStats, WatchdogTimeoutError, WithWatchdog, with_watchdog,
    with_watchdog_blocking,
};
