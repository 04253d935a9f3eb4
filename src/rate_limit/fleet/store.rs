use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::quota::Quota;
use crate::store::{RateStore, RecordId, StoreError, Taken};

/// [`RateStore`] with boxed futures: next to a question over the network a box is nothing.
pub(super) trait Erased: Send + Sync {
    fn take<'a>(
        &'a self,
        bucket: &'a RecordId,
        quota: &'a Quota,
        at_least: u64,
        at_most: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Taken, StoreError>> + Send + 'a>>;
}

impl<S: RateStore> Erased for S {
    fn take<'a>(
        &'a self,
        bucket: &'a RecordId,
        quota: &'a Quota,
        at_least: u64,
        at_most: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Taken, StoreError>> + Send + 'a>> {
        Box::pin(RateStore::take(self, bucket, quota, at_least, at_most))
    }
}

#[derive(Clone)]
pub(super) struct StoreRef(pub(super) Arc<dyn Erased>);

impl fmt::Debug for StoreRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RateStore")
    }
}
