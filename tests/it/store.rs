//! Stores: the conformance suite, and what it finds in stores that are almost right.

#[cfg(feature = "testing")]
mod broken;
#[cfg(feature = "testing")]
mod conformance;
mod memory;
mod rates;
