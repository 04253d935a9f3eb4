use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::config::{Config, EndpointsBuilder};
use super::core::{Core, Why};
use super::health::Health;
use super::service::EndpointsService;
use super::shared::Shared;
use crate::clock;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::Observers;
use crate::slot::Slot;
use crate::sync::{Mutex, lock};

/// A pool of services that do the same: see the [module](super).
///
/// Clones, and the services made from it, share one state.
///
/// ```
/// use buttress::endpoints::Endpoints;
/// use tower::{ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// let server = |me: u32| service_fn(move |n: u32| async move { Ok::<_, std::io::Error>(me + n) });
/// let pool = Endpoints::new("search");
/// pool.insert("10.0.0.1", tower::util::BoxCloneSyncService::new(server(10)));
/// pool.insert("10.0.0.2", tower::util::BoxCloneSyncService::new(server(20)));
/// assert!([11, 21].contains(&pool.service().oneshot(1).await?));
/// # Ok(())
/// # }
/// ```
pub struct Endpoints<S> {
    pub(super) shared: Arc<Shared>,
    /// What the services see. Replaced as a whole.
    pub(super) list: Slot<Arc<List<S>>>,
    changing: Arc<Mutex<()>>,
}

pub(super) struct List<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) members: Vec<Member<S>>,
}

pub(super) struct Member<S> {
    pub(super) health: Arc<Health>,
    pub(super) service: Arc<S>,
}

impl<S> Clone for Member<S> {
    fn clone(&self) -> Self {
        Self { health: Arc::clone(&self.health), service: Arc::clone(&self.service) }
    }
}

/// What is known of one endpoint at an instant.
///
/// ```
/// let pool = buttress::endpoints::Endpoints::new("db");
/// pool.insert("a", 7);
/// assert!(!pool.stats()[0].ejected);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// As it was inserted.
    pub endpoint: Arc<str>,
    /// It gets probes only.
    pub ejected: bool,
    /// Calls in flight.
    pub in_flight: u32,
    /// Average time of a call, in which failures count as slow; zero while there was none.
    pub latency: Duration,
    /// Calls that have ended and say something about it.
    pub calls: u64,
    /// Those of them that failed, or took so long that they count as failures.
    pub failed: u64,
}

