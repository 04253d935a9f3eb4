//! The peers, configured as their documentation shows, and as well as one can.

pub mod breaker;
pub mod fault;
pub mod idem;
pub mod limit;
pub mod retry;
pub mod stack;
pub mod throttle;
