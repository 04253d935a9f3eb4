//! One breaker per key, in a table of bounded size.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::classify::AnyError;
use crate::clock::{self, Tick};
use crate::error::ConfigError;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::reject::AsError;

use super::config::{CircuitBreakerBuilder, Config};
use super::handle::CircuitBreaker;
use super::keyed_layer::KeyedCircuitBreakerLayer;
use super::state::CircuitState;

/// One circuit breaker for each key: per host, per shard, per tenant.
///
/// One breaker around a sharded callee either never trips, because one dead shard in ten is a failure
/// rate of a tenth, or trips and refuses the nine that work. A breaker per key does neither.
///
/// The table holds at most `capacity` breakers. When a new key finds no room, a closed breaker that has
/// not been used lately makes way; its window is forgotten. So does one whose open time is over without
/// anybody calling: what it stood for may be gone for good. Breakers that refuse calls, probe, or were
/// set by an operator are never dropped. If there are only such, calls with the new key go through
/// unguarded, and a [`TableFull`](EventKind::TableFull) event says so: a breaker must not be the reason
/// that calls fail.
/// All breakers share one name, so keys do not become labels; a registry shows the table in one row, with
/// the number of keys whose breaker is open and no key.
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
    pub(super) table: Arc<Table<K>>,
}

pub(super) struct Table<K> {
    name: Name,
    config: Mutex<Config>,
    /// Held over all of a change: two must not overtake each other on their way through the keys.
    changing: Mutex<()>,
    shadow: bool,
    observers: Observers,
    capacity: usize,
    /// Places taken, in all shards. Never falls: a place is only ever handed on.
    filled: AtomicUsize,
    /// When a full table was last reported.
    told: AtomicU64,
    /// Calls for which there was no room.
    unguarded: AtomicU64,
    hasher: RandomState,
    shards: Box<[Mutex<Shard<K>>]>,
}

struct Shard<K> {
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
    pub fn build_keyed<K: Hash + Eq + Clone + Send + 'static>(
        self,
        capacity: usize,
    ) -> Result<KeyedCircuitBreaker<K>, ConfigError> {
        if !(1..=1 << 24).contains(&capacity) {
            return Err(ConfigError::new("capacity", capacity, "at least 1 and at most 16777216"));
        }
        let (name, config, shadow, observers) = self.into_parts()?;
        // Small tables stay whole: a new key takes the place of another in its own shard, so that must
        // not be empty.
        let shards = if capacity < 256 { 1 } else { 16 };
        let shards = (0..shards)
            .map(|_| {
                let (places, slots) = (HashMap::default(), Vec::new());
                Mutex::new(Shard { places, slots, hand: 0 })
            })
            .collect();
        let (hasher, filled) = (RandomState::new(), AtomicUsize::new(0));
        let (told, unguarded) = (AtomicU64::new(0), AtomicU64::new(0));
        let table = Arc::new(Table {
            name,
            config: Mutex::new(config),
            changing: Mutex::new(()),
            shadow,
            observers,
            capacity,
            filled,
            told,
            unguarded,
            hasher,
            shards,
        });
        table.observers.register(&table);
        Ok(KeyedCircuitBreaker { table })
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
        // Before room is taken: a clone that panics must not keep it.
        let keys = (key.clone(), key.clone());
        let Some(place) = table.room(&mut shard) else {
            drop(shard);
            table.tell_full();
            return table.unguarded();
        };
        let breaker = table.make();
        let slot = Slot { key: keys.0, breaker: breaker.clone(), used: true };
        let old = shard.put(place, keys.1, slot);
        drop(shard);
        // Dropping a key is its affair, too.
        drop(old);
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

    /// Goes by other settings from now on: those of all keys, and of keys that come later. For each it is as
    /// [`CircuitBreaker::reconfigure`]; the capacity stays.
    ///
    /// It goes from key to key: there is a moment in which one key has the new settings and another the old
    /// ones, but none has some of each.
    ///
    /// # Errors
    /// As [`CircuitBreaker::reconfigure`]. Then no key has changed.
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    /// let breakers = CircuitBreaker::builder("tenants").build_keyed::<u64>(1000)?;
    /// let one = breakers.get(&1);
    /// breakers.reconfigure(CircuitBreaker::builder("tenants").consecutive_failures(1))?;
    /// for breaker in [one, breakers.get(&2)] {
    ///     breaker.try_acquire().unwrap().failure();
    ///     assert_eq!(breaker.state(), CircuitState::Open);
    /// }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, settings: CircuitBreakerBuilder) -> Result<(), ConfigError> {
        let (_, config, ..) = settings.into_parts()?;
        let table = &*self.table;
        let mut changes = Vec::new();
        {
            let _changing = lock(&table.changing);
            // First: a key that comes while the others are changed is a new one already.
            *lock(&table.config) = config;
            for shard in &table.shards {
                for slot in &lock(shard).slots {
                    let change = slot.breaker.lease.core.reconfigure(config, clock::now());
                    changes.push((slot.breaker.clone(), change));
                }
            }
        }
        // Observers run under no lock.
        for (breaker, change) in changes {
            breaker.lease.reconfigured(change);
        }
        Ok(())
    }

    /// The layer that guards each request with the breaker of its [`Key`](crate::Key). Requests without one are let
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
    fn make(&self) -> CircuitBreaker {
        let observers = self.observers.clone();
        let config = *lock(&self.config);
        CircuitBreaker::from_parts(self.name, config, self.shadow, observers, Some(1))
    }

    /// Lets everything through, and is no news: nobody has switched anything off. Made anew each time,
    /// since its operator must not command everybody's; therefore without a window.
    pub(super) fn unguarded(&self) -> CircuitBreaker {
        let config = *lock(&self.config);
        let config = Config { failure_rate: None, slow: None, window: None, ..config };
        let (name, nobody) = (self.name, Observers::default());
        let unguarded = CircuitBreaker::from_parts(name, config, self.shadow, nobody, Some(1));
        let _ = unguarded.lease.core.operate(CircuitState::Disabled, clock::now());
        unguarded
    }

    /// A place for a new breaker in a shard: one that is left, or an old breaker's.
    fn room(&self, shard: &mut Shard<K>) -> Option<usize> {
        let left = |n: usize| (n < self.capacity).then_some(n + 1);
        match self.filled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
            Ok(_) => Some(shard.slots.len()),
            Err(_) => shard.make_room(clock::now()),
        }
    }
}

