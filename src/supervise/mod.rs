//! A server process that starts, stays alive, and dies without losing a request.
//!
//! Each part works alone: take the heartbeat without the watchdog, the drain without the signals.
//!
//! - [`Lifecycle`]: the phases of the process on one deadline; everything else looks at it.
//! - [`Progress`] and [`Pulse`]: proof that work goes on, for whoever has to report it.

mod identity;
mod lifecycle;
mod progress;
mod serve;

pub use identity::{ProcessIdentity, ProcessStatus};
pub use lifecycle::{Hold, Lifecycle, Phase};
pub use progress::{Progress, Pulse};
pub use serve::{
    Connected, DrainBody, DrainFuture, DrainLayer, DrainService, DrainSignal, Handshake, Listener,
    Looked, NoHandshake, Serve, ServeReport, Server, ServerBuilder, Unread, serve,
};
