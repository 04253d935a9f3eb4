use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Attempt, Begun, Claim, Finish, Outcome, RateStore, Record, RecordId, Renewed, Resolution,
    Store, StoreError, StoreErrorKind, Taken,
};
use crate::quota::Quota;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// [`Store`] with boxed futures.
trait Erased: Send + Sync {
    fn attempt(&self) -> Attempt;
    fn begin<'a>(&'a self, id: &'a RecordId, claim: &'a Claim) -> Boxed<'a, Begun>;
    fn renew<'a>(
        &'a self,
        id: &'a RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Boxed<'a, Renewed>;
    fn complete<'a>(
        &'a self,
        id: &'a RecordId,
        attempt: Attempt,
        outcome: &'a Arc<Outcome>,
        retention: Duration,
    ) -> Boxed<'a, Finish>;
    fn release<'a>(&'a self, id: &'a RecordId, attempt: Attempt) -> Boxed<'a, Finish>;
    fn interrupt<'a>(
        &'a self,
        id: &'a RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Boxed<'a, Finish>;
    fn resolve<'a>(
        &'a self,
        id: &'a RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Boxed<'a, Finish>;
    fn get<'a>(&'a self, id: &'a RecordId) -> Boxed<'a, Option<Record>>;
    fn purge(&self, limit: usize) -> Boxed<'_, usize>;
    fn abandon(&self, id: &RecordId, attempt: Attempt);
    fn changed<'a>(
        &'a self,
        id: &'a RecordId,
        generation: u64,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

impl<S: Store> Erased for S {
    fn attempt(&self) -> Attempt {
        Store::attempt(self)
    }

    fn begin<'a>(&'a self, id: &'a RecordId, claim: &'a Claim) -> Boxed<'a, Begun> {
        Box::pin(Store::begin(self, id, claim))
    }

    fn renew<'a>(
        &'a self,
        id: &'a RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Boxed<'a, Renewed> {
        Box::pin(Store::renew(self, id, attempt, lease, retention))
    }

    fn complete<'a>(
        &'a self,
        id: &'a RecordId,
        attempt: Attempt,
        outcome: &'a Arc<Outcome>,
        retention: Duration,
    ) -> Boxed<'a, Finish> {
        Box::pin(Store::complete(self, id, attempt, outcome, retention))
    }

    fn release<'a>(&'a self, id: &'a RecordId, attempt: Attempt) -> Boxed<'a, Finish> {
        Box::pin(Store::release(self, id, attempt))
    }

    fn interrupt<'a>(
        &'a self,
        id: &'a RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Boxed<'a, Finish> {
        Box::pin(Store::interrupt(self, id, attempt, retention))
    }

    fn resolve<'a>(
        &'a self,
        id: &'a RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Boxed<'a, Finish> {
        Box::pin(Store::resolve(self, id, generation, resolution))
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> Boxed<'a, Option<Record>> {
        Box::pin(Store::get(self, id))
    }

    fn purge(&self, limit: usize) -> Boxed<'_, usize> {
        Box::pin(Store::purge(self, limit))
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        Store::abandon(self, id, attempt);
    }

    fn changed<'a>(
        &'a self,
        id: &'a RecordId,
        generation: u64,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(Store::changed(self, id, generation))
    }
}

/// [`RateStore`] with boxed futures.
trait ErasedRates: Send + Sync {
    fn take<'a>(
        &'a self,
        bucket: &'a RecordId,
        quota: &'a Quota,
        at_least: u64,
        at_most: u64,
    ) -> Boxed<'a, Taken>;
}

impl<S: RateStore> ErasedRates for S {
    fn take<'a>(
        &'a self,
        bucket: &'a RecordId,
        quota: &'a Quota,
        at_least: u64,
        at_most: u64,
    ) -> Boxed<'a, Taken> {
        Box::pin(RateStore::take(self, bucket, quota, at_least, at_most))
    }
}

/// A store that is chosen at run time, at the price of a box for each operation. Cheap to clone.
///
/// ```
/// use buttress::store::{AnyStore, MemoryStore};
/// let url = "memory:";
/// let store = match url {
///     "memory:" => AnyStore::new(MemoryStore::default()),
///     other => panic!("no such store: {other}"),
/// };
/// ```
#[derive(Clone)]
pub struct AnyStore {
    records: Arc<dyn Erased>,
    rates: Option<Arc<dyn ErasedRates>>,
}

impl AnyStore {
    /// This store, for records. As a [`RateStore`] it refuses; for both there is
    /// [`with_rates`](Self::with_rates).
    ///
    /// ```
    /// use buttress::store::{AnyStore, MemoryStore};
    /// let store = AnyStore::new(MemoryStore::default());
    /// ```
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Self { records: Arc::new(store), rates: None }
    }

    /// This store, for records and for shared rate limits: all stores that are here keep both.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// use buttress::store::{AnyStore, MemoryStore};
    /// let store = AnyStore::with_rates(MemoryStore::default());
    /// let limiter = RateLimiter::shared(store.clone(), "api", WhenDown::Deny)
    ///     .quota("10/s burst 1".parse()?)
    ///     .build()?;
    /// assert!(limiter.try_acquire().await.is_ok());
    /// assert!(limiter.try_acquire().await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_rates(store: impl Store + RateStore) -> Self {
        let store = Arc::new(store);
        Self { records: store.clone(), rates: Some(store) }
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyStore")
    }
}

impl Store for AnyStore {
    fn attempt(&self) -> Attempt {
        self.records.attempt()
    }

    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.records.begin(id, claim).await
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        self.records.renew(id, attempt, lease, retention).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.records.complete(id, attempt, outcome, retention).await
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        self.records.release(id, attempt).await
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.records.interrupt(id, attempt, retention).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        self.records.resolve(id, generation, resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.records.get(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.records.purge(limit).await
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        self.records.abandon(id, attempt);
    }

    async fn changed(&self, id: &RecordId, generation: u64) -> () {
        self.records.changed(id, generation).await
    }
}

impl RateStore for AnyStore {
    async fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        match &self.rates {
            Some(rates) => rates.take(bucket, quota, at_least, at_most).await,
            None => {
                let why = "it was not made with `AnyStore::with_rates`";
                Err(StoreError::new(StoreErrorKind::Refused).with_source(why))
            }
        }
    }
}