impl<S> Endpoints<S> {
    /// An empty pool with the defaults of the [builder](EndpointsBuilder).
    ///
    /// ```
    /// assert!(buttress::endpoints::Endpoints::<u8>::new("db").is_empty());
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::from_parts(name.into(), Config::default(), Observers::default())
    }

    /// A pool with other settings.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// let pool = Endpoints::<u8>::builder("db").failures_in_row(5).build::<u8>()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> EndpointsBuilder {
        EndpointsBuilder::new(name.into())
    }

    pub(super) fn from_parts(name: Name, config: Config, observers: Observers) -> Self {
        let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(name));
        let core = Core::new(config, seed);
        let (refused, last) = (AtomicU64::new(0), Mutex::new(None));
        let shared = Arc::new(Shared { core, name, observers, refused, last });
        shared.observers.register(&shared);
        let list = Arc::new(List { shared: Arc::clone(&shared), members: Vec::new() });
        Self { shared, list: Slot::with(list), changing: Arc::new(Mutex::new(())) }
    }

    /// Adds an endpoint, or replaces the service of the one that has this label, whose past is forgotten: it may be
    /// another process. A new endpoint gets the next first attempt; until that has ended it is taken to be as quick as
    /// the others, and beside others it [starts slowly](EndpointsBuilder::slow_start). One that is replaced more often
    /// than that takes never gets its full share.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::new("db");
    /// pool.insert("a", 1);
    /// pool.insert("a", 2);
    /// assert_eq!(pool.len(), 1);
    /// ```
    pub fn insert(&self, label: impl Into<Arc<str>>, service: S) {
        let (label, service, now) = (label.into(), Arc::new(service), clock::now());
        let before = self.change(|members| {
            let before = take(&self.shared, members, &label);
            let health = self.shared.core.insert(label, now);
            members.push(Member { health, service });
            before
        });
        // Outside of the lock: it may be the last of a service.
        drop(before);
    }

    /// Takes an endpoint out; calls that have begun finish there. `false` if there is none of this label. Its service is
    /// dropped when those that have called it have made another call, or are gone.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::new("db");
    /// pool.insert("a", 1);
    /// assert!(pool.remove("a"));
    /// assert!(!pool.remove("a"));
    /// ```
    pub fn remove(&self, label: &str) -> bool {
        let before = self.change(|members| take(&self.shared, members, label));
        before.0.is_some()
    }

    /// The old list comes along, to be dropped by the caller.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Member<S>>) -> Option<Member<S>>,
    ) -> (Option<Member<S>>, Option<Arc<List<S>>>) {
        let changing = lock(&self.changing);
        let mut members = self.list.get().map(|list| list.members.clone()).unwrap_or_default();
        let taken = change(&mut members);
        let list = Arc::new(List { shared: Arc::clone(&self.shared), members });
        let before = self.list.install(list);
        drop(changing);
        (taken, before)
    }

    /// A service that sends each request to one of the endpoints.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::<u8>::new("db");
    /// let service = pool.service();
    /// ```
    #[must_use]
    pub fn service(&self) -> EndpointsService<S> {
        EndpointsService::new(self)
    }

    /// How many there are.
    ///
    /// ```
    /// assert_eq!(buttress::endpoints::Endpoints::<u8>::new("db").len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.core.all().len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// assert!(buttress::endpoints::Endpoints::<u8>::new("db").is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether more have failed than may be ejected, so that all are used.
    ///
    /// ```
    /// assert!(!buttress::endpoints::Endpoints::<u8>::new("db").uses_all());
    /// ```
    #[must_use]
    pub fn uses_all(&self) -> bool {
        self.shared.core.in_panic()
    }

    /// The endpoints, in the order in which they came.
    ///
    /// ```
    /// assert!(buttress::endpoints::Endpoints::<u8>::new("db").stats().is_empty());
    /// ```
    #[must_use]
    pub fn stats(&self) -> Vec<EndpointStats> {
        use std::sync::atomic::Ordering::Relaxed;
        let stats = |health: Arc<Health>| EndpointStats {
            endpoint: Arc::clone(&health.label),
            ejected: health.is_out(),
            in_flight: health.in_flight.load(Relaxed),
            latency: health.latency(),
            calls: health.calls.load(Relaxed),
            failed: health.failed.load(Relaxed),
        };
        self.shared.core.all().into_iter().map(stats).collect()
    }

    /// Takes all back that are ejected.
    ///
    /// ```
    /// buttress::endpoints::Endpoints::<u8>::new("db").reset();
    /// ```
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Inserts and removes what `discover` finds, until it ends or fails; then the endpoints stay as they are. Run it in
    /// a task. Keys are told apart by how they print. One that is inserted again, with its key, is [new](Self::insert):
    /// a discovery that repeats itself takes back who is ejected, and lets all that it repeats start slowly.
    ///
    /// # Errors
    /// The discovery's.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// use tower::discover::ServiceList;
    /// use tower::service_fn;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let echo = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
    /// let pool = Endpoints::new("search");
    /// pool.follow(ServiceList::new::<u32>(vec![echo, echo])).await?;
    /// assert_eq!(pool.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tower")]
    pub async fn follow<D>(&self, discover: D) -> Result<(), D::Error>
    where
        D: tower::discover::Discover<Service = S>,
        D::Key: fmt::Display,
    {
        use std::future::poll_fn;
        use tower::discover::Change;
        let mut discover = std::pin::pin!(discover);
        while let Some(change) = poll_fn(|cx| discover.as_mut().poll_discover(cx)).await {
            match change? {
                Change::Insert(key, service) => self.insert(key.to_string(), service),
                Change::Remove(key) => {
                    self.remove(&key.to_string());
                }
            }
        }
        Ok(())
    }
}

