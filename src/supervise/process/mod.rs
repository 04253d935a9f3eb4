//! Child processes.

mod adopted;
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
mod output;
mod probe;
mod sys;

pub use child::{Child, ChildProcess, Liveness, Restart, Strategy};
pub use config::ProcessSupervisorBuilder;
pub use exit::Exit;
pub use handle::{
    ChildState, ChildStatus, ProcessSupervisor, SupervisorEnd, SupervisorReport, SupervisorStats,
};
pub use lifeline::Lifeline;
pub use output::{Line, LineSink, Output, Stream};
