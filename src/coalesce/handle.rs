use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::config::CoalesceBuilder;
use super::layer::CoalesceLayer;
use super::table::{Entered, Landing, Made, Table};
use crate::clock::Tick;
use crate::name::{LayerKind, Name};
use crate::observe::EventKind;
use crate::rejection::{Rejection, RejectionKind};

/// The calls that are under way, by key: see the [module](super). Clones are the same object.
///
/// `K` is the key, `V` what all callers get a clone of, `O` what only one of them can get; all are inferred.
///
/// ```
/// use buttress::coalesce::Coalesce;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let users = Coalesce::new("users");
/// let read = |id: u32| {
///     users.run(id, move || async move {
///         tokio::task::yield_now().await;
///         format!("user {id}")
///     })
/// };
/// let (one, two) = tokio::join!(read(7), read(7));
/// assert_eq!((one.unwrap().as_str(), two.unwrap().as_str()), ("user 7", "user 7"));
/// assert_eq!((users.stats().led, users.stats().followed), (1, 1));
/// # });
/// ```
pub struct Coalesce<K, V, O = Infallible> {
    pub(super) table: Arc<Table<K, V, O>>,
}

impl Coalesce<(), ()> {
    /// With other bounds.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let users: Coalesce<u32, String> = Coalesce::builder("users").max_keys(100).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> CoalesceBuilder {
        CoalesceBuilder::new(name.into())
    }
}

impl<K, V, O> Coalesce<K, V, O>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    O: Send + 'static,
{
    /// With the defaults.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let users: Coalesce<u32, String> = Coalesce::new("users");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        CoalesceBuilder::new(name.into()).finish()
    }

    /// As a layer, for requests of which this [`Key`](crate::Key) says what they read.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let layer = Coalesce::new("users").layer(|id: &u32| Some(*id));
    /// let read = layer.layer(service_fn(|id: u32| async move { Ok::<_, std::io::Error>(2 * id) }));
    /// assert_eq!(read.oneshot(7).await.unwrap(), 14);
    /// # });
    /// ```
    #[must_use]
    pub fn layer<X>(&self, key: X) -> CoalesceLayer<K, V, O, X> {
        CoalesceLayer::new(self.clone(), key)
    }

    /// Its name.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// assert_eq!(Coalesce::<u32, String>::new("users").name(), "users");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.table.name.as_str()
    }

    /// What it has done.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// assert_eq!(Coalesce::<u32, String>::new("users").stats().followed, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> CoalesceStats {
        self.table.stats()
    }
}

impl<K, V> Coalesce<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Makes a call, or waits for the one that is under way for this key and gets a clone of its answer. The answer
    /// may be a `Result` whose error is `Clone`.
    ///
    /// # Errors
    /// [`CallPanicked`](RejectionKind::CallPanicked) if the call of another one panicked,
    /// [`Overloaded`](RejectionKind::Overloaded) if too many wait for it.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let sums = Coalesce::new("sums");
    /// assert_eq!(sums.run("1+1", || async { 2 }).await.unwrap(), 2);
    /// # });
    /// ```
    pub async fn run<F, Fut>(&self, key: K, call: F) -> Result<V, Rejection>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = V> + Send + 'static,
    {
        let seat = match self.table.enter(key, None, Tick(0), Made::Polled) {
            Entered::Lead(seat) => {
                let call = call();
                seat.begin(Box::pin(async move { Ok(call.await) }));
                seat
            }
            Entered::Follow(seat) => seat,
            Entered::Full => return Ok(call().await),
            Entered::Crowded => return Err(self.table.refuse(RejectionKind::Overloaded)),
        };
        self.landed(poll_fn(|cx| seat.poll(cx)).await)
    }

    /// As [`run`](Self::run), on threads: one makes the call, the others of its key are blocked until it has ended. Needs no
    /// runtime. Not for a thread that polls futures, which it would hold up.
    ///
    /// Threads wait for calls of threads only, and [`run`](Self::run) and layers for polled ones: with both, two calls for a key
    /// can be under way. A thread that waits does so until the call has ended, however long that takes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let sums = Coalesce::new("sums");
    /// assert_eq!(sums.run_blocking("1+1", || 2).unwrap(), 2);
    /// assert_eq!((sums.stats().led, sums.stats().in_flight), (1, 0));
    /// ```
    pub fn run_blocking<F>(&self, key: K, call: F) -> Result<V, Rejection>
    where
        F: FnOnce() -> V,
    {
        match self.table.enter(key, None, Tick(0), Made::Blocking) {
            Entered::Lead(seat) => Ok(seat.make(call)),
            Entered::Follow(seat) => self.landed(seat.block()),
            Entered::Full => Ok(call()),
            Entered::Crowded => Err(self.table.refuse(RejectionKind::Overloaded)),
        }
    }

    fn landed(&self, landing: Landing<V, Infallible>) -> Result<V, Rejection> {
        match landing {
            Landing::Shared(value) => Ok(value),
            Landing::Own(never) => match never {},
            Landing::Apart | Landing::Lost => Err(self.table.refuse(RejectionKind::CallPanicked)),
        }
    }
}

impl<K, V, O> Table<K, V, O> {
    #[cold]
    pub(super) fn refuse(&self, kind: RejectionKind) -> Rejection {
        let why = Rejection::new(kind, LayerKind::Coalesce, self.name);
        if self.observers.see_refusals() {
            self.observers.emit(LayerKind::Coalesce, self.name, EventKind::Rejected(&why));
        }
        why
    }

    pub(super) fn stats(&self) -> CoalesceStats {
        let counts = &self.counts;
        CoalesceStats {
            in_flight: counts.flights.load(Ordering::Relaxed),
            led: counts.led.load(Ordering::Relaxed),
            followed: counts.followed.load(Ordering::Relaxed),
            apart: counts.apart.load(Ordering::Relaxed),
            full: counts.full.load(Ordering::Relaxed),
            crowded: counts.crowded.load(Ordering::Relaxed),
            expired: counts.expired.load(Ordering::Relaxed),
            panicked: counts.lost.load(Ordering::Relaxed),
        }
    }
}

impl<K, V, O> Clone for Coalesce<K, V, O> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<K, V, O> fmt::Debug for Coalesce<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesce").field("name", &self.table.name).finish_non_exhaustive()
    }
}

/// What a [`Coalesce`] has done.
///
/// ```
/// use buttress::coalesce::Coalesce;
/// assert_eq!(Coalesce::<u32, String>::new("users").stats().led, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CoalesceStats {
    /// Calls under way that others can wait for.
    pub in_flight: u32,
    /// Calls made that others could wait for.
    pub led: u64,
    /// Calls spared: their callers waited for that of another one.
    pub followed: u64,
    /// Of those, made after all, because the answer was for one alone.
    pub apart: u64,
    /// Calls made each for itself because there was no room for another key.
    pub full: u64,
    /// Refused because too many waited for the call.
    pub crowded: u64,
    /// Refused because their deadline had passed when they came, or passed while they waited.
    pub expired: u64,
    /// Calls that panicked.
    pub panicked: u64,
}