fn take<S>(shared: &Shared, members: &mut Vec<Member<S>>, label: &str) -> Option<Member<S>> {
    let place = members.iter().position(|one| &*one.health.label == label)?;
    let taken = members.remove(place);
    shared.core.remove(&taken.health);
    Some(taken)
}

impl<S> Endpoints<S> {
    /// Gives a running pool all the settings of `builder`.
    ///
    /// Its endpoints stay, and so does what is known of each; one that is ejected is asked again no later than the
    /// new settings say. A setting that the builder was not given has its default. The name stays, and so do the seed, observers and
    /// the place in a registry: the builder's are not looked at.
    ///
    /// # Errors
    /// As [`EndpointsBuilder::build`]; then nothing has changed.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// let pool = Endpoints::new("db");
    /// pool.insert("10.0.0.1", 7);
    /// pool.reconfigure(Endpoints::<u8>::builder("db").failures_in_row(5))?;
    /// let error = pool.reconfigure(Endpoints::<u8>::builder("db").failures_in_row(0)).unwrap_err();
    /// assert_eq!((error.field(), pool.len()), ("failures_in_row", 1));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, builder: EndpointsBuilder) -> Result<(), ConfigError> {
        self.shared.reconfigure(builder)
    }
}

/// The pools that have been made with the same settings.
#[cfg(feature = "config")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools {
    state: Arc<Mutex<Made>>,
}

#[cfg(feature = "config")]
#[derive(Debug, Default)]
struct Made {
    pools: Vec<std::sync::Weak<Shared>>,
    /// What all go by, once there have been other settings: who makes a pool may still have those of before.
    latest: Option<EndpointsBuilder>,
}

#[cfg(feature = "config")]
impl Pools {
    pub(crate) fn add<S>(&self, pool: &Endpoints<S>) {
        let mut made = lock(&self.state);
        made.pools.retain(|one| one.strong_count() > 0);
        made.pools.push(Arc::downgrade(&pool.shared));
        if let Some(latest) = &made.latest {
            let _ = pool.shared.reconfigure(latest.clone());
        }
    }

    /// The builder has been [checked](EndpointsBuilder::check).
    pub(crate) fn reconfigure(&self, builder: &EndpointsBuilder) {
        let mut made = lock(&self.state);
        let before = made.latest.replace(builder.clone());
        let all: Vec<_> = made.pools.iter().filter_map(std::sync::Weak::upgrade).collect();
        for pool in &all {
            let _ = pool.reconfigure(builder.clone());
        }
        drop(made);
        // Ours may be the last references.
        drop((before, all));
    }
}

impl Shared {
    fn reconfigure(&self, builder: EndpointsBuilder) -> Result<(), ConfigError> {
        builder.check()?;
        self.core.reconfigure(builder.config(), clock::now());
        Ok(())
    }

    pub(super) fn reset(&self) {
        for health in self.core.all() {
            if let Some(change) = self.core.put_back(&health, Why::Operator, clock::now()) {
                self.changed(&health, change);
            }
        }
    }
}

impl<S, L: Into<Arc<str>>> FromIterator<(L, S)> for Endpoints<S> {
    /// A pool called `endpoints`.
    fn from_iter<I: IntoIterator<Item = (L, S)>>(all: I) -> Self {
        let pool = Self::new("endpoints");
        pool.extend(all);
        pool
    }
}

impl<S> Endpoints<S> {
    /// Inserts several.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::new("db");
    /// pool.extend([("a", 1), ("b", 2)]);
    /// assert_eq!(pool.len(), 2);
    /// ```
    pub fn extend<L: Into<Arc<str>>>(&self, all: impl IntoIterator<Item = (L, S)>) {
        for (label, service) in all {
            self.insert(label, service);
        }
    }
}

impl<S> Clone for Endpoints<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            list: self.list.clone(),
            changing: Arc::clone(&self.changing),
        }
    }
}

impl<S> fmt::Debug for Endpoints<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("name", &self.shared.name)
            .field("endpoints", &self.stats())
            .finish()
    }
}
