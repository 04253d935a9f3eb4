use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Making<S> = Box<dyn Fn() -> Boxed<S> + Send + Sync>;
type Passing<S> = Box<dyn Fn(S, Duration) -> Boxed<()> + Send + Sync>;

/// A store under test: how to make it, and how time passes for it.
///
/// Each property makes a store and claims a few hundred keys that nobody has used before, so a store that
/// others use at the same time will do. The store must be `Clone`, as an `Arc` of any store is, and clones
/// must share their records.
///
/// ```
/// use buttress::store::MemoryStore;
/// use buttress::testing::store::StoreSubject;
/// use std::time::Duration;
/// let subject = StoreSubject::new(|| async { MemoryStore::default() })
///     .unit(Duration::from_secs(1))
///     .claims(200);
/// # let _ = subject;
/// ```
#[must_use = "a subject does nothing until a property is checked"]
pub struct StoreSubject<S> {
    pub(super) make: Making<S>,
    pub(super) pass: Passing<S>,
    pub(super) unit: Duration,
    pub(super) claims: usize,
}

impl<S: Send + 'static> StoreSubject<S> {
    /// `make` makes a store, or another handle on one.
    ///
    /// ```
    /// use buttress::store::MemoryStore;
    /// use buttress::testing::store::StoreSubject;
    /// use std::sync::Arc;
    /// let subject = StoreSubject::new(|| async { Arc::new(MemoryStore::default()) });
    /// # let _ = subject;
    /// ```
    pub fn new<F, Fut>(make: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = S> + Send + 'static,
    {
        Self {
            make: Box::new(move || Box::pin(make())),
            pass: Box::new(|_, time| Box::pin(tokio::time::sleep(time))),
            unit: Duration::from_secs(1),
            claims: 100,
        }
    }

    /// The shortest time that the store tells apart for sure, its answers included (default 1 s). Leases are
    /// 4 units long, and the suite waits for about 160 units in all. For a server on the same machine 100 ms
    /// will do.
    ///
    /// ```
    /// # use buttress::store::MemoryStore;
    /// # use buttress::testing::store::StoreSubject;
    /// # use std::time::Duration;
    /// let subject = StoreSubject::new(|| async { MemoryStore::default() });
    /// let subject = subject.unit(Duration::from_millis(100));
    /// # let _ = subject;
    /// ```
    pub fn unit(mut self, unit: Duration) -> Self {
        self.unit = unit;
        self
    }

    /// Lets time pass on the store's clock (default: sleeps on tokio's).
    ///
    /// ```
    /// # use buttress::store::MemoryStore;
    /// # use buttress::testing::store::StoreSubject;
    /// let subject = StoreSubject::new(|| async { MemoryStore::default() });
    /// let subject = subject.pass(|_store, time| tokio::time::advance(time));
    /// # let _ = subject;
    /// ```
    pub fn pass<F, Fut>(mut self, pass: F) -> Self
    where
        F: Fn(S, Duration) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.pass = Box::new(move |store, time| Box::pin(pass(store, time)));
        self
    }

    /// How many claims come together (default 100).
    ///
    /// ```
    /// # use buttress::store::MemoryStore;
    /// # use buttress::testing::store::StoreSubject;
    /// let subject = StoreSubject::new(|| async { MemoryStore::default() }).claims(1_000);
    /// # let _ = subject;
    /// ```
    pub fn claims(mut self, claims: usize) -> Self {
        self.claims = claims;
        self
    }
}

impl<S> fmt::Debug for StoreSubject<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSubject")
            .field("unit", &self.unit)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}
