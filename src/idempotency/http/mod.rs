//! The layer's form for HTTP and gRPC, and the client's half.

mod client;
mod config;
mod exchange;
mod head;
mod key;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use client::{IdempotencyKeyLayer, IdempotencyKeyService};
pub use config::{HttpIdempotencyBuilder, OverSize, Unsized};
pub use exchange::{HttpExchange, NotExecuted};
pub use key::{IdempotencyKey, KeyError};
