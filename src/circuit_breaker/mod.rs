//! Stops calling a callee that keeps failing.

mod config;
mod core;
mod future;
mod guard;
mod handle;
mod layer;
mod reopening;
mod service;
mod state;

pub use config::CircuitBreakerBuilder;
pub use future::ResponseFuture;
pub use handle::{CircuitBreaker, Permit, StateChanges};
pub use layer::CircuitBreakerLayer;
pub use service::CircuitBreakerService;
pub use state::{CircuitBreakerSnapshot, CircuitBreakerStats, CircuitState, TripReason};