impl<K> Table<K> {
    /// Once a second at most: a full table may refuse room to every call.
    fn tell_full(&self) {
        self.unguarded.fetch_add(1, Ordering::Relaxed);
        let now = clock::now();
        let told = self.told.load(Ordering::Relaxed);
        if now.since(Tick(told)) >= Duration::from_secs(1)
            && self.told.compare_exchange(told, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let full = EventKind::TableFull { capacity: self.capacity };
            self.observers.emit(LayerKind::CircuitBreaker, self.name, full);
        }
    }
}

/// How many breakers of a table are in which state.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) keys: usize,
    pub(super) open: usize,
    pub(super) half_open: usize,
    /// Set by an operator.
    pub(super) set: usize,
    /// Not all of them were looked at.
    pub(super) is_partial: bool,
}

impl<K> Table<K> {
    /// Looks at so many breakers at most, and holds up callers only for a few at a time. Keys are not told:
    /// they may be anything, secrets too.
    pub(super) fn census(&self) -> Census {
        const MOST: usize = 1 << 16;
        const AT_ONCE: usize = 256;
        let mut census = Census::default();
        let mut looked = 0;
        for shard in &self.shards {
            let mut from = 0;
            loop {
                let shard = lock(shard);
                // Places are handed on, never given up: none is passed over.
                let to = shard.slots.len().min(from + AT_ONCE.min(MOST - looked));
                for slot in shard.slots.get(from..to).unwrap_or_default() {
                    match slot.breaker.lease.core.state() {
                        CircuitState::Closed => {}
                        CircuitState::Open => census.open += 1,
                        CircuitState::HalfOpen => census.half_open += 1,
                        _ => census.set += 1,
                    }
                }
                looked += to.saturating_sub(from);
                from = to;
                if to == shard.slots.len() || looked == MOST {
                    census.keys += shard.slots.len();
                    census.is_partial |= to < shard.slots.len();
                    break;
                }
            }
        }
        census
    }

    pub(super) fn name(&self) -> Name {
        self.name
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn unguarded_calls(&self) -> u64 {
        self.unguarded.load(Ordering::Relaxed)
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.shadow
    }
}

impl<K> Shard<K> {
    /// Finds a breaker that may be dropped: best one that has not been used since the hand last came by.
    /// Looks at so many slots and no more, because callers wait for the lock meanwhile; the next search
    /// goes on from there.
    fn make_room(&mut self, now: Tick) -> Option<usize> {
        let mut idle = None;
        for _ in 0..self.slots.len().min(256) {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[place];
            if !slot.breaker.lease.core.is_idle(now) {
                continue;
            }
            if !std::mem::replace(&mut slot.used, false) {
                return Some(place);
            }
            idle = idle.or(Some(place));
        }
        idle
    }

    /// Returns what was there.
    fn put(&mut self, place: usize, key: K, slot: Slot<K>) -> Option<Slot<K>>
    where
        K: Hash + Eq,
    {
        let old = match self.slots.get_mut(place) {
            Some(old) => {
                // Unless it is a slot that no key leads to, and its key has found another since.
                if self.places.get(&old.key) == Some(&place) {
                    self.places.remove(&old.key);
                }
                Some(std::mem::replace(old, slot))
            }
            None => {
                self.slots.push(slot);
                None
            }
        };
        // Last: a place that was taken must be in `slots`, where the next search finds it.
        self.places.insert(key, place);
        old
    }
}

// A panicking `Hash` or `Eq` of a key can at worst leave a slot that no key leads to; it is used again when
// the hand comes by.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
