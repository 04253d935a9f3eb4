//! A file that says "I am here and I work", for whoever watches from outside. See [`Heartbeat`].

mod config;
mod core;
mod error;
mod file;
#[cfg(test)]
mod golden_tests;
mod handle;
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
