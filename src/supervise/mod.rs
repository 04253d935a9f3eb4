//! A server process that starts, stays alive, and dies without losing a request.
//!
//! Each part works alone: take the heartbeat without the watchdog, the drain without the signals.
//!
//! - [`Lifecycle`]: the phases of the process on one deadline; everything else looks at it.
//! - [`Progress`] and [`Pulse`]: proof that work goes on, for whoever has to report it.

pub mod health;
mod identity;
mod lifecycle;
mod progress;
#[cfg(unix)]
pub mod systemd;

pub use identity::{ProcessIdentity, ProcessStatus};
pub use lifecycle::{Hold, Lifecycle, Phase};
pub use progress::{Progress, Pulse};
