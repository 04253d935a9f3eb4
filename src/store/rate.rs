use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{RecordId, StoreError};
use crate::quota::Quota;

/// Keeps buckets of tokens that several processes share: what
/// [`RateLimiter::shared`](crate::rate_limit::RateLimiter::shared) stands on.
///
/// ```
/// use buttress::Quota;
/// use buttress::store::{RateStore, RecordId, StoreError};
/// async fn one_of(store: &impl RateStore, tenant: &[u8], quota: &Quota) -> Result<bool, StoreError> {
///     Ok(store.take(&RecordId::of(b"limit", tenant), quota, 1, 1).await?.granted == 1)
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` keeps no buckets that processes can share",
    note = "use one of the stores in `buttress::store` or `AnyStore::with_rates`, or implement `buttress::store::RateStore`"
)]
pub trait RateStore: Send + Sync + 'static {
    /// Takes as many tokens as there are, from `at_least` to `at_most` of them, or none, in one atomic step.
    ///
    /// A bucket that is not there is full. With `debt`, the time in which it fills, the rule is the generic
    /// cell rate algorithm: `debt = max(debt - time passed, 0)`; there are
    /// `(capacity * interval - debt) / interval` whole tokens; each taken one adds an interval. The
    /// maximum with zero is what must not be left out: without it a bucket that nobody asked for a while
    /// holds more than its capacity. Time is the store's. A debt of more than a full bucket, because the
    /// clock was set back or the quota made smaller, counts as that of an empty one.
    ///
    /// `at_least` is at least 1 and at most the capacity. A future that is dropped leaves it open whether
    /// tokens were taken.
    fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> impl Future<Output = Result<Taken, StoreError>> + Send;
}

/// What [`RateStore::take`] gave.
///
/// ```
/// use buttress::store::Taken;
/// use std::time::Duration;
/// let refused = Taken::new(0, Duration::from_millis(500));
/// assert_eq!(refused.granted, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// Tokens taken: 0, or as many as were asked for at least.
    pub granted: u64,
    /// Time until the bucket is full again, afterwards. Rounded up.
    pub debt: Duration,
}

impl Taken {
    /// Both.
    ///
    /// ```
    /// assert_eq!(buttress::store::Taken::new(3, std::time::Duration::ZERO).granted, 3);
    /// ```
    #[must_use]
    pub const fn new(granted: u64, debt: Duration) -> Self {
        Self { granted, debt }
    }
}

impl<S: RateStore> RateStore for Arc<S> {
    fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> impl Future<Output = Result<Taken, StoreError>> + Send {
        (**self).take(bucket, quota, at_least, at_most)
    }
}
