//! One limit kept by several processes together. The bucket is in a store; here is what asks it, as seldom as
//! can be, and what goes on when it does not answer.

mod config;
mod handle;
mod health;
mod inner;
mod layer;
mod managed;
mod purse;
mod service;
mod store;
mod table;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use config::{SharedRateLimiterBuilder, WhenDown};
pub use handle::{SharedBucket, SharedRateLimitStats, SharedRateLimiter};
pub use layer::{AtCost, ForAll, ForEach, SharedRateLimitLayer, Which};
pub use service::{SharedRateLimitService, SharedResponseFuture};

use super::handle::RateLimiter;
use crate::name::Name;
use crate::store::RateStore;

impl RateLimiter {
    /// A limit that several processes keep together, in a [store](RateStore) that all of them reach: see
    /// [`SharedRateLimiter`]. `when_down` is what becomes of calls while the store does not answer.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// let limiter = RateLimiter::shared(store, "tenant", WhenDown::LocalShare { of: 4 })
    ///     .quota("100/s burst 20".parse()?)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn shared(
        store: impl RateStore,
        name: impl Into<Name>,
        when_down: WhenDown,
    ) -> SharedRateLimiterBuilder {
        SharedRateLimiterBuilder::new(store, name.into(), when_down)
    }
}
