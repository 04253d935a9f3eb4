//! Child processes.

mod adopted;
mod beat;
mod child;
mod config;
mod core;
#[cfg(test)]
mod core_tests;
mod engine;
mod exit;
mod handle;
mod kill;
mod lifeline;
mod managed;
mod marks;
mod orphans;
#[cfg(test)]
mod orphans_tests;
mod output;
mod policy;
mod probe;
#[cfg(test)]
mod ready_tests;
mod status;
mod sys;
mod table;

pub use child::{Child, ChildProcess, Liveness};
pub use config::ProcessSupervisorBuilder;
pub use exit::Exit;
pub use handle::ProcessSupervisor;
pub use kill::{KillResult, kill_process, kill_process_blocking};
pub use lifeline::Lifeline;
pub use orphans::{FoundOrphans, Orphan, OrphanSweep};
pub use output::{Line, LineSink, Output, Stream};
pub use policy::{Restart, Strategy};
pub use status::{ChildState, ChildStatus, SupervisorEnd, SupervisorReport, SupervisorStats};

pub(super) use sys::close_on_exec;
