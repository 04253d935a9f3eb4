//! Retry through its public interface.

#[cfg(feature = "testing")]
mod contract;
mod direct;
#[cfg(feature = "serde")]
mod golden;
#[cfg(feature = "http")]
mod http;
mod layer;
mod script;
#[cfg(feature = "tower")]
mod tower;
