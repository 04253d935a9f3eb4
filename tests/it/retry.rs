//! Retry through its public interface.

#[cfg(feature = "serde")]
mod golden;
mod layer;
mod script;
