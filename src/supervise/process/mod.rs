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
mod lifeline;
mod marks;
mod orphans;
#[cfg(test)]
mod orphans_tests;
mod output;
mod probe;
mod sys;
mod table;

pub use child::{Child, ChildProcess, Liveness, Restart, Strategy};
pub use config::ProcessSupervisorBuilder;
pub use exit::Exit;
pub use handle::{
    ChildState, ChildStatus, ProcessSupervisor, SupervisorEnd, SupervisorReport, SupervisorStats,
};
pub use lifeline::Lifeline;
pub use orphans::{
    FoundOrphans, KillResult, Orphan, OrphanSweep, kill_process, kill_process_blocking,
};
pub use output::{Line, LineSink, Output, Stream};
