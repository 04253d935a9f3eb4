use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Attempt, Begun, Claim, Finish, Outcome, Record, RecordId, Renewed, Resolution, Store,
    StoreError,
};

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
pub struct AnyStore(Arc<dyn Erased>);

impl AnyStore {
    /// This store.
    ///
    /// ```
    /// use buttress::store::{AnyStore, MemoryStore};
    /// let store = AnyStore::new(MemoryStore::default());
    /// ```
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyStore")
    }
}

impl Store for AnyStore {
    fn attempt(&self) -> Attempt {
        self.0.attempt()
    }

    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.0.begin(id, claim).await
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        self.0.renew(id, attempt, lease, retention).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.0.complete(id, attempt, outcome, retention).await
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        self.0.release(id, attempt).await
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.0.interrupt(id, attempt, retention).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        self.0.resolve(id, generation, resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.0.get(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.0.purge(limit).await
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        self.0.abandon(id, attempt);
    }

    async fn changed(&self, id: &RecordId, generation: u64) -> () {
        self.0.changed(id, generation).await
    }
}
