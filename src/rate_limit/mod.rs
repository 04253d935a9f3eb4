//! stub
mod config;
mod core;
mod future;
mod handle;
mod keyed;
mod layer;
mod ledger;
mod limits;
mod print;
mod queue;
mod service;
mod shared;
mod stamp;
mod table;
#[cfg(test)]
mod tests;
mod wait;

pub use config::RateLimiterBuilder;
pub use future::{ResponseFuture, WaitingFuture};
pub use handle::RateLimiter;
pub use keyed::{KeyBucket, KeyedRateLimiter, KeyedRateLimiterBuilder, WhenFull};
pub use layer::{RateLimitLayer, Refuse, Wait};
pub use ledger::RateLimitStats;
pub use limits::{Both, ByKey, Costed, Limit, Meter, WhenMissing};
pub use service::RateLimitService;
#[cfg(feature = "http")]
pub use stamp::Headers;
pub use stamp::NoHeaders;
pub use wait::Acquire;
