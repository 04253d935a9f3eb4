//! The idempotency gate through its public interface.

mod claims;
mod faulty;
mod gate;
#[cfg(feature = "serde")]
mod golden;
mod outage;
mod owners;
mod races;
mod retry;
mod secrets;
