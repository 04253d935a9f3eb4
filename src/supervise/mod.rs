//! A server process that starts, stays alive, and dies without losing a request.
//!
//! Each part works alone: take the heartbeat without the watchdog, the drain without the signals.
//!
//! - [`Lifecycle`]: the phases of the process on one deadline; everything else looks at it.
//! - [`GracefulShutdown`](shutdown::GracefulShutdown): signals, the order of the end, cleanup callbacks, an exit in time.
//! - [`Progress`] and [`Pulse`]: proof that work goes on, for whoever has to report it.
//! - [`Heartbeat`](heartbeat::Heartbeat): a file that says so to whoever watches from outside, and its readers.

mod alert;
mod beside;
pub mod health;
pub mod heartbeat;
mod identity;
mod lifecycle;
mod monitor;
#[cfg(unix)]
pub mod process;
mod progress;
pub mod serve;
pub mod shutdown;
mod supervisor;
#[cfg(unix)]
pub mod systemd;

pub use alert::Alert;
pub use identity::{ProcessIdentity, ProcessStatus};
pub use lifecycle::{Hold, Lifecycle, Phase};
pub use progress::{Progress, Pulse};
pub use supervisor::{Process, Supervisor, SupervisorBuilder};
