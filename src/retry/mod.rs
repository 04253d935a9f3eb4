//! Tries again what failed for a moment.
//!
//! docs follow

mod classify;
mod config;
mod core;
mod future;
mod handle;
mod layer;
mod named;
mod overrides;
mod progress;
mod replay;
mod service;
#[cfg(feature = "tower")]
mod tower;
#[cfg(feature = "serde")]
mod wire;

pub use classify::{classify_error, classify_error_name, is_retryable_error};
pub use config::{ExecutionGuarantee, RetryPolicy, RetryPolicyBuilder};
pub use future::ResponseFuture;
pub use handle::Retry;
pub use layer::RetryLayer;
pub use named::{ResolvePolicy, resolve_retry_policy};
pub use overrides::RetryOverride;
#[cfg(feature = "http")]
pub use replay::HttpRequest;
pub use replay::{Attempt, CloneRequest, Replay, WithDeadlines, WithOverrides};
pub use service::RetryService;
#[cfg(feature = "tower")]
pub use tower::{Pause, TowerPolicy};
