//! One breaker per key, in a table of bounded size.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::key::Key;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::outcome::{AnyError, Classify};
use crate::rejection::{AsError, ConfigError, Reject};

use super::config::{CircuitBreakerBuilder, Config};
use super::future::ResponseFuture;
use super::handle::CircuitBreaker;
use super::service::call;
use super::state::CircuitState;

/// One circuit breaker for each key: per host, per shard, per tenant.
///
/// One breaker around a sharded callee either never trips, because one dead shard in ten is a failure
/// rate of a tenth, or trips and refuses the nine that work. A breaker per key does neither.
///
/// The table holds at most `capacity` breakers. When a new key finds no room, a closed breaker that has
/// not been used lately makes way; its window is forgotten. Breakers that are not closed are never
/// dropped. If there are only such, calls with the new key go through unguarded, and a
/// [`TableFull`](EventKind::TableFull) event says so: a breaker must not be the reason that calls fail.
/// All breakers share one name, so keys do not become labels.
///
/// Clones share the table.
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
///
/// let hosts: KeyedCircuitBreaker<&str> =
///     CircuitBreaker::builder("hosts").consecutive_failures(1).build_keyed(1_000)?;
/// hosts.get(&"a.example").try_acquire().unwrap().failure();
/// assert!(hosts.get(&"a.example").try_acquire().is_err());
/// assert!(hosts.get(&"b.example").try_acquire().is_ok());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub struct KeyedCircuitBreaker<K> {
    table: Arc<Table<K>>,
}

struct Table<K> {
    name: Name,
    config: Config,
    shadow: bool,
    observers: Observers,
    capacity: usize,
    hasher: RandomState,
    shards: Box<[Mutex<Shard<K>>]>,
}

struct Shard<K> {
    capacity: usize,
    places: HashMap<K, usize, RandomState>,
    slots: Vec<Slot<K>>,
    /// Where the search for a breaker to drop goes on.
    hand: usize,
}

struct Slot<K> {
    key: K,
    breaker: CircuitBreaker,
    used: bool,
}

impl CircuitBreakerBuilder {
    /// Checks the settings and makes a table of such breakers, one for each key, at most `capacity`.
    ///
    /// # Errors
    /// As [`build`](Self::build), and if `capacity` is not between 1 and 16 777 216.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let none: Result<KeyedCircuitBreaker<u32>, _> = CircuitBreaker::builder("hosts").build_keyed(0);
    /// assert_eq!(none.unwrap_err().field(), "capacity");
    /// ```
    pub fn build_keyed<K: Hash + Eq + Clone>(
        self,
        capacity: usize,
    ) -> Result<KeyedCircuitBreaker<K>, ConfigError> {
        if !(1..=1 << 24).contains(&capacity) {
            return Err(ConfigError::new("capacity", capacity, "at least 1 and at most 16777216"));
        }
        let (name, config, shadow, observers) = self.into_parts()?;
        // Small tables stay whole: split, one shard could be full while others have room.
        let shards = if capacity < 256 { 1 } else { 16 };
        let shards = (0..shards)
            .map(|n| {
                let capacity = capacity / shards + usize::from(n < capacity % shards);
                let (places, slots) = (HashMap::default(), Vec::new());
                Mutex::new(Shard { capacity, places, slots, hand: 0 })
            })
            .collect();
        let hasher = RandomState::new();
        let table = Table { name, config, shadow, observers, capacity, hasher, shards };
        Ok(KeyedCircuitBreaker { table: Arc::new(table) })
    }
}

impl<K: Hash + Eq + Clone> KeyedCircuitBreaker<K> {
    /// The breaker of `key`, made now if there is none.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// shards.get(&3).force_open();
    /// assert!(shards.get(&3).try_acquire().is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn get(&self, key: &K) -> CircuitBreaker {
        let table = &*self.table;
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let shard = table.hasher.hash_one(key) as usize % table.shards.len();
        let mut shard = lock(&table.shards[shard]);
        if let Some(&place) = shard.places.get(key) {
            let slot = &mut shard.slots[place];
            slot.used = true;
            return slot.breaker.clone();
        }
        let Some(place) = shard.room() else {
            drop(shard);
            let full = EventKind::TableFull { capacity: table.capacity };
            table.observers.emit(LayerKind::CircuitBreaker, table.name, full);
            return table.unguarded();
        };
        let breaker = table.make(table.observers.clone());
        let slot = Slot { key: key.clone(), breaker: breaker.clone(), used: true };
        shard.put(place, slot);
        breaker
    }

    /// How many keys have a breaker.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// let _ = shards.get(&3);
    /// assert_eq!(shards.len(), 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.shards.iter().map(|shard| lock(shard).slots.len()).sum()
    }

    /// Whether no key has a breaker.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// assert!(shards.is_empty());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys whose breaker is not closed, with its state: what an operator wants to see.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, CircuitState, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// let _ = shards.get(&2);
    /// shards.get(&3).force_open();
    /// assert_eq!(shards.not_closed(), [(3, CircuitState::ForcedOpen)]);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn not_closed(&self) -> Vec<(K, CircuitState)> {
        let mut found = Vec::new();
        for shard in &self.table.shards {
            for slot in &lock(shard).slots {
                let state = slot.breaker.lease.core.state();
                if state != CircuitState::Closed {
                    found.push((slot.key.clone(), state));
                }
            }
        }
        found
    }

    /// The layer that guards each request with the breaker of its [`Key`]. Requests without one are let
    /// through unguarded.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::ConfigError> {
    /// use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// use buttress::key_fn;
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// let shards: KeyedCircuitBreaker<u64> = CircuitBreaker::builder("shards").build_keyed(64)?;
    /// shards.get(&1).force_open();
    /// let service = ServiceBuilder::new()
    ///     .layer(shards.layer(key_fn(|user: &u64| user % 10)))
    ///     .service(service_fn(|user: u64| async move { Ok::<_, std::io::Error>(user) }));
    /// assert!(service.clone().oneshot(1).await.is_err());
    /// assert_eq!(service.oneshot(2).await.unwrap(), 2);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn layer<X>(&self, key: X) -> KeyedCircuitBreakerLayer<K, X> {
        let breakers = self.clone();
        KeyedCircuitBreakerLayer { breakers, key, classify: AnyError, reject: AsError }
    }
}

impl<K> Table<K> {
    /// One stripe each: many small breakers, each used by few threads at a time.
    fn make(&self, observers: Observers) -> CircuitBreaker {
        CircuitBreaker::from_parts(self.name, self.config, self.shadow, observers, Some(1))
    }

    /// Lets everything through. Made anew each time: its operator must not command everybody's.
    fn unguarded(&self) -> CircuitBreaker {
        let unguarded = self.make(Observers::default());
        unguarded.disable();
        unguarded
    }
}

impl<K> Shard<K>
where
    K: Hash + Eq + Clone,
{
    /// A place for a new breaker, dropping an old one if need be. Looks at each slot at most twice: the
    /// first time only to note that it was used.
    fn room(&mut self) -> Option<usize> {
        if self.slots.len() < self.capacity {
            return Some(self.slots.len());
        }
        for _ in 0..self.slots.len() * 2 {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[place];
            if slot.breaker.lease.core.state() != CircuitState::Closed {
                continue;
            }
            if !std::mem::replace(&mut slot.used, false) {
                return Some(place);
            }
        }
        None
    }

    fn put(&mut self, place: usize, slot: Slot<K>) {
        self.places.insert(slot.key.clone(), place);
        if place == self.slots.len() {
            self.slots.push(slot);
        } else {
            let old = std::mem::replace(&mut self.slots[place], slot);
            self.places.remove(&old.key);
        }
    }
}

// A panicking `Hash` or `Eq` of the key can poison a shard before it is changed, never half-way.
fn lock<K>(shard: &Mutex<Shard<K>>) -> MutexGuard<'_, Shard<K>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Clone for KeyedCircuitBreaker<K> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<K> fmt::Debug for KeyedCircuitBreaker<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreaker")
            .field("name", &self.table.name)
            .field("capacity", &self.table.capacity)
            .finish_non_exhaustive()
    }
}

/// Guards each request with the breaker of its key: see [`KeyedCircuitBreaker::layer`].
#[derive(Clone)]
pub struct KeyedCircuitBreakerLayer<K, X, C = AnyError, R = AsError> {
    breakers: KeyedCircuitBreaker<K>,
    key: X,
    classify: C,
    reject: R,
}

impl<K, X, C, R> KeyedCircuitBreakerLayer<K, X, C, R> {
    /// Judges calls with `classify`.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// let layer = shards.layer(buttress::key_fn(|request: &u8| *request)).classify(buttress::AnyError);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> KeyedCircuitBreakerLayer<K, X, C2, R> {
        let Self { breakers, key, reject, .. } = self;
        KeyedCircuitBreakerLayer { breakers, key, classify, reject }
    }

    /// Answers refused calls with `reject`.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// let layer = shards.layer(buttress::key_fn(|request: &u8| *request)).on_reject(buttress::AsTyped);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> KeyedCircuitBreakerLayer<K, X, C, R2> {
        let Self { breakers, key, classify, .. } = self;
        KeyedCircuitBreakerLayer { breakers, key, classify, reject }
    }
}

impl<K, X, C, R> fmt::Debug for KeyedCircuitBreakerLayer<K, X, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerLayer")
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}

impl<S, K, X: Clone, C: Clone, R: Clone> Layer<S> for KeyedCircuitBreakerLayer<K, X, C, R> {
    type Service = KeyedCircuitBreakerService<S, K, X, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedCircuitBreakerService {
            inner,
            breakers: self.breakers.clone(),
            key: self.key.clone(),
            classify: self.classify.clone(),
            reject: self.reject.clone(),
            marker: PhantomData,
        }
    }
}

/// A service whose requests are guarded by the breaker of their key: see [`KeyedCircuitBreaker::layer`].
///
/// Which breaker decides is only known with the request, so readiness is the inner service's.
pub struct KeyedCircuitBreakerService<S, K, X, C, R> {
    inner: S,
    breakers: KeyedCircuitBreaker<K>,
    key: X,
    classify: C,
    reject: R,
    marker: PhantomData<fn() -> K>,
}

impl<S: Clone, K, X: Clone, C: Clone, R: Clone> Clone
    for KeyedCircuitBreakerService<S, K, X, C, R>
{
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breakers: self.breakers.clone(),
            key: self.key.clone(),
            classify: self.classify.clone(),
            reject: self.reject.clone(),
            marker: PhantomData,
        }
    }
}

impl<S: fmt::Debug, K, X, C, R> fmt::Debug for KeyedCircuitBreakerService<S, K, X, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerService")
            .field("inner", &self.inner)
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}

impl<S, K, X, C, R, Req> Service<Req> for KeyedCircuitBreakerService<S, K, X, C, R>
where
    S: Service<Req>,
    K: Hash + Eq + Clone,
    X: Key<Req, Key = K>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let mut breaker = match self.key.key(&req) {
            Some(key) => self.breakers.get(&key),
            None => self.breakers.table.unguarded(),
        };
        let admitted = breaker.lease.admit();
        call(&mut self.inner, req, &mut breaker.lease, admitted, &self.classify, &self.reject)
    }
}
